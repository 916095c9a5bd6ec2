"""Jaxprs taken apart: evaluated equation by equation, and split into what changes in a loop and what not."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.extend
from jax import lax

JIT_NAMES = ("jit", "pjit")  # calls that are evaluated in place
CAST_NAMES = ("pvary", "pcast")
MANY_PIECES, MOST_PIECES = 3, 256  # numbers taken of a vector that is taken apart, and in it
CHEAP_NAMES = ("broadcast_in_dim", "iota")  # made again rather than kept: they only grow what they get


class Split(NamedTuple):
    """A jaxpr as equations to run before a loop, and equations to run in it."""

    before: list
    within: list
    kept: list  # variables that `before` hands to `within`


def evaluate(equations, environment):
    """Runs equations; `environment` maps variables to values and receives the new ones."""

    def read(atom):
        return atom.val if isinstance(atom, jax.extend.core.Literal) else environment[atom]

    pieces, in_pieces = {}, taken_apart(equations)
    for equation in equations:
        values = [read(atom) for atom in equation.invars]
        if is_piece(equation) and equation.invars[0] in in_pieces:
            (array,) = values
            if equation.invars[0] not in pieces:
                pieces[equation.invars[0]] = lax.split(array, (1,) * array.size)
            out = [pieces[equation.invars[0]][equation.params["start_indices"][0]]]
        elif equation.primitive.name in JIT_NAMES:
            closed = equation.params["jaxpr"]
            out = evaluate_jaxpr(closed.jaxpr, [*closed.consts, *values])
        elif _is_redundant_cast(equation, values):
            out = values
        elif equation.primitive.name == "pad" and not isinstance(equation.invars[1], jax.extend.core.Literal):
            out = [_pad(values[0], values[1], equation.params["padding_config"])]
        else:
            with equation.ctx.manager:
                out = bind(equation, values)
        environment.update(zip(equation.outvars, out, strict=True))
    return read


def _pad(x, value, config):
    """`lax.pad`, which JAX (0.10 to 0.12) cannot transpose with respect to the value alone."""
    is_inside = lax.pad(lax.full(x.shape, True), False, config)
    padded = lax.pad(x, lax.full((), 0, x.dtype), config)
    return lax.select(is_inside, padded, lax.broadcast(value, padded.shape))


def is_piece(equation):
    """Is this one number of a vector, as `y[i]` is?"""
    if equation.primitive.name != "slice" or equation.outvars[0].aval.shape != (1,):
        return False
    return not isinstance(equation.invars[0], jax.extend.core.Literal)


def taken_apart(equations):
    """The vectors of which many numbers are taken.

    All at once, by a split, that has a derivative of one concatenation; else each has one of the whole size.
    """
    counts = Counter(equation.invars[0] for equation in equations if is_piece(equation))
    return {v for v, n in counts.items() if n >= MANY_PIECES and v.aval.size <= MOST_PIECES}


def bind(equation, values):
    """The results of an equation for other values."""
    params = equation.primitive.get_bind_params(equation.params)
    out = equation.primitive.bind(*values, **params)
    return out if equation.primitive.multiple_results else [out]


def evaluate_jaxpr(jaxpr, values):
    """The results of a jaxpr for its constants and arguments, calls to jitted functions inlined."""
    environment = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
    read = evaluate(jaxpr.eqns, environment)
    return [read(atom) for atom in jaxpr.outvars]


def _is_redundant_cast(equation, values):
    """Is this a cast to vary over mesh axes (under `shard_map`), of something that varies already?"""
    if equation.primitive.name not in CAST_NAMES:
        return False
    return set(equation.params["axes"]) <= jax.typeof(values[0]).manual_axis_type.varying


def has_calls(jaxpr):
    """Are there calls to jitted functions to inline, or casts that may be redundant?"""
    return any(equation.primitive.name in (*JIT_NAMES, *CAST_NAMES) for equation in jaxpr.eqns)


def should_be_evaluated(jaxpr):
    """Does `evaluate_jaxpr` make another jaxpr of it?"""
    return has_calls(jaxpr) or bool(taken_apart(jaxpr.eqns))


def split(jaxpr, is_changing):
    """Splits a jaxpr without calls; `is_changing` says which constants and arguments change in the loop.

    What depends on nothing that changes is computed before: user code like `exp(log_rate)` or a matrix
    made of parameters is evaluated and differentiated once a solve, not once a stage.
    """
    given = [*jaxpr.constvars, *jaxpr.invars]
    fixed, made_by = {v for v, c in zip(given, is_changing, strict=True) if not c}, {}
    before, within = [], []
    for equation in jaxpr.eqns:
        inputs = variables(equation.invars)
        if inputs and inputs <= fixed and not equation.effects:
            before.append(equation)
            fixed.update(equation.outvars)
            made_by.update((v, equation) for v in equation.outvars)
        else:
            within.append(equation)
    kept, needed = [], [v for e in within for v in e.invars] + list(jaxpr.outvars)
    sunk, seen = [], set()
    while needed:
        variable = needed.pop()
        if isinstance(variable, jax.extend.core.Literal) or variable in seen or variable not in made_by:
            continue
        seen.add(variable)
        equation = made_by[variable]
        if equation.primitive.name in CHEAP_NAMES:
            sunk.append(equation)
            needed.extend(equation.invars)
        else:
            kept.append(variable)
    order = {id(e): i for i, e in enumerate(jaxpr.eqns)}
    within = sorted([*within, *sunk], key=lambda e: order[id(e)])
    return Split(before, within, kept)


def variables(atoms):
    """Those of the atoms that are not literals."""
    return {a for a in atoms if not isinstance(a, jax.extend.core.Literal)}


def dependencies(jaxpr):
    """For each result, the set of arguments (their numbers) that it may depend on."""
    made_of = {v: {i} for i, v in enumerate(jaxpr.invars)}

    def of(atoms):
        return set().union(*(made_of.get(v, set()) for v in variables(atoms)))

    for equation in jaxpr.eqns:
        arguments = of(equation.invars)
        made_of.update((v, arguments) for v in equation.outvars)
    return [of([atom]) for atom in jaxpr.outvars]
