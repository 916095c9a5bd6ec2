"""Verbs on states: a state is a tuple of arrays whose first axes are the lanes."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax


def along(value, leaf):
    """A value per lane, with axes added so that it broadcasts against a leaf of the state."""
    missing = leaf.ndim - value.ndim
    return value.reshape(value.shape + (1,) * missing) if missing else value


def where(is_new, new, old):
    """Lane by lane, the state `new` or `old`."""
    return tuple(jnp.where(along(is_new, b), a, b) for a, b in zip(new, old, strict=True))


def select(is_new, new, old):
    """`jnp.where` of values per lane; True, for a single lane that needs no choice, is `new`."""
    return new if is_new is True else jnp.where(is_new, new, old)


def nan_unless(holds, x):
    """x, or NaN whose derivatives are NaN too; `holds` broadcasts against x."""
    return x * jnp.where(holds, 1.0, jnp.nan).astype(real_dtype(x))


def add(state, other):
    return tuple(map(lax.add, state, other))


def zeros_like(state):
    return tuple(jnp.zeros_like(leaf) for leaf in state)


def combine(state, scale, weights, slopes):
    """state + scale * sum_i weights[i] slopes[i]; `scale` is a value per lane, or None for 1."""
    terms = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0.0]
    if not terms:
        return state
    out = []
    for index, leaf in enumerate(state):
        total = reduce(lax.add, [times(k[index], w) for w, k in terms])
        if scale is not None:
            total = total * along(scale, leaf).astype(real_dtype(leaf))
        out.append(leaf + total)
    return tuple(out)


def weigh(weights, rows):
    """sum_i weights[i] rows[i], for weights as an array and a state of rows."""
    return tuple(jnp.tensordot(weights.astype(real_dtype(x)), x, 1) for x in rows)


def scaled(factor, state):
    """factor * state, for a real value per lane."""
    return tuple(along(factor, x).astype(real_dtype(x)) * x for x in state)


def shapes(state):
    """Shapes and dtypes."""
    return tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in state)


def times(leaf, weight):
    """weight * leaf, for a number: traced faster than by `*`, which is called thousands of times."""
    return leaf if weight == 1.0 else lax.mul(leaf, leaf.dtype.type(weight))


def real_dtype(leaf):
    """The dtype of |leaf|."""
    return jnp.finfo(leaf.dtype).dtype


def is_finite(state, n_lane_axes):
    """Lane by lane: has the state no inf and no NaN? A sum of 0 x, as one sweep over memory."""
    sums = [(leaf * 0).sum(axis=tuple(range(n_lane_axes, leaf.ndim))) for leaf in state]
    return reduce(jnp.logical_and, [jnp.isfinite(total) for total in sums])
