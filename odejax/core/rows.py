"""Buffers with one row for each output or step, and lane axes after the row axis."""

import jax.numpy as jnp
from jax import lax


def read(buffer, index):
    """Row `index` of a buffer, the same for every lane."""
    return lax.dynamic_index_in_dim(buffer, index, 0, keepdims=False)


def write(buffer, row, index):
    """The buffer with row `index` set, the same for every lane."""
    return lax.dynamic_update_index_in_dim(buffer, row, index, 0)


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
