"""Weighted sums of the slopes of a step: its error estimate, and its continuous extension.

The method's E and P hold the weights. Slopes may come scaled by h already; then `h` is None.
"""

import jax.numpy as jnp
from jax import lax

from odejax.core import leaves


def errors(method, h, slopes):
    """The error estimates of a step, one for each row of the method's E."""
    zero = leaves.zeros_like(slopes[0])
    return [leaves.combine(zero, h, row, slopes) for row in method.E]


def interpolate(method, y, y1, h, slopes, theta, settle):
    """The continuous extension at `theta` in [0, 1], a value per lane.

    At 1, where a polynomial's terms cancel, it is y1 to the last bit, its derivatives by slopes are those
    of y1, and those by theta stay. `settle` is for the weights of the slopes, which all leaves share.
    """
    is_end = theta == 1
    at_end = (*method.B, *[0.0] * (len(slopes) - len(method.B)))
    terms = [(row, b, k) for row, b, k in zip(method.P, at_end, slopes, strict=True) if any(row)]
    weights = []
    for row, b, _ in terms:
        w = _polynomial(row, theta)
        w = jnp.where(is_end, b + (w - lax.stop_gradient(w)), w)
        weights.append(w if h is None else h * w)
    weights = settle(weights)
    out = []
    for index, leaf in enumerate(y):
        total = leaf
        for w, (_, _, k) in zip(weights, terms, strict=True):
            total += leaves.along(w, leaf).astype(leaves.real_dtype(leaf)) * k[index]
        value = jnp.where(leaves.along(is_end, leaf), y1[index], total)
        out.append(lax.stop_gradient(value) + (total - lax.stop_gradient(total)))
    return tuple(out)


def polynomial(method, y, h, slopes):
    """The continuous extension as the coefficients of theta, theta^2, ..., stacked after the lane axes."""
    zero = leaves.zeros_like(y)
    columns = zip(*method.P, strict=True)
    return [leaves.combine(zero, h, column, slopes) for column in columns]


def _polynomial(coefficients, x):
    """sum_j coefficients[j] x^(j+1)."""
    total = 0.0
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * x
    return total
