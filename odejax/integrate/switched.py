"""How the loop tries the steps of two methods, and when it changes from one to the other.

A lane changes to the stiff method when stability has limited its explicit steps for a while, and back when
the Jacobian has become small. Reference: Hairer, Wanner (1996), section IV.2, "Stiffness detection".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.flow import run_if
from odejax.core.transform import Lanes
from odejax.derivative.program import step_times
from odejax.derivative.switched import SwitchedStep
from odejax.integrate.attempt import Replayed
from odejax.integrate.state import Work
from odejax.stepping import error, explicit, weighted

UNSTABLE = 3.0  # |h lambda| near the end of the explicit method's stability interval
SMALL = 1.0  # a bound of |h lambda| with which explicit steps are stable
STIFF_AFTER = 15  # accepted steps over the first limit, but for
FORGOTTEN_AFTER = 6  # steps in a row below it
EXPLICIT_AFTER = 10  # steps in a row below the second limit


class Part(NamedTuple):
    """What an attempt by one of the methods gives."""

    y1: Any
    columns: list
    errors: tuple[jax.Array, ...]
    k1: Any  # f(t1, y1)
    size: jax.Array  # of h lambda


class Kept(NamedTuple):
    """What one attempt hands to the next."""

    k: Any  # f(t, y)
    is_stiff: jax.Array
    n_over: jax.Array  # steps that looked like a change
    n_under: jax.Array  # steps in a row that did not


@dataclass(frozen=True)
class TriedExplicitly:
    """An attempt from (y, f(t, y), scales of the error)."""

    step: SwitchedStep

    def __call__(self, row, params, state, query):
        y, k, scales = state
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        method, slope = self.step.method.explicit, self.step.slope(row, params)
        first = leaves.scaled(h, k)
        y1, slopes = explicit.advance(method, slope, y, None, first)
        last = leaves.combine(y, None, method.A[-1], slopes[:-1])
        k1 = self.step.f(t + h, theta, y1)
        slopes.append(leaves.scaled(h, k1))
        distance, change = (
            error.sum_of_squares(leaves.add(a, tuple(-x for x in b)), scales, 0)
            for a, b in ((y1, last), (slopes[-1], slopes[-2]))
        )
        size = jnp.where(distance > 0, jnp.sqrt(change / jnp.where(distance > 0, distance, 1)), 0)
        (errors,) = weighted.errors(method, None, slopes)
        return Part(y1, self.step.columns(method, slopes), errors, k1, size.astype(h.dtype))


@dataclass(frozen=True)
class TriedStiffly:
    """The same by the stiff method."""

    step: SwitchedStep

    def __call__(self, row, params, state, query):
        y, _, scales = state
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        system, method = self.step.system, self.step.method.stiff
        y1, increments, jacobian = self.step.stiff.packed(row, params, y)
        size = system.bound(jacobian, system.pack_sizes(scales))
        y1, increments = system.unpack(y1), [system.unpack(x) for x in increments]
        (errors,) = weighted.errors(method, None, increments)
        columns = self.step.columns(method, increments)
        return Part(y1, columns, errors, self.step.f(t + h, theta, y1), size.astype(h.dtype))


@dataclass(frozen=True)
class Switched(Replayed):
    """Each lane by its own method; a method that no lane wants is not run."""

    explicitly: Callable[..., Any]
    stiffly: Callable[..., Any]

    @classmethod
    def of(cls, step):
        return cls(TriedExplicitly(step), TriedStiffly(step))

    def in_lanes(self, axes):
        return replace(self, explicitly=Lanes(self.explicitly, axes), stiffly=Lanes(self.stiffly, axes))

    def init(self, loop, k0):
        none = jnp.zeros(loop.t0.shape, jnp.int32)
        return Kept(k0, none > 0, none, none)

    def __call__(self, loop, y, s, s1, h, kept):
        scales = tuple(error.scale(y, y, loop.numbers.rtol, loop.numbers.atol))

        def by(tried):
            return lambda _: tried((s, s1), loop.params, (y, kept.k, scales), ())

        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(by(self.explicitly), None))
        is_idle = (h == 0) & (s1 > 0)  # a lane that has ended
        explicit_part = run_if((~kept.is_stiff & ~is_idle).any(), by(self.explicitly), nothing)
        stiff_part = run_if((kept.is_stiff & ~is_idle).any(), by(self.stiffly), nothing)
        part = jax.tree.map(
            lambda a, b: jnp.where(leaves.along(kept.is_stiff, a), a, b), stiff_part, explicit_part
        )
        method = loop.method
        work = Work(
            jnp.where(kept.is_stiff, method.stiff.n_stages + 1, method.explicit.n_stages),
            *(kept.is_stiff.astype(jnp.int32),) * 2,
        )
        after = self._next(kept, part)
        return part.y1, part.columns, None, [part.errors], after, kept, work, None, kept.is_stiff

    def _next(self, kept, part):
        """What is handed on after an accepted step: perhaps the change to the other method."""
        is_over = part.size > UNSTABLE
        is_small = part.size < SMALL
        is_under = jnp.where(kept.is_stiff, is_small, ~is_over)
        n_under = jnp.where(is_under, kept.n_under + 1, 0)
        n_over = jnp.where(n_under >= FORGOTTEN_AFTER, 0, kept.n_over + is_over)
        changes = jnp.where(kept.is_stiff, n_under >= EXPLICIT_AFTER, n_over >= STIFF_AFTER)
        n_over, n_under = jnp.where(changes, 0, n_over), jnp.where(changes, 0, n_under)
        return Kept(part.k1, kept.is_stiff ^ changes, n_over, n_under)

    def slope(self, loop, carry):
        return carry.kept.k
