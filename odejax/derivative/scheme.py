"""How a recorded step is made again and pulled back: stage by stage, or as one function.

Slopes are scaled by h, so that a step's derivative is a step again: y1 = y + sum_i b_i G_i.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.flow import settle, settlers
from odejax.core.transform import Doubled, LaneFunction, Lanes, select, vjp
from odejax.stepping import explicit
from odejax.tableaus import ExplicitTableau


@dataclass(frozen=True)
class StageByStage:
    """An explicit method, from its slope h f(t + c h, y) for rows (s, s1, c).

    With Y_i = y + sum_j a_ij G_j and G_i = slope(Y_i), cotangents go back by
    G_bar_i += b_i y1_bar + sum_j a_ji Y_bar_j and Y_bar_i = (dG/dY)^T G_bar_i. Those of the parameters are
    summed over the stages before they are added to any total: one pass over memory.
    """

    method: ExplicitTableau
    slope: LaneFunction

    def in_lanes(self, axes):
        return replace(self, slope=Lanes(self.slope, axes))

    def doubled(self, params_active):
        return replace(self, slope=Doubled(self.slope, params_active, ()))

    def advance(self, row, params, y):
        """The new state of a step, and the slopes it is made of."""
        slope = self._slope_at(row, params)
        return explicit.advance(self.method, slope, y, None, slope(0.0, y))

    def more_slopes(self, row, params, y, y1, slopes):
        """All slopes of a step, those that only outputs need included."""
        slope = self._slope_at(row, params)
        return explicit.extra_stages(self.method, slope, y, None, [*slopes, slope(1.0, y1)])

    def _slope_at(self, row, params):
        return lambda c, y: self.slope(_stage(row, c), params, y, ())

    def linearize(self, row, params, y, params_active, lanes):
        """(y1, slopes, pull), `pull(y1_bar, slopes_bar)` giving cotangents of the active parameters and y."""
        settle_stages, settle_slopes = settlers(lanes)
        n_params = sum(leaf.size for leaf in select(params, params_active))
        if n_params > sum(leaf.size for leaf in y):
            settle_stages = settle  # else stage values are computed again for every entry of a gradient
        points, slopes, pulls = [], [], []
        for c, weights in zip(self.method.C, self.method.A, strict=True):
            points.append(settle_stages(leaves.combine(y, None, weights, slopes)))
            slope, pull = vjp(self.slope, _stage(row, c), (params, points[-1], ()), params_active, ())
            slopes.append(settle_slopes(slope))
            pulls.append(pull)
        y1 = leaves.combine(y, None, self.method.B, slopes)
        return y1, slopes, partial(self._pull, pulls, settle_stages, settle_slopes)

    def _pull(self, pulls, settle_stages, settle_slopes, y1_bar, slopes_bar):
        method, n = self.method, len(pulls)
        points_bar, slopes_bar, params_bar = [None] * n, list(slopes_bar), None
        for i in reversed(range(n)):
            weights = [method.B[i], *(method.A[j][i] for j in range(i + 1, n))]
            bars = [y1_bar, *points_bar[i + 1 :]]
            slopes_bar[i] = settle_stages(leaves.combine(slopes_bar[i], None, weights, bars))
            p_bar, bar, _ = pulls[i](slopes_bar[i])
            points_bar[i] = settle_slopes(bar)
            params_bar = p_bar if params_bar is None else leaves.add(params_bar, p_bar)
        return params_bar, leaves.combine(y1_bar, None, [1.0] * n, points_bar)


@dataclass(frozen=True)
class AtOnce:
    """A method whose step is one function of rows: its result is y1 and all slopes, in a row."""

    step: LaneFunction
    n_doublings: int = 0

    def in_lanes(self, axes):
        return replace(self, step=Lanes(self.step, axes))

    def doubled(self, params_active):
        step = Doubled(self.step, params_active, ())
        return replace(self, step=step, n_doublings=self.n_doublings + 1)

    def advance(self, row, params, y):
        return self._states(self.step(row, params, y, ()), y)

    def more_slopes(self, row, params, y, y1, slopes):
        return slopes

    def linearize(self, row, params, y, params_active, lanes):
        out, pull_out = vjp(self.step, row, (params, y, ()), params_active, ())

        def pull(y1_bar, slopes_bar):
            params_bar, y_bar, _ = pull_out(in_a_row([y1_bar, *slopes_bar], self.n_doublings))
            return params_bar, y_bar

        return *self._states(out, y), pull

    def _states(self, out, y):
        y1, *slopes = apart(out, len(out) // len(y), self.n_doublings)
        return y1, slopes


Scheme = StageByStage | AtOnce


def _stage(row, c):
    return (*row[:2], jnp.asarray(c, row[0].dtype))


def in_a_row(states, n_doublings):
    """States one after another; of doubled ones all first halves, then all second halves."""
    if n_doublings == 0:
        return tuple(leaf for state in states for leaf in state)
    size = len(states[0]) // 2
    halves = [state[:size] for state in states], [state[size:] for state in states]
    return tuple(leaf for half in halves for leaf in in_a_row(half, n_doublings - 1))


def apart(row, n_states, n_doublings):
    """The inverse of `in_a_row`."""
    half = len(row) // 2
    if n_doublings == 0:
        size = len(row) // n_states
        return [row[i * size : (i + 1) * size] for i in range(n_states)]
    halves = (apart(part, n_states, n_doublings - 1) for part in (row[:half], row[half:]))
    return [a + b for a, b in zip(*halves, strict=True)]
