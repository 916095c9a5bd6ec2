"""Linear operators as values: `op(params, state)` is linear in the state, and has the shape of the state.

Parameters and state are tuples of arrays. Operators are hashable and compared by content, so that they can be
static parameters of a primitive; their derivatives, transposes and lanes are operators again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from odejax.core.leaves import shapes
from odejax.core.transform import merge, select

Leaves = tuple[Any, ...]
Operator = Callable[[Leaves, Leaves], Leaves]


@dataclass(frozen=True)
class Dense:
    """A x of an array A, the only parameter; x is (n,) or (n, k)."""

    def __call__(self, params, state):
        (A,), (x,) = params, state
        return (jnp.matmul(A, x, precision="highest"),)


@dataclass(frozen=True)
class Sparse:
    """A x of a matrix in coordinates: parameters (values, rows, columns), equal places added up.

    Indices outside of the matrix mark entries that are not there.
    """

    def __call__(self, params, state):
        (values, rows, columns), (x,) = params, state
        values = values.reshape(values.shape + (1,) * (x.ndim - 1))
        products = values * x.at[columns].get(mode="fill", fill_value=0)
        return (jnp.zeros_like(x).at[rows].add(products, mode="drop"),)


@dataclass(frozen=True)
class Timed:
    """t A x; t is the first parameter, real."""

    inner: Operator

    def __call__(self, params, state):
        t, *own = params
        return tuple(t.astype(jnp.finfo(k.dtype).dtype) * k for k in self.inner(tuple(own), state))


@dataclass(frozen=True)
class Affine:
    """(y, c) -> (A y + c b, 0), whose exponential solves y' = A y + b for c = 1.

    The parameters are those of A, then b.
    """

    inner: Operator

    def __call__(self, params, state):
        *y, c = state
        own, b = params[: -len(y)], params[-len(y) :]
        slope = self.inner(own, tuple(y))
        return (*(k + c.astype(k.dtype) * bias for k, bias in zip(slope, b, strict=True)), jnp.zeros_like(c))


@dataclass(frozen=True)
class Transposed:
    """x -> A^T x."""

    inner: Operator

    def __call__(self, params, state):
        (out,) = jax.linear_transpose(lambda x: self.inner(params, x), shapes(state))(state)
        return out


@dataclass(frozen=True)
class Doubled:
    """(x, u) -> (A x, A u + A' x): beside the operator its derivative along tangents of active parameters.

    The tangents follow the parameters. Its exponential is that of the operator, and its derivative.
    """

    inner: Operator
    active: tuple[bool, ...]

    def __call__(self, params, state):
        params, params_dot = params[: len(self.active)], params[len(self.active) :]
        x, x_dot = state[: len(state) // 2], state[len(state) // 2 :]

        def of_active(own, x):
            return self.inner(merge(params, own, self.active), x)

        out, out_dot = jax.jvp(of_active, (select(params, self.active), x), (params_dot, x_dot))
        return out + out_dot


@dataclass(frozen=True)
class Lanes:
    """The operator in many lanes: states carry the lane axis first, parameters where `axes` says 0."""

    inner: Operator
    axes: tuple[int | None, ...]

    def __call__(self, params, state):
        return jax.vmap(self.inner, in_axes=(self.axes, 0))(params, state)


def apply_to_rows(op, params, rows):
    """The operator on each row of stacked states, of which there are few.

    They are mapped together, so that cotangents of parameters are products of matrices. Those of sparse
    matrices are taken one by one: XLA's CPU backend needs 5 to 9 times longer to gather from several arrays.
    """
    base = op
    while hasattr(base, "inner"):
        base = base.inner
    if not isinstance(base, Sparse):
        return jax.vmap(op, in_axes=(None, 0))(params, rows)
    count = rows[0].shape[0]
    each = [op(params, tuple(x[i] for x in rows)) for i in range(count)]
    return tuple(jnp.stack(leaves) for leaves in zip(*each, strict=True))
