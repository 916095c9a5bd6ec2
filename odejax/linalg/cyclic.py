"""Block tridiagonal matrices by cyclic reduction: each pass eliminates all blocks but one of `radix`.

Block row i reads left_i x_(i-1) + middle_i x_i + right_i x_(i+1) = b_i. The number of the block is the last
axis of all arrays, so that a pass is arithmetic of long vectors. There are no pivots between blocks: the
caller looks at the residual.
"""

from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core.flow import settle
from odejax.linalg import inverse

LARGEST_REST = 32  # unknowns that are left
LARGEST_GROUP = 6  # unknowns that go together, if blocks are smaller


class Pass(NamedTuple):
    """One elimination, of groups of blocks; after each group one block is kept.

    x_gone = `inverse` b_gone - `left` (x_kept before) - `right` x_kept, and the right-hand side of what is
    kept is b_kept - `before` b_gone - `after` (b_gone of the next group).
    """

    inverse: jax.Array  # (g, g, groups)
    left: jax.Array  # (g, w, groups)
    right: jax.Array
    before: jax.Array  # (w, g, groups)
    after: jax.Array


class Factors(NamedTuple):
    """Of a matrix."""

    passes: tuple[Pass, ...]
    inverse: jax.Array  # of the matrix that is left


def radix(width):
    """Of so many blocks one is kept."""
    return max(2, 1 + LARGEST_GROUP // width)


def count_blocks(n, width):
    """How many blocks n unknowns are padded to, so that all passes come out even."""
    unit = 1
    while -(-n // (width * unit)) * width > LARGEST_REST:
        unit *= radix(width)
    return -(-n // (width * unit)) * unit


@jax.jit
def factor(left, middle, right) -> Factors:
    """The factors of `count_blocks` blocks, each argument (w, w, m)."""
    passes, w = [], len(middle)
    r = radix(w)
    while middle[0].size > LARGEST_REST:
        inverses = settle(_inverses(_groups(left, middle, right, r)))
        to_left = settle(_product(inverses[:, :w], left[..., ::r]))
        to_right = settle(_product(inverses[:, -w:], right[..., r - 2 :: r]))
        left, middle, right = (x[..., r - 1 :: r] for x in (left, middle, right))
        before = _product(left, inverses[-w:])
        after = _product(right, _next(inverses[:w]))
        middle = middle - _product(left, to_right[-w:]) - _product(right, _next(to_left[:w]))
        left, right = -_product(left, to_left[-w:]), -_product(right, _next(to_right[:w]))
        left, middle, right, before, after = settle((left, middle, right, before, after))
        passes.append(Pass(inverses, to_left, to_right, before, after))
    return Factors(tuple(passes), inverse.inverse(_dense(left, middle, right)))


@partial(jax.jit, static_argnums=2)
def apply(factors: Factors, b, is_transposed=False):
    """The solution for a right-hand side (w, m), of the matrix or of its transpose."""
    r, all_gone = radix(len(b)), []
    reduced, expanded = (
        (_reduced_transposed, _expanded_transposed) if is_transposed else (_reduced, _expanded)
    )
    for p in factors.passes:
        gone = jnp.concatenate([b[:, j::r] for j in range(r - 1)])
        all_gone.append(gone)
        b = settle(reduced(p, b[:, r - 1 :: r], gone))
    last = factors.inverse.T if is_transposed else factors.inverse
    x = (last @ b.ravel()).reshape(b.shape)
    for p, gone in zip(reversed(factors.passes), reversed(all_gone), strict=True):
        together = jnp.concatenate([expanded(p, x, gone).reshape(r - 1, *x.shape), x[None]])
        x = settle(jnp.moveaxis(together, 0, -1).reshape(len(x), -1))
    return x


def _reduced(p, b, gone):
    """The right-hand side of what is kept."""
    return b - _times(p.before, gone) - _times(p.after, _next(gone))


def _expanded(p, x, gone):
    """The unknowns that go, from those kept and from their right-hand side."""
    return _times(p.inverse, gone) - _times(p.left, _before(x)) - _times(p.right, x)


def _reduced_transposed(p, b, gone):
    return b - _transpose_times(p.right, gone) - _next(_transpose_times(p.left, gone))


def _expanded_transposed(p, x, gone):
    at_once = _transpose_times(p.inverse, gone) - _transpose_times(p.before, x)
    return at_once - _before(_transpose_times(p.after, x))


def multiply(blocks, x):
    """The matrix of (left, middle, right) times a vector (w, m)."""
    left, middle, right = blocks
    return _times(left, _before(x)) + _times(middle, x) + _times(right, _next(x))


def _groups(left, middle, right, r):
    """The matrices of the groups that go, (g, g, groups)."""
    bands, zero = {-1: left, 0: middle, 1: right}, jnp.zeros_like(middle[..., ::r])
    rows = [
        jnp.concatenate([bands[k - j][..., j::r] if abs(k - j) < 2 else zero for k in range(r - 1)], axis=1)
        for j in range(r - 1)
    ]
    return jnp.concatenate(rows)


def _inverses(blocks):
    """Of all blocks (g, g, m) at once, by exchanging one unknown after another for its right-hand side.

    The first goes, and comes back as the last: after g turns all are in their old places.
    """

    def exchange(_, a):
        reciprocal = 1 / a[0, 0]
        row, column = a[0, 1:] * reciprocal, a[1:, 0]
        upper = jnp.concatenate([a[1:, 1:] - column[:, None] * row, (-column * reciprocal)[:, None]], axis=1)
        return jnp.concatenate([upper, jnp.concatenate([row, reciprocal[None]])[None]])

    return lax.fori_loop(0, len(blocks), exchange, blocks)


def _product(a, b):
    """Block by block."""
    return (a[:, :, None] * b).sum(axis=1)


def _times(a, x):
    return (a * x).sum(axis=1)


def _transpose_times(a, x):
    return (a * x[:, None]).sum(axis=0)


def _next(x):
    """Of each group what the next has; the last one sees zeros."""
    return jnp.pad(x[..., 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])


def _before(x):
    return jnp.pad(x[..., :-1], [(0, 0)] * (x.ndim - 1) + [(1, 0)])


def _dense(left, middle, right):
    """The matrix of all blocks; its rows are counted as those of a raveled (w, m) are."""
    m = middle.shape[-1]
    shifts = zip((left, middle, right), (-1, 0, 1), strict=True)
    full = reduce(jnp.add, [block[..., None] * np.eye(m, k=k, dtype=block.dtype) for block, k in shifts])
    return full.swapaxes(1, 2).reshape(len(middle) * m, -1)
