"""The derivatives of a recorded solve as JAX primitives, closed under jvp, transpose and vmap.

Let P be the program of the recorded steps, a function of `Inputs` x, with `Results` P(x). Three maps,
linear in what follows the semicolon:

    tangent(x; u)           = P'(x) u
    cotangent(x; w)         = P'(x)^T w
    curvature(x, w; u, v)   = d/de [ P'(x + e u)^T (w + e v) ]

Let P2(x, u) = (P(x), P'(x) u) be the doubled program, whose steps are the steps of P on states beside
their tangents. Every rule follows from it:

    tangent is linear in u; its derivative along (dx, du) is the second half of P2'(x, u) (dx, du)
    transpose of tangent = cotangent, and transpose of cotangent = tangent
    curvature(x, w; u, v) is the first half of P2'(x, u)^T (v, w), since
        d/dx <v, P(x)> + <w, P'(x) u> = P'(x)^T v + (d/de) P'(x + e u)^T w
    transpose of curvature: m -> (curvature(x, w; m, 0), tangent(x; m)), as second derivatives commute
    the derivative of curvature is the first half of the curvature of P2

So a derivative of order n walks the program doubled n - 1 times, and bounded memory in reverse carries over
to every order. There is no mathematics below, only this table.
"""

import jax
import jax.numpy as jnp

from odejax.core.transform import select
from odejax.derivative import backwards, forwards, lanes
from odejax.derivative.doubling import (
    concatenate,
    doubled,
    doubled_program,
    half,
    instantiate,
    narrow,
    union_of,
    widen,
)
from odejax.derivative.linear_primitive import bind, define
from odejax.derivative.record import Active, Inputs, Results, select_inputs


def tangent(static, record, inputs, inputs_dot):
    """The derivative of the results in the direction of active inputs."""
    return bind(_tangent_p, static, (record, inputs), inputs_dot, _results_tree(inputs, static))


def cotangent(static, record, inputs, results_bar):
    """Cotangents of the active inputs."""
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    return bind(_cotangent_p, static, (record, inputs), results_bar, tree)


def curvature(static, record, inputs, results_bar, inputs_dot, results_bar_dot):
    """The derivative of `cotangent` in the direction of active inputs and of the cotangents."""
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    points, directions = (record, inputs, results_bar), (inputs_dot, results_bar_dot)
    return bind(_curvature_p, static, points, directions, tree)


def _run_tangent(static, points, directions, in_blocks):
    record, inputs = points
    return forwards.tangents(static, record, inputs, directions, in_blocks)


def _run_cotangent(static, points, directions, in_blocks):
    record, inputs = points
    return backwards.cotangents(static, record, inputs, directions, in_blocks)


def _run_curvature(static, points, directions, in_blocks):
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    program, active = doubled_program(static)
    active = Active(
        static.active.params + (False,) * sum(static.active.params),
        tuple(a + (False,) * sum(a) for a in static.active.queries),
    )
    results_bar = concatenate(results_bar_dot, results_bar)
    inputs = concatenate(inputs, inputs_dot)
    static = static._replace(program=program, n_directions=0, active=active)
    bars = backwards.cotangents(static, record._replace(states=None), inputs, results_bar, in_blocks)
    return bars._replace(y0=bars.y0[: len(bars.y0) // 2])


def _results_tree(inputs, static):
    n_leaves = tuple(len(shapes) for shapes in static.program.output_shapes)
    return jax.tree.structure(Results(inputs.y0, tuple((0,) * n for n in n_leaves)))


# -- shapes


def _shape(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def _tangent_shapes(static, points, inputs_dot):
    record, _ = points
    program = static.program
    directions = inputs_dot.y0[0].shape[: static.n_directions]
    outputs = tuple(
        tuple(_shape((*directions, step.shape[0], *program.lanes, *s.shape), s.dtype) for s in shapes)
        for step, shapes in zip(record.output_step, program.output_shapes, strict=True)
    )
    return Results(tuple(_shape(x.shape, x.dtype) for x in inputs_dot.y0), outputs)


def _cotangent_shapes(static, points, results_bar):
    directions = results_bar.y1[0].shape[: static.n_directions]
    active = select_inputs(points[1], static.active)
    return jax.tree.map(lambda x: _shape((*directions, *x.shape), x.dtype), active)


def _curvature_shapes(static, points, directions):
    return _cotangent_shapes(static, points[:2], points[2])


# -- derivatives


def _tangent_jvp(static, points, inputs_dot, points_dot, inputs_dot_dot):
    record, inputs = points
    wanted, union = static.active, union_of(static.active, points_dot[1])
    lift = lanes.Lift(static, union, inputs_dot.y0[0])
    inputs_dot_dot = instantiate(inputs_dot_dot)
    inputs_x_dot = lift.shared(instantiate(select_inputs(points_dot[1], union)), (True,) * sum(union.params))
    inputs = lift.shared(inputs, union.params)
    inputs_dot, inputs_dot_dot = (
        widen(lift.linear(dot), inputs, wanted, union) for dot in (inputs_dot, inputs_dot_dot)
    )
    out = tangent(
        doubled(lift.static),
        record._replace(states=None),  # those kept are not the doubled program's
        concatenate(inputs, inputs_dot),
        concatenate(inputs_x_dot, inputs_dot_dot),
    )
    return lift.back(half(out, 1))


def _cotangent_jvp(static, points, results_bar, points_dot, results_bar_dot):
    record, inputs = points
    wanted, union = static.active, union_of(static.active, points_dot[1])
    lift = lanes.Lift(static, union, results_bar.y1[0])
    inputs_dot = instantiate(select_inputs(points_dot[1], union))
    out = curvature(
        lift.static,
        record,
        lift.shared(inputs, union.params),
        lift.linear(results_bar),
        lift.shared(inputs_dot, (True,) * sum(union.params)),
        lift.linear(instantiate(results_bar_dot)),
    )
    return lift.back(narrow(out, union, wanted))


def _curvature_jvp(static, points, directions, points_dot, directions_dot):
    wanted = static.active
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    inputs_dot_dot, results_bar_dot_dot = map(instantiate, directions_dot)
    union = union_of(wanted, points_dot[1])
    inputs_x_dot = instantiate(select_inputs(points_dot[1], union))
    results_bar_x_dot = instantiate(points_dot[2])
    inputs_dot = widen(inputs_dot, inputs, wanted, union)
    inputs_dot_dot = widen(inputs_dot_dot, inputs, wanted, union)
    static = doubled(static._replace(active=union))
    out = curvature(
        static,
        record._replace(states=None),
        concatenate(inputs, inputs_dot),
        concatenate(results_bar_dot, results_bar),
        concatenate(inputs_x_dot, inputs_dot_dot),
        concatenate(results_bar_dot_dot, results_bar_x_dot),
    )
    n_params = sum(union.params)
    n_queries = [sum(a) for a in union.queries]
    first = Inputs(
        out.y0[: len(inputs.y0)],
        out.params[:n_params],
        tuple(q[:n] for q, n in zip(out.queries, n_queries, strict=True)),
    )
    return narrow(first, union, wanted)


# -- transposes


def _tangent_transpose(static, points, bars):
    results_bar = jax.tree.unflatten(_results_tree(points[1], static), bars)
    record, inputs = points
    return cotangent(static, record, inputs, results_bar)


def _cotangent_transpose(static, points, bars):
    record, inputs = points
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    return tangent(static, record, inputs, jax.tree.unflatten(tree, bars))


def _curvature_transpose(static, points, bars):
    record, inputs, results_bar = points
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    bars = jax.tree.unflatten(tree, bars)
    zeros = jax.tree.map(jnp.zeros_like, results_bar)
    inputs_bar = curvature(static, record, inputs, results_bar, bars, zeros)
    return inputs_bar, tangent(static, record, inputs, bars)


# -- batching: directions, if only linear operands are mapped, else lanes


def _tangent_batch(static, size, points, inputs_dot):
    if not lanes.is_mapped(points):
        static = static._replace(n_directions=static.n_directions + 1)
        record, inputs = lanes.values_of(points)
        out = tangent(static, record, inputs, lanes.to_directions(inputs_dot, size))
        return out, jax.tree.map(lambda _: 0, out)
    record, inputs = points
    d = static.n_directions
    dots_mapped = tuple(x.axis is not None for x in inputs_dot.params)
    mapped = tuple(
        x.axis is not None or m
        for x, m in zip(inputs.params, lanes.mask_of(static.active.params, dots_mapped), strict=True)
    )
    static = lanes.static_in_lanes(static, size, mapped, record)
    inputs_dot = lanes.inputs_in_lanes(inputs_dot, select(mapped, static.active.params), size, d)
    out = tangent(
        static, lanes.record_in_lanes(record), lanes.inputs_in_lanes(inputs, mapped, size), inputs_dot
    )
    return out, lanes.axes_of(out, d)


def _cotangent_batch(static, size, points, results_bar):
    if not lanes.is_mapped(points):
        static = static._replace(n_directions=static.n_directions + 1)
        record, inputs = lanes.values_of(points)
        out = cotangent(static, record, inputs, lanes.to_directions(results_bar, size))
        return out, jax.tree.map(lambda _: 0, out)
    record, inputs = points
    d = static.n_directions
    mapped = tuple(x.axis is not None or a for x, a in zip(inputs.params, static.active.params, strict=True))
    static = lanes.static_in_lanes(static, size, mapped, record)
    results_bar = lanes.results_in_lanes(results_bar, size, d)
    out = cotangent(
        static, lanes.record_in_lanes(record), lanes.inputs_in_lanes(inputs, mapped, size), results_bar
    )
    return out, lanes.axes_of(out, d)


def _curvature_batch(static, size, points, directions):
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    active = static.active
    mapped = tuple(x.axis is not None or a for x, a in zip(inputs.params, active.params, strict=True))
    static = lanes.static_in_lanes(static, size, mapped, record)
    out = curvature(
        static,
        lanes.record_in_lanes(record)._replace(states=None),
        lanes.inputs_in_lanes(inputs, mapped, size),
        lanes.results_in_lanes(results_bar, size, 0),
        lanes.inputs_in_lanes(inputs_dot, (True,) * len(inputs_dot.params), size),
        lanes.results_in_lanes(results_bar_dot, size, 0),
    )
    return out, lanes.axes_of(out, 0)


_tangent_p = define(
    "odejax_tangent", _run_tangent, _tangent_shapes, _tangent_jvp, _tangent_transpose, _tangent_batch
)
_cotangent_p = define(
    "odejax_cotangent",
    _run_cotangent,
    _cotangent_shapes,
    _cotangent_jvp,
    _cotangent_transpose,
    _cotangent_batch,
)
_curvature_p = define(
    "odejax_curvature",
    _run_curvature,
    _curvature_shapes,
    _curvature_jvp,
    _curvature_transpose,
    _curvature_batch,
)
