"""Band matrices by elimination with row pivots, one row after another.

A matrix is stored by rows: [i, k] is the entry in row i, column i - lower + k.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core.flow import vary_as


class Factors(NamedTuple):
    """What each column's turn did: exchanged two rows, and took multiples of the pivot row from others."""

    pivots: jax.Array  # (n,): how far below the diagonal the pivot was
    multiples: jax.Array  # (n, lower): of the pivot row, in the rows below
    rows: jax.Array  # (n, lower + upper + 1): the pivot rows, from the diagonal on


@partial(jax.jit, static_argnums=1)
def factor(rows, lower) -> Factors:
    """The factors of a matrix with `lower` diagonals below the main one."""
    first = [jnp.pad(rows[i, lower - i :], (0, lower - i)) for i in range(lower)]
    window = jnp.concatenate([jnp.stack(first), rows[:1]]) if lower else rows[:1]
    coming = jnp.pad(rows[lower:], [(0, lower), (0, 0)])

    def one(window, row):
        window = window.at[lower].set(row)
        pivot = jnp.argmax(jnp.abs(window[:, 0])).astype(jnp.int32)
        top = window[pivot]
        others = lax.dynamic_update_slice(window, window[:1], (pivot, jnp.zeros_like(pivot)))[1:]
        multiples = others[:, 0] / top[0]
        others = others - multiples[:, None] * top
        return jnp.pad(others[:, 1:], [(0, 1), (0, 1)]), Factors(pivot, multiples, top)

    return lax.scan(one, window, coming)[1]


@jax.jit
def apply(factors: Factors, b):
    """The solution for a vector b."""
    lower = factors.multiples.shape[1]

    def forwards(window, now):
        coming, (pivot, multiples, _) = now
        window = jnp.concatenate([window, coming[None]])
        top = window[pivot]
        others = lax.dynamic_update_slice(window, window[:1], (pivot,))[1:]
        return others - multiples * top, top

    def backwards(known, now):
        top, (_, _, row) = now
        x = (top - row[1:] @ known) / row[0]
        return jnp.concatenate([x[None], known[:-1]]) if known.size else known, x

    _, tops = lax.scan(forwards, b[:lower], (jnp.pad(b[lower:], (0, lower)), factors))
    none = vary_as(b, jnp.zeros(factors.rows.shape[1] - 1, b.dtype))
    return lax.scan(backwards, none, (tops, factors), reverse=True)[1]
