"""The recorded steps walked again: forwards with tangents, backwards with cotangents.

Linear arguments may carry leading axes of directions (`n_directions` of them) before all others: many
tangents or cotangents of the same solve share its states.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import leaves, rows
from odejax.core.transform import jvp, select, vjp
from odejax.derivative import schedule
from odejax.stepping import explicit

STACKING_RATIO = 16  # parameters for each number of state from which on stages are pulled back together


class Record(NamedTuple):
    """What a solve leaves for its derivatives; lane axes follow the row axes."""

    n_steps: jax.Array  # rows in use, the same for every lane
    s: jax.Array  # (capacity + 1, lanes): elapsed time at the start of each step
    states: tuple[jax.Array, ...] | None  # kept states, by `schedule.slot`; None: only the first
    output_step: tuple[jax.Array, ...]  # (outputs, lanes): the step that gave each output
    n_outputs: tuple[jax.Array, ...]  # (lanes,): how many outputs were given
    has_failed: jax.Array  # (lanes,)


class Inputs(NamedTuple):
    """What the program is a function of."""

    y0: tuple[jax.Array, ...]
    params: tuple[jax.Array, ...]
    queries: tuple[tuple[jax.Array, ...], ...]  # for each kind of output; rows first, then lanes


class Results(NamedTuple):
    y1: tuple[jax.Array, ...]
    outputs: tuple[tuple[jax.Array, ...], ...]


class Active(NamedTuple):
    """Which parameters and queries have a derivative."""

    params: tuple[bool, ...]
    queries: tuple[tuple[bool, ...], ...]


def select_inputs(inputs, active):
    queries = tuple(select(q, a) for q, a in zip(inputs.queries, active.queries, strict=True))
    return Inputs(inputs.y0, select(inputs.params, active.params), queries)


# -- forwards


def tangents(program, n_directions, active, record, inputs, inputs_dot):
    """The derivative of the results in the direction `inputs_dot` (of active inputs)."""
    y0, params, queries = inputs

    def over_directions(fn, *args):
        for _ in range(n_directions):
            fn = jax.vmap(fn)
        return fn(*args)

    def step(carry):
        n, y, y_dot, outputs = carry
        row = _row(record, n)

        def output(kind, count, buffers):
            query = _queries_at(queries[kind], count)

            def one(y_dot, params_dot, query_dot):
                primals, dots = (params, y, query), (params_dot, y_dot, query_dot)
                return jvp(program.outputs[kind], row, primals, dots, active.params, active.queries[kind])[1]

            mask = _is_due(record, kind, count, n)
            query_dot = over_directions(lambda q: _queries_at(q, count), inputs_dot.queries[kind])
            out = over_directions(one, y_dot, inputs_dot.params, query_dot)
            return tuple(
                over_directions(lambda b, o: rows.write_each(b, o, count, mask), b, o)
                for b, o in zip(buffers, out, strict=True)
            )

        outputs = tuple(
            _while_due(record, kind, n, state, lambda c, b, kind=kind: output(kind, c, b), 1)
            for kind, state in enumerate(outputs)
        )

        def advance(y_dot, params_dot):
            def fn(row, params, y, query):
                return _advance(program, row, params, y)

            return jvp(fn, row, (params, y, ()), (params_dot, y_dot, ()), active.params, ())[1]

        is_taken = _is_taken(row, n)
        y1_dot = over_directions(advance, y_dot, inputs_dot.params)
        y1_dot = over_directions(lambda a, b: leaves.where(is_taken, a, b), y1_dot, y_dot)
        y1 = leaves.where(is_taken, _advance(program, row, params, y), y)
        return n + 1, y1, y1_dot, outputs

    directions = inputs_dot.y0[0].shape[:n_directions]
    buffers = tuple(
        (jnp.zeros(program.lanes, jnp.int32), _nan_outputs(program, kind, record, directions))
        for kind in range(len(program.outputs))
    )
    start = jnp.int32(0), y0, inputs_dot.y0, buffers
    _, _, y1_dot, outputs = lax.while_loop(lambda c: c[0] < record.n_steps, step, start)
    nan_if_failed = jnp.where(record.has_failed, jnp.nan, 0.0)
    y1_dot = tuple(_plus_per_lane(leaf, nan_if_failed, n_directions) for leaf in y1_dot)
    return Results(y1_dot, tuple(buffers for _, buffers in outputs))


def _nan_outputs(program, kind, record, directions):
    """A buffer for each leaf of one kind of output, without a number in it."""
    n_rows = record.output_step[kind].shape[0]
    return tuple(
        jnp.full((*directions, n_rows, *program.lanes, *x.shape), jnp.nan, x.dtype)
        for x in program.output_shapes[kind]
    )


# -- backwards


def cotangents(program, n_directions, active, n_scratch, record, inputs, results_bar):
    """The transpose of `tangents`: cotangents of the active inputs."""
    y0, params, queries = inputs
    states = record.states
    if states is None:
        capacity, states = 1, tuple(leaf[None] for leaf in y0)
    else:
        capacity = states[0].shape[0] - 1
    stride = schedule.final_stride(record.n_steps, capacity)

    def over_directions(fn, *args):
        for _ in range(n_directions):
            fn = jax.vmap(fn)
        return fn(*args)

    def pull_outputs(n, y, y_bar, params_bar, outputs):
        """Adds what the outputs of step n pass back."""
        row = _row(record, n)
        new = []
        for kind, state in enumerate(outputs):

            def one(count, carry, kind=kind):
                y_bar, params_bar, queries_bar = carry
                mask = _is_due(record, kind, count, n)
                query = _queries_at(queries[kind], count)

                def pull(buffers):
                    bar = tuple(rows.read_each(b, count) for b in buffers)
                    bar = leaves.where(mask, bar, leaves.zeros_like(bar))
                    primals = params, y, query
                    return vjp(program.outputs[kind], row, primals, active.params, active.queries[kind])[1](
                        bar
                    )

                p_bar, x_bar, q_bar = over_directions(pull, results_bar.outputs[kind])
                queries_bar = tuple(
                    over_directions(lambda b, q: rows.write_each(b, q, count, mask), b, q)
                    for b, q in zip(queries_bar, q_bar, strict=True)
                )
                return leaves.add(y_bar, x_bar), leaves.add(params_bar, p_bar), queries_bar

            count, queries_bar = state
            count, (y_bar, params_bar, queries_bar) = _while_due(
                record, kind, n, (count, (y_bar, params_bar, queries_bar)), one, -1
            )
            new.append((count, queries_bar))
        return y_bar, params_bar, tuple(new)

    def pull_step(n, y, y_bar, params_bar):
        row = _row(record, n)
        is_taken = _is_taken(row, n)

        def pull(y1_bar):
            masked = leaves.where(is_taken, y1_bar, leaves.zeros_like(y1_bar))
            p_bar, x_bar = _pull_back(program, row, params, active.params, y, masked)
            return p_bar, leaves.add(y1_bar, x_bar)

        p_bar, y_bar = over_directions(pull, y_bar)
        return y_bar, leaves.add(params_bar, p_bar)

    def reverse(carry):
        n, n_kept, kept_at, kept, y_bar, params_bar, outputs = carry
        y, n_kept, kept_at, kept = _state_at(
            program, record, params, states, capacity, stride, n - 1, n_kept, kept_at, kept
        )
        new_bar, params_bar = pull_step(n - 1, y, y_bar, params_bar)
        new_bar, params_bar, outputs = pull_outputs(n - 1, y, new_bar, params_bar, outputs)
        n_kept = n_kept - ((n_kept > 0) & (kept_at[n_kept - 1] == n - 1))
        return n - 1, n_kept, kept_at, kept, new_bar, params_bar, outputs

    poison, y1_bar = _poison(record, results_bar, n_directions)
    zeros = jax.tree.map(
        lambda x: jnp.zeros((*y1_bar[0].shape[:n_directions], *x.shape), x.dtype),
        select_inputs(inputs, active),
    )
    outputs = tuple((count - 1, q) for count, q in zip(record.n_outputs, zeros.queries, strict=True))
    scratch = tuple(jnp.zeros((n_scratch, *leaf.shape), leaf.dtype) for leaf in y0)
    start = record.n_steps, jnp.int32(0), jnp.zeros(n_scratch, jnp.int32), scratch, y1_bar
    end = lax.while_loop(lambda c: c[0] > 0, reverse, (*start, zeros.params, outputs))
    *_, y0_bar, params_bar, outputs = end
    bars = Inputs(y0_bar, params_bar, tuple(q for _, q in outputs))
    return _poisoned(program, bars, active, poison, n_directions)


def _state_at(program, record, params, states, capacity, stride, n, n_kept, kept_at, kept):
    """The state at the start of step n, by advance from the last one kept; keeps more on the way."""
    at = schedule.last_kept(n, record.n_steps, stride, capacity)
    y = tuple(rows.read(leaf, schedule.slot(at, capacity)) for leaf in states)
    top = jnp.maximum(n_kept - 1, 0)
    is_newer = (n_kept > 0) & (kept_at[top] >= at)
    y = tuple(jnp.where(is_newer, rows.read(a, top), b) for a, b in zip(kept, y, strict=True))
    at = jnp.where(is_newer, kept_at[top], at)
    n_scratch = kept_at.shape[0]

    def advance(carry):
        at, y, target, n_kept, kept_at, kept = carry
        free = n_scratch - n_kept
        target = lax.cond(
            (at == target) & (free > 0), lambda: at + schedule.split(n + 1 - at, free), lambda: target
        )
        row = _row(record, at)
        y = leaves.where(_is_taken(row, at), _advance(program, row, params, y), y)
        at = at + 1
        is_kept = (at == target) & (at < n) & (free > 0)
        slot = jnp.minimum(n_kept, n_scratch - 1)
        kept = tuple(
            rows.write(b, jnp.where(is_kept, leaf, rows.read(b, slot)), slot)
            for b, leaf in zip(kept, y, strict=True)
        )
        kept_at = rows.write(kept_at, jnp.where(is_kept, at, kept_at[slot]), slot)
        return at, y, target, n_kept + is_kept, kept_at, kept

    carry = at, y, at, n_kept, kept_at, kept
    _, y, _, n_kept, kept_at, kept = lax.while_loop(lambda c: c[0] < n, advance, carry)
    return y, n_kept, kept_at, kept


def _pull_back(program, row, params, params_active, y, y1_bar):
    """Cotangents of (active parameters, change of the state) of one step.

    With Y_i = y + sum_j a_ij G_j, G_i = slope(Y_i) and y1 = y + sum_i b_i G_i, backwards:
    G_bar_i = b_i y1_bar + sum_j a_ji Y_bar_j and Y_bar_i = (dG/dY)^T G_bar_i. Many parameters are pulled
    back once over the stacked (Y_i, G_bar_i): many outer products become one matrix product.
    """
    method = program.method
    is_stacked = _is_stacked(params, params_active, y)
    pulled = (False,) * len(params_active) if is_stacked else params_active
    slopes, points, pulls = [], [], []
    for c, weights in zip(method.C, method.A, strict=True):
        points.append(leaves.combine(y, None, weights, slopes))
        stage = (*row, jnp.asarray(c, row[0].dtype))
        slope, pull = vjp(program.slope, stage, (params, points[-1], ()), pulled, ())
        slopes.append(slope)
        pulls.append(pull)

    n = len(points)
    zero = leaves.zeros_like(y)
    slopes_bar, points_bar, params_bar = [zero] * n, [zero] * n, ()
    for i in reversed(range(n)):
        column = [method.A[j][i] for j in range(i + 1, n)]
        weights, bars = [method.B[i], *column], [y1_bar, *points_bar[i + 1 :]]
        slopes_bar[i] = leaves.combine(zero, None, weights, bars)
        p_bar, points_bar[i], _ = pulls[i](slopes_bar[i])
        params_bar = leaves.add(params_bar, p_bar) if params_bar else p_bar
    y_bar = leaves.combine(zero, None, [1.0] * n, points_bar)
    if is_stacked:
        params_bar = _pull_back_params(program, row, params, params_active, points, slopes_bar)
    return params_bar, y_bar


def _pull_back_params(program, row, params, params_active, points, slopes_bar):
    """Cotangents of the active parameters over a stack of stages."""
    c = jnp.asarray(program.method.C, row[0].dtype)
    points, slopes_bar = (tuple(map(jnp.stack, zip(*x, strict=True))) for x in (points, slopes_bar))

    def stacked(row, params, points, query):
        return jax.vmap(lambda c, y: program.slope((*row, c), params, y, ()))(c, points)

    primals = params, points, ()
    return vjp(stacked, row, primals, params_active, ())[1](slopes_bar)[0]


def _is_stacked(params, params_active, y):
    n_params = sum(leaf.size for leaf in select(params, params_active))
    return n_params >= STACKING_RATIO * sum(leaf.size for leaf in y)


# -- what both share


def _row(record, n):
    return rows.read(record.s, n), rows.read(record.s, n + 1)


def _is_taken(row, n):
    """Lane by lane: was this step accepted? The first may have no length, if the span has none."""
    return (row[1] > row[0]) | (n == 0)


def _advance(program, row, params, y):
    def slope(c, y):
        return program.slope((*row, jnp.asarray(c, row[0].dtype)), params, y, ())

    return explicit.advance(program.method, slope, y, None, slope(0.0, y))[0]


def _queries_at(queries, count):
    return tuple(rows.read_each(q, count) for q in queries)


def _is_due(record, kind, count, n):
    """Lane by lane: does output `count` belong to step n?"""
    is_given = (count >= 0) & (count < record.n_outputs[kind])
    return is_given & (rows.read_each(record.output_step[kind], count) == n)


def _while_due(record, kind, n, state, one, increment):
    """Lets `one(count, carry)` treat the outputs of step n, lane by lane in the order of `increment`."""

    def body(state):
        count, carry = state
        is_due = _is_due(record, kind, count, n)
        return count + increment * is_due, one(count, carry)

    return lax.while_loop(lambda state: _is_due(record, kind, state[0], n).any(), body, state)


def _plus_per_lane(leaf, value, n_directions):
    """Adds a value per lane to a leaf with leading directions."""
    shape = value.shape + (1,) * (leaf.ndim - n_directions - value.ndim)
    return leaf + value.reshape(shape).astype(leaf.dtype)


def _poison(record, results_bar, n_directions):
    """NaN for each lane whose result is used where there is none, and the cotangent of y1 without it."""
    y1_bar, outputs_bar = results_bar
    lanes = record.has_failed.shape
    is_used = jnp.zeros(results_bar.y1[0].shape[:n_directions] + lanes, bool)
    for leaf in y1_bar:
        axes = tuple(range(n_directions + len(lanes), leaf.ndim))
        is_used |= (leaf != 0).any(axis=axes) & record.has_failed
    for buffers, n_given in zip(outputs_bar, record.n_outputs, strict=True):
        for buffer in buffers:
            axes = tuple(range(n_directions + 1 + len(lanes), buffer.ndim))
            index = jnp.arange(buffer.shape[n_directions]).reshape(-1, *(1,) * len(lanes))
            is_used |= ((buffer != 0).any(axis=axes) & (index >= n_given)).any(axis=n_directions)
    y1_bar = tuple(
        jnp.where(leaves.along(record.has_failed, leaf[(0,) * n_directions]), 0, leaf) for leaf in y1_bar
    )
    return jnp.where(is_used, jnp.nan, 0.0), y1_bar


def _poisoned(program, bars, active, poison, n_directions):
    """The cotangents with NaN in all that a poisoned lane depends on."""

    def spread(leaf, value, first_lane_axis):
        value = jnp.expand_dims(value.astype(leaf.dtype), tuple(range(n_directions, first_lane_axis)))
        return leaf + value.reshape(value.shape + (1,) * (leaf.ndim - value.ndim))

    def spread_param(leaf, axes):
        shared = tuple(n_directions + i for i, axis in enumerate(axes) if axis is None)
        return spread(leaf, poison.sum(axis=shared), n_directions)

    y0 = tuple(spread(leaf, poison, n_directions) for leaf in bars.y0)
    queries = jax.tree.map(lambda leaf: spread(leaf, poison, n_directions + 1), bars.queries)
    levels = [select(axes, active.params) for axes in program.params_axes]
    params_axes = zip(*levels, strict=True) if levels else [()] * len(bars.params)
    params = tuple(map(spread_param, bars.params, params_axes))
    return Inputs(y0, params, queries)
