"""The derivatives of a recorded solve as JAX primitives, closed under jvp, transpose and vmap.

Let P be the program of the recorded steps, a function of `Inputs` x, with `Results` P(x). Three maps,
linear in what follows the semicolon:

    tangent(x; u)           = P'(x) u
    cotangent(x; w)         = P'(x)^T w
    curvature(x, w; u, v)   = d/de [ P'(x + e u)^T (w + e v) ]

Let P2(x, u) = (P(x), P'(x) u) be the doubled program, whose steps are the steps of P on states beside
their tangents. Every rule follows from it:

    tangent is linear in u, and its derivative in the direction (dx, du) is the second half of P2'(x, u) (dx, du)
    transpose of tangent = cotangent, and transpose of cotangent = tangent
    curvature(x, w; u, v) is the first half of P2'(x, u)^T (v, w), since
        d/dx <v, P(x)> + <w, P'(x) u> = P'(x)^T v + (d/de) P'(x + e u)^T w
    transpose of curvature: m -> (curvature(x, w; m, 0), tangent(x; m)), as second derivatives commute
    the derivative of curvature is the first half of the curvature of P2

So a derivative of order n walks the program doubled n - 1 times, and bounded memory in reverse carries over
to every order. There is no mathematics below, only this table.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from odejax.core.transform import select
from odejax.derivative import replay
from odejax.derivative.replay import Active, Inputs, Record, Results, select_inputs


class Static(NamedTuple):
    """What does not change with the numbers."""

    program: object
    n_directions: int  # leading axes of linear operands that share one solve
    active: Active
    n_scratch: int  # states the reverse pass may keep besides the record's


def tangent(static, record, inputs, inputs_dot):
    """The derivative of the results in the direction of active inputs."""
    return _bind(_tangent_p, static, (record, inputs), inputs_dot, _results_tree(inputs, static))


def cotangent(static, record, inputs, results_bar):
    """Cotangents of the active inputs."""
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    return _bind(_cotangent_p, static, (record, inputs), results_bar, tree)


def curvature(static, record, inputs, results_bar, inputs_dot, results_bar_dot):
    """The derivative of `cotangent` in the direction of active inputs and of the cotangents."""
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    points, directions = (record, inputs, results_bar), (inputs_dot, results_bar_dot)
    return _bind(_curvature_p, static, points, directions, tree)


def _run_tangent(static, points, directions):
    return replay.tangents(static.program, static.n_directions, static.active, *points, directions)


def _run_cotangent(static, points, directions):
    return replay.cotangents(*static, *points, directions)


def _run_curvature(static, points, directions):
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    program, active = _doubled_program(static)
    active = Active(
        static.active.params + (False,) * sum(static.active.params),
        tuple(a + (False,) * sum(a) for a in static.active.queries),
    )
    results_bar = _concatenate(results_bar_dot, results_bar)
    inputs = _concatenate(inputs, inputs_dot)
    record = record._replace(states=None)
    bars = replay.cotangents(program, 0, active, static.n_scratch, record, inputs, results_bar)
    return bars._replace(y0=bars.y0[: len(bars.y0) // 2])


# -- doubling


def _doubled_program(static):
    """The doubled program, and the inputs it is differentiated by: all that were active, twice."""
    params, queries = static.active
    active = Active(params + (True,) * sum(params), tuple(q + (True,) * sum(q) for q in queries))
    return static.program.doubled(params, queries), active


def _doubled(static):
    program, active = _doubled_program(static)
    return static._replace(program=program, active=active)


def _concatenate(a, b):
    """Each tuple of leaves followed by its counterpart."""
    if isinstance(a, Inputs):
        return Inputs(a.y0 + b.y0, a.params + b.params, _zip_add(a.queries, b.queries))
    return Results(a.y1 + b.y1, _zip_add(a.outputs, b.outputs))


def _zip_add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _half(results, index):
    """One half of what a doubled program gives."""

    def half(leaves):
        n = len(leaves) // 2
        return leaves[index * n : (index + 1) * n]

    return Results(half(results.y1), tuple(map(half, results.outputs)))


# -- the primitives: operands are the leaves of (points, directions), the map is linear in the latter


def _bind(primitive, static, points, directions, out_tree):
    operands, in_tree = jax.tree.flatten((points, directions))
    n_linear = len(jax.tree.leaves(directions))
    out = primitive.bind(*operands, static=static, in_tree=in_tree, n_linear=n_linear)
    return jax.tree.unflatten(out_tree, out)


def _results_tree(inputs, static):
    n_leaves = tuple(len(shapes) for shapes in static.program.output_shapes)
    return jax.tree.structure(Results(inputs.y0, tuple((0,) * n for n in n_leaves)))


@partial(jax.jit, static_argnames=("run", "static", "in_tree"))
def _run_jitted(*operands, run, static, in_tree):
    return jax.tree.leaves(run(static, *jax.tree.unflatten(in_tree, operands)))


def _define(name, run, abstract_eval, jvp, transpose, batch):
    primitive = Primitive(name)
    primitive.multiple_results = True

    def run_flat(*operands, static, in_tree, n_linear):
        return jax.tree.leaves(run(static, *jax.tree.unflatten(in_tree, operands)))

    def impl(*operands, static, in_tree, n_linear):
        return _run_jitted(*operands, run=run, static=static, in_tree=in_tree)

    def abstract(*avals, static, in_tree, n_linear):
        shapes = jax.tree.leaves(abstract_eval(static, *jax.tree.unflatten(in_tree, avals)))
        return [_aval(s, avals) for s in shapes]

    def jvp_rule(primals, tangents, *, static, in_tree, n_linear):
        out = primitive.bind(*primals, static=static, in_tree=in_tree, n_linear=n_linear)
        zeros = [type(t) is ad.Zero for t in tangents]
        points, directions = jax.tree.unflatten(in_tree, primals)
        is_linear = all(zeros[: len(zeros) - n_linear])
        if is_linear:
            dots = [ad.instantiate_zeros(t) for t in tangents[len(zeros) - n_linear :]]
            operands = [*primals[: len(zeros) - n_linear], *dots]
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

    def batch_rule(operands, axes, *, static, in_tree, n_linear):
        pairs = [Mapped(x, axis) for x, axis in zip(operands, axes, strict=True)]
        size = next(p.value.shape[p.axis] for p in pairs if p.axis is not None)
        return batch(static, size, *jax.tree.unflatten(in_tree, pairs))

    primitive.def_impl(impl)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(run_flat, multiple_results=True))
    ad.primitive_jvps[primitive] = jvp_rule
    ad.primitive_transposes[primitive] = transpose_rule
    batching.primitive_batchers[primitive] = batch_rule
    return primitive


def _aval(shape, avals):
    """The abstract value of a result; under `shard_map` it varies as the operands do."""
    return jax.core.ShapedArray(shape.shape, shape.dtype)


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
    wanted, union = static.active, _union(static.active, points_dot[1])
    lift = _Lift(static, union, inputs_dot.y0[0])
    inputs_dot_dot = _instantiate(inputs_dot_dot)
    inputs_x_dot = lift.shared(_instantiate(select_inputs(points_dot[1], union)), (True,) * sum(union.params))
    inputs = lift.shared(inputs, union.params)
    inputs_dot, inputs_dot_dot = (
        _widen(lift.linear(dot), inputs, wanted, union) for dot in (inputs_dot, inputs_dot_dot)
    )
    out = tangent(
        _doubled(lift.static),
        lift.record(record),
        _concatenate(inputs, inputs_dot),
        _concatenate(inputs_x_dot, inputs_dot_dot),
    )
    return lift.back(_half(out, 1))


def _cotangent_jvp(static, points, results_bar, points_dot, results_bar_dot):
    record, inputs = points
    wanted, union = static.active, _union(static.active, points_dot[1])
    lift = _Lift(static, union, results_bar.y1[0])
    inputs_dot = _instantiate(select_inputs(points_dot[1], union))
    out = curvature(
        lift.static,
        lift.record(record),
        lift.shared(inputs, union.params),
        lift.linear(results_bar),
        lift.shared(inputs_dot, (True,) * sum(union.params)),
        lift.linear(_instantiate(results_bar_dot)),
    )
    return lift.back(_narrow(out, union, wanted))


def _curvature_jvp(static, points, directions, points_dot, directions_dot):
    wanted = static.active
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    inputs_dot_dot, results_bar_dot_dot = map(_instantiate, directions_dot)
    union = _union(wanted, points_dot[1])
    inputs_x_dot = _instantiate(select_inputs(points_dot[1], union))
    results_bar_x_dot = _instantiate(points_dot[2])
    inputs_dot = _widen(inputs_dot, inputs, wanted, union)
    inputs_dot_dot = _widen(inputs_dot_dot, inputs, wanted, union)
    static = _doubled(static._replace(active=union))
    out = curvature(
        static,
        record,
        _concatenate(inputs, inputs_dot),
        _concatenate(results_bar_dot, results_bar),
        _concatenate(inputs_x_dot, inputs_dot_dot),
        _concatenate(results_bar_dot_dot, results_bar_x_dot),
    )
    n_params = sum(union.params)
    n_queries = [sum(a) for a in union.queries]
    first = Inputs(
        out.y0[: len(inputs.y0)],
        out.params[:n_params],
        tuple(q[:n] for q, n in zip(out.queries, n_queries, strict=True)),
    )
    return _narrow(first, union, wanted)


def _union(active, inputs_dot):
    """Which inputs are active in `active` or have a tangent."""

    def flags(leaves_dot, was_active):
        return tuple(a or type(d) is not ad.Zero for d, a in zip(leaves_dot, was_active, strict=True))

    return Active(
        flags(inputs_dot.params, active.params), tuple(map(flags, inputs_dot.queries, active.queries))
    )


class _Lift:
    """Makes the directions of a linear map lanes, for its points to have tangents that differ in them."""

    def __init__(self, static, union, linear_leaf):
        self.sizes = linear_leaf.shape[: static.n_directions]
        axes = tuple(0 if a else None for a in union.params)
        program = static.program
        for size in reversed(self.sizes):
            program = program.in_lanes(size, axes)
        self.static = static._replace(program=program, active=union, n_directions=0)

    def linear(self, tree):
        """Directions as lanes: in rows, behind the row axis."""
        d = len(self.sizes)
        return self._map_rows(lambda x: jnp.moveaxis(x, d, 0), tree)

    def back(self, tree):
        """Lanes as directions again."""
        d = len(self.sizes)
        return self._map_rows(lambda x: jnp.moveaxis(x, 0, d), tree)

    def shared(self, inputs, is_lifted):
        """Inputs that are the same in all directions; `is_lifted` says which parameters become lanes."""
        params = tuple(
            self._spread(x, 0) if lifted else x for x, lifted in zip(inputs.params, is_lifted, strict=True)
        )
        queries = tuple(tuple(self._spread(x, 1) for x in q) for q in inputs.queries)
        return Inputs(tuple(self._spread(x, 0) for x in inputs.y0), params, queries)

    def record(self, record):
        d = len(self.sizes)
        return Record(
            record.n_steps,
            jnp.expand_dims(record.codes, tuple(range(1, 1 + d))),
            jnp.expand_dims(record.unit, tuple(range(d))),
            jnp.expand_dims(record.stops, tuple(range(1, 1 + d))),
            record.states if d == 0 else None,
            tuple(self._spread(x, 1) for x in record.output_step),
            tuple(self._spread(x, 0) for x in record.n_outputs),
            self._spread(record.has_failed, 0),
        )

    def _spread(self, x, position):
        x = jnp.expand_dims(x, tuple(range(position, position + len(self.sizes))))
        shape = (*x.shape[:position], *self.sizes, *x.shape[position + len(self.sizes) :])
        return jnp.broadcast_to(x, shape)

    @staticmethod
    def _map_rows(fn, tree):
        *others, rows = tree
        return type(tree)(*others, tuple(tuple(map(fn, leaves)) for leaves in rows))


def _instantiate(tree):
    return jax.tree.map(ad.instantiate_zeros, tree, is_leaf=lambda x: type(x) is ad.Zero)


def _widen(selected, inputs, active, union):
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


def _narrow(bars, union, wanted):
    """Active leaves of `union` as those of `wanted`."""

    def narrow(values, old, new):
        return select(values, select(new, old))

    queries = tuple(map(narrow, bars.queries, union.queries, wanted.queries))
    return Inputs(bars.y0, narrow(bars.params, union.params, wanted.params), queries)


# -- transposes


def _tangent_transpose(static, points, bars):
    results_bar = jax.tree.unflatten(_results_tree(points[1], static), bars)
    return cotangent(static, *points, results_bar)


def _cotangent_transpose(static, points, bars):
    tree = jax.tree.structure(select_inputs(points[1], static.active))
    return tangent(static, *points, jax.tree.unflatten(tree, bars))


def _curvature_transpose(static, points, bars):
    record, inputs, results_bar = points
    tree = jax.tree.structure(select_inputs(inputs, static.active))
    bars = jax.tree.unflatten(tree, bars)
    zeros = jax.tree.map(jnp.zeros_like, results_bar)
    inputs_bar = curvature(static, record, inputs, results_bar, bars, zeros)
    return inputs_bar, tangent(static, record, inputs, bars)


# -- batching: directions, if only linear operands are mapped, else lanes


class Mapped:
    """An operand with the axis it is mapped over, or None."""

    def __init__(self, value, axis):
        self.value, self.axis = value, axis

    def to(self, position, size):
        """The operand with its mapped axis at `position`, made if there is none."""
        if self.axis is None:
            value = jnp.expand_dims(self.value, position)
            return jnp.broadcast_to(value, (*value.shape[:position], size, *value.shape[position + 1 :]))
        return jnp.moveaxis(self.value, self.axis, position)

    def to_shared(self, position):
        """The operand with its mapped axis at `position`, of size 1 if there is none."""
        if self.axis is None:
            return jnp.expand_dims(self.value, position)
        return jnp.moveaxis(self.value, self.axis, position)

    def to_row(self):
        """A buffer of rows likewise, the axis after that of the rows."""
        return self.to_shared(1)


def _is_mapped(tree):
    return any(x.axis is not None for x in jax.tree.leaves(tree))


def record_in_lanes(record, size):
    """A record of `Mapped` buffers as the record of `size` lanes."""
    n_steps, states = record.n_steps.value, record.states
    if record.n_steps.axis is not None:
        n_steps, states = n_steps.max(), None  # the kept states of one lane are not those of another
    if states is not None and any(x.axis is None for x in states):
        states = None
    return Record(
        n_steps,
        record.codes.to_row(),
        record.unit.to_shared(0),
        record.stops.to_row(),
        None if states is None else tuple(x.to_row() for x in states),
        tuple(x.to(1, size) for x in record.output_step),
        tuple(x.to(0, size) for x in record.n_outputs),
        record.has_failed.to(0, size),
    )


def inputs_in_lanes(inputs, params_mapped, size, n_directions=0):
    """Inputs of `Mapped` leaves; a parameter gets a lane axis where `params_mapped` says so."""
    d = n_directions
    return Inputs(
        tuple(x.to(d, size) for x in inputs.y0),
        tuple(x.to(d, size) if m else x.value for x, m in zip(inputs.params, params_mapped, strict=True)),
        tuple(tuple(x.to(d + 1, size) for x in q) for q in inputs.queries),
    )


def _results_in_lanes(results, size, n_directions):
    d = n_directions
    return Results(
        tuple(x.to(d, size) for x in results.y1),
        tuple(tuple(x.to(d + 1, size) for x in o) for o in results.outputs),
    )


def _to_directions(tree, size):
    return jax.tree.map(lambda x: x.to(0, size), tree)


def _values(tree):
    return jax.tree.map(lambda x: x.value, tree)


def _in_lanes(static, size, params_mapped):
    axes = tuple(0 if m else None for m in params_mapped)
    return static._replace(program=static.program.in_lanes(size, axes))


def _batched(out, out_axes):
    return jax.tree.leaves(out), jax.tree.leaves(out_axes)


def _axes_of(tree, n_directions):
    """Where the lane axis of each result is."""
    d = n_directions
    if isinstance(tree, Inputs):
        first, second, rows = tree
        parts = Inputs, ((d,) * len(first), (d,) * len(second), tuple((d + 1,) * len(q) for q in rows))
    else:
        first, rows = tree
        parts = Results, ((d,) * len(first), tuple((d + 1,) * len(q) for q in rows))
    return parts[0](*parts[1])


def _mask(active, flags):
    """`flags` of the active leaves as flags of all."""
    values = iter(flags)
    return tuple(next(values) if a else False for a in active)


def _tangent_batch(static, size, points, inputs_dot):
    if not _is_mapped(points):
        static = static._replace(n_directions=static.n_directions + 1)
        out = tangent(static, *_values(points), _to_directions(inputs_dot, size))
        return _batched(out, jax.tree.map(lambda _: 0, out))
    record, inputs = points
    d = static.n_directions
    dots_mapped = tuple(x.axis is not None for x in inputs_dot.params)
    mapped = tuple(
        x.axis is not None or m
        for x, m in zip(inputs.params, _mask(static.active.params, dots_mapped), strict=True)
    )
    static = _in_lanes(static, size, mapped)
    inputs_dot = inputs_in_lanes(inputs_dot, select(mapped, static.active.params), size, d)
    out = tangent(static, record_in_lanes(record, size), inputs_in_lanes(inputs, mapped, size), inputs_dot)
    return _batched(out, _axes_of(out, d))


def _cotangent_batch(static, size, points, results_bar):
    if not _is_mapped(points):
        static = static._replace(n_directions=static.n_directions + 1)
        out = cotangent(static, *_values(points), _to_directions(results_bar, size))
        return _batched(out, jax.tree.map(lambda _: 0, out))
    record, inputs = points
    d = static.n_directions
    mapped = tuple(x.axis is not None or a for x, a in zip(inputs.params, static.active.params, strict=True))
    static = _in_lanes(static, size, mapped)
    results_bar = _results_in_lanes(results_bar, size, d)
    out = cotangent(static, record_in_lanes(record, size), inputs_in_lanes(inputs, mapped, size), results_bar)
    return _batched(out, _axes_of(out, d))


def _curvature_batch(static, size, points, directions):
    record, inputs, results_bar = points
    inputs_dot, results_bar_dot = directions
    active = static.active
    mapped = tuple(x.axis is not None or a for x, a in zip(inputs.params, active.params, strict=True))
    static = _in_lanes(static, size, mapped)
    out = curvature(
        static,
        record_in_lanes(record, size)._replace(states=None),
        inputs_in_lanes(inputs, mapped, size),
        _results_in_lanes(results_bar, size, 0),
        inputs_in_lanes(inputs_dot, (True,) * len(inputs_dot.params), size),
        _results_in_lanes(results_bar_dot, size, 0),
    )
    return _batched(out, _axes_of(out, 0))


_tangent_p = _define(
    "odejax_tangent", _run_tangent, _tangent_shapes, _tangent_jvp, _tangent_transpose, _tangent_batch
)
_cotangent_p = _define(
    "odejax_cotangent",
    _run_cotangent,
    _cotangent_shapes,
    _cotangent_jvp,
    _cotangent_transpose,
    _cotangent_batch,
)
_curvature_p = _define(
    "odejax_curvature",
    _run_curvature,
    _curvature_shapes,
    _curvature_jvp,
    _curvature_transpose,
    _curvature_batch,
)
