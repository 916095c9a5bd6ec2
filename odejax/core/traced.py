"""What of a pytree is traced, its arrays and numbers, and what is static."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_array_or_number(x) -> bool:
    return eqx.is_array(x) or isinstance(x, (bool, int, float, complex, np.ndarray, np.generic))


def apart(tree):
    """(its arrays, the rest of it as something hashable)."""
    arrays, static = eqx.partition(tree, is_array_or_number)
    leaves, structure = jax.tree.flatten(static)
    return jax.tree.map(jnp.asarray, arrays), (structure, tuple(leaves))


def together(arrays, static):
    """The inverse of `apart`."""
    return eqx.combine(arrays, jax.tree.unflatten(*static))


def is_known(x) -> bool:
    """Is the value of this number or array known now?"""
    return not isinstance(x, jax.core.Tracer)


def as_array(x, dtype):
    """An array that stays known: under `jit`, JAX's own would be a tracer."""
    return np.asarray(x, dtype) if is_known(x) else jnp.asarray(x, dtype)
