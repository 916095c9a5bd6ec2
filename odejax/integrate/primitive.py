"""The loop as a JAX primitive: its derivative walks the record, its batching adds lanes."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from odejax.core.transform import select
from odejax.derivative import linear_maps
from odejax.derivative.linear_maps import Mapped, Static
from odejax.derivative.replay import Active, Inputs, Record, Results
from odejax.integrate.loop import CODE, Numbers, Solved, Stats, integrate


def solve(plan, inputs: Inputs, numbers: Numbers) -> Solved:
    """`integrate`, differentiable with respect to the inputs."""
    operands, in_tree = jax.tree.flatten((inputs, numbers))
    out = _integrate_p.bind(*operands, plan=plan, in_tree=in_tree)
    return jax.tree.unflatten(_out_tree(plan, inputs), out)


def _solved_of(plan, inputs, make):
    """A `Solved` of `make(shape, dtype)` for each leaf."""
    lanes, time = plan.lanes, inputs.params[0].dtype
    outputs = tuple(
        tuple(make((output.count, *lanes, *x.shape), x.dtype) for x in shapes)
        for output, shapes in zip(plan.outputs, plan.program.output_shapes, strict=True)
    )
    y1 = tuple(make(x.shape, x.dtype) for x in inputs.y0)
    count, real = make(lanes, jnp.int32), make(lanes, time)
    counts = (count,) * len(outputs)
    record = None
    if plan.is_recorded:
        capacity = plan.capacity
        record = Record(
            make((), jnp.int32),
            make((capacity.steps, *lanes), CODE),
            real,
            make((plan.n_stops, *lanes), time),
            (
                make((capacity.states + 1, *lanes), time),
                *(make((capacity.states + 1, *x.shape), x.dtype) for x in inputs.y0),
            ),
            tuple(make((output.count, *lanes), jnp.int32) for output in plan.outputs),
            counts,
            make(lanes, jnp.bool_),
        )
    return Solved(y1, outputs, real, y1, y1, count, Stats(count, count, count, real, real), counts, record)


def _out_tree(plan, inputs):
    return jax.tree.structure(_solved_of(plan, inputs, lambda shape, dtype: 0))


def _run_flat(*operands, plan, in_tree):
    return jax.tree.leaves(integrate(plan, *jax.tree.unflatten(in_tree, operands)))


_run_jitted = partial(jax.jit, static_argnames=("plan", "in_tree"))(_run_flat)


def _abstract(*avals, plan, in_tree):
    inputs, _ = jax.tree.unflatten(in_tree, avals)
    solved = _solved_of(plan, inputs, jax.ShapeDtypeStruct)
    return [jax.core.ShapedArray(x.shape, x.dtype) for x in jax.tree.leaves(solved)]


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
    static = Static(plan.program, 0, active, plan.capacity.scratch)
    results_dot = linear_maps.tangent(static, solved.record, inputs, inputs_dot)
    if not plan.is_recorded:
        solved = solved._replace(record=None)
    out = jax.tree.leaves(solved)
    n_results = len(jax.tree.leaves(Results(solved.y1, solved.outputs)))
    zeros = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out[n_results:]]
    return out, [*jax.tree.leaves(results_dot), *zeros]


def _batch(operands, axes, *, plan, in_tree):
    pairs = [Mapped(x, axis) for x, axis in zip(operands, axes, strict=True)]
    size = next(p.value.shape[p.axis] for p in pairs if p.axis is not None)
    inputs, numbers = jax.tree.unflatten(in_tree, pairs)
    mapped = (True, True, *(x.axis is not None for x in inputs.params[2:]))
    inputs = linear_maps.inputs_in_lanes(inputs, mapped, size)
    numbers = jax.tree.map(lambda x: x.to(0, size), numbers)
    plan = plan.in_lanes(size, tuple(0 if m else None for m in mapped))
    solved = solve(plan, inputs, numbers)
    record = solved.record and Record(
        None,
        1,
        0,
        1,
        (1,) * (1 + len(inputs.y0)),
        (1,) * len(plan.outputs),
        (0,) * len(plan.outputs),
        0,
    )
    solved_axes = Solved(
        (0,) * len(inputs.y0),
        tuple((1,) * len(o) for o in solved.outputs),
        0,
        (0,) * len(inputs.y0),
        (0,) * len(inputs.y0),
        0,
        Stats(0, 0, 0, 0, 0),
        (0,) * len(plan.outputs),
        record,
    )
    axes = jax.tree.leaves(solved_axes, is_leaf=lambda x: x is None)
    out = jax.tree.leaves(solved)
    return out, axes[: len(out)] if solved.record is None else axes


_integrate_p = Primitive("odejax_integrate")
_integrate_p.multiple_results = True
_integrate_p.def_impl(_run_jitted)
_integrate_p.def_abstract_eval(_abstract)
mlir.register_lowering(_integrate_p, mlir.lower_fun(_run_flat, multiple_results=True))
ad.primitive_jvps[_integrate_p] = _jvp
batching.primitive_batchers[_integrate_p] = _batch
