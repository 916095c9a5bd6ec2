"""Implicit steps as functions of (row, parameters, state): y1 and all slopes, which are increments."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.core.flow import settle
from odejax.derivative.program import JaxprFunction, step_times
from odejax.derivative.scheme import in_a_row
from odejax.linalg.mass import Mass
from odejax.linalg.system import System
from odejax.stepping import dirk, rosenbrock
from odejax.tableaus import DIRKTableau, RosenbrockTableau

IDLE = 0.1234567  # for h in the matrix of a step that is not taken, h = 0: M alone may be singular


@dataclass(frozen=True)
class RosenbrockStep:
    """A step of a Rosenbrock method."""

    method: RosenbrockTableau
    f: JaxprFunction
    system: System
    mass: Mass | None = None

    def __call__(self, row, params, state, query):
        y1, increments, _ = self.packed(row, params, state)
        return in_a_row(map(self.system.unpack, [y1, *increments]), 0)

    def packed(self, row, params, state):
        """(y1, increments, h J) as the system calculates with them."""
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        system, y = self.system, self.system.pack(state)

        def scaled_slope(h, c, packed):
            k = self.f(t + c * h, theta, system.unpack(packed))
            return system.pack(leaves.scaled(h, k))

        size, mass = h, None
        if self.mass is not None:
            mass = self.mass.matrix(system, theta)
            size = h if self.mass.is_regular else jnp.where(h == 0, IDLE, h)
        zero = jnp.zeros((), t.dtype)
        jacobian = settle(system.jacobian(partial(scaled_slope, size, zero), y))
        return rosenbrock.step(
            self.method,
            system,
            partial(scaled_slope, h),
            jacobian,
            y,
            t.dtype,
            not self.f.depends_on_time,
            mass,
        )


@dataclass(frozen=True)
class DIRKStep:
    """A step of a diagonally implicit method, its stages solved to the last digits."""

    method: DIRKTableau
    f: JaxprFunction
    system: System

    @property
    def stage(self):
        return dirk.Stage(self.f, self.system, 1 / self.method.GAMMA)

    def start(self, row, params, state):
        """The point where the step starts."""
        t0, t1, *theta = params
        t, h = step_times(row, t0, t1)
        return dirk.Point(t, h, tuple(theta), self.system.pack(state))

    def __call__(self, row, params, state, query):
        stage, point = self.stage, self.start(row, params, state)
        fixed = jax.tree.map(lax.stop_gradient, point)
        factors = settle(stage.factors(fixed, fixed.base))

        def solve_stage(of_stage, _):
            # From y: f(t, y), which predicts more, may be that of a small error in a stiff component. Then
            # the iteration fails, or ends in another solution.
            return dirk.root(stage, of_stage, factors, point.base), ()

        y1, increments, _ = dirk.step(self.method, stage, point, solve_stage)
        return in_a_row(map(self.system.unpack, [y1, *increments]), 0)
