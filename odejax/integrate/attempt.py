"""How the loop tries a step.

An attempt is static. It is called with the loop and gives the fields of `Step` from `y1` on; what it hands to
the next attempt starts with `init`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from odejax.core.flow import run_if
from odejax.core.transform import Lanes
from odejax.integrate.state import Work
from odejax.stepping import error, explicit, weighted
from odejax.stepping.stiffness import spectral_radius

MANY = 200  # attempts: fewer are no reason to look for stiffness


@dataclass(frozen=True)
class Explicit:
    """Stage by stage; f(t, y), the first slope, is handed on."""

    def in_lanes(self, axes):
        return self

    def init(self, loop, k0):
        return k0

    def __call__(self, loop, y, s, s1, h, first):
        t, method = loop.t0 + loop.sign * s, loop.method

        def slope(c, y):
            return loop.settle_slope(loop.field(t + c * h, loop.settle_stage(y)))

        y1, slopes = explicit.step(method, slope, y, h, first)
        errors, last = weighted.errors(method, h, slopes), slopes[method.n_stages]
        return y1, slopes, h, errors, last, first, Work(method.n_stages)

    def slope(self, loop, carry):
        """f(t, y) where the solve ended."""
        return carry.kept

    def stiffness(self, loop, carry):
        """|h lambda| there as a share of the stability interval, if there were many steps, else 0."""

        def estimate(_):
            scales = error.scale(carry.y, carry.y, loop.numbers.rtol, loop.numbers.atol)
            t = loop.t0 + loop.sign * carry.s
            size = carry.h * spectral_radius(loop.field, t, carry.y, carry.kept, scales)
            return jnp.where(n >= MANY, size / loop.method.stability_interval, zero)

        zero = jnp.zeros_like(carry.h)
        if not loop.plan.is_adaptive:
            return zero
        n = carry.stats.num_accepted + carry.stats.num_rejected
        return run_if((n >= MANY).any(), estimate, zero)


@dataclass(frozen=True)
class Replayed:
    """The step that derivatives make again, with nothing handed on."""

    def in_lanes(self, axes):
        return self

    def init(self, loop, k0):
        return ()

    def __call__(self, loop, y, s, s1, h, kept):
        method = loop.method
        y1, slopes = loop.plan.program.advance((s, s1), loop.params, y)
        errors, work = weighted.errors(method, None, slopes), Work(method.n_stages, 1, 1)
        return y1, slopes, None, errors, (), (), work

    def slope(self, loop, carry):
        return loop.field(loop.t0 + loop.sign * carry.s, carry.y)

    def stiffness(self, loop, carry):
        return jnp.zeros_like(carry.h)


@dataclass(frozen=True)
class Iterated(Replayed):
    """A step by Newton's iteration, which hands its matrices on."""

    first: Callable[..., Any]  # what the first attempt is handed
    tried: Callable[..., Any]  # a `LaneFunction` of pytrees

    def in_lanes(self, axes):
        return replace(self, first=Lanes(self.first, axes), tried=Lanes(self.tried, axes))

    def init(self, loop, k0):
        return self.first((loop.t0, loop.t0), loop.params, (loop.y0, k0), ())

    def __call__(self, loop, y, s, s1, h, kept):
        scales = error.scale(y, y, loop.numbers.rtol, loop.numbers.atol)
        tried = self.tried((s, s1), loop.params, (y, tuple(scales), kept), ())
        work = Work(
            loop.method.n_stages - sum(loop.method.IMPLICIT) - loop.method.is_fsal + tried.iterations,
            tried.is_new_jacobian.astype(jnp.int32),
            tried.are_new_factors.astype(jnp.int32),
            tried.iterations,
        )
        kept = tried.if_accepted, tried.if_rejected
        return tried.y1, tried.increments, None, tried.errors, *kept, work, tried.retry


Attempt = Explicit | Replayed
