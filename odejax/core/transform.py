"""Functions of one lane, and what becomes of them under `vmap` and `jvp`.

Everything the solver asks of the user's problem has one form, `fn(row, params, state, query)`, all four
tuples of arrays and the result too. `Lanes` and `Doubled` map such a function to another of the same
form. They are values (hashable, compared by content), so they can be static parameters of a primitive.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

Leaves = tuple[jax.Array, ...]
LaneFunction = Callable[[Leaves, Leaves, Leaves, Leaves], Leaves]


@dataclass(frozen=True)
class Lanes:
    """`inner` for many lanes: states and queries carry the lane axis first, parameters where `axes` says 0.

    A row has either no axes (the same for every lane), or one for each level of lanes, of size 1 where
    the lanes of that level share it.
    """

    inner: Callable[..., Any]  # a `LaneFunction`; its states and results may be any pytrees
    axes: tuple[int | None, ...]  # of each parameter

    def __call__(self, row, params, state, query):
        row, row_axes = zip(*map(_peel, row), strict=True)
        mapped = jax.vmap(self.inner, in_axes=(row_axes, self.axes, 0, 0))
        return mapped(row, params, state, query)


def _peel(value):
    """A row entry, and its axis under `vmap`."""
    if value.ndim == 0:
        return value, None
    if value.shape[0] == 1:
        return value[0], None
    return value, 0


@dataclass(frozen=True)
class Doubled:
    """`inner` beside its derivative: every tuple is followed by its tangents.

    Parameters and queries are followed by those of the leaves marked active only.
    """

    inner: LaneFunction
    params_active: tuple[bool, ...]
    query_active: tuple[bool, ...]

    def __call__(self, row, params, state, query):
        params, params_dot = split_doubled(params, self.params_active)
        query, query_dot = split_doubled(query, self.query_active[: len(query)])
        state, state_dot = split_doubled(state, (True,) * (len(state) // 2))
        out, out_dot = jvp(
            self.inner,
            row,
            (params, state, query),
            (params_dot, state_dot, query_dot),
            self.params_active,
            self.query_active[: len(query)],
        )
        return out + out_dot


def jvp(fn, row, primals, tangents, params_active, query_active):
    """`fn` and its derivative; `tangents` of parameters and queries are those of the active leaves."""
    params, state, query = primals

    def of_active(params_a, state, query_a):
        return fn(row, merge(params, params_a, params_active), state, merge(query, query_a, query_active))

    actives = select(params, params_active), state, select(query, query_active)
    return jax.jvp(of_active, actives, tangents)


def vjp(fn, row, primals, params_active, query_active):
    """`fn` and its pullback to (active parameters, state, active queries)."""
    params, state, query = primals

    def of_active(params_a, state, query_a):
        return fn(row, merge(params, params_a, params_active), state, merge(query, query_a, query_active))

    return jax.vjp(of_active, select(params, params_active), state, select(query, query_active))


def select(leaves, active):
    """The active ones of `leaves`."""
    return tuple(leaf for leaf, is_active in zip(leaves, active, strict=True) if is_active)


def merge(leaves, active_leaves, active):
    """`leaves` with the active ones exchanged for `active_leaves`."""
    values = iter(active_leaves)
    return tuple(next(values) if is_active else leaf for leaf, is_active in zip(leaves, active, strict=True))


def split_doubled(leaves, active):
    """(leaves, tangents of the active ones) of a doubled tuple."""
    return leaves[: len(active)], leaves[len(active) :]
