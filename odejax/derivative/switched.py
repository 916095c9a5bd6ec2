"""A step of one of two methods, as a function of (row, parameters, state): y1 and its dense output."""

from dataclasses import dataclass

import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.flow import choose
from odejax.derivative.implicit import RosenbrockStep
from odejax.derivative.program import JaxprFunction, Slope
from odejax.derivative.scheme import apart, in_a_row
from odejax.linalg.system import System
from odejax.stepping import explicit, weighted
from odejax.tableaus import Switching


@dataclass(frozen=True)
class SwitchedStep:
    """For a row (s, s1, is_stiff)."""

    method: Switching
    f: JaxprFunction
    system: System

    @property
    def stiff(self):
        return RosenbrockStep(self.method.stiff, self.f, self.system)

    def __call__(self, row, params, state, query):
        def stiffly():
            out = self.stiff(row, params, state, query)
            y1, *increments = apart(out, 1 + self.method.stiff.n_stages, 0)
            return in_a_row([y1, *self.columns(self.method.stiff, increments)], 0)

        def explicitly():
            slope = self.slope(row, params)
            first = slope(0.0, state)
            y1, slopes = explicit.advance(self.method.explicit, slope, state, None, first)
            return in_a_row([y1, *self.columns(self.method.explicit, [*slopes, slope(1.0, y1)])], 0)

        return choose(row[2] > 0, stiffly, explicitly)

    def slope(self, row, params):
        """h f(t + c h, y) as a function of (c, y)."""
        return lambda c, y: Slope(self.f)((*row[:2], jnp.asarray(c, row[0].dtype)), params, y, ())

    def columns(self, method, slopes):
        """The dense output of a step as coefficients of x, x^2, ..."""
        columns = weighted.polynomial(method, slopes[0], None, slopes)
        zero = leaves.zeros_like(slopes[0])
        return [*columns, *[zero] * (self.method.n_stages - len(columns))]
