"""From output to output of y' = A y + b: by one exponential for equal intervals, or by one for each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core.traced import is_known
from odejax.derivative.linear_flow import flow
from odejax.linalg import sizes
from odejax.linalg.dense import expm
from odejax.linalg.operators import Affine, Dense

LARGEST_DENSE = 128  # rows of a matrix that is exponentiated: at 200 its gradient can take 6 times longer
SAME = 8  # rounding errors by which lengths of equal intervals differ


class Times(NamedTuple):
    """What is known of the times when the solve is traced."""

    are_known: bool
    are_equal: bool | None  # None: not known


def known(t_span, t_eval):
    """The `Times` of a solve."""
    times = (*t_span, *(() if t_eval is None else (t_eval,)))
    if not all(map(is_known, times)):
        return Times(False, True if t_eval is None else None)
    if t_eval is None:
        return Times(True, True)
    points = np.concatenate([[t_span[0]], t_eval, [t_span[1]]])
    return Times(True, bool(_spacing(np.diff(points), np)[0]))


def _spacing(lengths, xp):
    """(are all intervals of one length or none?, that length, which have it)."""
    largest = xp.abs(lengths).max()
    span = xp.abs(xp.cumsum(lengths)).max()
    rounding = SAME * xp.finfo(lengths.dtype).eps * span
    is_long = xp.abs(lengths) > largest / 2
    h = xp.where(is_long, lengths, 0).sum() / xp.maximum(is_long.sum(), 1)
    is_equal = xp.where(is_long, xp.abs(lengths - h), xp.abs(lengths)) <= rounding
    return is_equal.all(), h, is_long


def states(problem, y0, b, lengths, times):
    """(states after each interval, Taylor polynomials or intervals, products A y)."""

    def each(y0):
        return _each(problem, y0, b, lengths)

    n = y0[0].shape[0] if y0[0].ndim else 1
    n_constants = 0 if b is None else y0[0].size // n
    is_dense = isinstance(problem.op, Dense) and n + n_constants <= LARGEST_DENSE
    if not is_dense or times.are_equal is False:
        return each(y0)

    def shared(y0):
        return _shared(problem, y0, b, lengths, times)

    if times.are_equal:
        return shared(y0)
    return lax.cond(_spacing(lax.stop_gradient(lengths), jnp)[0], shared, each, y0)


def slope(problem, y, b):
    """A y + b."""
    k = problem.op(problem.params, y)
    return k if b is None else tuple(x + y for x, y in zip(k, jax.tree.leaves(b), strict=True))


def _each(problem, y0, b, lengths):
    """An exponential's action for each interval."""
    problem, state = _with_constant(problem, y0, b)

    def advance(state, length):
        state, scheme = flow(problem, state, length)
        return state, (state[: len(y0)], scheme.n_steps, scheme.degree * scheme.n_steps)

    _, (rows, n_steps, n_products) = lax.scan(advance, state, lengths)
    return rows, n_steps.sum(dtype=jnp.int32), n_products.sum(dtype=jnp.int32)


def _with_constant(problem, y0, b):
    if b is None:
        return problem, y0
    one = jnp.ones((), jnp.result_type(*y0))
    params = (*problem.params, *b)
    return problem._replace(op=Affine(problem.op), params=params, size=sizes.with_constant(problem.size)), (
        *y0,
        one,
    )


def _shared(problem, y0, b, lengths, times):
    """One dense exponential for all intervals of length h.

    Its length is taken for a constant; where times have derivatives, a flow of length zero adds them.
    """
    fixed = lax.stop_gradient(lengths)
    _, h, is_long = _spacing(fixed, jnp)
    (A,), (y,) = problem.params, y0
    n = A.shape[0]
    if b is not None:
        k, scale = y.size // n, _power_of_two(lax.stop_gradient(b[0]))
        A = jnp.block([[A, scale * b[0].reshape(n, k)], [jnp.zeros((k, n + k), A.dtype)]])
        y = jnp.concatenate([y, (jnp.eye(k, dtype=y.dtype) if y.ndim == 2 else jnp.ones(1, y.dtype)) / scale])
    propagator = expm(A * h.astype(jnp.finfo(A.dtype).dtype))

    def advance(y, is_long):
        y = jnp.where(is_long, jnp.matmul(propagator, y, precision="highest"), y)
        return y, y[:n]

    _, rows = lax.scan(advance, y, is_long)
    if not times.are_known:
        rows = _moved(problem, rows, b, lengths - fixed)
    return (rows,), is_long.sum(dtype=jnp.int32), jnp.zeros((), jnp.int32)


def _power_of_two(b):
    """What makes the largest entry about 1: squarings should not be many because b is large."""
    largest = jnp.abs(b).max()
    is_good = jnp.isfinite(largest) & (largest > 0)
    return jnp.exp2(-jnp.round(jnp.log2(jnp.where(is_good, largest, 1)))).astype(b.dtype)


def _moved(problem, rows, b, changes):
    """The rows, for intervals whose lengths change by nothing, but have derivatives."""

    def move(y, t):
        moved, state = _with_constant(problem, (y,), b)
        return flow(moved, state, t)[0][0]

    return jax.vmap(move)(rows, jnp.cumsum(changes))
