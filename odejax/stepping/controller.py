"""How large a step is: error ratio -> accept?, next step size."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from odejax.core.flow import settle

SMALLEST_MEMORY = 1e-4  # an error ratio below this is remembered as this (Hairer's facold)
LOGARITHM = jnp.float32  # of error ratios: enough to choose a step by, and twice as fast as float64
LIMITS = 1e-30, 1e30  # of squared error ratios
NON_FINITE_FACTOR = 0.1  # a step into a forbidden region is tried again this much smaller


class PIDController(eqx.Module):
    r"""Adaptive steps: the next size is h times a product of powers of the last three error ratios.

    $$h' = h\, s\, e_n^{-\beta_1} e_{n-1}^{-\beta_2} e_{n-2}^{-\beta_3}, \quad
    \beta_1 = \tfrac{p + i + d}{k},\ \beta_2 = -\tfrac{p + 2 d}{k},\ \beta_3 = \tfrac{d}{k}$$

    with k the order of the error estimate plus one. All numbers are traced.

    Args:
        p: proportional coefficient.
        i: integral coefficient.
        d: derivative coefficient.
        safety: aim this much below the tolerance.
        min_factor: a step shrinks at most by this factor.
        max_factor: a step grows at most by this factor.
        min_step: the solve fails when the error asks for a smaller one, in units of t.
        max_step: the largest step, in units of t.
        exact_t_eval: step exactly to every time of `t_eval` instead of interpolating.

    Reference:
        Soderlind (2003), Digital filters in adaptive time-stepping, ACM TOMS 29; Hairer, Norsett, Wanner
        (1993), section IV.2, on PI control. The default coefficients took the fewest attempts over seven
        problems, from smooth ones at 1e-12 to one limited by stability.
    """

    p: float | jax.Array = 0.1
    i: float | jax.Array = 0.9
    d: float | jax.Array = 0.0
    safety: float | jax.Array = 0.9
    min_factor: float | jax.Array = 0.2
    max_factor: float | jax.Array = 10.0
    min_step: float | jax.Array = 0.0
    max_step: float | jax.Array = float("inf")
    exact_t_eval: bool = eqx.field(default=False, static=True)

    def bounds(self):
        """(name, what it must be, is it?) of numbers that make no sense anywhere else."""
        return (
            ("safety", "in (0, 1]", (self.safety > 0) & (self.safety <= 1)),
            ("min_factor", "in (0, 1)", (self.min_factor > 0) & (self.min_factor < 1)),
            ("max_factor", "above 1", self.max_factor > 1),
            ("min_step", "at least 0", self.min_step >= 0),
            (
                "max_step",
                "positive and not below `min_step`",
                (self.max_step > 0) & (self.max_step >= self.min_step),
            ),
        )


def PIController(p=0.1, i=0.9, **options):
    """A `PIDController` without a derivative term; the default."""
    return PIDController(p=p, i=i, d=0.0, **options)


class ConstantStep(eqx.Module):
    """Steps of size `h` > 0 in units of t, without an error estimate; the last one ends on t1.

    Args:
        h: the step size, traced.
        exact_t_eval: step exactly to every time of `t_eval` instead of interpolating.
    """

    h: float | jax.Array
    exact_t_eval: bool = eqx.field(default=False, static=True)

    def bounds(self):
        """See `PIDController.bounds`."""
        return (("h", "positive and finite", (self.h > 0) & (self.h < math.inf)),)


class Memory(NamedTuple):
    """What the controller remembers of accepted steps, lane by lane."""

    log_error_1: jax.Array  # log of the last error ratio
    log_error_2: jax.Array  # and of the one before
    was_rejected: jax.Array  # was the last attempt rejected?


def init(like):
    """No memory: as if all errors had been the tolerance. `like` has the shape of the lanes."""
    zero = jnp.zeros_like(like, LOGARITHM)
    return Memory(zero, zero, jnp.zeros(like.shape, bool))


def control(controller, order, squared_error, h, memory):
    """(accept?, next size, memory) after an attempt with that squared error ratio."""
    is_accepted = squared_error <= 1.0
    log_error = 0.5 * jnp.log(jnp.clip(squared_error, *LIMITS).astype(LOGARITHM))
    p, i, d = (jnp.asarray(c / order, LOGARITHM) for c in (controller.p, controller.i, controller.d))
    accepted = -(p + i + d) * log_error + (p + 2 * d) * memory.log_error_1 - d * memory.log_error_2
    power = settle(jnp.where(is_accepted, accepted, -log_error / order))
    factor = controller.safety * jnp.exp(power).astype(h.dtype)
    largest = jnp.where(is_accepted & ~memory.was_rejected, controller.max_factor, 1.0)
    factor = jnp.clip(factor, controller.min_factor, largest)
    factor = jnp.where(jnp.isfinite(squared_error), factor, NON_FINITE_FACTOR)
    remembered = jnp.maximum(log_error, math.log(SMALLEST_MEMORY))
    memory = Memory(
        jnp.where(is_accepted, remembered, memory.log_error_1),
        jnp.where(is_accepted, memory.log_error_1, memory.log_error_2),
        ~is_accepted,
    )
    return is_accepted, jnp.minimum(factor * h, controller.max_step), memory
