"""The recorded steps walked forwards, with tangents.

Linear arguments may carry leading axes of directions (`n_directions` of them) before all others: many
tangents or cotangents of the same solve share its states.
"""

from functools import partial

import jax.numpy as jnp

from odejax.core import leaves
from odejax.core.blocks import Grid
from odejax.core.flow import run_if, while_loop
from odejax.core.transform import jvp
from odejax.core.turns import ALL_LANES
from odejax.derivative.by_block import origin, walk
from odejax.derivative.lanes import record_for
from odejax.derivative.record import (
    Due,
    Results,
    over,
    row_of,
    while_due,
)


def tangents(static, record, inputs, inputs_dot, in_blocks):
    """The derivative of the results in the direction `inputs_dot` (of active inputs)."""
    program, n_directions, active, *_ = static
    record = record_for(static, record)
    directions = inputs_dot.y0[0].shape[:n_directions]

    def empty():
        kinds = range(len(program.outputs))
        return Results(inputs_dot.y0, tuple(_nan_outputs(program, k, record, directions) for k in kinds))

    fn = partial(_tangents, n_directions, active)
    return walk(fn, static, record, inputs, inputs_dot, empty, in_blocks, Grid.put)


def _tangents(n_directions, active, block, inputs_dot):
    """The tangents of a block."""
    program, record, (y0, params, queries) = block
    turns = program.turns()
    over_directions = over(n_directions)

    def derivative(fn, row, points, points_dot, query=(), query_dot=(), query_active=(), lanes=ALL_LANES):
        """`fn(row, params, points, query)` differentiated in each direction."""
        axes = program.params_axes_of(active, n_directions)
        params_dot = tuple(map(lanes.at, inputs_dot.params, axes))

        def one(points_dot, params_dot, query_dot):
            primals = program.params_of(lanes, params), points, query
            dots = params_dot, points_dot, query_dot
            return jvp(fn, row, primals, dots, active.params, query_active)[1]

        return over_directions(one, points_dot, params_dot, query_dot)

    def give(kind, n, row, states, states_dot, output):
        """The outputs of one kind that belong to step n."""

        def all_of_step(output):
            points, points_dot = states[:2], states_dot[:2]
            if program.uses_columns[kind]:
                points = (*points, *program.columns(row, params, states))
                points_dot = (*points_dot, *derivative(program.columns, row, states, states_dot))

            def one(lanes, mask, count, buffers):
                query = lanes.read(queries[kind], count)
                query_dot = over_directions(lambda q: lanes.read(q, count), inputs_dot.queries[kind])
                fn = partial(program.output, kind)
                of_lanes = lanes.take(points), lanes.take(points_dot, n_directions)
                out = derivative(
                    fn, lanes.take(row), *of_lanes, query, query_dot, active.queries[kind], lanes
                )
                return over_directions(lambda b, o: lanes.write(b, o, count, mask), buffers, out)

            return while_due(record, kind, n, output, one, 1, turns)

        return run_if(turns.any(output[0].step == n), all_of_step, output)

    def step(carry):
        n, s, y, y_dot, outputs = carry
        row, is_taken = row_of(record, n, s)

        y1, slopes = program.advance(row, params, y)
        y1_dot, slopes_dot = derivative(program.advance, row, y, y_dot)
        states, states_dot = (y, y1, slopes), (y_dot, y1_dot, slopes_dot)
        outputs = tuple(give(kind, n, row, states, states_dot, output) for kind, output in enumerate(outputs))
        y_dot = over_directions(lambda a, b: leaves.where(is_taken, a, b), y1_dot, y_dot)
        return n + 1, row[1], leaves.where(is_taken, y1, y), y_dot, outputs

    directions, none = inputs_dot.y0[0].shape[:n_directions], jnp.zeros(program.lanes, jnp.int32)
    outputs = tuple(
        (Due.of(record, kind, none, turns), _nan_outputs(program, kind, record, directions))
        for kind in range(len(program.outputs))
    )
    start = jnp.int32(0), origin(record), y0, inputs_dot.y0, outputs
    *_, y1_dot, outputs = while_loop(lambda c: c[0] < record.n_steps, step, start)
    nan_if_failed = jnp.where(record.has_failed, jnp.nan, 0.0)
    y1_dot = tuple(_plus_per_lane(leaf, nan_if_failed, n_directions) for leaf in y1_dot)
    return Results(y1_dot, tuple(buffers for _, buffers in outputs))


def _nan_outputs(program, kind, record, directions):
    """A buffer for each leaf of one kind of output, without a number in it."""
    turns, d = program.turns(), len(directions)
    n_rows = record.output_step[kind].shape[turns.row_axis]
    return tuple(
        turns.lanes_first(jnp.full((*directions, n_rows, *program.lanes, *x.shape), jnp.nan, x.dtype), d)
        for x in program.output_shapes[kind]
    )


def _plus_per_lane(leaf, value, n_directions):
    """Adds a value per lane to a leaf with leading directions."""
    shape = value.shape + (1,) * (leaf.ndim - n_directions - value.ndim)
    return leaf + value.reshape(shape).astype(leaf.dtype)
