"""A right loss with a wrong gradient: one linear network of 100 nodes, 10,000 rates, by several methods.

    u_i' = sum_j p_ij (u_j - u_i),   loss = sum of squares of u at t = 1, 2, 3, 4

All u_i soon agree. From then on the loss no longer shows what the steps of an explicit method do to the
modes that have died out; the gradient with respect to p does.
"""

import time

import jax
import jax.numpy as jnp
import jax.random as jr

import odejax

jax.config.update("jax_enable_x64", True)

N = 100
T_SPAN, TIMES = (1.0, 4.0), jnp.linspace(1.0, 4.0, 4)
METHODS = "tsit5", "auto", "rosenbrock23", "rodas5p", "kvaerno5"


def diffusion(t, u, p):
    return p @ u - p.sum(axis=1) * u


def loss(p, u0, method, rtol):
    sol = odejax.solve(diffusion, u0, T_SPAN, (p,), t_eval=TIMES, method=method, rtol=rtol, atol=1e-3 * rtol)
    return jnp.sum(sol.ys**2), sol.stats.num_accepted


def exact_loss(p, u0):
    """By the exponential of the matrix."""
    generator = p - jnp.diag(p.sum(axis=1))
    us = [jax.scipy.linalg.expm(generator * (t - T_SPAN[0])) @ u0 for t in TIMES]
    return jnp.sum(jnp.stack(us) ** 2)


def best_time(fn, *args, repeats=5):
    """The least of some measurements of a compiled function, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main():
    key_p, key_u = jr.split(jr.key(0))
    p, u0 = jr.uniform(key_p, (N, N)), jr.uniform(key_u, (N,))
    exact = exact_loss(p, u0)
    reference = jax.jit(jax.grad(exact_loss))
    size = jnp.linalg.norm(reference(p, u0))
    print("method        rtol   steps  error of loss  error of gradient  gradient ms")
    for method in METHODS:
        for rtol in (1e-3, 1e-6):

            def of_rates(p, u0, method=method, rtol=rtol):
                return loss(p, u0, method, rtol)

            fn = jax.jit(jax.value_and_grad(of_rates, has_aux=True))
            (value, n), gradient = fn(p, u0)
            error = jnp.linalg.norm(gradient - reference(p, u0)) / size
            print(
                f"{method:12s} {rtol:.0e} {n:6d} {abs(value / exact - 1):14.1e} {error:18.1e}"
                f" {best_time(fn, p, u0):12.2f}"
            )
    print(f"{'expm':12s} {'':12s} {'':14s} {'':18s} {best_time(reference, p, u0):12.2f}")


if __name__ == "__main__":
    main()
