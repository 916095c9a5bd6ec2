"""What a solve computed, as a differentiable program with its steps held fixed.

A recorded step is a row (s, s1): it went from t0 + s to t0 + s1 in the direction of integration. The
parameters are (t0, t1, *theta). A step ends on t1 exactly when s1 is the length of the span; then its
size is t1 - t0 - s and moves with both ends, all other sizes are constants.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.core
import jax.extend
import jax.numpy as jnp
from jax import lax

from odejax.core import jaxprs, leaves
from odejax.core.blocks import MOST_LANES
from odejax.core.transform import Doubled, LaneFunction, Lanes, select
from odejax.core.turns import Turns
from odejax.derivative.record import Active, Inputs
from odejax.derivative.scheme import Scheme, in_a_row
from odejax.stepping import weighted
from odejax.tableaus import Tableau


@dataclass(frozen=True)
class JaxprFunction:
    """A user's function of (t, parameters, state) as a jaxpr; its identity is its value."""

    jaxpr: jax.extend.core.Jaxpr
    time_dtype: jnp.dtype  # of t, as the user's function sees it
    operands: tuple[int, ...]  # which of the solve's parameters it takes

    @property
    def result_shapes(self):
        """Shapes and dtypes of what it returns."""
        avals: list[Any] = [v.aval for v in self.jaxpr.outvars]
        return tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals)

    @property
    def depends_on_time(self):
        """May it depend on t?"""
        return any(0 in made_of for made_of in jaxprs.dependencies(self.jaxpr))

    @property
    def pattern(self):
        """Of one scalar for each scalar of the state: which depends on which, or is the same?"""
        first = 1 + len(self.operands)
        n = len(self.jaxpr.invars) - first
        made_of = jaxprs.dependencies(self.jaxpr)
        return tuple(tuple(i == j or first + j in made_of[i] for j in range(n)) for i in range(n))

    def __call__(self, t, theta, y):
        operands = [theta[i] for i in self.operands]
        return tuple(jax.core.eval_jaxpr(self.jaxpr, (), t.astype(self.time_dtype), *operands, *y))


def direction(t0, t1):
    """+1 or -1: the sense in which time runs from t0 to t1."""
    return jnp.where(t1 >= t0, 1, -1).astype(t0.dtype)


def step_times(row, t0, t1):
    """Start and signed size of a recorded step."""
    s, s1 = row[:2]
    sign = direction(t0, t1)
    is_last = s1 == lax.stop_gradient(jnp.abs(t1 - t0))
    h = jnp.where(is_last, t1 - t0 - sign * s, sign * (s1 - s))
    return t0 + sign * s, h


@dataclass(frozen=True)
class Slope:
    """h f(t + c h, y) for the row (s, s1, c): scaled, so that a step's derivative is a step again."""

    f: JaxprFunction

    def __call__(self, row, params, state, query):
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        slopes = self.f(t + row[2] * h, theta, state)
        return tuple(h.astype(leaves.real_dtype(k)) * k for k in slopes)


@dataclass(frozen=True)
class Output:
    """What one output of a step is: `state` is (y, y1, *columns of the continuous extension) in a row.

    With a query (t,) the state at that time, without one that at the end of the step; either as `save`
    makes it, after its time. `save` None: the step itself, as (t, t1, y, columns with y1 before them).
    """

    n_columns: int
    save: JaxprFunction | None
    is_timed: bool

    @property
    def uses_columns(self):
        """Does it need the continuous extension?"""
        return self.is_timed or self.save is None

    def __call__(self, row, params, state, query):
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        n = 2 + self.n_columns * self.uses_columns
        size = len(state) // n
        y, y1, *columns = (state[i * size : (i + 1) * size] for i in range(n))
        if self.save is None:
            return dense_row(t, t + h, y, y1, columns)
        if not self.is_timed:
            return (t + h, *self.save(t + h, theta, y1))
        x = position(query[0] - t0 - direction(t0, t1) * row[0], h)
        return self.save(query[0], theta, weighted.interpolate(y, y1, columns, x))


def position(elapsed, h):
    """Where in a step of size h a time lies, in [0, 1]; 0 in a step of size 0."""
    return jnp.where(h == 0, 0.0, elapsed / jnp.where(h == 0, 1.0, h))


def dense_row(t, t1, y, y1, columns):
    """A step as (t, t1, y, columns): those of each leaf are stacked, with y1 first."""
    return (t, t1, *y, *(jnp.stack(c, axis=t.ndim) for c in zip(y1, *columns, strict=True)))


@dataclass(frozen=True)
class Program:
    """One step as a function of (row, parameters, state), and the outputs it can give."""

    method: Tableau
    scheme: Scheme
    outputs: tuple[LaneFunction, ...]
    uses_columns: tuple[bool, ...]  # for each kind of output: see `Output`
    output_shapes: tuple[tuple[jax.ShapeDtypeStruct, ...], ...]  # of one lane, for each kind of output
    lanes: tuple[int, ...] = ()
    params_axes: tuple[tuple[int | None, ...], ...] = ()  # of each parameter, for each level of lanes
    n_doublings: int = 0
    most_lanes: int = MOST_LANES  # in a block
    takes_turns: bool = False  # are outputs evaluated for one lane after another?

    def in_lanes(self, size, params_axes):
        """The program of `size` lanes."""
        return replace(
            self,
            scheme=self.scheme.in_lanes(params_axes),
            outputs=tuple(Lanes(fn, params_axes) for fn in self.outputs),
            lanes=(size, *self.lanes),
            params_axes=(params_axes, *self.params_axes),
        )

    @property
    def is_one_block(self):
        """Are its lanes few enough for one block?"""
        return math.prod(self.lanes) <= self.most_lanes

    def on_cpu(self, is_cpu):
        """The program as a CPU runs it: outputs that few lanes want, of scalars, lane after lane."""
        return replace(self, takes_turns=is_cpu and bool(self.lanes) and self.most_lanes <= MOST_LANES)

    def params_of(self, lanes, params):
        """The parameters of some lanes."""
        return tuple(lanes.at(x, self.lane_axes(i)) for i, x in enumerate(params))

    def turns(self, grid=None, place=None):
        """How lanes, or those of a block, get their outputs."""
        return Turns(self.takes_turns, self.lanes, grid, place)

    def of_block(self, grid):
        """The program of one block of lanes."""
        return replace(self, lanes=grid.block)

    def axes_of(self, inputs, active=None, n_directions=0):
        """Where `inputs`, all or the active ones, have their lanes; see `blocks.Axes`."""
        d, levels = n_directions, range(len(self.lanes))
        active = active or Active((True,) * len(inputs.params), ())
        in_rows = tuple(d + 1 + level for level in levels)
        return Inputs(
            jax.tree.map(lambda _: tuple(d + level for level in levels), inputs.y0),
            self.params_axes_of(active, d),
            jax.tree.map(lambda _: in_rows, inputs.queries),
        )

    def params_axes_of(self, active, n_directions):
        """Where the active parameters have their lanes."""
        axes = (self.lane_axes(i) for i, is_active in enumerate(active.params) if is_active)
        return tuple(tuple(None if a is None else n_directions + a for a in x) for x in axes)

    def lane_axes(self, param):
        """Where a parameter has its axes, for each level of lanes."""
        flags = [axes[param] is not None for axes in self.params_axes]
        return tuple(sum(flags[:i]) if is_mapped else None for i, is_mapped in enumerate(flags))

    def doubled(self, params_active, query_active):
        """The program of states beside their tangents; `query_active` is one tuple for each output."""
        outputs = tuple(
            Doubled(fn, params_active, active) for fn, active in zip(self.outputs, query_active, strict=True)
        )
        return replace(
            self,
            scheme=self.scheme.doubled(params_active),
            outputs=outputs,
            n_doublings=self.n_doublings + 1,
            output_shapes=tuple(shapes + shapes for shapes in self.output_shapes),
            params_axes=tuple(axes + select(axes, params_active) for axes in self.params_axes),
        )

    def advance(self, row, params, y, query=()):
        """The new state of a step, and the slopes it is made of."""
        return self.scheme.advance(row, params, y)

    def columns(self, row, params, states, query=()):
        """What the continuous extension of a step is made of, from (y, y1, its slopes)."""
        y, y1, _ = states
        return weighted.columns(self.method, y, y1, None, self.scheme.more_slopes(row, params, *states))

    def output(self, kind, row, params, states, query):
        """One output from (y, y1, *columns)."""
        return self.outputs[kind](row, params, in_a_row(states, self.n_doublings), query)
