"""What a solve computed, as a differentiable program with its steps held fixed.

A recorded step is a row (s, s1): it went from t0 + s to t0 + s1 in the direction of integration. The
parameters are (t0, t1, *theta). A step ends on t1 exactly when s1 is the length of the span; then its
size is t1 - t0 - s and moves with both ends, all other sizes are constants.
"""

from dataclasses import dataclass, replace

import jax
import jax.extend
import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.core.transform import Doubled, LaneFunction, Lanes, select
from odejax.stepping import explicit
from odejax.tableaus import ExplicitTableau


@dataclass(frozen=True)
class JaxprFunction:
    """A user's function of (t, arguments, state) as a jaxpr; its identity is its value."""

    jaxpr: jax.extend.core.Jaxpr
    constants: tuple[int, ...]  # which parameters are its constants
    arguments: tuple[int, ...]  # and which its arguments

    def __call__(self, t, theta, y):
        constants = [theta[i] for i in self.constants]
        arguments = [theta[i] for i in self.arguments]
        t = t.astype(self.jaxpr.invars[0].aval.dtype)
        return tuple(jax.core.eval_jaxpr(self.jaxpr, constants, t, *arguments, *y))


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
    """What one output of a step is, from the state at its start.

    With a query (t,) the state at that time, without one that at the end of the step; either as `save`
    makes it, after its time. `save` None: the step itself, as (t, t1, y, coefficients of theta^j).
    """

    method: ExplicitTableau
    slope: Slope
    save: JaxprFunction | None

    def __call__(self, row, params, state, query):
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)

        def slope(c, y):
            return self.slope((*row, jnp.asarray(c, t.dtype)), params, y, ())

        y1, slopes = explicit.step(self.method, slope, state, None, slope(0.0, state))
        if self.save is None:
            slopes = explicit.extra_stages(self.method, slope, state, None, slopes)
            return dense_row(t, t + h, state, explicit.polynomial(self.method, state, None, slopes))
        if not query:
            return (t + h, *self.save(t + h, theta, y1))
        slopes = explicit.extra_stages(self.method, slope, state, None, slopes)
        y = explicit.interpolate(self.method, state, None, slopes, position(query[0] - t, h))
        return self.save(query[0], theta, y)


def position(elapsed, h):
    """Where in a step of size h a time lies, in [0, 1]; 0 in a step of size 0."""
    return jnp.where(h == 0, 0.0, elapsed / jnp.where(h == 0, 1.0, h))


def dense_row(t, t1, y, columns):
    """A step as (t, t1, y, coefficients): each coefficient leaf has the powers of theta first."""
    return (t, t1, *y, *(jnp.stack(c, axis=t.ndim) for c in zip(*columns, strict=True)))


@dataclass(frozen=True)
class Program:
    """One step as a function of (row, parameters, state), and the outputs it can give."""

    method: ExplicitTableau
    slope: LaneFunction
    outputs: tuple[LaneFunction, ...]
    output_shapes: tuple[tuple[jax.ShapeDtypeStruct, ...], ...]  # of one lane, for each kind of output
    lanes: tuple[int, ...] = ()
    params_axes: tuple[tuple[int | None, ...], ...] = ()  # of each parameter, for each level of lanes

    def in_lanes(self, size, params_axes):
        """The program of `size` lanes."""
        return replace(
            self,
            slope=Lanes(self.slope, size, params_axes),
            outputs=tuple(Lanes(fn, size, params_axes) for fn in self.outputs),
            lanes=(size, *self.lanes),
            params_axes=(params_axes, *self.params_axes),
        )

    def doubled(self, params_active, query_active):
        """The program of states beside their tangents; `query_active` is one tuple for each output."""
        slope = Doubled(self.slope, params_active, ())
        outputs = tuple(
            Doubled(fn, params_active, active)
            for fn, active in zip(self.outputs, query_active, strict=True)
        )
        return replace(
            self,
            slope=slope,
            outputs=outputs,
            output_shapes=tuple(shapes + shapes for shapes in self.output_shapes),
            params_axes=tuple(axes + select(axes, params_active) for axes in self.params_axes),
        )
