"""From the user's functions to a plan: jaxprs without constants, and the static choices."""

import math
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from odejax.core import jaxprs
from odejax.core.components import Components, TooLarge
from odejax.core.flow import same_variation
from odejax.core.parts import known_indices, regroup, unpack
from odejax.derivative.program import JaxprFunction
from odejax.integrate.forms import Form


class Traced(NamedTuple):
    """A user's function, and its output as the user's pytree of shapes."""

    function: JaxprFunction
    out: object


def trace(fn, t, y, args, theta, check_out, like, form):
    """Traces `fn(t, y, *args)` once, as a function of (t, parameters, state).

    `theta`, the solve's parameters, is a list that is extended by what the function needs: arrays of `args`,
    what it closes over, and what it computes from these alone, which is done here, once.
    `check_out` sees what the function returns, which is cast to the dtypes of `like`. States are given, and
    results returned, as the leaves of `form`.
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

    operands = same_variation([t, *arguments, *state])
    closed, out = jax.make_jaxpr(flat, return_shape=True)(*operands)
    values = [*closed.consts, *operands]
    if form.is_apart:
        jaxpr, values = _apart(closed, operands, len(state), form, must_fit=like is not None)
    elif jaxprs.should_be_evaluated(closed.jaxpr):
        jaxpr = jax.make_jaxpr(lambda *v: jaxprs.evaluate_jaxpr(closed.jaxpr, v))(*values).jaxpr
    else:
        jaxpr = closed.jaxpr
    n_state = len(values) - len(closed.consts) - 1 - len(arguments)
    function = _hoisted(jaxpr, values, len(closed.consts), n_state, theta)
    return Traced(function, jax.tree.unflatten(out_tree, out))


def _apart(closed, operands, n_state, form, must_fit):
    """The traced function of scalars, and its values."""
    before, state = [*closed.consts, *operands[:-n_state]], operands[-n_state:]
    n_consts = len(closed.consts)

    def apart(evaluator, *values):
        whole = list(values[: len(before)])
        whole[:n_consts] = [known_indices(c, v) for c, v in zip(closed.consts, whole, strict=False)]
        whole[n_consts] = unpack(whole[n_consts])
        whole += regroup(values[len(before) :], form.parts)
        out = evaluator.run(closed.jaxpr, whole)
        return Form.of(closed.out_avals, form.largest).apart(out)

    values = [*before, *form.apart(state)]
    try:
        made = jax.make_jaxpr(partial(apart, form.evaluator()))(*values)
    except TooLarge:
        if must_fit:
            raise
        made = jax.make_jaxpr(partial(apart, Components(0, math.inf)))(*values)  # called on the whole state
    return made.jaxpr, values


def _hoisted(jaxpr, values, n_constants, n_state, theta):
    """The function without constants, and without what need not be computed in the loop."""
    given, n_parameters = [*jaxpr.constvars, *jaxpr.invars], len(values) - 1 - n_state
    n_arguments = n_parameters - n_constants
    is_changing = [False] * n_constants + [True] + [False] * n_arguments + [True] * n_state
    parts = jaxprs.split(jaxpr, is_changing)
    environment = dict(zip(given, values, strict=True))
    needed = jaxprs.variables([v for e in parts.within for v in e.invars] + list(jaxpr.outvars))
    fixed = [v for v, changes in zip(given, is_changing, strict=True) if not changes and v in needed]
    jaxprs.evaluate(parts.before, environment)
    operands = [*fixed, *parts.kept]
    changing = [v for v, changes in zip(given, is_changing, strict=True) if changes]

    def within(t, *leaves):
        inner = dict(zip([changing[0], *operands, *changing[1:]], [t, *leaves], strict=True))
        read = jaxprs.evaluate(parts.within, inner)
        return [read(atom) for atom in jaxpr.outvars]

    taken = [environment[v] for v in operands]
    t, *state = (environment[v] for v in changing)
    made = jax.make_jaxpr(within)(t, *taken, *state)
    assert not made.consts, "every constant is an operand here"
    return JaxprFunction(made.jaxpr, t.dtype, tuple(_index(x, theta) for x in taken))


def _index(value, theta):
    """Where a value is among the parameters; it is added if it is new."""
    for index, other in enumerate(theta):
        if other is value:
            return index
    theta.append(value)
    return len(theta) - 1


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
