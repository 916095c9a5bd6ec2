"""What times may be: each checked, and in the highest precision enabled."""

import jax.numpy as jnp
import numpy as np

from odejax.core.traced import as_array, is_array_or_number, is_known


def time_dtype():
    """Times have the highest precision enabled, whatever that of the state."""
    return jnp.result_type(float)


def span(t_span):
    """(t0, t1) as scalars."""
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"`t_span` must be a pair (t0, t1), got {t_span!r}.") from None
    ends = time("t_span[0]", t0), time("t_span[1]", t1)
    if all(map(is_known, ends)):
        _check_resolved("t_span", (t0, t1), ends, (t0, t1))
    return ends


def _check_resolved(name, given, times, span):
    """Are times, rounded to the precision of times, still where they were, to 1 % of the span?"""
    given, rounded, (t0, t1) = np.asarray(given, float), np.asarray(times, float), map(float, span)
    moved = np.abs((rounded - rounded[0]) - (given - given[0]))
    if moved.max() > 0.01 * abs(t1 - t0):
        raise ValueError(
            f"`{name}` does not survive rounding to {time_dtype()}: {given.tolist()} becomes "
            f"{rounded.tolist()}. Count time from t0, or switch on jax_enable_x64."
        )


def time(name, t):
    if not is_array_or_number(t) or jnp.issubdtype(jnp.result_type(t), jnp.complexfloating):
        raise TypeError(f"`{name}` must be a real number, got {t!r}.")
    if np.shape(t) != ():
        raise ValueError(f"`{name}` must be a scalar, got shape {np.shape(t)}. Use jax.vmap for many spans.")
    if is_known(t) and not abs(t) <= float(jnp.finfo(time_dtype()).max):
        raise ValueError(f"`{name}` must be finite in {time_dtype()}, got {t}.")
    return as_array(t, time_dtype())


def output_times(t_eval, t_span):
    """`t_eval` as a vector, or None."""
    if t_eval is None:
        return None
    if not is_array_or_number(t_eval):
        is_traced = not all(map(is_known, t_eval))
        t_eval = jnp.stack(t_eval) if is_traced else np.asarray(t_eval)
    if np.ndim(t_eval) != 1:
        raise ValueError(
            f"`t_eval` must be a vector of times, got shape {np.shape(t_eval)}. Use jax.vmap for several."
        )
    if np.size(t_eval) == 0:
        raise ValueError("`t_eval` is empty. Pass None for the state at t1 only.")
    if not jnp.issubdtype(jnp.result_type(t_eval), jnp.number) or jnp.iscomplexobj(t_eval):
        raise TypeError(f"`t_eval` must be real numbers, got {t_eval!r}.")
    times = as_array(t_eval, time_dtype())
    if all(map(is_known, (times, *t_span))):
        _check_times(times, *map(float, t_span))
        _check_resolved("t_eval", t_eval, times, t_span)
    return times


def _check_times(times, t0, t1):
    sign = 1.0 if t1 >= t0 else -1.0
    if not np.isfinite(times).all():
        raise ValueError(f"`t_eval` must be finite, got {times[~np.isfinite(times)][0]}.")
    falls = np.flatnonzero(sign * np.diff(times) < 0)
    if falls.size:
        i = falls[0]
        sense = "increasing" if sign > 0 else "decreasing, as t1 < t0"
        raise ValueError(
            f"`t_eval` must be {sense}: t_eval[{i}] = {times[i]} is followed by {times[i + 1]}. Sort it."
        )
    for t in (times[0], times[-1]):
        if not min(t0, t1) <= t <= max(t0, t1):
            raise ValueError(f"`t_eval` must lie inside `t_span` = ({t0}, {t1}), got {t}.")
