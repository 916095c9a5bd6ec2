"""The option `mass` of `solve`, checked."""

import jax
import jax.numpy as jnp
import numpy as np

from odejax import arguments
from odejax.core.traced import is_array_or_number, is_known
from odejax.linalg import mass as matrices
from odejax.linalg.mass import Mass
from odejax.tableaus import RosenbrockTableau


def find(mass, y0, method):
    """(arrays, `Mass`): those of a diagonal have the shapes of the state's leaves."""
    if mass is None:
        return None, None
    if not isinstance(method, RosenbrockTableau):
        raise ValueError(
            f'`mass` needs a Rosenbrock method, got `method` {method.name!r}. Pass method="rodas5p", '
            "or solve y' = M^-1 f if M is regular."
        )
    if any(jnp.issubdtype(y.dtype, jnp.complexfloating) for y in jax.tree.leaves(y0)):
        raise TypeError("`mass` needs a real `y0`. Split complex states into real and imaginary parts.")
    values, tree = jax.tree.flatten(mass)
    for path, m in jax.tree.flatten_with_path(mass)[0]:
        _check(f"mass{jax.tree_util.keystr(path)}", m)
    n = sum(y.size for y in jax.tree.leaves(y0))
    if tree == jax.tree.structure(0) and np.shape(mass) == (n, n):
        return _whole(values[0], y0)
    if tree != jax.tree.structure(y0):
        raise ValueError(
            f"`mass` must be an array of shape {(n, n)} or a diagonal like `y0` "
            f"({jax.tree.structure(y0)}), got {_described(mass, tree)}."
        )
    return _diagonal(values, jax.tree.leaves(y0), n)


def _described(mass, tree):
    is_one = tree == jax.tree.structure(0)
    return f"an array of shape {np.shape(mass)}" if is_one else f"{tree}"


def _check(name, m):
    """Is this a real array whose numbers, if they are known, are finite?"""
    if not is_array_or_number(m) or jnp.issubdtype(jnp.result_type(m), jnp.complexfloating):
        raise TypeError(f"`{name}` must be real, got {m!r}.")
    if is_known(m) and not np.isfinite(np.asarray(m, float)).all():
        raise ValueError(f"`{name}` must be finite, got {m}.")


def _whole(matrix, y0):
    dtype = arguments.real_dtype(y0)
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(
            f"`mass` as a whole matrix needs single precision, `y0` has {dtype}. Pass a diagonal."
        )
    if not is_known(matrix):
        return (jnp.asarray(matrix, dtype),), Mass(is_diagonal=False, is_regular=False)
    known = np.asarray(matrix, dtype)
    diagonal = np.diag(known)
    if (known == np.diag(diagonal)).all():
        parts = np.split(diagonal, np.cumsum([y.size for y in jax.tree.leaves(y0)])[:-1])
        leaves = jax.tree.leaves(y0)
        return _diagonal([p.reshape(y.shape) for p, y in zip(parts, leaves, strict=True)], leaves, len(known))
    return (jnp.asarray(known),), Mass(is_diagonal=False, is_regular=matrices.is_regular(known))


def _diagonal(values, leaves, n):
    is_regular = all(is_known(m) and np.asarray(m).all() for m in values)
    out = []
    for m, y in zip(values, leaves, strict=True):
        if np.shape(m) not in ((), y.shape):
            raise ValueError(
                f"`mass` must be an array of shape {(n, n)}, or have leaves of the shapes of those of `y0`: "
                f"got {np.shape(m)} for {y.shape}."
            )
        out.append(jnp.broadcast_to(jnp.asarray(m, y.dtype), y.shape))
    return tuple(out), Mass(is_diagonal=True, is_regular=is_regular)
