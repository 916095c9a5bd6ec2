"""The loop as a JAX primitive: its derivative walks the record, its batching adds lanes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from odejax.core.codes import CODE
from odejax.core.flow import same_variation, vary_as
from odejax.core.primitives import result_type
from odejax.core.transform import select
from odejax.derivative import linear_maps
from odejax.derivative.lanes import define_batching, inputs_in_lanes
from odejax.derivative.record import Active, Inputs, Record, Results, Static
from odejax.integrate.run import integrate
from odejax.integrate.state import Numbers, Solved, Stats


def solve(plan, inputs: Inputs, numbers: Numbers) -> Solved:
    """`integrate`, differentiable with respect to the inputs."""
    operands, in_tree = jax.tree.flatten((inputs, numbers))
    out = _integrate_p.bind(*same_variation(operands), plan=plan, in_tree=in_tree)
    return jax.tree.unflatten(_out_tree(plan, inputs), out)


def _describe(plan, inputs, describe: Callable[..., Any]) -> Any:
    """A `Solved` of `describe(shape, dtype, lane_axis)` for each array."""
    lanes, time = plan.lanes, inputs.params[0].dtype
    count, real = describe(lanes, jnp.int32, 0), describe(lanes, time, 0)
    state = tuple(describe(y.shape, y.dtype, 0) for y in inputs.y0)
    outputs = tuple(
        tuple(describe((output.count, *lanes, *x.shape), x.dtype, 1) for x in shapes)
        for output, shapes in zip(plan.outputs, plan.program.output_shapes, strict=True)
    )
    counts = (count,) * len(outputs)
    record = None
    if plan.is_recorded:
        capacity = plan.capacity
        kept = [(lanes, time), *((y.shape, y.dtype) for y in inputs.y0)]
        record = Record(
            n_steps=count,
            shift=count,
            codes=describe((capacity.steps, *lanes), CODE, 1),
            unit=real,
            stops=describe((plan.n_stops, *lanes), time, 1),
            states=tuple(describe((capacity.states + 1, *shape), dtype, 1) for shape, dtype in kept),
            output_step=tuple(describe((output.count, *lanes), jnp.int32, 1) for output in plan.outputs),
            n_outputs=counts,
            has_failed=describe(lanes, jnp.bool_, 0),
        )
    stats = Stats(count, count, count, count, count, count, count, real, real, real)
    return Solved(state, outputs, real, state, state, count, stats, counts, record)


def _out_tree(plan, inputs):
    return jax.tree.structure(_describe(plan, inputs, lambda *_: 0))


def _run_flat(*operands, plan, in_tree, in_blocks):
    inputs, numbers = jax.tree.unflatten(in_tree, operands)
    empty = _describe(plan, inputs, lambda shape, dtype, _: jnp.zeros(shape, dtype))
    empty = empty._replace(outputs=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), empty.outputs))
    empty = vary_as(operands[0], empty)
    return jax.tree.leaves(integrate(plan, inputs, numbers, empty, in_blocks))


@partial(jax.jit, static_argnames=("plan", "in_tree"))
def _run_jitted(*operands, plan, in_tree):
    return _integrate_p.bind(*operands, plan=plan, in_tree=in_tree)


def _abstract(*avals, plan, in_tree):
    inputs, _ = jax.tree.unflatten(in_tree, avals)
    shapes = _describe(plan, inputs, lambda shape, dtype, _: jax.ShapeDtypeStruct(shape, dtype))
    return [result_type(shape, avals) for shape in jax.tree.leaves(shapes)]


def _jvp(primals, tangents, *, plan, in_tree):
    inputs, numbers = jax.tree.unflatten(in_tree, primals)
    inputs_dot, _ = jax.tree.unflatten(in_tree, tangents)

    def flags(dots):
        return tuple(type(d) is not ad.Zero for d in dots)

    active = Active(flags(inputs_dot.params), tuple(map(flags, inputs_dot.queries)))
    if not any(flags(jax.tree.leaves(inputs_dot))):
        out = _integrate_p.bind(*primals, plan=plan, in_tree=in_tree)
        return out, [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out]
    solved = solve(plan.recorded(), inputs, numbers)
    queries_dot = tuple(select(q, a) for q, a in zip(inputs_dot.queries, active.queries, strict=True))
    inputs_dot = Inputs(
        tuple(map(ad.instantiate_zeros, inputs_dot.y0)), select(inputs_dot.params, active.params), queries_dot
    )
    static = Static(plan.program, 0, active, plan.capacity.scratch, (True,) * len(plan.lanes))
    results_dot = linear_maps.tangent(static, solved.record, inputs, inputs_dot)
    if not plan.is_recorded:
        solved = solved._replace(record=None)
    out = jax.tree.leaves(solved)
    n_results = len(jax.tree.leaves(Results(solved.y1, solved.outputs)))
    zeros = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out[n_results:]]
    return out, [*jax.tree.leaves(results_dot), *zeros]


def _batch(size, operands, *, plan, in_tree):
    inputs, numbers = jax.tree.unflatten(in_tree, operands)
    mapped = (True, True, *(x.axis is not None for x in inputs.params[2:]))
    inputs = inputs_in_lanes(inputs, mapped, size)
    numbers = jax.tree.map(lambda x: x.to_shared(0), numbers)
    plan = plan.in_lanes(size, tuple(0 if m else None for m in mapped))
    return solve(plan, inputs, numbers), _describe(plan, inputs, lambda *what: what[-1])


_integrate_p = Primitive("odejax_integrate")
_integrate_p.multiple_results = True
_integrate_p.def_impl(_run_jitted)
_integrate_p.def_abstract_eval(_abstract)
# Blocks are for caches: a GPU takes all lanes at once.
_lower, _lower_in_blocks = (
    mlir.lower_fun(partial(_run_flat, in_blocks=in_blocks), multiple_results=True)
    for in_blocks in (False, True)
)
mlir.register_lowering(_integrate_p, _lower)
mlir.register_lowering(_integrate_p, _lower_in_blocks, platform="cpu")
ad.primitive_jvps[_integrate_p] = _jvp
define_batching(_integrate_p, _batch)
