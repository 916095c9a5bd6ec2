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


FEW = 2  # slopes: sums of more are dear


def columns(method, y, y1, h, slopes, dear=None):
    """What the continuous extension is made of besides y and y1, see `Tableau.NESTED`."""
    change = tuple(map(lax.sub, y1, y))
    dear = iter(dear_columns(method, h, slopes) if dear is None else dear)
    out = []
    for share, row in method.NESTED:
        of_change = tuple(leaves.times(x, share) for x in change)
        if not _is_dear(row):
            out.append(leaves.combine(of_change, h, row, slopes))
        else:
            out.append(leaves.add(of_change, next(dear)) if share else next(dear))
    return out


def dear_columns(method, h, slopes):
    """What of `columns` is sums of many slopes."""
    zero = leaves.zeros_like(slopes[0])
    return [leaves.combine(zero, h, row, slopes) for _, row in method.NESTED if _is_dear(row)]


def _is_dear(row):
    return sum(w != 0 for w in row) > FEW


def interpolate(y, y1, columns, theta):
    """The continuous extension at `theta` in [0, 1], a value per lane.

    y + x (y1 - y + (1 - x) (c_0 + x (c_1 + (1 - x) (c_2 + ...)))), counted from the nearer end, which it
    meets to the last bit.
    """
    out = []
    for index, (start, end) in enumerate(zip(y, y1, strict=True)):
        x = leaves.along(theta, start).astype(leaves.real_dtype(start))
        is_early = x < 0.5
        near, elapsed = jnp.where(is_early, start, end), jnp.where(is_early, x, x - 1)
        change = elapsed * (end - start)
        if columns:
            *others, bulge = [c[index] for c in columns]
            for j in reversed(range(len(others))):
                bulge = others[j] + (1 - x if j % 2 else x) * bulge
            change += x * (1 - x) * bulge
        out.append(near + change)
    return tuple(out)


def polynomial(method, y, h, slopes):
    """The continuous extension as the coefficients of theta, theta^2, ..., stacked after the lane axes."""
    zero = leaves.zeros_like(y)
    columns = zip(*method.P, strict=True)
    return [leaves.combine(zero, h, column, slopes) for column in columns]
