"""First calls, trace and compilation included: oscillator and neural ODE, forward and gradient."""

import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import neural_ode
import oscillator
import peers
from common import first_call, header, print_table, verdict

import odejax

REPEATS = 3
TARGET = 0.45


def oscillator_forward(solve):
    """Everything defined anew, as in a new process."""

    def f(t, y, k):
        return jnp.stack([y[1], -k * y[0]])

    def end(y0, k):
        tol = oscillator.TOL
        return solve(f, y0, oscillator.T_SPAN, (k,), rtol=tol, atol=tol).ys[-1]

    return end, (jnp.ones(2), jnp.float64(20.0))


def oscillator_gradient(solve):
    end, args = oscillator_forward(solve)
    return jax.grad(lambda y0, k: 0.5 * jnp.sum(end(y0, k) ** 2), (0, 1)), args


def neural_forward(solve):
    weights, static, y0 = neural_ode.problem()
    loss = neural_ode.loss_of(solve)
    return lambda weights, y0: loss(eqx.combine(weights, static), y0), (weights, y0)


def neural_gradient(solve):
    loss, args = neural_forward(solve)
    return jax.grad(loss), args


def measure(make, solve):
    """Seconds of the first call of a function that nothing has seen before."""
    jax.clear_caches()
    fn, args = make(solve)
    jax.block_until_ready(args)
    return first_call(jax.jit(fn), *args)


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax", "equinox")
    rows = []
    for name, make, x64 in (
        ("oscillator, forward", oscillator_forward, True),
        ("oscillator, grad", oscillator_gradient, True),
        ("neural ODE, forward", neural_forward, False),
        ("neural ODE, grad", neural_gradient, False),
    ):
        jax.config.update("jax_enable_x64", x64)
        solvers = odejax.solve, peers.solve
        for solve in solvers:  # what a process pays once only: modules loaded when first used
            measure(make, solve)
        turns = [[measure(make, solve) for solve in solvers] for _ in range(REPEATS)]
        ours, theirs = map(statistics.median, zip(*turns, strict=True))
        ratio = ours / theirs
        rows.append([name, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.2f}", verdict(ratio, TARGET)])
    print_table(("first call", "odejax s", "diffrax s", "ratio", "target"), rows)


if __name__ == "__main__":
    main()
