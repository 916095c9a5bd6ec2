"""`solve_linear`: y' = A y + b, by matrix exponentials."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from odejax import spans
from odejax.core.status import Status
from odejax.core.traced import apart, together
from odejax.linear import problem, propagate
from odejax.solution import Solution, Statistics, check_as


def solve_linear(
    A: Any,
    y0: Any,
    t_span: tuple[Any, Any],
    *,
    t_eval: Any = None,
    b: Any = None,
    tol: Any = None,
    throw: bool | None = None,
) -> Solution:
    r"""Solves dy/dt = A y + b, y(t0) = y0, for constant A and b, and has every derivative.

    $$\frac{dy}{dt} = A y + b, \qquad y(t_0) = y_0$$

    Each output follows from the one before by an exponential; there is no error in time. Outputs of equal
    spacing share one dense exponential, if A is an array of at most 128 rows (those of b's columns included);
    otherwise each interval is an `expm_multiply`. Transformations apply as to `odejax.solve`, with respect to
    A, y0, b and all times.

    Args:
        A: an array (n, n), a `jax.experimental.sparse` matrix (BCOO or BCSR), or a function `A(y)` linear in
            y; see `odejax.expm_multiply`.
        y0: the state at t0: (n,) or (n, k) for a matrix; for a function any pytree of arrays.
        t_span: (t0, t1), in units of t. t1 < t0 integrates backwards.
        t_eval: times of the outputs, shape (m,), in the direction of integration, inside the span. Default:
            t1. Spacing counts as equal if t0, the times and t1 are a uniform grid up to rounding, some of
            them possibly repeated; within `jit` this is decided as the program runs.
        b: constant term, like `y0`, in units of y / t. Default: none.
        tol: see `odejax.expm_multiply`; for each interval. A dense exponential has that of the precision.
        throw: True: a failure raises, inside `jit` too. False: it never does. Default: it raises outside of
            `jit`; inside, the failure is data, and `odejax.check(sol)` raises.

    Returns:
        A `Solution` with `ts`, `ys` (time first), `t1`, `y1`, `status`, `success` and `stats`: `num_accepted`
        counts Taylor polynomials, or intervals for a dense exponential, and `num_f_evals` products A y. What
        is not finite, and what comes after it, is NaN.

    Raises:
        SolveError: the solution is not finite; see `throw`.
        TypeError, ValueError: an argument is not what it should be.

    Example:
        >>> import jax.numpy as jnp, odejax
        >>> sol = odejax.solve_linear(jnp.array([[-2.0]]), jnp.ones(1), (0.0, 1.0), b=jnp.ones(1))
        >>> bool(jnp.allclose(sol.y1, 0.5 + 0.5 * jnp.exp(-2.0)))
        True

    Reference:
        Al-Mohy, Higham (2011), Computing the action of the matrix exponential, section 4.
    """
    A, y0 = problem.operands(A, "y0", y0)
    A, y0, b = problem.constant(A, y0, b)
    t_span = spans.span(t_span)
    t_eval = spans.output_times(t_eval, t_span)
    steps = problem.largest_steps(tol, y0)
    arrays, static = apart(A)
    solution = _solve(arrays, y0, b, t_span, t_eval, steps, static, propagate.known(t_span, t_eval))
    return check_as(throw, solution)


@partial(jax.jit, static_argnums=(6, 7))
def _solve(arrays, y0, b, t_span, t_eval, steps, static, times):
    t0, t1 = t_span
    points = t1[None] if t_eval is None else jnp.concatenate([t_eval, t1[None]])
    leaves, tree = jax.tree.flatten(y0)
    lengths = jnp.diff(points, prepend=t0)
    A = problem.read(together(arrays, static), "y0", y0, jnp.abs(lengths).max(), steps)
    rows, n_steps, n_products = propagate.states(
        A, tuple(leaves), None if b is None else tuple(jax.tree.leaves(b)), lengths, times
    )
    slope = propagate.slope(A, tuple(leaves), b)
    is_finite, status = _status((tuple(leaves), slope), rows, t_span, t_eval)
    rows = tuple(_where(is_finite, x, jnp.nan) for x in rows)
    n_good = is_finite.sum(dtype=jnp.int32)
    t_reached = jnp.concatenate([t0[None], points])[n_good]
    reached = _last(rows, leaves, n_good)
    y1 = tuple(x[-1] for x in rows)
    if t_eval is None:
        ts, ys, n_saved = points, rows, n_good
    else:
        ts, ys, n_saved = t_eval, tuple(x[:-1] for x in rows), jnp.minimum(n_good, t_eval.shape[0])
    zero = jnp.zeros((), jnp.int32)
    stats = Statistics(
        num_accepted=n_steps,
        num_rejected=zero,
        num_f_evals=n_products,
        num_jac_evals=zero,
        num_factorizations=zero,
        num_newton_iterations=zero,
        num_stiff=zero,
        min_step=jnp.full_like(t0, jnp.inf),
        min_step_at=t0,
        stiffness=jnp.zeros_like(t0),
        num_saved=n_saved,
    )
    reached, slope = lax.stop_gradient((reached, propagate.slope(A, reached, b)))
    ys, y1, reached, slope = (jax.tree.unflatten(tree, x) for x in (ys, y1, reached, slope))
    return Solution(ts, ys, t_reached, y1, reached, status, stats, None, slope)


def _status(start, rows, t_span, t_eval):
    """(for each row: is it finite, and those before it?, status)."""
    is_finite = jnp.stack([jnp.isfinite(x.reshape(x.shape[0], -1)).all(axis=1) for x in rows]).all(axis=0)
    is_finite = jnp.cumprod(is_finite).astype(bool)
    status = jnp.where(is_finite[-1], Status.SUCCESS, Status.NON_FINITE)
    starts_finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(start)]).all()
    status = jnp.where(starts_finite, status, Status.NON_FINITE_START)
    are_good = jnp.isfinite(t_span[0]) & jnp.isfinite(t_span[1])
    if t_eval is not None:
        sign = jnp.where(t_span[1] >= t_span[0], 1, -1)
        times = jnp.concatenate([t_span[0][None], t_eval, t_span[1][None]])
        are_good &= (sign * jnp.diff(times) >= 0).all()
    status = jnp.where(are_good, status, Status.BAD_TIMES)
    return is_finite & starts_finite & are_good, status.astype(jnp.int32)


def _where(is_finite, x, other):
    """Rows, or NaN, which has NaN for its derivatives."""
    factor = jnp.where(is_finite, 1.0, other).astype(jnp.finfo(x.dtype).dtype)
    return x * factor.reshape(-1, *(1,) * (x.ndim - 1))


def _last(rows, start, n_good):
    """The last good state."""
    return tuple(
        jnp.where(n_good > 0, x[jnp.maximum(n_good - 1, 0)], y) for x, y in zip(rows, start, strict=True)
    )
