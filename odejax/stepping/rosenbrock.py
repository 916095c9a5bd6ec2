"""One step of a Rosenbrock method: one linear system, one solve a stage, no iteration.

`slope(c, y)` gives h f(t + c h, y), of packed states, and `jacobian` is its derivative, h J.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core import leaves, rows
from odejax.core.flow import settle, vary_as


def step(tableau, system, slope, jacobian, y, time_dtype, is_autonomous, mass=None):
    """The new state, the increments it is made of, and h J.

    (M / gamma - h J) u_i = h f(t + c_i h, y + sum_j a_ij u_j) + g_i T + M sum_j k_ij u_j,
    with T = h^2 df/dt. M is I, or `mass` as the system stores matrices.
    """
    zero, one = vary_as(y[0], (jnp.zeros((), time_dtype), jnp.ones((), time_dtype)))
    solve = system.solver(jacobian, jnp.asarray(1 / tableau.GAMMA, leaves.real_dtype(y[0])), mass)
    changes = None
    if not is_autonomous:
        changes = jax.jvp(lambda c: slope(c, y), (zero,), (one,))[1]

    def with_mass(increments):
        return increments if mass is None else system.multiply(mass, increments)

    stages = _one_by_one if system.is_unrolled else _in_a_loop
    increments = stages(tableau, slope, solve, with_mass, y, changes)
    return leaves.combine(y, None, tableau.B, increments), increments, jacobian


def _one_by_one(tableau, slope, solve, with_mass, y, changes):
    """The fastest for many lanes of a few scalars: in registers."""
    increments = []
    for c, a, g, k in zip(tableau.C, tableau.A, tableau.G, tableau.K, strict=True):
        b = slope(c, leaves.combine(y, None, a, increments))
        if any(k):
            b = leaves.add(b, with_mass(leaves.combine(leaves.zeros_like(y), None, k, increments)))
        if changes is not None:
            b = leaves.combine(b, None, (g,), (changes,))
        increments.append(settle(solve(settle(b))))
    return increments


def _in_a_loop(tableau, slope, solve, with_mass, y, changes):
    """With a single copy of f: compiled in half the time, and no slower."""
    n = tableau.n_stages

    def stage(increments, row):
        i, c, a, g, k = row
        b = slope(c, leaves.add(y, leaves.weigh(a, increments)))
        b = leaves.add(b, with_mass(leaves.weigh(k, increments)))
        if changes is not None:
            b = leaves.add(b, leaves.weigh(g[None], tuple(x[None] for x in changes)))
        u = solve(b)
        return tuple(rows.write(x, new, i) for x, new in zip(increments, u, strict=True)), None

    of_stages = np.arange(n), np.array(tableau.C), square(tableau.A), np.array(tableau.G), square(tableau.K)
    increments = vary_as(y[0], tuple(jnp.zeros((n, *x.shape), x.dtype) for x in y))
    increments, _ = lax.scan(stage, increments, of_stages)
    return [tuple(x[i] for x in increments) for i in range(n)]


def square(rows):
    """Rows of a lower triangle, filled with zeros."""
    return np.array([(*row, *[0.0] * (len(rows) - len(row))) for row in rows])
