"""Systems with band matrices, which are given by their `Coloring`.

Narrow bands are solved by cyclic reduction, or by elimination with pivots where that loses digits: a
residual decides, whenever a matrix is factored. Wider bands are always solved by elimination.
"""

from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core.flow import run_if
from odejax.linalg import cyclic, elimination
from odejax.linalg.coloring import Coloring

FEW_COLORS = 20  # whose terms are added one by one, in a third of the time
GOOD_RESIDUAL = 2 / 3  # power of the rounding error that a solution may leave, relative to its terms


def multiply(coloring, stored, x):
    """The matrix times a vector."""
    terms = stored * jnp.append(x, 0)[coloring.columns]
    return reduce(jnp.add, terms) if len(terms) <= FEW_COLORS else terms.sum(axis=0)


def entries(stored, places):
    """What is stored, by `places` of the coloring."""
    return jnp.append(stored.ravel(), np.array([0, 1], stored.dtype))[places]


@dataclass(frozen=True, eq=False)
class Wide:
    """Elimination with pivots."""

    coloring: Coloring
    lower: int
    upper: int

    @cached_property
    def places(self):
        """(n, lower + upper + 1): of the rows, from the leftmost diagonal on."""
        i = np.arange(self.coloring.size)[:, None]
        return self.coloring.places(*np.broadcast_arrays(i, i + np.arange(-self.lower, self.upper + 1)))

    def factor(self, stored):
        return elimination.factor(entries(stored, self.places), self.lower)

    def apply(self, factors, b):
        return elimination.apply(factors, b)


class Factors(NamedTuple):
    """Of a narrow band."""

    reduced: cyclic.Factors
    is_good: jax.Array  # are they?
    eliminated: elimination.Factors  # zeros if they are


@dataclass(frozen=True, eq=False)
class Narrow(Wide):
    """Cyclic reduction, where it is as good as elimination."""

    @property
    def shape(self):
        """(w, m): of vectors, in m blocks of w."""
        width = max(self.lower, self.upper, 1)
        return width, cyclic.count_blocks(self.coloring.size, width)

    @cached_property
    def block_places(self):
        """(3, w, w, m): of the blocks left of the diagonal, on it, and right of it."""
        width, m = self.shape
        which, a, b, block = np.ogrid[:3, :width, :width, :m]
        rows, columns = width * block + a, width * (block + which - 1) + b
        return self.coloring.places(*np.broadcast_arrays(rows, columns))

    def factor(self, stored):
        blocks = entries(stored, self.block_places)
        reduced = cyclic.factor(*blocks)
        probe = np.random.default_rng(0).uniform(0.5, 1.5, self.shape).astype(stored.dtype)
        x = cyclic.apply(reduced, probe)
        residual = cyclic.multiply(blocks, x) - probe
        terms = cyclic.multiply(jnp.abs(blocks), jnp.abs(x)) + probe
        is_good = (jnp.abs(residual) <= jnp.finfo(stored.dtype).eps ** GOOD_RESIDUAL * terms).all()
        eliminate = super().factor
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(eliminate, stored))
        return Factors(reduced, is_good, run_if(~is_good, lambda _: eliminate(stored), nothing))

    def apply(self, factors, b):
        """Both ways are linear in b; JAX is told the transpose, as it cannot see through the choice."""

        eliminate = partial(elimination.apply, factors.eliminated)
        return lax.custom_linear_solve(
            lambda x: x,  # stands for the matrix, which is never asked for: factors have no derivative
            b,
            lambda _, b: self._solution(factors, eliminate, b, False),
            lambda _, b: self._solution(factors, lambda b: jax.linear_transpose(eliminate, b)(b)[0], b, True),
        )

    def _solution(self, factors, eliminate, b, is_transposed):
        width, m = self.shape
        blocks = jnp.pad(b, (0, width * m - b.size)).reshape(m, width).T
        x = cyclic.apply(factors.reduced, blocks, is_transposed).T.ravel()[: b.size]
        return run_if(~factors.is_good, lambda _: eliminate(b), x)
