"""One step of an explicit Runge-Kutta method, and its continuous extension.

`slope(c, y)` gives the slope at t + c h. It may come scaled by h already; then `h` is None here.
"""

import jax.numpy as jnp
from jax import lax

from odejax.core import leaves
from odejax.core.flow import settle


def advance(tableau, slope, y, h, first):
    """The new state and the slopes it is made of, the first of which is known."""
    slopes = [first]
    for c, row in zip(tableau.C[1:], tableau.A[1:], strict=True):
        slopes.append(slope(c, leaves.combine(y, h, row, slopes)))
    return leaves.combine(y, h, tableau.B, slopes), slopes


def step(tableau, slope, y, h, first):
    """The new state and all slopes of the step; the last is f(t1, y1), the first one of the next step."""
    y1, slopes = advance(tableau, slope, y, h, first)
    y1 = settle(y1)
    return y1, [*slopes, settle(slope(1.0, y1))]


def extra_stages(tableau, slope, y, h, slopes):
    """The slopes followed by those that only the continuous extension needs."""
    slopes = list(slopes)
    for c, row in zip(tableau.extra_C, tableau.extra_A, strict=True):
        slopes.append(slope(c, leaves.combine(y, h, row, slopes)))
    return slopes


def errors(tableau, h, slopes):
    """The error estimates of a step, one for each row of the tableau's E."""
    zero = leaves.zeros_like(slopes[0])
    return [leaves.combine(zero, h, row, slopes) for row in tableau.E]


def interpolate(tableau, y, y1, h, slopes, theta, settle=lambda values: values):
    """The continuous extension at `theta` in [0, 1], a value per lane.

    At 1, where the sum over stages cancels, it is y1 to the last bit; its derivatives in theta stay.
    `settle` is for the weights of the slopes, which all leaves share.
    """
    terms = [(row, k) for row, k in zip(tableau.P, slopes, strict=True) if any(row)]
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


def polynomial(tableau, y, h, slopes):
    """The continuous extension as the coefficients of theta, theta^2, ..., stacked after the lane axes."""
    zero = leaves.zeros_like(y)
    columns = zip(*tableau.P, strict=True)
    return [leaves.combine(zero, h, column, slopes) for column in columns]


def _polynomial(coefficients, x):
    """sum_j coefficients[j] x^(j+1)."""
    total = 0.0
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * x
    return total
