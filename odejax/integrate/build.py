"""From the user's functions to a plan: jaxprs without constants, and the static choices."""

from typing import NamedTuple

import jax
import jax.extend

from odejax.derivative.program import JaxprFunction
from odejax.integrate.plan import Capacity

KEPT_BYTES = 2**24  # of states kept for the reverse pass, by default ...
KEPT_AT_LEAST = 1024  # ... but at least so many states ...
KEPT_BYTES_AT_MOST = 2**28  # ... in at most so many bytes ...
KEPT_AT_MOST = 2**14  # ... and never more states than this
KEPT_MINIMUM = 16  # whatever their size
RECORDED_STEPS = 2**17  # steps whose size is recorded, by default
SCRATCH_AT_MOST = 256  # states the reverse pass keeps besides


class Traced(NamedTuple):
    """A user's function as a jaxpr of (t, arguments, state), its hoisted constants and its output."""

    jaxpr: jax.extend.core.Jaxpr
    constants: list[jax.Array]
    out: object  # the shapes, as the user's pytree


def trace(fn, t, y, args):
    """Traces `fn(t, y, *args)`; closed-over arrays and tracers become operands."""
    leaves, tree = jax.tree.flatten((y, args))
    n_state = len(jax.tree.leaves(y))

    def flat(t, *leaves):
        arguments, state = leaves[: len(leaves) - n_state], leaves[len(leaves) - n_state :]
        y, args = jax.tree.unflatten(tree, (*state, *arguments))
        return fn(t, y, *args)

    leaves = leaves[n_state:] + leaves[:n_state]
    closed, out = jax.make_jaxpr(flat, return_shape=True)(t, *leaves)
    return Traced(closed.jaxpr, list(closed.consts), out)


def function(traced, theta, n_args):
    """The traced function with its constants appended to the parameters `theta`, after `n_args` arguments."""
    constants = tuple(range(len(theta), len(theta) + len(traced.constants)))
    theta.extend(traced.constants)
    return JaxprFunction(traced.jaxpr, constants, tuple(range(n_args)))


def capacity(y0, n_lanes, checkpoints):
    """How many states and steps a record holds; `checkpoints` has the user's wishes or None."""
    row_bytes = max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in y0))
    states, steps = checkpoints
    if states is None:
        wanted = max(KEPT_BYTES // row_bytes, KEPT_AT_LEAST)
        states = max(KEPT_MINIMUM, min(KEPT_AT_MOST, KEPT_BYTES_AT_MOST // row_bytes, wanted))
    steps = RECORDED_STEPS if steps is None else steps
    kept = 2 ** (states.bit_length() - 1)
    return Capacity(kept, steps, min(states, SCRATCH_AT_MOST))
