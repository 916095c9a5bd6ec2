"""Does stability limit the steps? The largest |lambda| of the Jacobian, by power iteration with f alone."""

import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.stepping.error import sum_of_squares

ITERATIONS = 12


def spectral_radius(field, t, y, k, scales):
    """An estimate, lane by lane. k is f(t, y); the state is moved by as much as `scales`."""
    n_lane_axes = t.ndim

    def norm(state):
        return jnp.sqrt(sum_of_squares(state, scales, n_lane_axes)).astype(t.dtype)

    def unit(state, size):
        factor = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        return leaves.scaled(factor, state)

    def iterate(_, carry):
        direction, _ = carry
        change = field(t, leaves.add(y, direction))
        change = tuple(map(lax.sub, change, k))
        size = norm(change)
        return unit(change, size), size

    start = unit(k, norm(k)), jnp.zeros_like(t)
    _, size = lax.fori_loop(0, ITERATIONS, iterate, start)
    return jnp.where(jnp.isfinite(size), size, 0)
