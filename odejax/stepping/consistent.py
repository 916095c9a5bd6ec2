"""Where M y' = f starts: a state that satisfies the algebraic equations, and its slope.

The state is found by Newton's method once, before the first step, and has the derivative of the implicit
function theorem.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.core.flow import vary_as, while_loop
from odejax.linalg.mass import Split
from odejax.linalg.system import System
from odejax.stepping import error

MOST_ITERATIONS = 50
SHORTEST = 1e-3  # part of a change that is tried
STAGNANT = 0.5  # times the last change: what is left is rounding
WORST_PROBE = 1e-3  # relative error of a linear system whose solution is known: more is singular


class Point(NamedTuple):
    """What the equations depend on."""

    t: jax.Array
    theta: Any
    y0: tuple[jax.Array, ...]  # packed
    split: Split


@dataclass(frozen=True)
class Equations:
    """For y, packed: kept (y - y0) = 0 and algebraic f(t, y) = 0.

    Their matrix, kept + algebraic J, is regular exactly if the system has index 1.
    """

    field: Any  # field(t, theta, y) is f
    system: System

    def slope(self, t, theta, y):
        """f, packed."""
        return self.system.pack(self.field(t, theta, self.system.unpack(y)))

    def residual(self, point, y):
        multiply, split = self.system.multiply, point.split
        kept = multiply(split.kept, tuple(map(lax.sub, y, point.y0)))
        return leaves.add(kept, multiply(split.algebraic, self.slope(point.t, point.theta, y)))

    def solver(self, point, y):
        """A function b -> x that solves with the matrix at y.

        Unlike that of a step it is differentiated in any order, forward over reverse too.
        """
        system, zero = self.system, jnp.zeros((), leaves.real_dtype(y[0]))
        negative = system.jacobian(lambda y: tuple(map(lax.neg, self.residual(point, y))), y)
        matrix = system.shifted(negative, zero)
        apply = partial(system.apply, system.factor(jax.tree.map(lax.stop_gradient, matrix)))

        def transposed(_, b):
            return jax.linear_transpose(apply, b)(b)[0]

        multiply = partial(system.multiply, matrix)
        return lambda b: lax.custom_linear_solve(multiply, b, lambda _, b: apply(b), transposed)

    def derivative(self, point, t, y):
        """y', packed: kept y' = differential f, and the algebraic equations hold as time goes."""
        f, f_t = jax.jvp(lambda t: self.slope(t, point.theta, y), (t,), (vary_as(t, jnp.ones_like(t)),))
        multiply, split = self.system.multiply, point.split
        b = map(lax.sub, multiply(split.differential, f), multiply(split.algebraic, f_t))
        return self.solver(point._replace(t=t), y)(tuple(b))

    def is_regular(self, point, y):
        """Does the matrix at y give back a vector that it was applied to?"""
        units = error.scale(y, y, [1.0 + 0 * x for x in y], [jnp.abs(x).max() for x in y])
        x = tuple(u / u.max() * (1.5 + jnp.sin(jnp.arange(u.size))).reshape(u.shape) for u in units)
        x = tuple(a.astype(b.dtype) for a, b in zip(x, y, strict=True))
        _, b = jax.jvp(partial(self.residual, point), (y,), (x,))
        errors = [jnp.abs(a / b - 1) for a, b in zip(self.solver(point, y)(b), x, strict=True)]
        return jnp.stack([e.max() for e in errors]).max() < WORST_PROBE  # false for NaN


class Search(NamedTuple):
    """For a solution."""

    y: tuple[jax.Array, ...]
    size: jax.Array  # of the last change, relative to the tolerances
    n: jax.Array
    is_going: jax.Array


def search(equations, point, rtol, atol):
    """Newton's method, its changes shortened until they lead closer, and on until rounding.

    Closer is what needs a smaller change by the same matrix, so that no unit matters.

    Reference: Deuflhard (2004), Newton Methods for Nonlinear Problems, section 3.3.
    """

    def body(s):
        solve = equations.solver(point, s.y)
        change = solve(equations.residual(point, s.y))
        scales = error.scale(s.y, tuple(map(lax.sub, s.y, change)), rtol, atol)

        def size_of(change):
            return jnp.stack([(jnp.abs(c) / q).max() for c, q in zip(change, scales, strict=True)]).max()

        def at(part):
            return tuple(y - part.astype(c.dtype) * c for y, c in zip(s.y, change, strict=True))

        def is_no_better(part):
            left = size_of(solve(equations.residual(point, at(part))))
            return ~(left <= (1 - part / 2) * size) & ~(size <= 1) & (part > SHORTEST)

        size = size_of(change)
        part = while_loop(is_no_better, lambda p: p / 2, jnp.ones_like(size))
        is_stagnant = (size <= 1) & ~(size <= STAGNANT * s.size)
        is_over = is_stagnant | (size == 0) | ~jnp.isfinite(size) | (part <= SHORTEST)
        n = s.n + 1
        return Search(at(part), size, n, ~is_over & (n < MOST_ITERATIONS))

    infinite = jnp.full((), jnp.inf, jnp.result_type(*point.y0))
    start = Search(point.y0, infinite, jnp.int32(0), jnp.ones((), bool))
    return while_loop(lambda s: s.is_going, body, start)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def root(equations, point, rtol, atol):
    """The consistent state; NaN where there is none near y0, or where it is not alone."""
    least = jnp.finfo(leaves.real_dtype(point.y0[0])).eps ** 0.5
    end = search(equations, point, tuple(jnp.maximum(r, least) for r in rtol), atol)
    is_solved = (end.size <= 1) & equations.is_regular(point, end.y)
    return tuple(jnp.where(is_solved, x, jnp.nan) for x in end.y)


@root.defjvp
def _root_jvp(equations, primals, tangents):
    """By the implicit function theorem."""
    point, rtol, atol = primals
    y = root(equations, point, rtol, atol)
    change = jax.jvp(lambda p: equations.residual(p, y), (point,), (tangents[0],))[1]
    return y, tuple(map(lax.neg, equations.solver(point, y)(change)))
