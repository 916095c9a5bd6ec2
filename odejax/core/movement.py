"""What primitives that only move numbers do to object arrays of scalars.

Where each goes is found by numpy, or by the primitive itself applied to an array of positions. A rule takes
(equation, *parts) and gives the results, or None if indices are not known.
"""

from functools import partial

import jax
import jax.core
import numpy as np
from jax import lax

from odejax.core import jaxprs
from odejax.core.parts import is_index, is_known, known


def _one(fn):
    def rule(equation, *parts):
        return [fn(equation.params, *parts)]

    return rule


def _reshape(equation, parts):
    if equation.params.get("dimensions") is not None:
        return None
    return [parts.reshape(equation.outvars[0].aval.shape)]


def _broadcast(params, parts):
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], parts.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(parts.reshape(shape), params["shape"])


def _slice(params, parts):
    strides = params["strides"] or (1,) * parts.ndim
    where = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return parts[tuple(slice(*w) for w in where)]


def _rev(params, parts):
    return np.flip(parts, params["dimensions"])


def _split(equation, parts):
    ends = np.cumsum(equation.params["sizes"])[:-1]
    return np.split(parts, ends, equation.params["axis"])


def _unstack(equation, parts):
    axis = equation.params["axis"]
    return [np.squeeze(x, axis) for x in np.split(parts, parts.shape[axis], axis)]


def _pad(params, parts, value):
    """Low, high and interior padding; a negative one cuts off."""
    for axis, (low, high, interior) in enumerate(params["padding_config"]):
        parts = np.moveaxis(parts, axis, 0)
        length = max(0, len(parts) + (len(parts) - 1) * interior)
        shape = max(low, 0) + length + max(high, 0), *parts.shape[1:]
        wide = np.broadcast_to(value, shape).copy()
        if len(parts):
            wide[max(low, 0) : max(low, 0) + length : interior + 1] = parts
        wide = wide[max(-low, 0) : len(wide) - max(-high, 0)]
        parts = np.moveaxis(wide, 0, axis)
    return parts


def _dynamic_slice(equation, parts, *starts):
    where = _window(parts.shape, equation.params["slice_sizes"], starts)
    return None if where is None else [parts[where]]


def _dynamic_update_slice(equation, parts, update, *starts):
    where = _window(parts.shape, update.shape, starts)
    if where is None:
        return None
    out = parts.copy()
    out[where] = update
    return [out]


def _window(shape, sizes, starts):
    """The slices from known starts, moved inside as XLA does."""
    starts = [s[()] for s in starts]
    if not all(map(is_index, starts)):
        return None
    starts = [min(max(int(s), 0), n - size) for s, n, size in zip(starts, shape, sizes, strict=True)]
    return tuple(slice(s, s + size) for s, size in zip(starts, sizes, strict=True))


def _gather(equation, parts, indices):
    if (indices := _numbers(indices)) is None or equation.params["fill_value"] is not None:
        return None
    where = _apply(equation, _positions(parts), indices)
    dtype = equation.outvars[0].aval.dtype
    if where.size and where.min() < 0 and np.dtype(dtype).kind not in "fc":
        return None
    nan = np.full(1, np.nan, dtype) if where.size and where.min() < 0 else np.zeros(0)
    both = np.concatenate([parts.ravel(), known(nan)])  # outside of the array gather fills in NaN
    return [both[np.where(where < 0, parts.size, where).ravel()].reshape(where.shape)]


def _scatter(equation, parts, indices, updates):
    if equation.params["update_jaxpr"] is not None:
        return _scatter_with(_update_of(equation), equation, parts, indices, updates)
    if (indices := _numbers(indices)) is None:
        return None
    where = _apply(equation, _positions(parts), indices, parts.size + _positions(updates))
    both = np.concatenate([parts.ravel(), updates.ravel()])
    return [both[where.ravel()].reshape(where.shape)]


def _update_of(equation):
    """What `y.at[i].apply(fn)` does to a number."""
    jaxpr, consts = equation.params["update_jaxpr"], equation.params["update_consts"]
    return lambda old, new: jax.core.eval_jaxpr(jaxpr, consts, old, new)[0]


def _scatter_with(combine, equation, parts, indices, updates):
    """`combine(old, new)` where the indices say."""
    if (indices := _numbers(indices)) is None:
        return None
    out, start = parts.ravel().copy(), np.zeros(parts.shape, np.int32)
    options = {name: equation.params[name] for name in ("dimension_numbers", "mode")}
    for position, update in enumerate(updates.ravel()):
        only = (_positions(updates) == position).astype(np.int32)
        with jax.ensure_compile_time_eval():
            is_target = np.asarray(lax.scatter_add(start, indices, only, **options))
        for i in np.flatnonzero(is_target):
            out[i] = combine(out[i], update)
    return [out.reshape(parts.shape)]


def _positions(parts):
    return np.arange(parts.size, dtype=np.int32).reshape(parts.shape)


def _numbers(parts):
    """Known indices as numbers, or None."""
    if not is_known(parts):
        return None
    return np.asarray([int(x) for x in parts.ravel()], np.int32).reshape(parts.shape)


def _apply(equation, *operands):
    """The primitive itself, now, on numbers."""
    with jax.ensure_compile_time_eval():
        return np.asarray(*jaxprs.bind(equation, operands))


RULES = {
    "broadcast_in_dim": _one(_broadcast),
    "concatenate": _one(lambda params, *parts: np.concatenate(parts, params["dimension"])),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "expand_dims": _one(lambda params, x: np.expand_dims(x, params["dimensions"])),
    "gather": _gather,
    "pad": _one(_pad),
    "reshape": _reshape,
    "rev": _one(_rev),
    "scatter": _scatter,
    **{
        f"scatter{joint}{name}": partial(_scatter_with, combine)
        for name, combine in (("add", lax.add), ("mul", lax.mul), ("min", lax.min), ("max", lax.max))
        for joint in "-_"
    },
    "slice": _one(_slice),
    "split": _split,
    "squeeze": _one(lambda params, x: np.squeeze(x, params["dimensions"])),
    "stack": _one(lambda params, *parts: np.stack(parts, params.get("axis", params.get("dimension", 0)))),
    "unstack": _unstack,
    "transpose": _one(lambda params, x: np.transpose(x, params["permutation"])),
}
