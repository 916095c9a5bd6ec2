"""JAX primitives for maps that are linear in some of their operands: the machinery, without mathematics.

The operands are the leaves of (points, directions); a map is linear in its directions.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from odejax.core.flow import as_one_function, same_variation, vary_as
from odejax.core.primitives import result_type
from odejax.derivative.lanes import define_batching


def bind(primitive, static, points, directions, out_tree):
    """The map at given points, its results as a pytree."""
    operands, in_tree = jax.tree.flatten((points, directions))
    n_linear = len(jax.tree.leaves(directions))
    operands = same_variation(operands)
    out = primitive.bind(*operands, static=static, in_tree=in_tree, n_linear=n_linear)
    return jax.tree.unflatten(out_tree, out)


def define(name, run, shapes, jvp, transpose, batch):
    """A primitive for a map `run(static, points, directions)` that is linear in the directions.

    Args:
        name: its name in jaxprs.
        run: `run(static, points, directions, in_blocks)`, the map itself; `in_blocks` on a CPU. It is
            `as_one_function` where `static.is_small`.
        shapes: `shapes(static, points, directions)`, those of its results.
        jvp: `jvp(static, points, directions, points_dot, directions_dot)`, for points that have tangents.
        transpose: `transpose(static, points, bars)`, cotangents of the directions.
        batch: `batch(static, size, points, directions)` of `Mapped` operands: results and their axes.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def run_flat(*operands, static, in_tree, n_linear, in_blocks):
        points, directions = jax.tree.unflatten(in_tree, operands)

        def whole(_):
            return jax.tree.leaves(run(static, points, directions, in_blocks))

        if not (in_blocks and static.is_small):
            return whole(())
        zeros = [jnp.zeros(x.shape, x.dtype) for x in jax.tree.leaves(shapes(static, points, directions))]
        return as_one_function(whole, vary_as(operands[0], zeros))

    @partial(jax.jit, static_argnames=("static", "in_tree", "n_linear"))
    def impl(*operands, static, in_tree, n_linear):
        return primitive.bind(*operands, static=static, in_tree=in_tree, n_linear=n_linear)

    def abstract(*avals, static, in_tree, n_linear):
        results = jax.tree.leaves(shapes(static, *jax.tree.unflatten(in_tree, avals)))
        return [result_type(shape, avals) for shape in results]

    def jvp_rule(primals, tangents, *, static, in_tree, n_linear):
        out = primitive.bind(*primals, static=static, in_tree=in_tree, n_linear=n_linear)
        zeros = [type(t) is ad.Zero for t in tangents]
        points, directions = jax.tree.unflatten(in_tree, primals)
        is_linear = all(zeros[: len(zeros) - n_linear])
        if is_linear:
            dots = [ad.instantiate_zeros(t) for t in tangents[len(zeros) - n_linear :]]
            operands = same_variation([*primals[: len(zeros) - n_linear], *dots])
            return out, primitive.bind(*operands, static=static, in_tree=in_tree, n_linear=n_linear)
        points_dot, directions_dot = jax.tree.unflatten(in_tree, tangents)
        out_dot = jvp(static, points, directions, points_dot, directions_dot)
        return out, jax.tree.leaves(out_dot)

    def transpose_rule(bars, *operands, static, in_tree, n_linear):
        bars = [ad.instantiate_zeros(b) for b in bars]
        points, directions = jax.tree.unflatten(in_tree, operands)
        bars = jax.tree.leaves(transpose(static, points, bars))
        linear = jax.tree.leaves(directions, is_leaf=ad.is_undefined_primal)
        linear_bars = [b if ad.is_undefined_primal(x) else None for b, x in zip(bars, linear, strict=True)]
        return [None] * (len(operands) - n_linear) + linear_bars

    def batch_rule(size, operands, *, static, in_tree, n_linear):
        return batch(static, size, *jax.tree.unflatten(in_tree, operands))

    primitive.def_impl(impl)
    primitive.def_abstract_eval(abstract)
    for platform, in_blocks in ((None, False), ("cpu", True)):
        fn = partial(run_flat, in_blocks=in_blocks)
        mlir.register_lowering(primitive, mlir.lower_fun(fn, multiple_results=True), platform=platform)
    ad.primitive_jvps[primitive] = jvp_rule
    ad.primitive_transposes[primitive] = transpose_rule
    define_batching(primitive, batch_rule)
    return primitive
