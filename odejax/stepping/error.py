"""The size of an error relative to the tolerances, and the first step that meets them."""

from functools import reduce

import jax.numpy as jnp

from odejax.core import leaves

FIRST_TRIAL = 1e-6  # of the span, when y0 or f(t0, y0) tells no scale
THIRD_ORDER_WEIGHT = 0.01  # of the second error row of DOP853


def scale(y, y1, rtol, atol):
    """atol + rtol max(|y|, |y1|), leaf by leaf."""
    out = []
    for a, b, r, q in zip(y, y1, rtol, atol, strict=True):
        size = jnp.maximum(jnp.abs(a), jnp.abs(b))
        tolerance = leaves.along(q, size) + leaves.along(r, size) * size
        out.append(jnp.maximum(tolerance.astype(size.dtype), jnp.finfo(size.dtype).tiny))
    return out


def sum_of_squares(state, scales, n_lane_axes):
    """sum |state / scale|^2 over each lane."""
    ratios = [jnp.abs(leaf) / s for leaf, s in zip(state, scales, strict=True)]
    return reduce(jnp.add, [(r * r).sum(axis=tuple(range(n_lane_axes, r.ndim))) for r in ratios])


def squared_ratio(y, y1, errors, h, rtol, atol):
    """The mean square of error / tolerance, lane by lane; at most 1 means accept.

    Two rows of errors are combined as in DOP853: |e5|^4 / (|e5|^2 + 0.01 |e3|^2).
    """
    n_lane_axes = h.ndim
    size = sum(leaf.size for leaf in y) // max(h.size, 1)
    scales = scale(y, y1, rtol, atol)
    sums = [sum_of_squares(e, scales, n_lane_axes) for e in errors]
    if len(sums) == 1:
        return (sums[0] / size).astype(h.dtype)
    e5, e3 = sums
    total = e5 + THIRD_ORDER_WEIGHT * e3
    return (jnp.where(total == 0, 0.0, e5 * e5 / jnp.where(total == 0, 1.0, total)) / size).astype(h.dtype)


def first_step(method, field, t0, sign, length, y0, k0, rtol, atol):
    """The size of the first step.

    Reference: Hairer, Norsett, Wanner (1993), section II.4, "Starting Step Size"; its absolute 1e-6 is
    relative to the span here, so that the unit of time does not matter.
    """
    n_lane_axes = t0.ndim
    size = sum(leaf.size for leaf in y0) // max(t0.size, 1)
    scales = scale(y0, y0, rtol, atol)

    def norm(state):
        """The root of the mean square, of numbers that may be too large to be squared."""
        largest = reduce(
            jnp.maximum,
            [
                (jnp.abs(x) / s).max(axis=tuple(range(n_lane_axes, x.ndim)))
                for x, s in zip(state, scales, strict=True)
            ],
        )
        unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
        units = [s * leaves.along(unit, s).astype(s.dtype) for s in scales]
        return (unit * jnp.sqrt(sum_of_squares(state, units, n_lane_axes) / size)).astype(t0.dtype)

    d0, d1 = norm(y0), norm(k0)
    is_clear = (d0 > 1e-5) & (d1 > 1e-5)
    h0 = jnp.where(is_clear, 0.01 * d0 / jnp.where(d1 > 0, d1, 1.0), FIRST_TRIAL * length)
    h0 = jnp.minimum(h0, length)
    k1 = field(t0 + sign * h0, leaves.combine(y0, sign * h0, (1.0,), (k0,)))
    d2 = norm(leaves.add(k1, tuple(-k for k in k0))) / jnp.where(h0 > 0, h0, 1.0)
    steepest = jnp.maximum(d1, d2)
    h1 = jnp.where(
        steepest * length <= 1e-15,
        jnp.maximum(FIRST_TRIAL * length, 1e-3 * h0),
        (0.01 / jnp.where(steepest > 0, steepest, 1.0)) ** (1 / (method.error_order + 1)),
    )
    h = jnp.where(jnp.isfinite(d2), jnp.minimum(100 * h0, h1), 0.01 * h0)
    return jnp.minimum(h, length)
