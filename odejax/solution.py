"""What a solve gives: the solution, its statistics, and its failure in words."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odejax.core.leaves import nan_unless, real_dtype
from odejax.core.status import Status
from odejax.core.traced import is_known
from odejax.stepping import weighted


class SolveError(RuntimeError):
    """A solve did not reach t1. `status` says why, `t` how far it came."""

    def __init__(self, message: str, status: Status, t: float):
        super().__init__(message)
        self.status = status
        self.t = t


STIFF = 0.8  # of the stability interval: an explicit method is limited by it
LOOKS_STIFF = 'looks stiff: try method="auto"'


class Statistics(eqx.Module):
    """What a solve took; under `vmap` one number for each lane. No derivative."""

    num_accepted: jax.Array  # steps that were taken
    num_rejected: jax.Array  # attempts that were repeated with a smaller step
    num_f_evals: jax.Array  # evaluations of f, those of the first step and of dense output included
    num_jac_evals: jax.Array  # Jacobians of f, of implicit methods
    num_factorizations: jax.Array  # of the matrices made of them
    num_newton_iterations: jax.Array  # of all stages
    num_stiff: jax.Array  # accepted steps that method="auto" made with its stiff method
    min_step: jax.Array  # size of the smallest accepted step, but for the last; inf if there is none
    min_step_at: jax.Array  # the time that step started from
    stiffness: (
        jax.Array
    )  # how much of its stability interval an explicit method used at the end; 0: few steps
    num_saved: jax.Array  # rows of `ys` in use

    @property
    def num_steps(self):
        """Attempted steps."""
        return self.num_accepted + self.num_rejected

    @property
    def looks_stiff(self):
        """Did stability limit the steps of an explicit method, not accuracy?"""
        return self.stiffness > STIFF


class Dense(eqx.Module):
    """The steps, each with its continuous extension: see `weighted.interpolate`."""

    t: jax.Array  # (steps,): where each step starts; NaN where there is none
    t1: jax.Array  # (steps,): where it ends
    y: Any  # leaves (steps, ...)
    columns: Any  # leaves (steps, degree, ...): y at the end, then what else it is made of
    count: jax.Array  # steps in use

    def locate(self, t):
        """(index of the step that holds t, position in it in [0, 1], is t inside at all?)"""
        last = jnp.maximum(self.count - 1, 0)
        sign = jnp.where(self.t1[last] >= self.t[0], 1.0, -1.0)
        starts = jnp.where(jnp.arange(self.t.shape[0]) < self.count, sign * self.t, jnp.inf)
        index = jnp.clip(jnp.searchsorted(starts, sign * t, side="right") - 1, 0, last)
        is_inside = (sign * t >= sign * self.t[0]) & (sign * t <= sign * self.t1[last])
        h = self.t1[index] - self.t[index]
        return index, h, jnp.where(h == 0, 0.0, (t - self.t[index]) / jnp.where(h == 0, 1.0, h)), is_inside

    def value(self, t):
        index, _, x, is_inside = self.locate(t)
        return jax.tree.map(partial(nan_unless, is_inside), self._at(index, x))

    def slope(self, t, f_reached):
        """dy/dt; in a span of no length f there."""
        index, h, x, is_inside = self.locate(t)
        change = jax.jvp(lambda x: self._at(index, x), (x,), (jnp.ones_like(x),))[1]

        def leaf(change, f):
            slope = change / jnp.where(h == 0, 1.0, h).astype(real_dtype(change))
            return nan_unless(is_inside, jnp.where(h == 0, f, slope))

        return jax.tree.map(leaf, change, f_reached)

    def _at(self, index, x):
        """The state at x in [0, 1] of a step."""
        starts, columns = (jax.tree.leaves(tree) for tree in (self.y, self.columns))
        y1, *others = zip(*[c[index] for c in columns], strict=True)
        y = weighted.interpolate([y[index] for y in starts], y1, others, x)
        return jax.tree.unflatten(jax.tree.structure(self.y), y)


class Solution(eqx.Module):
    """The solution of an initial value problem; under `vmap` every field has the lane axis first.

    `sol(t)` and `sol.derivative(t)` evaluate it anywhere in the span, if it was solved with `dense`.
    """

    ts: jax.Array  # (n,): the times of `ys`
    ys: Any  # leaves (n, ...): the state, or what `save_fn` made of it, NaN where it was not reached
    t1: jax.Array  # the time reached: the end of `t_span` on success
    y1: Any  # the state at the end of `t_span`; NaN if it was not reached
    y_reached: Any  # the last accepted state, at `t1`; no derivative
    status: jax.Array  # a number of `Status`
    stats: Statistics
    dense: Dense | None
    f_reached: Any  # f at (t1, y_reached), to explain a failure with; no derivative

    @property
    def success(self) -> jax.Array:
        """Did the solve reach the end of `t_span`?"""
        return self.status == Status.SUCCESS

    def __call__(self, t):
        """The state at `t`, an array of times or one; NaN outside of what was solved."""
        return self._evaluate(Dense.value, t)

    def derivative(self, t):
        """dy/dt at `t`: the derivative of `sol(t)`."""
        return self._evaluate(lambda dense, t: dense.slope(t, self.f_reached), t)

    def _evaluate(self, fn, t):
        if self.dense is None:
            raise ValueError("This solution has no dense output. Call odejax.solve(..., dense=True).")
        if self.dense.count.ndim:
            raise ValueError(
                "This is the solution of many lanes. Evaluate each: jax.vmap(lambda s: s(t))(sol)."
            )
        dense, t = self.dense, jnp.asarray(t, self.ts.dtype)
        out = jax.vmap(lambda t: fn(dense, t))(t.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*t.shape, *x.shape[1:]), out)

    def __repr__(self):
        if not is_known(self.status):
            return f"Solution(traced; ts: {_shape(self.ts)}, ys: {jax.tree.map(_shape, self.ys)})"
        if np.ndim(self.status):
            return self._lanes_in_words()
        status, stats = Status(int(self.status)), self.stats
        smallest = (
            f", the smallest {float(stats.min_step):.3g} at t = {float(stats.min_step_at):.6g}"
            if np.isfinite(stats.min_step)
            else ""
        )
        stiff = f" ({LOOKS_STIFF})" if stats.looks_stiff else ""
        return (
            f"Solution: {status.sentence} (t = {float(self.t1):.6g}){stiff}\n"
            f"  steps: {int(stats.num_accepted)} accepted, {int(stats.num_rejected)} rejected{smallest}; "
            f"{int(stats.num_f_evals)} evaluations of f\n"
            f"  y1: {_brief(self.y1)}"
        )

    def _lanes_in_words(self):
        statuses, stats = _here(self.status).ravel(), jax.tree.map(_here, self.stats)
        ends = [(s, int((statuses == s).sum())) for s in Status]
        return (
            f"Solution of {statuses.size} lanes: "
            f"{', '.join(f'{n} {s.name}' for s, n in ends if n)}\n"
            f"  steps of a lane: {stats.num_accepted.min()} to {stats.num_accepted.max()} accepted, "
            f"{stats.num_rejected.min()} to {stats.num_rejected.max()} rejected; "
            f"{stats.num_f_evals.sum()} evaluations of f in all\n"
            f"  ys: {jax.tree.map(_shape, self.ys)}"
        )


def _shape(x):
    return jax.typeof(x).str_short()


def _brief(tree):
    text = " ".join(np.array2string(np.asarray(x), precision=6, threshold=6) for x in jax.tree.leaves(tree))
    return text if len(text) < 90 else text[:87] + "..."


def check_as(throw: bool | None, solution: Solution) -> Solution:
    """`check`, as the option `throw` asks; None: outside of `jit` only."""
    return check(solution) if throw or (throw is None and is_known(solution.status)) else solution


def check(solution: Solution) -> Solution:
    """The solution, or an error if it failed.

    Args:
        solution: what `solve` returned, of one lane or many.

    Returns:
        The same solution. Under `jit` use this one, so that the check is not optimised away.

    Raises:
        SolveError: outside `jit`, if any lane failed.
        equinox.EquinoxRuntimeError: inside `jit`, likewise.
    """
    if not is_known(solution.status):
        messages = [f"odejax.solve: {s.sentence}. Try this: {s.advice}." for s in Status]
        is_failed = solution.status != Status.SUCCESS
        return eqx.branched_error_if(solution, is_failed, jnp.max(solution.status), messages)
    status = _here(solution.status)
    if (status != Status.SUCCESS).any():
        raise _error(solution, status)
    return solution


def _here(x):
    """The lanes of a result that this process has: under `jax.distributed` others have the rest."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    shards = {s.index[0].start: s.data for s in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def _error(solution, statuses):
    """The error, in one plain sentence: what, at which t, which component, what to try."""
    failed = np.argwhere(statuses != Status.SUCCESS)
    lane = tuple(failed[0])
    status, t = Status(int(statuses[lane])), float(_here(solution.t1)[lane])
    where = f"at t = {t:.9g}"
    if statuses.size > 1:
        index = lane[0] if len(lane) == 1 else lane
        where = f"in {len(failed)} of {statuses.size} lanes, first in lane {index}, {where}"
    component = ""
    if status in (Status.STEP_UNDERFLOW, Status.NON_FINITE, Status.NON_FINITE_START, Status.MAX_STEPS):
        component = _component(solution, lane, status is not Status.NON_FINITE)
    stats = jax.tree.map(lambda x: _here(x)[lane], solution.stats)
    what = f"{status.sentence}{component}" + (f"; {LOOKS_STIFF}" if stats.looks_stiff else "")
    message = (
        f"odejax.solve failed {where}, after {stats.num_steps} steps: {what}. Try this: {status.advice}."
    )
    return SolveError(message, status, t)


def _component(solution, lane, may_be_finite):
    """The component that is not finite, or else the one that changes fastest for its size.

    Unless it `may_be_finite`, the latter is not to blame: what failed was the next attempt.
    """
    worst, name = -1.0, ""
    slopes = jax.tree.flatten_with_path(solution.f_reached)[0]
    for (path, k), y in zip(slopes, jax.tree.leaves(solution.y_reached), strict=True):
        k, y = np.abs(_here(k)[lane]), np.abs(_here(y)[lane])
        with np.errstate(all="ignore"):
            rate = np.where(np.isfinite(k) & np.isfinite(y), k / (y + np.finfo(y.dtype).tiny), np.inf)
        rate = np.nan_to_num(rate, posinf=np.finfo(rate.dtype).max)
        index = np.unravel_index(np.argmax(rate), rate.shape)
        if rate[index] > worst:
            at = "y" + jax.tree_util.keystr(path) + "".join(f"[{i}]" for i in index)
            worst = rate[index]
            if not (np.isfinite(k[index]) and np.isfinite(y[index])):
                name = f"; look at {at}, which is not finite"
            elif may_be_finite:
                name = f"; look at {at}, which changes fastest"
            else:
                name = f"; up to there all was finite, {at} changing fastest"
    return name
