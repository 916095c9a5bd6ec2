"""Buffers with one row for each output or step, and lane axes after the row axis."""

import jax.numpy as jnp
from jax import lax


def read(buffer, index):
    """Row `index` of a buffer, the same for every lane."""
    row = lax.dynamic_slice(buffer, _start(buffer, index), (1, *buffer.shape[1:]))
    return lax.squeeze(row, (0,))


def write(buffer, row, index):
    """The buffer with row `index` set, the same for every lane."""
    return lax.dynamic_update_slice(buffer, row[None], _start(buffer, index))


def _start(buffer, index):
    """Where a row starts; unsigned, as a signed index is first searched for a minus sign."""
    index = lax.convert_element_type(index, jnp.uint32)
    return (index, *(jnp.zeros_like(index),) * (buffer.ndim - 1))


def read_each(buffer, index):
    """For every lane its own row: `index` has the shape of the lanes."""
    index = jnp.clip(index, 0, buffer.shape[0] - 1)
    if index.ndim == 0:
        return read(buffer, index)
    flat = buffer.reshape(buffer.shape[0], index.size, *buffer.shape[1 + index.ndim :])
    return flat[index.ravel(), jnp.arange(index.size)].reshape(buffer.shape[1:])


def write_each(buffer, row, index, mask):
    """For every lane of `mask` its own row set, the others left alone."""
    index = jnp.clip(index, 0, buffer.shape[0] - 1)
    if index.ndim == 0:
        return write(buffer, jnp.where(mask, row, read(buffer, index)), index)
    flat = buffer.reshape(buffer.shape[0], index.size, *buffer.shape[1 + index.ndim :])
    where = jnp.where(mask, index, buffer.shape[0]).ravel()
    flat = flat.at[where, jnp.arange(index.size)].set(
        row.reshape(flat.shape[1:]), mode="drop", unique_indices=True
    )
    return flat.reshape(buffer.shape)
