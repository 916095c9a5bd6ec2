"""Arrays taken apart into object arrays of scalars, and put together again."""

from itertools import islice

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST_INDEX_ARRAY = 256


def is_parts(value):
    return isinstance(value, np.ndarray) and value.dtype == object


def as_parts(scalars, shape):
    """Scalars in a row as an object array."""
    scalars = list(scalars)
    parts = np.empty(len(scalars), object)
    for i, x in enumerate(scalars):  # one by one: numpy would look into arrays
        parts[i] = x
    return parts.reshape(shape)


def unpack(array):
    """The scalars of an array, as an object array of its shape."""
    if is_parts(array):
        return array
    scalars = [
        lax.squeeze(lax.slice(array, i, [j + 1 for j in i]) if i else array, range(len(i)))
        for i in np.ndindex(array.shape)
    ]
    return as_parts(scalars, array.shape)


def pack(value, dtype):
    """The array made of its scalars, which may have leading axes; what is an array is left as it is."""
    if not is_parts(value):
        return value
    scalars = [jnp.asarray(x, dtype) for x in value.ravel()]
    if value.ndim == 0:
        return scalars[0]
    if not scalars:
        return jnp.zeros(value.shape, dtype)
    leading = scalars[0].shape
    joined = lax.concatenate([lax.reshape(x, (*leading, 1)) for x in scalars], len(leading))
    return lax.reshape(joined, (*leading, *value.shape))


def known(array):
    """The numbers of a numpy array, as parts."""
    return as_parts(array.ravel(), array.shape)


def is_known(value):
    """Are these parts whose numbers are all known while tracing?"""
    return is_parts(value) and all(isinstance(x, np.generic) for x in value.ravel())


def is_index(x):
    """Is this scalar a known integer or truth value?"""
    return isinstance(x, np.generic) and x.dtype.kind in "iub"


def known_indices(constant, traced):
    """A small known array of integers as parts, everything else as it is traced."""
    if isinstance(constant, jax.core.Tracer) or constant.size > LARGEST_INDEX_ARRAY:
        return traced
    is_integral = any(jnp.issubdtype(constant.dtype, kind) for kind in (np.integer, np.bool_))
    return known(np.asarray(constant)) if is_integral else traced


def leaves_of(values):
    """Parts and whole arrays in a row."""
    return [x for v in values for x in (v.ravel() if is_parts(v) else [v])]


def regroup(leaves, like):
    """The inverse of `leaves_of`."""
    leaves = iter(leaves)
    return [as_parts(islice(leaves, v.size), v.shape) if is_parts(v) else next(leaves) for v in like]
