"""One step of an explicit Runge-Kutta method.

`slope(c, y)` gives the slope at t + c h. It may come scaled by h already; then `h` is None here.
"""

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
