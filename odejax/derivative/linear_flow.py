"""The flow of y' = A y as a function of (A's parameters, y, t), with every derivative."""

from typing import NamedTuple

import jax
from jax import lax

from odejax.core.transform import Leaves
from odejax.derivative.exponential import action
from odejax.linalg import sizes, taylor
from odejax.linalg.operators import Operator, Timed


class Problem(NamedTuple):
    """A linear operator, and what is known of it."""

    op: Operator
    params: Leaves
    size: sizes.Size
    steps: jax.Array  # `taylor.largest_steps`


def flow(problem, y, t):
    """(exp(t A) y, the `Scheme` that was used)."""
    op, params, size, steps = problem
    scheme = taylor.choose(size.norm, size.mu, lax.stop_gradient(t), steps)
    most = taylor.LEAST_DEGREE + steps.shape[0] - 1
    return action(Timed(op), most, scheme, (t, *params), y), scheme
