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


def interpolate(method, y, y1, h, slopes, theta, settle=lambda values: values):
    """The continuous extension at `theta` in [0, 1], a value per lane.

    At 1, where the sum over stages cancels, it is y1 to the last bit; its derivatives in theta stay.
    `settle` is for the weights of the slopes, which all leaves share.
    """
    terms = [(row, k) for row, k in zip(method.P, slopes, strict=True) if any(row)]
    weights = settle(
        [_polynomial(row, theta) if h is None else h * _polynomial(row, theta) for row, _ in terms]
    )
    out = []
    for index, leaf in enumerate(y):
        of_leaf = [leaves.along(w, leaf).astype(leaves.real_dtype(leaf)) for w in weights]
        total = sum(w * k[index] for w, (_, k) in zip(of_leaf, terms, strict=True))
        total_1 = sum(lax.stop_gradient(w) * k[index] for w, (_, k) in zip(of_leaf, terms, strict=True))
        is_end = leaves.along(theta, leaf) == 1
        out.append(jnp.where(is_end, y1[index] + (total - total_1), leaf + total))
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
