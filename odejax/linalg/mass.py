"""The matrix M of M y' = f, and the split of such a system into differential and algebraic equations."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.linalg.system import Leaves, System

RANK = 10  # singular values below so many rounding errors, times n, of the largest one are zero


@dataclass(frozen=True)
class Mass:
    """What is static about M: whole, or its diagonal with the leaves of the state."""

    is_diagonal: bool
    is_regular: bool  # for certain: of a traced matrix it is not known
    operands: tuple[int, ...] = ()  # which of the solve's parameters it is made of

    def added_to(self, theta, values):
        """This with its operands: `values` become the last of the parameters."""
        first = len(theta)
        theta.extend(values)
        return replace(self, operands=tuple(range(first, len(theta))))

    def matrix(self, system: System, theta) -> Leaves:
        """M as the system stores matrices."""
        values = tuple(theta[i] for i in self.operands)
        return system.diagonal(system.pack(values)) if self.is_diagonal else system.full(*values)

    def split(self, system: System, theta) -> "Split":
        """The equations of M y' = f in two groups."""
        values = tuple(theta[i] for i in self.operands)
        if not self.is_diagonal:
            return _split_full(system, *values)
        d = system.pack(values)
        is_zero = tuple(x == 0 for x in d)
        algebraic = tuple(z.astype(x.dtype) for z, x in zip(is_zero, d, strict=True))
        differential = tuple(1 - x for x in algebraic)
        is_singular = jnp.stack([z.any() for z in is_zero]).any()
        kept, differential, algebraic = map(system.diagonal, (d, differential, algebraic))
        return Split(kept, differential, algebraic, is_singular)


class Split(NamedTuple):
    """The same system as kept y' = differential f and 0 = algebraic f; no row has entries of both kinds."""

    kept: Leaves
    differential: Leaves
    algebraic: Leaves
    is_singular: jax.Array  # are there algebraic equations?


def is_regular(matrix):
    """Has a known matrix full rank?"""
    return not decompose(matrix, np)[2].any()


def decompose(matrix, xp=jnp):
    """(left, right, is_null): left M right = diag(s), of which the entries marked are zero but for rounding.

    M has its rows and columns scaled first, or its units would decide what is zero. That does not change
    what both null spaces are.
    """
    row = 1 / _or_one(xp.abs(matrix).max(axis=1), xp)
    scaled = row[:, None] * matrix
    column = 1 / _or_one(xp.abs(scaled).max(axis=0), xp)
    u, s, vt = xp.linalg.svd(scaled * column)
    is_null = s <= RANK * len(s) * xp.finfo(matrix.dtype).eps * s.max()
    return u.T * row, column[:, None] * vt.T, is_null


def _or_one(x, xp):
    return xp.where(x > 0, x, xp.ones_like(x))


def _split_full(system, matrix):
    """By the singular vectors of M, which have no derivative where singular values are alike.

    They are held fixed. In their basis M is (A, B; C, D) with C = 0 and D = 0; it keeps its rank as it moves
    as long as D = C A^-1 B. Then (-C A^-1, I) annihilates it, which is how the algebraic equations move.
    """
    left, right, is_null = decompose(lax.stop_gradient(matrix))
    m = left @ matrix @ right
    is_algebraic = is_null[:, None]
    a = jnp.where(is_algebraic | is_null, jnp.eye(len(m), dtype=m.dtype), m)
    c = jnp.where(is_algebraic & ~is_null, m, 0)
    rows = left - c @ jnp.linalg.solve(a, left)
    kept, differential = (jnp.where(is_algebraic, 0, x) for x in (rows @ matrix, rows))
    algebraic = jnp.where(is_algebraic, rows, 0)
    kept, differential, algebraic = map(system.full, (kept, differential, algebraic))
    return Split(kept, differential, algebraic, is_null.any())
