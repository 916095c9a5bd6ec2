"""A program beside its derivative: what doubles, what is taken apart again, and which inputs are active."""

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from odejax.core.transform import select
from odejax.derivative.record import Active, Inputs, Results


def doubled_program(static):
    """The doubled program, and the inputs it is differentiated by: all that were active, twice."""
    params, queries = static.active
    active = Active(params + (True,) * sum(params), tuple(q + (True,) * sum(q) for q in queries))
    return static.program.doubled(params, queries), active


def doubled(static):
    program, active = doubled_program(static)
    return static._replace(program=program, active=active)


def concatenate(a, b):
    """Each tuple of leaves followed by its counterpart."""
    if isinstance(a, Inputs):
        return Inputs(a.y0 + b.y0, a.params + b.params, _zip_add(a.queries, b.queries))
    return Results(a.y1 + b.y1, _zip_add(a.outputs, b.outputs))


def _zip_add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))


def half(results, index):
    """One half of what a doubled program gives."""

    def half(leaves):
        n = len(leaves) // 2
        return leaves[index * n : (index + 1) * n]

    return Results(half(results.y1), tuple(map(half, results.outputs)))


def union_of(active, inputs_dot):
    """Which inputs are active in `active` or have a tangent."""

    def flags(leaves_dot, was_active):
        return tuple(a or type(d) is not ad.Zero for d, a in zip(leaves_dot, was_active, strict=True))

    return Active(
        flags(inputs_dot.params, active.params), tuple(map(flags, inputs_dot.queries, active.queries))
    )


def instantiate(tree):
    return jax.tree.map(ad.instantiate_zeros, tree, is_leaf=lambda x: type(x) is ad.Zero)


def widen(selected, inputs, active, union):
    """Active leaves of `active` as those of `union`, with zeros for the new ones."""

    def widen(values, all_leaves, old, new):
        values = iter(values)
        return tuple(
            next(values) if was else jnp.zeros_like(leaf)
            for leaf, was, is_now in zip(all_leaves, old, new, strict=True)
            if is_now
        )

    queries = tuple(map(widen, selected.queries, inputs.queries, active.queries, union.queries))
    return Inputs(selected.y0, widen(selected.params, inputs.params, active.params, union.params), queries)


def narrow(bars, union, wanted):
    """Active leaves of `union` as those of `wanted`."""

    def narrow(values, old, new):
        return select(values, select(new, old))

    queries = tuple(map(narrow, bars.queries, union.queries, wanted.queries))
    return Inputs(bars.y0, narrow(bars.params, union.params, wanted.params), queries)
