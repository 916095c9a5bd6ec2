"""Systems with sparse Jacobians: stored by colors, solved as bands if they are."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odejax.core.flow import vary_as
from odejax.core.leaves import shapes
from odejax.linalg import bands, cyclic
from odejax.linalg.coloring import Coloring
from odejax.linalg.system import Dense, System

NARROW = 4  # diagonals on one side up to which cyclic reduction is faster, and soon compiled
WIDE = 0.2  # of the matrix; a wider band is solved as a dense matrix is
CHANGE = 0.01  # of a state, relative, so that no entry of the Jacobian vanishes by chance


@dataclass(frozen=True, eq=False)
class Layout:
    """How the matrices of a pattern are stored."""

    coloring: Coloring
    lower: int  # the widths of the band that all entries are in
    upper: int
    order: np.ndarray | None = None  # the unknowns as they are counted here; None: as in the state

    @cached_property
    def position(self):
        """Where each unknown is in that order."""
        assert self.order is not None, "asked only of layouts that have an order"
        return np.argsort(self.order)

    @cached_property
    def solver(self):
        """Of bands; None: as a dense matrix."""
        n, width = self.coloring.size, max(self.lower, self.upper)
        if n <= cyclic.LARGEST_REST or width > max(NARROW, WIDE * n):
            return None
        kind = bands.Narrow if width <= NARROW else bands.Wide
        return kind(self.coloring, self.lower, self.upper)


@lru_cache(maxsize=64)
def _layout(structure, n) -> Layout:
    return structure.layout(n)


@dataclass(frozen=True)
class Compressed(Dense):
    """Any state as one real vector, and a Jacobian of which is known where it has entries."""

    structure: Any  # `Banded` or `Sparse`

    @classmethod
    def of(cls, leaves, structure):
        return cls(shapes(leaves), structure)

    @property
    def layout(self):
        return _layout(self.structure, self.size)

    def pack(self, state):
        (x,) = super().pack(state)
        return (x,) if self.layout.order is None else (x[self.layout.order],)

    def unpack(self, packed):
        (x,) = packed
        return super().unpack((x,) if self.layout.order is None else (x[self.layout.position],))

    def jacobian(self, fn, y):
        def derivative(direction):
            return jax.jvp(fn, (y,), ((direction,),))[1][0]

        seeds = vary_as(y[0], self.layout.coloring.seeds.astype(self.dtype))
        return (jax.vmap(derivative)(seeds),)

    def shifted(self, jacobian, shift, mass=None):
        (j,) = jacobian
        m = self.layout.coloring.diagonal.astype(j.dtype) if mass is None else mass[0]
        return (shift * m - j,)

    def diagonal(self, d):
        return System.diagonal(self, d)

    def full(self, matrix):
        return System.full(self, matrix)

    def factor(self, matrix):
        layout = self.layout
        if layout.solver is None:
            return super().factor((layout.coloring.dense(*matrix),))
        return layout.solver.factor(*matrix)

    def apply(self, factors, b):
        if self.layout.solver is None:
            return super().apply(factors, b)
        return (self.layout.solver.apply(factors, *b),)

    def multiply(self, matrix, x):
        return (bands.multiply(self.layout.coloring, *matrix, *x),)

    def bound(self, matrix, scales):
        (sums,) = self.multiply(tuple(map(jnp.abs, matrix)), scales)
        return (sums / scales[0]).max()

    def is_right(self, fn, y):
        """Has the derivative of fn(y) no entries outside of the pattern? Asked of one direction.

        It is asked near y, as in y itself an entry may be 0 by chance. What is not finite is not judged.
        """
        (y,) = y
        n, random = y.size, np.random.default_rng(0)
        scale = jnp.abs(y) + jnp.abs(y).mean()
        away = jnp.where(y < 0, -CHANGE, CHANGE) * jnp.where(scale > 0, scale, 1)
        y = (y + away * random.uniform(0.5, 1.5, n).astype(y.dtype),)
        direction = random.choice([-1.0, 1.0], n) * random.uniform(0.5, 1.5, n)
        direction = vary_as(y[0], direction.astype(self.dtype))
        (jacobian,) = self.jacobian(fn, y)
        (wanted,) = jax.jvp(fn, (y,), ((direction,),))[1]
        (got,) = self.multiply((jacobian,), (direction,))
        (terms,) = self.multiply((jnp.abs(jacobian),), (jnp.abs(direction),))
        distance, scale = jnp.abs(got - wanted), terms + jnp.abs(wanted)
        return ~(distance > jnp.finfo(self.dtype).eps ** 0.5 * scale).any() | ~jnp.isfinite(scale).all()
