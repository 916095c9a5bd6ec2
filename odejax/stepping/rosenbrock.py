"""One step of a Rosenbrock method: one linear system, one solve a stage, no iteration.

`slope(c, y)` gives h f(t + c h, y), and `jacobian` is its derivative, h J.
"""

import jax
import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.flow import settle


def step(tableau, system, slope, jacobian, y, time_dtype, is_autonomous, mass=None):
    """The new state, and the increments it is made of.

    (M / gamma - h J) u_i = h f(t + c_i h, y + sum_j a_ij u_j) + g_i T + M sum_j k_ij u_j,
    with T = h^2 df/dt. M is I, or `mass` as the system stores matrices.
    """
    zero = jnp.zeros((), time_dtype)
    solve = system.solver(jacobian, jnp.asarray(1 / tableau.GAMMA, leaves.real_dtype(y[0])), mass)
    changes = None
    if not is_autonomous:
        changes = jax.jvp(lambda c: slope(c, y), (zero,), (jnp.ones_like(zero),))[1]
    increments = []
    for c, a, g, k in zip(tableau.C, tableau.A, tableau.G, tableau.K, strict=True):
        b = slope(c, leaves.combine(y, None, a, increments))
        if mass is None:
            b = leaves.combine(b, None, k, increments)
        elif any(k):
            total = leaves.combine(leaves.zeros_like(y), None, k, increments)
            b = leaves.add(b, system.multiply(mass, total))
        if changes is not None:
            b = leaves.combine(b, None, (g,), (changes,))
        increments.append(settle(solve(settle(b))))
    return leaves.combine(y, None, tableau.B, increments), increments
