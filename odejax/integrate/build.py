"""From the user's functions to a plan: jaxprs without constants, and the static choices."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from odejax.core import jaxprs
from odejax.core.flow import same_variation
from odejax.derivative.program import JaxprFunction


class Traced(NamedTuple):
    """A user's function, and its output as the user's pytree of shapes."""

    function: JaxprFunction
    out: object


def trace(fn, t, y, args, theta, check_out, like=None):
    """Traces `fn(t, y, *args)` once, as a function of (t, parameters, state).

    `theta`, the solve's parameters, holds the arrays of `args` first. What the function closes over, arrays
    and tracers, is appended, and so is all that it computes from parameters alone: that is done here, once.
    `check_out` sees what the function returns, which is cast to the dtypes of `like`.
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

    t, *operands = same_variation([t, *arguments, *state])
    closed, out = jax.make_jaxpr(flat, return_shape=True)(t, *operands)
    function = _hoisted(closed, [t, *operands], len(state), theta)
    return Traced(function, jax.tree.unflatten(out_tree, out))


def _hoisted(closed, operands, n_state, theta):
    """The traced function without constants, and without what need not be computed in the loop."""
    constants = list(closed.consts)
    n_constants, n_arguments = len(constants), len(operands) - 1 - n_state
    values, jaxpr = [*constants, *operands], closed.jaxpr
    if jaxprs.has_calls(jaxpr):
        jaxpr = jax.make_jaxpr(lambda *values: jaxprs.evaluate_jaxpr(closed.jaxpr, values))(*values).jaxpr
    given = [*jaxpr.constvars, *jaxpr.invars]
    parts = jaxprs.split(jaxpr, [False] * n_constants + [True] + [False] * n_arguments + [True] * n_state)
    environment = dict(zip(given, values, strict=True))
    jaxprs.evaluate(parts.before, environment)
    kept = [environment[v] for v in parts.kept]

    def within(t, *leaves):
        parameters, state = leaves[:-n_state], leaves[-n_state:]
        arguments, constants = parameters[:n_arguments], parameters[n_arguments:]
        inner = dict(zip(given, [*constants[:n_constants], t, *arguments, *state], strict=True))
        inner.update(zip(parts.kept, constants[n_constants:], strict=True))
        read = jaxprs.evaluate(parts.within, inner)
        return [read(atom) for atom in jaxpr.outvars]

    t, *others = operands
    arguments, state = others[:n_arguments], others[n_arguments:]
    added = [*constants, *kept]
    if kept or added or jaxpr is not closed.jaxpr:
        made = jax.make_jaxpr(within)(t, *arguments, *added, *state)
        jaxpr = made.jaxpr
        assert not made.consts, "every constant is an operand here"
    indices = (*range(n_arguments), *range(len(theta), len(theta) + len(added)))
    theta.extend(added)
    return JaxprFunction(jaxpr, t.dtype, indices)


def check_slope(out, y0):
    """Does f return the structure and shapes of `y0`, with numbers in them?"""
    wanted, got = jax.tree.structure(y0), jax.tree.structure(out)
    if wanted != got:
        raise TypeError(f"`f` must return dy/dt with the structure of `y0`, {wanted}; it returned {got}.")
    for (path, k), y in zip(jax.tree.flatten_with_path(out)[0], jax.tree.leaves(y0), strict=True):
        name = "dy" + jax.tree_util.keystr(path)
        if k.shape != y.shape:
            raise ValueError(
                f"`f` must return arrays of the shapes of `y0`: {name} is {k.shape}, not {y.shape}."
            )
        if not jnp.issubdtype(k.dtype, jnp.inexact):
            raise TypeError(f"`f` must return floating point numbers: {name} is {k.dtype}.")
        if jnp.issubdtype(k.dtype, jnp.complexfloating) and not jnp.issubdtype(y.dtype, jnp.complexfloating):
            raise TypeError(f"`f` returned complex numbers ({name}) for a real `y0`. Make `y0` complex.")


def check_saved(out):
    """Does `save_fn` return arrays?"""
    if not jax.tree.leaves(out):
        raise TypeError("`save_fn` must return an array or a pytree of arrays, got nothing.")
    for path, x in jax.tree.flatten_with_path(out)[0]:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            name = "save_fn(...)" + jax.tree_util.keystr(path)
            raise TypeError(f"`save_fn` must return floating point numbers: {name} is {x.dtype}.")
