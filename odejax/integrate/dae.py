"""Solves of M y' = f: what comes before the first step, and how it may fail."""

from dataclasses import replace

import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.core.flow import vary_alike
from odejax.core.status import Status
from odejax.derivative.implicit import RosenbrockStep
from odejax.derivative.program import direction
from odejax.derivative.scheme import AtOnce
from odejax.integrate.primitive import solve
from odejax.stepping import error
from odejax.stepping.consistent import Equations, Point, root


def run(plan, inputs, numbers):
    """`solve` from a consistent state, with a first step that knows M."""
    assert isinstance(plan.program.scheme, AtOnce)
    step = plan.program.scheme.step
    assert isinstance(step, RosenbrockStep)
    assert step.mass is not None
    inputs, numbers = vary_alike((inputs, numbers))
    given, equations = inputs.y0, Equations(step.f, step.system)
    t0, _, *theta = inputs.params
    point = Point(t0, tuple(theta), step.system.pack(given), step.mass.split(step.system, theta))
    if not step.mass.is_regular:
        y0, params = _consistent(equations, point, given, numbers), _ends_apart(inputs.params)
        inputs = inputs._replace(y0=y0, params=params)
    if plan.is_adaptive and not plan.has_dt0:
        numbers = numbers._replace(
            dt0=_first_step(step, equations, *lax.stop_gradient((point, inputs, numbers)))
        )
        plan = replace(plan, has_dt0=True)
    solved = solve(plan, inputs, numbers)
    return solved if step.mass.is_regular else _explained(solved, given, inputs, step.f)


def _consistent(equations, point, y0, numbers):
    """The state with which the solve starts: NaN if none is found, and `y0` itself if M is regular."""
    pack = equations.system.pack
    rtol, atol = (
        pack(tuple(jnp.broadcast_to(x, y.shape) for x, y in zip(tolerance, y0, strict=True)))
        for tolerance in (numbers.rtol, numbers.atol)
    )
    y = equations.system.unpack(root(equations, point, rtol, atol))
    return leaves.where(point.split.is_singular, y, y0)


def _ends_apart(params):
    """The same, but for derivatives with respect to the ends of a span of no length, which are not finite.

    They would be y', and a step of no length knows only M y'.
    """
    t0, t1, *theta = params
    length = jnp.where(t1 == t0, t1 - t0, 1.0)
    return t0, t1 + jnp.where(t1 == t0, jnp.sqrt(length), 0.0), *theta


def _first_step(step, equations, point, inputs, numbers):
    """As for y' = f, with the y' that M and the algebraic equations give."""
    t0, t1 = inputs.params[:2]
    length, pack, unpack = jnp.abs(t1 - t0), step.system.pack, step.system.unpack

    def slope(t, y):
        return unpack(equations.derivative(point, t, pack(y)))

    k, sign = slope(t0, inputs.y0), direction(t0, t1)
    h = error.first_step(step.method, slope, t0, sign, length, inputs.y0, k, numbers.rtol, numbers.atol)
    return jnp.where(jnp.isfinite(h), h, error.FIRST_TRIAL * length)


def _explained(solved, given, inputs, f):
    """A start that is not finite is inconsistent, if the one given was."""
    t0, _, *theta = inputs.params
    k = f(t0, theta, given)
    has_failed = solved.status == Status.NON_FINITE_START
    is_finite = leaves.is_finite(given, 0) & leaves.is_finite(k, 0)
    return solved._replace(
        status=jnp.where(has_failed & is_finite, Status.INCONSISTENT_START, solved.status),
        y_reached=leaves.where(has_failed, lax.stop_gradient(given), solved.y_reached),
        f_reached=leaves.where(has_failed, lax.stop_gradient(k), solved.f_reached),
    )
