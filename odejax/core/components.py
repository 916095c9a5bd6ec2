"""Functions of small arrays, evaluated component by component.

`Components` runs a jaxpr on arrays taken apart into scalars. Slices, stacks, reshapes, small matrix
products, reductions and calls disappear while it is traced; what is left is arithmetic of scalars, which
`vmap` makes arithmetic of lane vectors. What has no rule here is called on the array put together again.
"""

import operator
from functools import partial, reduce
from itertools import accumulate
from math import inf, prod

import jax
import jax.core
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.core import jaxprs, movement
from odejax.core.parts import as_parts, is_index, is_known, is_parts, known, leaves_of, pack, regroup, unpack

# fmt: off
ELEMENTWISE = frozenset([
    "add", "add_any", "div", "integer_pow", "mul", "neg", "pow", "rem", "sub", "square",
    "cbrt", "exp", "exp2", "expm1", "log", "log1p", "logistic", "rsqrt", "sqrt",
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "sin", "sinh", "tan",
    "tanh",
    "bessel_i0e", "bessel_i1e", "digamma", "erf", "erf_inv", "erfc", "igamma", "igammac", "lgamma",
    "polygamma", "regularized_incomplete_beta", "zeta",
    "abs", "ceil", "clamp", "floor", "max", "min", "nextafter", "round", "select_n", "sign",
    "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "and", "not", "or", "xor",
    "population_count", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    "complex", "conj", "convert_element_type", "copy", "imag", "real", "reduce_precision",
    "stop_gradient",
])
# fmt: on
REDUCTIONS = {
    "reduce_sum": lax.add,
    "reduce_prod": lax.mul,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
    "cumsum": lax.add,
    "cumprod": lax.mul,
    "cummax": lax.max,
    "cummin": lax.min,
}
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
INLINED |= {"checkpoint": "jaxpr", "remat2": "jaxpr", "remat": "jaxpr"}
INDEX_ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "lt": operator.lt,
    "ge": operator.ge,
    "eq": operator.eq,
    "select_n": lambda which, *cases: cases[int(which)],
}


class TooLarge(Exception):
    """A function has more components than it may have."""


class Components:
    """The evaluator: arrays of more than `largest` numbers are left whole; `budget` limits the arithmetic."""

    def __init__(self, largest, budget):
        self.largest, self.budget = largest, budget

    def run(self, jaxpr, values):
        """Results of a jaxpr for its constants and arguments, arrays or object arrays of scalars."""
        environment = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

        def read(atom):
            if isinstance(atom, jax.extend.core.Literal):
                return known(np.asarray(atom.val, jax.typeof(atom.val).dtype))
            return environment[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            with equation.ctx.manager:
                if has_rule := self._has_rule(equation, values):
                    for atom in jaxprs.variables(equation.invars):
                        environment[atom] = unpack(environment[atom])
                    values = [read(atom) for atom in equation.invars]
                out = self._results(equation, values, has_rule)
            environment.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation, values, has_rule):
        name = equation.primitive.name
        if name in INLINED:
            inner = equation.params[INLINED[name]]
            return self.run(getattr(inner, "jaxpr", inner), [*getattr(inner, "consts", ()), *values])
        out = None
        if name in _CALLS:
            out = _CALLS[name](self, equation, values)
        elif has_rule:
            out = self._by_rule(name, equation, values)
        if out is None:
            values = [pack(v, atom.aval.dtype) for v, atom in zip(values, equation.invars, strict=True)]
            out = jaxprs.bind(equation, values)
        return out

    def _has_rule(self, equation, values):
        """Is it done in parts? What depends on whole arrays alone is left whole."""
        name, atoms = equation.primitive.name, (*equation.invars, *equation.outvars)
        if not any(name in rules for rules in (ELEMENTWISE, REDUCTIONS, movement.RULES, ("dot_general",))):
            return False
        is_small = all(self._is_small(a.aval) and a.aval.size for a in atoms)
        is_touched = any(is_parts(v) and not is_known(v) for v in values)
        if is_touched and not is_small and name == "dot_general" and self.budget < inf:
            raise TooLarge  # the layers of a network are no arithmetic of scalars
        return is_small and (is_touched or all(map(is_known, values)))

    def _by_rule(self, name, equation, parts):
        """The results as parts, or None where indices are not known."""
        if name in ELEMENTWISE:
            return [self._elementwise(equation, parts)]
        if name in REDUCTIONS:
            return [self._reduction(REDUCTIONS[name], equation, *parts)]
        if name == "dot_general":
            return [self._dot_general(equation, *parts)]
        return movement.RULES[name](equation, *parts)

    def _is_small(self, aval):
        return aval.size <= self.largest and not jnp.issubdtype(aval.dtype, jax.dtypes.extended)

    def is_small_and_inexact(self, equation, values):
        """Can a function with its own derivative rule be taken apart, and is it worth it?"""
        avals = [atom.aval for atom in (*equation.invars, *equation.outvars)]
        is_inexact = all(jnp.issubdtype(a.dtype, jnp.inexact) for a in avals)
        return any(map(is_parts, values)) and is_inexact and all(map(self._is_small, avals))

    def unlimited(self):
        """The evaluator of derivative rules, which run when the budget was kept already."""
        return Components(self.largest, inf)

    def spend(self, amount):
        self.budget -= amount
        if self.budget < 0:
            raise TooLarge

    def _elementwise(self, equation, parts):
        primitive, params = equation.primitive, equation.params
        shape = equation.outvars[0].aval.shape
        on_indices = INDEX_ARITHMETIC.get(primitive.name)

        def one(*operands):
            if on_indices is not None and all(map(is_index, operands)):
                with np.errstate(over="ignore"):  # integers wrap around, as they do in XLA
                    return np.asarray(on_indices(*operands), equation.outvars[0].aval.dtype)[()]
            if primitive.name == "convert_element_type" and is_index(operands[0]):
                return operands[0].astype(params["new_dtype"])
            self.spend(1)
            return primitive.bind(*operands, **params)

        spread = [np.broadcast_to(p, shape).ravel() for p in parts]
        return as_parts(map(one, *spread), shape)

    def _reduction(self, fn, equation, parts):
        params, aval = equation.params, equation.outvars[0].aval
        axes = params.get("axes", (params.get("axis"),))
        self.spend(parts.size)
        if "axes" not in params:  # cumulative
            lines = np.moveaxis(parts, axes[0], -1)[..., :: -1 if params["reverse"] else 1]
            sums = [x for line in lines.reshape(-1, lines.shape[-1]) for x in accumulate(line, fn)]
            out = as_parts(sums, lines.shape)[..., :: -1 if params["reverse"] else 1]
            return np.moveaxis(out, -1, axes[0])
        kept = [i for i in range(parts.ndim) if i not in axes]
        lines = parts.transpose(*kept, *axes).reshape(aval.size, -1)
        return as_parts([reduce(fn, line) for line in lines], aval.shape)

    def _dot_general(self, equation, left, right):
        (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
        aval = equation.outvars[0].aval
        left_free = [i for i in range(left.ndim) if i not in (*left_sum, *left_batch)]
        right_free = [i for i in range(right.ndim) if i not in (*right_sum, *right_batch)]
        batch = [left.shape[i] for i in left_batch]
        length = prod(left.shape[i] for i in left_sum)
        left = left.transpose(*left_batch, *left_free, *left_sum).reshape(prod(batch), -1, length)
        right = right.transpose(*right_batch, *right_free, *right_sum).reshape(prod(batch), -1, length)
        self.spend(2 * aval.size * length)
        cast = partial(lax.convert_element_type, new_dtype=aval.dtype)
        add, mul = (lax.bitwise_or, lax.bitwise_and) if aval.dtype == bool else (lax.add, lax.mul)

        def one(b, i, j):
            return reduce(add, map(mul, map(cast, left[b, i]), map(cast, right[b, j])))

        indices = np.ndindex(prod(batch), left.shape[1], right.shape[1])
        return as_parts([one(*i) for i in indices], aval.shape)

    def flat(self, jaxpr, consts, like, like_out=None):
        """A jaxpr as a function of scalars and whole arrays, in rows: `like` tells which it is given.

        And `like_out` which it returns; by default scalars of all small arrays.
        """
        like_out = self.like(jaxpr.outvars) if like_out is None else like_out

        def fn(*leaves):
            out = self.run(jaxpr, [*consts, *regroup(leaves, like)])
            rows = []
            for x, atom, wanted in zip(out, jaxpr.outvars, like_out, strict=True):
                row = unpack(x).ravel() if is_parts(wanted) else [pack(x, atom.aval.dtype)]
                rows += [jnp.asarray(leaf, atom.aval.dtype) for leaf in row]
            return rows

        return fn

    def like(self, atoms):
        """Object arrays of the shapes of what is small, None for the others."""
        return [np.empty(a.aval.shape, object) if self._is_small(a.aval) else None for a in atoms]


def _cond(self, equation, values):
    """A choice between functions of scalars."""
    index, *operands = values
    if not any(map(is_parts, values)):
        return None
    branches = [self.flat(closed.jaxpr, closed.consts, operands) for closed in equation.params["branches"]]
    index = lax.convert_element_type(pack(index, equation.invars[0].aval.dtype), jnp.int32)
    out = lax.switch(index, branches, *map(jnp.asarray, leaves_of(operands)))
    return regroup(out, self.like(equation.outvars))


def _custom_jvp(self, equation, values):
    """A function of scalars with the components of the given derivative rule."""
    if not self.is_small_and_inexact(equation, values):
        return None
    avals, packed = _as_function(equation)
    closed = equation.params["call_jaxpr"]
    fn = jax.custom_jvp(self.flat(closed.jaxpr, closed.consts, values))

    def rule(primals, tangents):
        made = jax.make_jaxpr(lambda p, d: jax.jvp(packed, p, d))(avals, avals)
        out = self.unlimited().flat(made.jaxpr, made.consts, [*values, *values])(*primals, *tangents)
        return out[: len(out) // 2], out[len(out) // 2 :]

    fn.defjvp(rule)
    return regroup(fn(*map(jnp.asarray, leaves_of(values))), self.like(equation.outvars))


def _custom_vjp(self, equation, values):
    """A function of scalars with the components of the given pullback."""
    if not self.is_small_and_inexact(equation, values):
        return None
    avals, packed = _as_function(equation)
    closed = equation.params["call_jaxpr" if "call_jaxpr" in equation.params else "fun_jaxpr"]
    bars_like, later = self.like(equation.outvars), self.unlimited()
    fn = jax.custom_vjp(self.flat(closed.jaxpr, closed.consts, values))

    def forwards(*primals):  # by the given rule, too: it is what higher derivatives differentiate
        made = jax.make_jaxpr(lambda *p: jax.vjp(packed, *p)[0])(*avals)
        return later.flat(made.jaxpr, made.consts, values)(*primals), primals

    def backwards(primals, bars):
        made = jax.make_jaxpr(lambda p, b: jax.vjp(packed, *p)[1](b))(avals, _avals(equation.outvars))
        return tuple(later.flat(made.jaxpr, made.consts, [*values, *bars_like], values)(*primals, *bars))

    fn.defvjp(forwards, backwards)
    return regroup(fn(*map(jnp.asarray, leaves_of(values))), bars_like)


_CALLS = {"cond": _cond, "custom_jvp_call": _custom_jvp, "custom_vjp_call": _custom_vjp}


def _as_function(equation):
    """The types of an equation's operands, and the equation as a function of whole arrays."""
    return _avals(equation.invars), lambda *arrays: tuple(jaxprs.bind(equation, arrays))


def _avals(atoms):
    return tuple(a.aval for a in atoms)  # mesh axes included, over which they vary under `shard_map`
