"""A step of a diagonally implicit method as the loop tries it: solved as well as its tolerance asks.

The Jacobian serves as long as the iteration converges fast, its factors as long as h changes little; after
a failure with an old Jacobian the same step is tried with a new one, then a smaller step.

Where the last slope is the first one of the next step, it is handed on, (Y - base) / (h gamma). f(t, y) would
be that much less accurate as the problem is stiff: what Newton's iteration left in y, times h J, is what the
stages would be predicted from.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.flow import run_if
from odejax.derivative.implicit import DIRKStep
from odejax.stepping import dirk, weighted

SLOW = 0.1  # a rate of convergence that asks for a new Jacobian
LARGEST_CHANGE = 0.1  # of h, relative, with the same factors
FORGETTING = 0.8  # power of the rate from step to step: an old measurement counts less
SHRINK = 0.25  # of a step whose equations were not solved


class Kept(NamedTuple):
    """What one attempt hands to the next."""

    slope: tuple[jax.Array, ...]  # f(t, y) where the step starts, packed
    jacobian: tuple[jax.Array, ...]  # of f, not of h f
    factors: tuple[jax.Array, ...]
    h: jax.Array  # that they belong to
    rate: jax.Array  # of convergence
    is_there: jax.Array
    is_of_this_step: jax.Array  # the Jacobian


class Tried(NamedTuple):
    """What an attempt gives."""

    y1: Any
    increments: list
    errors: list
    if_accepted: Kept
    if_rejected: Kept
    retry: jax.Array  # 0, or, if the equations were not solved, by how much to change the step
    iterations: jax.Array
    is_new_jacobian: jax.Array
    are_new_factors: jax.Array


@dataclass(frozen=True)
class First:
    """No matrices yet: from (y, f(t, y))."""

    step: DIRKStep

    def __call__(self, row, params, state, query):
        step, (y, k) = self.step, state
        point = step.start(row, params, y)
        jacobian = jax.eval_shape(step.stage.jacobian, point, point.base)
        factors = jax.eval_shape(step.system.factor, jacobian)
        zeros = partial(jax.tree.map, jnp.zeros_like)
        real = jnp.zeros((), leaves.real_dtype(point.base[0]))
        no = jnp.zeros((), bool)
        slope = step.system.pack(k)
        return Kept(slope, zeros(jacobian), zeros(factors), jnp.zeros_like(point.h), real, no, no)


@dataclass(frozen=True)
class TriedStep:
    """One attempt, from (y, scales of the error, `Kept`)."""

    step: DIRKStep

    def __call__(self, row, params, state, query):
        y, scales, kept = state
        step, system = self.step, self.step.system
        stage, point = step.stage, step.start(row, params, y)
        scales = system.pack_sizes(scales)
        kept, is_new_jacobian, are_new_factors = self._matrices(stage, point, kept)
        distance = jnp.abs(point.h - kept.h) / jnp.where(kept.h == 0, 1, jnp.abs(kept.h))
        expected = jnp.maximum(kept.rate**FORGETTING, distance.astype(kept.rate.dtype))

        def norm(change, y):
            sizes = [jnp.square(c / s) for c, s in zip(change, scales, strict=True)]
            return jnp.sqrt(sum(x.sum() for x in sizes) / sum(x.size for x in sizes))

        def solve_stage(of_stage, guess):
            end = dirk.iterate(
                stage, of_stage, kept.factors, guess, expected, norm, dirk.FRACTION, dirk.MOST_ITERATIONS
            )
            return end.y, (end.has_converged, end.rate, end.n)

        y1, increments, (has_converged, rates, n_iterations) = dirk.step(
            step.method, stage, point, solve_stage, self._first(point, kept)
        )
        errors = self._errors(kept.factors, increments)
        is_solved, rate = has_converged.all(), rates.max()
        used = kept._replace(rate=jnp.where(is_solved, rate, 1))
        return Tried(
            system.unpack(y1),
            [system.unpack(g) for g in increments],
            [system.unpack(e) for e in errors],
            used._replace(slope=self._last(point, increments), is_of_this_step=jnp.zeros_like(kept.is_there)),
            used._replace(is_of_this_step=kept.is_of_this_step),
            jnp.where(is_solved, 0.0, jnp.where(kept.is_of_this_step, SHRINK, 1.0)),
            n_iterations.sum(dtype=jnp.int32),
            is_new_jacobian,
            are_new_factors,
        )

    def _first(self, point, kept):
        """h f(t, y), if the last step has told it."""
        return leaves.scaled(point.h, kept.slope) if self.step.method.is_fsal else None

    def _last(self, point, increments):
        """The slope at the end."""
        return leaves.scaled(1 / jnp.where(point.h == 0, 1, point.h), increments[-1])

    def _matrices(self, stage, point, kept):
        """(the matrices to use, is the Jacobian new?, are the factors?)"""
        is_new = ~kept.is_there | ((kept.rate > SLOW) & ~kept.is_of_this_step)
        has_moved = jnp.abs(point.h - kept.h) > LARGEST_CHANGE * jnp.abs(kept.h)
        of_f = point._replace(h=jnp.ones_like(point.h))
        jacobian = run_if(is_new, lambda _: stage.jacobian(of_f, point.base), kept.jacobian)

        def factor(_):
            scaled = stage.system.shifted(leaves.scaled(point.h, jacobian), stage.shift_of(point.base))
            return stage.system.factor(scaled)

        are_new = is_new | has_moved
        factors = run_if(are_new, factor, kept.factors)
        h = jnp.where(are_new, point.h, kept.h)
        rate = jnp.where(is_new & ~kept.is_there, 1, kept.rate)
        is_of_this_step = is_new | kept.is_of_this_step
        kept = Kept(kept.slope, jacobian, factors, h, rate, jnp.ones_like(kept.is_there), is_of_this_step)
        return kept, is_new, are_new

    def _errors(self, factors, increments):
        method = self.step.method
        errors = weighted.errors(method, None, increments)
        if not method.has_damped_error:
            return errors
        system, shift = self.step.system, 1 / method.GAMMA
        return [tuple(leaves.times(x, shift) for x in system.apply(factors, e)) for e in errors]
