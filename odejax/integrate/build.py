"""From the user's functions to a plan: jaxprs without constants, and the static choices."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp

from odejax.derivative.program import JaxprFunction


class Traced(NamedTuple):
    """A user's function as a jaxpr of (t, arguments, state), its hoisted constants and its output."""

    jaxpr: jax.extend.core.Jaxpr
    constants: list[jax.Array]
    out: object  # the shapes, as the user's pytree


def trace(fn, t, y, args, check_out, like=None):
    """Traces `fn(t, y, *args)`; closed-over arrays and tracers become operands.

    `check_out` sees the shapes of what it returns, which is cast to the dtypes of `like`.
    """
    arrays, others = eqx.partition(args, eqx.is_array)
    arguments, arguments_tree = jax.tree.flatten(arrays)
    state, state_tree = jax.tree.flatten(y)
    out_tree = None

    def flat(t, *leaves):
        nonlocal out_tree
        args = eqx.combine(jax.tree.unflatten(arguments_tree, leaves[: len(arguments)]), others)
        out = fn(t, jax.tree.unflatten(state_tree, leaves[len(arguments) :]), *args)
        out = jax.tree.map(jnp.asarray, out)
        check_out(out)
        if like is not None:
            out = jax.tree.map(lambda x, y: x.astype(y.dtype), out, like)
        out, out_tree = jax.tree.flatten(out)
        return out

    closed, out = jax.make_jaxpr(flat, return_shape=True)(t, *arguments, *state)
    return Traced(closed.jaxpr, list(closed.consts), jax.tree.unflatten(out_tree, out))


def function(traced, theta, n_args):
    """The traced function with its constants appended to the parameters `theta`, after `n_args` arguments."""
    constants = tuple(range(len(theta), len(theta) + len(traced.constants)))
    theta.extend(traced.constants)
    return JaxprFunction(traced.jaxpr, constants, tuple(range(n_args)))
