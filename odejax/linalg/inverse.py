"""Inverses of small matrices without LAPACK, whose calls cost more than such a matrix is worth."""

from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core.flow import run_if, settle

LARGEST_CLOSED = 3  # rows of a matrix that is inverted by its cofactors
LARGEST_ELIMINATED = 48  # rows up to which elimination as below is faster than LAPACK
TOGETHER = 4  # unknowns eliminated in one turn of the loop


def inverse(matrix):
    """The inverse of an (n, n) matrix: by Gauss-Jordan elimination, with pivots if it needs them."""
    n = matrix.shape[0]
    missing = -n % TOGETHER
    padded = jnp.pad(matrix, (0, missing)) + np.diag(np.arange(n + missing) >= n).astype(matrix.dtype)
    turns = (n + missing) // TOGETHER
    first = lax.fori_loop(0, turns, _eliminate_some, padded)[:n, :n]
    probe = jnp.ones(n, matrix.dtype)
    residual = matrix @ (first @ probe) - probe
    is_good = jnp.abs(residual).max() <= jnp.finfo(matrix.dtype).eps ** 0.5  # false for NaN
    is_usable = jnp.isfinite(matrix).all()
    return run_if(~is_good & is_usable, lambda _: _inverse_with_pivots(matrix), first)


def _eliminate_some(turn, matrix):
    for i in range(TOGETHER):
        matrix = settle(_eliminate(turn * TOGETHER + i, matrix))
    return matrix


def _eliminate(k, matrix):
    """Exchanges unknown k for right-hand side k.

    After all of them the matrix maps right-hand sides to unknowns.
    """
    is_k = np.arange(matrix.shape[0]) == k
    row, column = (lax.dynamic_index_in_dim(matrix, k, axis, keepdims=False) for axis in (0, 1))
    reciprocal = 1 / lax.dynamic_index_in_dim(row, k, keepdims=False)
    row = jnp.where(is_k, reciprocal, row * reciprocal)
    column = jnp.where(is_k, -1, column)
    others = jnp.where(is_k[:, None] | is_k, 0, matrix)
    return others - column[:, None] * row


def _inverse_with_pivots(matrix):
    """By elimination with row exchanges. XLA makes one function of a loop that calls no library."""
    n = matrix.shape[0]
    rows = np.arange(n)

    def eliminate(k, both):
        column = lax.dynamic_index_in_dim(both, k, 1, keepdims=False)
        pivot = jnp.argmax(jnp.where(rows < k, -1, jnp.abs(column)))
        upper, lower = (lax.dynamic_index_in_dim(both, i, 0, keepdims=False) for i in (k, pivot))
        both = jnp.where((rows == pivot)[:, None], upper, both)
        column = lax.dynamic_index_in_dim(both, k, 1, keepdims=False)
        row = lower / lax.dynamic_index_in_dim(lower, k, keepdims=False)
        return jnp.where((rows == k)[:, None], row, both - column[:, None] * row)

    both = jnp.concatenate([matrix, np.eye(n, dtype=matrix.dtype)], axis=1)
    return lax.fori_loop(0, n, eliminate, both)[:, n:]


def cofactor_inverse(rows):
    """The inverse of a list of rows of scalars, at most three; None is a zero that stays one."""
    units = [1 / _largest(row) for row in rows]  # of the rows, or products might overflow
    a = [[_times(u, x) for x in row] for u, row in zip(units, rows, strict=True)]
    n = len(a)
    adjugate = [[_cofactor(a, j, i) for j in range(n)] for i in range(n)]
    reciprocal = 1 / _dot(a[0], [row[0] for row in adjugate])
    scaled = [_times(reciprocal, u) for u in units]
    return [[_times(x, u) for x, u in zip(row, scaled, strict=True)] for row in adjugate]


def _largest(row):
    largest = reduce(jnp.maximum, [jnp.abs(x) for x in row if x is not None])
    return jnp.where(largest > 0, largest, 1)


def _cofactor(a, i, j):
    """The determinant without row i and column j, with its sign."""
    minor = [[x for c, x in enumerate(row) if c != j] for r, row in enumerate(a) if r != i]
    if not minor:
        return jnp.ones_like(a[0][0])
    if len(minor) == 1:
        value = minor[0][0]
    else:
        (p, q), (r, s) = minor
        value = _plus(_times(p, s), _negative(_times(q, r)))
    return _negative(value) if (i + j) % 2 else value


def _times(x, y):
    return None if x is None or y is None else x * y


def _plus(x, y):
    if x is None or y is None:
        return x if y is None else y
    return x + y


def _negative(x):
    return None if x is None else -x


def _dot(row, column):
    """The sum of products; there is one that is not zero."""
    return reduce(
        jnp.add, [a * x for a, x in zip(row, column, strict=True) if a is not None and x is not None]
    )


def multiply(rows, vector):
    """Rows of scalars times a list of scalars; None is zero, and no row is all zero."""
    return [_dot(row, vector) for row in rows]


def is_closed(n):
    """Is a matrix of so many rows inverted by cofactors?"""
    return n <= LARGEST_CLOSED
