"""Linear systems of a step, (d I - J) x = b or (d M - J) x = b, one Jacobian and many right-hand sides.

A `System` says in which form implicit methods calculate with states, and how J is stored and factored. It
is static; states, matrices and factors are tuples of arrays. Everything is of one lane.

The solve has its own derivative: x' = W^-1 (b' - W' x). So the elimination is never differentiated, and the
transposed solves of reverse mode use the same factors.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core.flow import settle, vary_as
from odejax.core.leaves import shapes
from odejax.linalg import inverse
from odejax.linalg.inverse import cofactor_inverse

Leaves = tuple[jax.Array, ...]


@dataclass(frozen=True)
class System(ABC):
    """How matrices that act on a state are stored."""

    is_unrolled = False  # are steps made of it faster stage by stage than in a loop?

    @abstractmethod
    def pack(self, state) -> Leaves:
        """A state in the form in which it is calculated with."""

    @abstractmethod
    def pack_sizes(self, sizes) -> Leaves:
        """Real numbers, one for each of a state, in the same form."""

    @abstractmethod
    def unpack(self, packed) -> Leaves:
        """The inverse of `pack`."""

    @abstractmethod
    def jacobian(self, fn, y) -> Leaves:
        """The derivative of fn(y), of packed states, as a matrix."""

    @abstractmethod
    def shifted(self, jacobian, shift, mass=None) -> Leaves:
        """shift I - J, or shift M - J with a mass stored as J is."""

    @abstractmethod
    def factor(self, matrix) -> Leaves:
        """What `apply` needs of a matrix: a tuple of arrays."""

    @abstractmethod
    def apply(self, factors, b) -> Leaves:
        """The solution x of the system."""

    @abstractmethod
    def multiply(self, matrix, x) -> Leaves:
        """The matrix times a packed state."""

    @abstractmethod
    def bound(self, matrix, scales) -> jax.Array:
        """A bound of its eigenvalues: the largest row sum, where components are measured by `scales`."""

    def diagonal(self, d) -> Leaves:
        """The diagonal matrix with a packed state on it."""
        return self.jacobian(lambda y: tuple(map(lax.mul, d, y)), d)

    def full(self, matrix) -> Leaves:
        """An (n, n) array that acts on the state as one vector, leaf after leaf."""
        raise ValueError("`mass` must be a diagonal where `jac` says what is zero: leave out one of them.")

    def solver(self, jacobian, shift, mass=None):
        """A function b -> x that solves (shift I - J) x = b, or (shift M - J) x = b."""
        matrix = self.shifted(jacobian, shift) if mass is None else self.shifted(jacobian, shift, mass)
        factors = settle(self.factor(jax.tree.map(lax.stop_gradient, matrix)))
        return partial(_solve, self, matrix, factors)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(system, matrix, factors, b):
    return system.apply(factors, b)


@_solve.defjvp
def _solve_jvp(system, primals, tangents):
    matrix, factors, b = primals
    matrix_dot, _, b_dot = tangents
    x = _solve(system, matrix, factors, b)
    change = system.multiply(matrix_dot, x)
    return x, _solve(system, matrix, factors, tuple(map(lax.sub, b_dot, change)))


@dataclass(frozen=True)
class Scalars(System):
    """At most three scalars, with the zeros that the Jacobian always has."""

    pattern: tuple[tuple[bool, ...], ...]  # where the Jacobian, or the identity, may be not 0
    is_unrolled: bool = False

    def pack(self, state):
        return state

    def pack_sizes(self, sizes):
        return sizes

    def unpack(self, packed):
        return packed

    def jacobian(self, fn, y):
        n, columns = len(y), []
        for j in range(n):

            def of_one(x, j=j):
                return fn((*y[:j], x, *y[j + 1 :]))

            columns.append(jax.jvp(of_one, (y[j],), (vary_as(y[j], jnp.ones_like(y[j])),))[1])
        return tuple(columns[j][i] for i, j in self._places())

    def shifted(self, jacobian, shift, mass=None):
        if mass is not None:
            return tuple(shift * m - x for m, x in zip(mass, jacobian, strict=True))
        return tuple(shift - x if i == j else -x for (i, j), x in zip(self._places(), jacobian, strict=True))

    def full(self, matrix):
        return tuple(matrix[i, j] for i, j in self._places())

    def factor(self, matrix):
        rows = cofactor_inverse(self._rows(matrix))
        return tuple(jnp.zeros_like(matrix[0]) if x is None else x for row in rows for x in row)

    def apply(self, factors, b):
        n = len(b)
        return tuple(inverse.multiply([factors[i * n : (i + 1) * n] for i in range(n)], b))

    def multiply(self, matrix, x):
        return tuple(inverse.multiply(self._rows(matrix), x))

    def bound(self, matrix, scales):
        sums = inverse.multiply(self._rows(tuple(map(jnp.abs, matrix))), scales)
        return reduce(jnp.maximum, map(lax.div, sums, scales))

    def _places(self):
        return [(i, j) for i, row in enumerate(self.pattern) for j, is_there in enumerate(row) if is_there]

    def _rows(self, entries):
        rows = [[None] * len(self.pattern) for _ in self.pattern]
        for (i, j), x in zip(self._places(), entries, strict=True):
            rows[i][j] = x
        return rows


@dataclass(frozen=True)
class Dense(System):
    """Any state, as one real vector: complex numbers are pairs, as f need not be analytic."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def size(self):
        return sum(leaf.size * (1 + _is_complex(leaf)) for leaf in self.leaves)

    @property
    def dtype(self):
        widest = jnp.result_type(*(leaf.dtype for leaf in self.leaves))
        return jnp.promote_types(jnp.finfo(widest).dtype, jnp.float32)  # LAPACK has none below

    def pack(self, state):
        parts = []
        for x in state:
            parts += [x.real.ravel(), x.imag.ravel()] if _is_complex(x) else [x.ravel()]
        return (jnp.concatenate([p.astype(self.dtype) for p in parts]),)

    def pack_sizes(self, sizes):
        pairs = zip(sizes, self.leaves, strict=True)
        return self.pack(tuple(lax.complex(x, x) if _is_complex(leaf) else x for x, leaf in pairs))

    def unpack(self, packed):
        sizes = [leaf.size * (1 + _is_complex(leaf)) for leaf in self.leaves]
        out = []
        for leaf, part in zip(self.leaves, lax.split(packed[0], sizes), strict=True):
            if _is_complex(leaf):
                part = lax.complex(part[: leaf.size], part[leaf.size :])
            out.append(part.reshape(leaf.shape).astype(leaf.dtype))
        return tuple(out)

    def jacobian(self, fn, y):
        def column(direction):
            return jax.jvp(fn, (y,), ((direction,),))[1][0]

        directions = vary_as(y[0], np.eye(self.size, dtype=self.dtype))
        return (jax.vmap(column, out_axes=1)(directions),)

    def shifted(self, jacobian, shift, mass=None):
        (j,) = jacobian
        (m,) = (np.eye(self.size, dtype=j.dtype),) if mass is None else mass
        return (shift * m - j,)

    def diagonal(self, d):
        return (jnp.diag(d[0]),)

    def full(self, matrix):
        return (matrix.astype(self.dtype),)

    def factor(self, matrix):
        if self.size <= inverse.LARGEST_ELIMINATED:
            return (inverse.inverse(*matrix),)
        return jax.scipy.linalg.lu_factor(*matrix)

    def apply(self, factors, b):
        if len(factors) == 1:
            return (factors[0] @ b[0],)
        return (jax.scipy.linalg.lu_solve(factors, b[0]),)

    def multiply(self, matrix, x):
        return (matrix[0] @ x[0],)

    def bound(self, matrix, scales):
        return (jnp.abs(matrix[0]) @ scales[0] / scales[0]).max()


def _is_complex(x):
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def system_for(leaves, pattern, n_lanes):
    """The fastest way for a state of such leaves; `pattern` of its Jacobian if all are scalars."""
    leaves = shapes(leaves)
    are_alike = len({x.dtype for x in leaves}) == 1 and not _is_complex(leaves[0])
    if pattern is not None and are_alike and inverse.is_closed(len(leaves)):
        return Scalars(pattern, is_unrolled=n_lanes > 1)
    return Dense(leaves)
