"""Buffers with one row for each output or step, and lane axes after the row axis."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import blocks
from odejax.core.flow import while_loop


@partial(jax.tree_util.register_dataclass, data_fields=("buffer", "start"), meta_fields=("lanes",))
@dataclass(frozen=True)
class Window:
    """Some lanes of a buffer: a block of `lanes`, from `start`."""

    buffer: jax.Array
    start: tuple[jax.Array, ...]
    lanes: tuple[int, ...]


Rows = jax.Array | Window
WORD = 32  # flags in a number


def count(buffer):
    """How many rows there are."""
    return (buffer.buffer if isinstance(buffer, Window) else buffer).shape[0]


def read(buffer, index):
    """Row `index` of a buffer or window, the same for every lane."""
    where, sizes = _start(buffer, index), None
    if isinstance(buffer, Window):
        n = len(buffer.lanes)
        shape = buffer.buffer.shape[1:]
        sizes, buffer = (*map(min, buffer.lanes, shape), *shape[n:]), buffer.buffer
    row = lax.dynamic_slice(buffer, where, (1, *(sizes or buffer.shape[1:])))
    return lax.squeeze(row, (0,))


def write(buffer, row, index) -> Any:
    """The buffer or window with row `index` set, the same for every lane."""
    where = _start(buffer, index)
    if isinstance(buffer, Window):
        return replace(buffer, buffer=lax.dynamic_update_slice(buffer.buffer, row[None], where))
    return lax.dynamic_update_slice(buffer, row[None], where)


def _start(buffer, index):
    """Where a row starts; unsigned, as a signed index is first searched for a minus sign."""
    index = lax.convert_element_type(index, jnp.uint32)
    start = ()
    if isinstance(buffer, Window):
        axes = tuple(range(1, 1 + len(buffer.start)))
        start = blocks.starts(buffer.buffer, axes, buffer.start)[1 : 1 + len(axes)]
        start, buffer = tuple(s.astype(jnp.uint32) for s in start), buffer.buffer
    return (index, *start, *(jnp.zeros_like(index),) * (buffer.ndim - 1 - len(start)))


def read_each(buffer, index):
    """For every lane its own row: `index` has the shape of the lanes."""
    index = jnp.clip(index, 0, buffer.shape[0] - 1)
    if index.ndim == 0:
        return read(buffer, index)
    flat = _flat(buffer, index)
    return flat.at[_places(index)].get(mode="promise_in_bounds").reshape(buffer.shape[1:])


def write_each(buffers, values, index, mask) -> tuple[Any, ...]:
    """For every lane of `mask` its own row of each buffer set, the others left alone."""
    if not buffers:
        return ()
    index = jnp.clip(index, 0, buffers[0].shape[0] - 1)
    if index.ndim == 0:
        pairs = zip(buffers, values, strict=True)
        return tuple(write(b, jnp.where(mask, v, read(b, index)), index) for b, v in pairs)
    flat = tuple(_flat(b, index) for b in buffers)
    values = tuple(v.reshape(-1, *f.shape[1:]) for v, f in zip(values, flat, strict=True))
    flat = lax.platform_dependent(
        flat, values, _places(index), mask.ravel(), cpu=_write_in_turn, default=_scatter
    )
    return tuple(f.reshape(b.shape) for f, b in zip(flat, buffers, strict=True))


def _scatter(buffers, values, where, mask):
    where = jnp.where(mask, where, len(buffers[0]))
    return tuple(
        b.at[where].set(v, mode="drop", unique_indices=True) for b, v in zip(buffers, values, strict=True)
    )


def _write_in_turn(buffers, values, where, mask):
    def put(lane, buffers):
        rows = (lax.dynamic_index_in_dim(v, lane, keepdims=True) for v in values)
        return tuple(
            lax.dynamic_update_slice_in_dim(b, row, where[lane], 0)
            for b, row in zip(buffers, rows, strict=True)
        )

    return in_turn(mask, put, buffers)


def in_turn(mask, fn, carry, is_wanted=None):
    """`fn(lane, carry)` for one lane of the mask after another; again while `is_wanted(lane, carry)`.

    A lane is its index. XLA makes one function of a loop on a CPU only if there is no scatter in it.
    """
    flags = words(mask)

    def all_of_word(state):
        word, carry = state

        def next_lane(state):
            bits, carry = state
            lane = WORD * word + lax.population_count((bits & -bits) - 1).astype(jnp.int32)
            carry = fn(lane, carry)
            others = bits & (bits - 1)
            if is_wanted is not None:
                others = jnp.where(is_wanted(lane, carry), bits, others)
            return others, carry

        return word + 1, while_loop(lambda state: state[0] != 0, next_lane, (flags[word], carry))[1]

    if len(flags) == 1:
        return all_of_word((0, carry))[1]
    return while_loop(lambda state: state[0] < len(flags), all_of_word, (jnp.int32(0), carry))[1]


def words(mask):
    """The flags as the bits of unsigned numbers."""
    mask = jnp.pad(mask.ravel(), (0, -mask.size % WORD)).reshape(-1, WORD).astype(jnp.uint32)
    return (mask << jnp.arange(WORD, dtype=jnp.uint32)).sum(axis=1, dtype=jnp.uint32)


def _flat(buffer, index):
    """Rows and lanes as one axis."""
    return buffer.reshape(-1, *buffer.shape[1 + index.ndim :])


def _places(index):
    """Where on it the rows `index` of the lanes are."""
    lane = jnp.arange(index.size, dtype=jnp.int32)
    return index.ravel().astype(jnp.int32) * index.size + lane
