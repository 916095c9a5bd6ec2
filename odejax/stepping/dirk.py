"""One step of a diagonally implicit Runge-Kutta method: an equation to solve for each implicit stage.

`field(t, theta, y)` is f, `system` says in which form it calculates with states.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core import leaves, rows
from odejax.core.flow import run_if, settle, vary_as, while_loop
from odejax.linalg.system import System
from odejax.stepping.rosenbrock import square

MOST_ITERATIONS = 10  # of a stage when steps are tried
PATIENCE = 25  # iterations when steps are made again, with a matrix that is kept,
MOST_TO_THE_END = 50  # and then, with a new one each
FRACTION = 0.03  # of the tolerance that is left in a stage
WORST_RATE = 0.9  # of convergence: more is divergence


class Point(NamedTuple):
    """What a stage depends on."""

    t: jax.Array
    h: jax.Array
    theta: Any
    base: tuple[jax.Array, ...]  # the part of the stage that is known, packed


@dataclass(frozen=True)
class Stage:
    """The equation of a stage Y: (Y - base) / gamma = h f(t, Y)."""

    field: Any
    system: System
    shift: float  # 1 / gamma

    def increment(self, point, y):
        """h f(t, Y), packed."""
        k = self.field(point.t, point.theta, self.system.unpack(y))
        return self.system.pack(leaves.scaled(point.h, k))

    def residual(self, point, y):
        known = leaves.combine(leaves.zeros_like(y), None, (self.shift, -self.shift), (y, point.base))
        return tuple(map(lax.sub, known, self.increment(point, y)))

    def jacobian(self, point, y):
        return self.system.jacobian(partial(self.increment, point), y)

    def solver(self, point, y):
        return self.system.solver(self.jacobian(point, y), self.shift_of(y))

    def factors(self, point, y):
        """Of the matrix at Y."""
        return self.system.factor(self.system.shifted(self.jacobian(point, y), self.shift_of(y)))

    def shift_of(self, y):
        return jnp.asarray(self.shift, leaves.real_dtype(y[0]))


class Progress(NamedTuple):
    """Of an iteration."""

    y: tuple[jax.Array, ...]
    change: jax.Array  # the size of the last change, relative to the scale
    rate: jax.Array  # of convergence: the last change by the one before
    n: jax.Array
    is_going: jax.Array
    has_converged: jax.Array


def iterate(stage, point, factors, guess, rate, norm, tolerance, most):
    """Newton's iteration with a matrix that is kept, until less than `tolerance` is left to change.

    `rate` is what convergence is expected to be: if it is good enough, one iteration is.
    """

    def body(p):
        change = stage.system.apply(factors, stage.residual(point, p.y))
        y = tuple(map(lax.sub, p.y, change))
        size = norm(change, y)
        rate = jnp.where(p.n > 0, size / jnp.where(p.change > 0, p.change, 1), p.rate)
        left = size * rate / jnp.maximum(1 - rate, 1 - WORST_RATE)
        has_converged = (left <= tolerance) | (size == 0)
        is_lost = ~jnp.isfinite(size) | ((p.n > 0) & (rate > WORST_RATE))
        n = p.n + 1
        return Progress(y, size, rate, n, ~has_converged & ~is_lost & (n < most), has_converged)

    zero = norm(leaves.zeros_like(guess), guess)
    start = Progress(guess, zero, rate, jnp.int32(0), jnp.isfinite(zero), jnp.zeros_like(zero, bool))
    return while_loop(lambda p: p.is_going, body, start)


class Approach(NamedTuple):
    """Of an iteration to the last digits."""

    y: tuple[jax.Array, ...]
    change: tuple[jax.Array, ...]  # the size of the last one, number by number
    is_done: tuple[jax.Array, ...]  # has the number converged, as far as rounding errors let it?
    is_near: jax.Array  # are all changes small?
    n: jax.Array
    is_going: jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def root(stage, point, factors, guess):
    """The stage, to the last digits that the iteration gives; NaN where it fails.

    What does not converge with one matrix is tried again by Newton's method itself.
    """

    def by_newton(carry):
        _, of_stage, start = settle((carry, point, guess))  # or parts of it are computed in any case
        end = approach(stage, of_stage, lambda y: stage.factors(of_stage, y), start, MOST_TO_THE_END)
        return end.y, end.is_near

    end = approach(stage, point, lambda y: factors, guess, PATIENCE)
    y, is_near = run_if(~end.is_near, by_newton, (end.y, end.is_near))
    return tuple(jnp.where(is_near, x, jnp.nan) for x in y)


def approach(stage, point, factors_at, guess, most):
    """Newton's iteration with the matrices `factors_at(y)`, to rounding errors.

    Every number converges by itself, as one may be far smaller than the others, and what is left of a
    difference of others is rounding errors. After a good guess changes may grow before they shrink.
    """
    eps = jnp.finfo(leaves.real_dtype(guess[0])).eps

    def is_done(x, last, change, largest, n):
        """(has it converged?, is its change small?)"""
        rate = change / jnp.where(last > 0, last, 1)
        left = jnp.where(n > 0, change * rate / jnp.maximum(1 - rate, 1 - WORST_RATE), change)
        is_near = change <= eps**0.5 * (jnp.abs(x) + largest)
        is_lost_in_noise = (n > 1) & (rate > WORST_RATE)
        return is_near & ((jnp.minimum(left, change / 4) <= eps * jnp.abs(x)) | is_lost_in_noise), is_near

    def body(p):
        change = stage.system.apply(factors_at(p.y), stage.residual(point, p.y))
        y = tuple(map(lax.sub, p.y, change))
        change = tuple(map(jnp.abs, change))
        largest = jnp.stack([jnp.abs(x).max() for x in y]).max()
        checks = [is_done(*of_leaf, largest, p.n) for of_leaf in zip(y, p.change, change, strict=True)]
        done = tuple(d | is_now for d, (is_now, _) in zip(p.is_done, checks, strict=True))
        is_near = jnp.stack([near.all() for _, near in checks]).all()
        is_over = jnp.stack([d.all() for d in done]).all() | ~jnp.isfinite(largest)
        n = p.n + 1
        return Approach(y, change, done, is_near, n, ~is_over & (n < most))

    sizes = tuple(map(jnp.abs, guess))
    no = tuple(x < 0 for x in sizes)
    start = Approach(guess, sizes, no, no[0].any(), jnp.int32(0), sizes[0].max() >= 0)
    return while_loop(lambda p: p.is_going, body, start)


@root.defjvp
def _root_jvp(stage, primals, tangents):
    """By the implicit function theorem; the iteration is never differentiated."""
    point, factors, guess = primals
    y = root(stage, point, factors, guess)
    change = jax.jvp(lambda p: stage.residual(p, y), (point,), (tangents[0],))[1]
    return y, tuple(map(lax.neg, stage.solver(point, y)(change)))


def step(tableau, stage, point, solve_stage, first_increment=None):
    """(y1, increments, what the solves tell): `solve_stage(point, guess)` gives a stage and what it tells.

    `point` is that of the start, `first_increment` that of an explicit first stage, if it is known.
    Stages are solved in a loop, with a single copy of f.
    """
    t, h, theta, y = point
    n = tableau.n_stages

    def at(c, a, increments):
        return Point(t + c * h, h, theta, leaves.add(y, leaves.weigh(a, increments)))

    def put(increments, i, new):
        return tuple(rows.write(x, u, i) for x, u in zip(increments, new, strict=True))

    def one(increments, row):
        i, c, a, predictor = row
        of_stage = at(c, a, increments)
        last, told = solve_stage(of_stage, leaves.add(y, leaves.weigh(predictor, increments)))
        difference = tuple(map(lax.sub, last, of_stage.base))
        return put(increments, i, (leaves.times(x, stage.shift) for x in difference)), (last, told)

    increments = vary_as(y[0], tuple(jnp.zeros((n, *x.shape), x.dtype) for x in y))
    first = tableau.IMPLICIT.index(True)
    for i in range(first):
        start = at(tableau.C[i], square(tableau.A)[i], increments)
        is_known = i == 0 and first_increment is not None
        new = first_increment if is_known else stage.increment(start, start.base)
        increments = put(increments, i, new)
    of_stages = np.arange(n), np.array(tableau.C), square(tableau.A), square(tableau.PREDICTOR)
    increments, (stages, told) = lax.scan(one, increments, tuple(x[first:] for x in of_stages))
    increments = [tuple(x[i] for x in increments) for i in range(n)]
    last = tuple(x[-1] for x in stages)
    y1 = last if tableau.is_stiffly_accurate else leaves.combine(y, None, tableau.B, increments)
    return y1, increments, told
