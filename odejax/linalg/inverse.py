"""Inverses of small matrices without LAPACK, whose calls cost more than such a matrix is worth."""

from functools import reduce

import jax.numpy as jnp
from jax import lax

from odejax.core.flow import run_if

LARGEST_CLOSED = 3  # rows of a matrix that is inverted by its cofactors
LARGEST_ELIMINATED = 16  # rows up to which elimination as below is faster than LAPACK


def inverse(matrix):
    """The inverse of an (n, n) matrix: by Gauss-Jordan elimination, with pivots if it needs them."""
    n = matrix.shape[0]
    first = lax.fori_loop(0, n, lambda _, m: _eliminate(m), matrix)
    probe = jnp.ones(n, matrix.dtype)
    residual = matrix @ (first @ probe) - probe
    is_good = jnp.abs(residual).max() <= jnp.finfo(matrix.dtype).eps ** 0.5  # false for NaN
    is_usable = jnp.isfinite(matrix).all()
    return run_if(~is_good & is_usable, lambda _: jnp.linalg.inv(matrix), first)


def _eliminate(matrix):
    """Exchanges the first unknown for the first right-hand side, and moves both to the end.

    After n such steps all are exchanged and in their old places: the matrix maps right-hand sides to
    unknowns. Moving rows instead of an index keeps every slice static.
    """
    reciprocal = 1 / matrix[0, 0]
    row, column = matrix[0, 1:] * reciprocal, matrix[1:, 0]
    others = matrix[1:, 1:] - column[:, None] * row[None, :]
    upper = jnp.concatenate([others, (-column * reciprocal)[:, None]], axis=1)
    lower = jnp.concatenate([row, reciprocal[None]])[None]
    return jnp.concatenate([upper, lower])


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
