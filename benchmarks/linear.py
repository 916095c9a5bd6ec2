"""expm_multiply of 2,000 numbers beside scipy; a network of 100 states beside jax.scipy.linalg.expm."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from common import alternate, compare, header, milliseconds, print_rows, print_table, relative_error, verdict
from jax.experimental.sparse import BCOO

import odejax

N = 2000
TIMES = 1.0, 10.0, 50.0
STENCIL = jnp.array([1.2, -2.0, 0.8])  # diffusion and drift
N_NETWORK = 100
SAVES = np.array([1.0, 2.0, 3.0, 4.0])
ROUNDS = 3  # the median of so many ratios


def stencil(weights):
    """The tridiagonal matrix, as a function."""

    def apply(v):
        v = jnp.pad(v, 1)
        return weights[0] * v[:-2] + weights[1] * v[1:-1] + weights[2] * v[2:]

    return apply


def as_sparse(indices):
    return lambda values: BCOO((values, indices), shape=(N, N))


def cases(rng):
    """(name, the scipy matrix, its parameters, the operator of these)."""
    low, middle, high = (float(w) for w in STENCIL)
    dense = low * np.eye(N, k=-1) + middle * np.eye(N) + high * np.eye(N, k=1)
    banded = scipy.sparse.csr_array(dense)
    random = (scipy.sparse.random_array((N, N), density=5 / N, rng=rng) + banded).tocsr()
    yield "stencil, function", banded, STENCIL, stencil
    for name, matrix in (("stencil, BCOO", banded), ("random, BCOO", random)):
        bcoo = BCOO.from_scipy_sparse(matrix)
        yield name, matrix, bcoo.data, as_sparse(bcoo.indices)


def multiply(rng):
    """One row for each operator and time: value, value and gradient, error against scipy."""
    v, rows = rng.normal(size=N), []
    for name, matrix, params, operator in cases(rng):

        def value(params, v, t, operator=operator):
            return odejax.expm_multiply(operator(params), v, t)

        def loss(params, v, t, value=value):
            return jnp.sum(value(params, v, t) ** 2)

        ours = jax.jit(value)
        ours_grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        for t in TIMES:

            def theirs(params, v, t, matrix=matrix):
                return scipy.sparse.linalg.expm_multiply(t * matrix, v)

            rounds = [
                [x.run for x in alternate(theirs, ours, ours_grad, args=(params, v, t), seconds=0.3)]
                for _ in range(ROUNDS)
            ]
            scipy_run = statistics.median(r[0] for r in rounds)
            forward, gradient = (statistics.median(r[i] / r[0] for r in rounds) for i in (1, 2))
            error = relative_error(ours(params, v, t), theirs(params, v, t))
            cells = [f"{name}, t = {t:g}", milliseconds(scipy_run), f"{forward:.2f}", verdict(forward, 1)]
            rows.append([*cells, f"{gradient:.2f}", verdict(gradient, 4), f"{error:.0e}"])
    columns = (
        "operator",
        "scipy ms",
        "value / scipy",
        "target",
        "with gradient / scipy",
        "target",
        "difference",
    )
    print_table(columns, rows)


def generator(p):
    return p - jnp.diag(p.sum(axis=1))


def network_loss(p, u0):
    """The sum of squares at the four times."""
    solution = odejax.solve_linear(generator(p), u0, (SAVES[0], SAVES[-1]), t_eval=SAVES)
    return jnp.sum(solution.ys**2)


def dense_loss(p, u0):
    """The same, by one exponential of JAX's."""
    propagator, states = jax.scipy.linalg.expm(generator(p)), [u0]
    for _ in SAVES[1:]:
        states.append(propagator @ states[-1])
    return jnp.sum(jnp.stack(states) ** 2)


def network(rng):
    rates = jnp.asarray(rng.uniform(size=(N_NETWORK, N_NETWORK)))
    u0 = jnp.asarray(rng.uniform(size=N_NETWORK))
    rows = []
    for name, p in (("p in (0, 1)", rates), ("p in (0, 0.01)", rates / N_NETWORK)):
        losses = network_loss, dense_loss
        rows.append(compare(f"{name}, loss", losses, (p, u0), target=1))
        rows.append(compare(f"{name}, grad", [jax.grad(loss) for loss in losses], (p, u0), target=1))
    print("\nthe network of `universal_ode.py`: 10,000 parameters, 4 saves")
    print_rows(rows, ("solve_linear", "expm"))


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "scipy")
    rng = np.random.default_rng(0)
    multiply(rng)
    network(rng)


if __name__ == "__main__":
    main()
