"""The recorded steps walked backwards, with cotangents, from the states that were kept."""

from functools import partial

import jax
import jax.numpy as jnp

from odejax.core import leaves, rows
from odejax.core.blocks import Grid
from odejax.core.flow import run_if, settle, while_loop
from odejax.core.transform import select, vjp
from odejax.derivative import schedule
from odejax.derivative.by_block import origin, walk
from odejax.derivative.lanes import record_for
from odejax.derivative.record import (
    Due,
    Inputs,
    over,
    queries_at,
    row_of,
    select_inputs,
    while_due,
)


def cotangents(static, record, inputs, results_bar, in_blocks):
    """The transpose of `tangents`: cotangents of the active inputs."""
    program, n_directions, active, n_scratch, _ = static
    record = record_for(static, record)
    poison, y1_bar = _poison(record, results_bar, n_directions)
    results_bar = results_bar._replace(y1=y1_bar)
    zeros = partial(_zeros, inputs, active, n_directions, y1_bar)
    fn = partial(_reverse, n_directions, active, n_scratch)
    bars = walk(fn, static, record, inputs, results_bar, zeros, in_blocks, Grid.add)
    return _poisoned(program, bars, active, poison, n_directions)


def _zeros(inputs, active, n_directions, y1_bar):
    """Cotangents of the active inputs, in each direction."""
    directions = y1_bar[0].shape[:n_directions]
    return jax.tree.map(lambda x: jnp.zeros((*directions, *x.shape), x.dtype), select_inputs(inputs, active))


def _reverse(n_directions, active, n_scratch, block, results_bar):
    """The cotangents of a block."""
    program, record, inputs = block
    states = record.states
    if states is None:
        first = tuple(_finite_if_failed(leaf, record.has_failed) for leaf in inputs.y0)
        capacity, states = 1, tuple(leaf[None] for leaf in (origin(record), *first))
    else:
        capacity = rows.count(states[0]) - 1
    stride = schedule.final_stride(record.n_steps, capacity)
    step = _BackwardStep(program, n_directions, active, record, inputs, results_bar)

    def reverse(carry):
        n, n_kept, kept_at, kept, y_bar, params_bar, outputs = carry
        (s, *y), n_kept, kept_at, kept = settle(
            _state_at(program, record, inputs.params, states, capacity, stride, n - 1, n_kept, kept_at, kept)
        )
        y_bar, params_bar, outputs = step(n - 1, s, tuple(y), y_bar, params_bar, outputs)
        top = jnp.maximum(n_kept - 1, 0)
        n_kept = n_kept - ((n_kept > 0) & (rows.read(kept_at, top) == n - 1))
        return n - 1, n_kept, kept_at, kept, y_bar, params_bar, outputs

    y1_bar = results_bar.y1
    zeros = _zeros(inputs, active, n_directions, y1_bar)
    counts = (count - 1 for count in record.n_outputs)
    dues = [Due.of(record, kind, count) for kind, count in enumerate(counts)]
    outputs = tuple(zip(dues, zeros.queries, strict=True))
    first = [rows.read(leaf, 0) for leaf in states]
    scratch = tuple(jnp.zeros((n_scratch, *leaf.shape), leaf.dtype) for leaf in first)
    start = record.n_steps, jnp.int32(0), jnp.zeros(n_scratch, jnp.int32), scratch, y1_bar
    end = while_loop(lambda c: c[0] > 0, reverse, (*start, zeros.params, outputs))
    *_, y0_bar, params_bar, outputs = end
    return Inputs(y0_bar, params_bar, tuple(q for _, q in outputs))


class _BackwardStep:
    """One step and its outputs, backwards.

    What the outputs of the step pass back to y, y1 and the slopes is in their cotangents before the step
    itself is pulled back.
    """

    def __init__(self, program, n_directions, active, record, inputs, results_bar):
        self.program, self.active, self.record = program, active, record
        self.params, self.queries, self.outputs_bar = inputs.params, inputs.queries, results_bar.outputs
        self.over_directions = over(n_directions)

    def __call__(self, n, s, y, y1_bar, params_bar, outputs):
        row, is_taken = row_of(self.record, n, s)
        program = self.program
        y1, slopes, pull = program.scheme.linearize(row, self.params, y, self.active.params, program.lanes)
        taken_bar = self.over_directions(
            lambda bar: leaves.where(is_taken, bar, leaves.zeros_like(bar)), y1_bar
        )
        idle_bar = tuple(a - b for a, b in zip(y1_bar, taken_bar, strict=True))
        zero = leaves.zeros_like(y1_bar)
        carry = (zero, taken_bar, [zero] * len(slopes)), params_bar
        new = []
        for kind, output in enumerate(outputs):
            carry, output = self.pull_outputs(kind, n, row, (y, y1, slopes), carry, output)
            new.append(output)
        (y_bar, y1_bar, slopes_bar), params_bar = carry
        p_bar, steps_bar = self.over_directions(pull, y1_bar, slopes_bar)
        y_bar = leaves.add(leaves.add(idle_bar, y_bar), steps_bar)
        return y_bar, leaves.add(params_bar, p_bar), tuple(new)

    def pull_outputs(self, kind, n, row, states, carry, output):
        """What the outputs of one kind in step n pass back to (y, y1, slopes) and the parameters."""
        program, active, query_active = self.program, self.active.params, self.active.queries[kind]

        def all_of_step(carry):
            (states_bar, params_bar), output = carry
            points, points_bar, slopes_bar, pull_more = states[:2], states_bar[:2], states_bar[2], None
            if program.uses_slopes[kind]:
                slopes, pull_more = vjp(program.more_slopes, row, (self.params, states, ()), active, ())
                points = (*points, *slopes)
                zero = leaves.zeros_like(states_bar[0])
                points_bar = (*points_bar, *slopes_bar, *[zero] * (len(slopes) - len(slopes_bar)))

            def one(count, mask, carry):
                points_bar, params_bar, queries_bar = carry
                query = queries_at(self.queries[kind], count)
                primals = self.params, points, query
                fn = partial(program.output, kind)
                pull = vjp(fn, row, primals, active, query_active)[1]

                def one_direction(buffers):
                    bar = tuple(rows.read_each(b, count) for b in buffers)
                    return pull(settle(leaves.where(mask, bar, leaves.zeros_like(bar))))

                p_bar, x_bar, q_bar = self.over_directions(one_direction, self.outputs_bar[kind])
                queries_bar = self.over_directions(
                    lambda b, q: rows.write_each(b, q, count, mask), queries_bar, q_bar
                )
                points_bar = jax.tree.map(jnp.add, points_bar, x_bar)
                return points_bar, leaves.add(params_bar, p_bar), queries_bar

            due, queries_bar = output
            due, (points_bar, params_bar, queries_bar) = while_due(
                self.record, kind, n, (due, (points_bar, params_bar, queries_bar)), one, -1
            )
            y_bar, y1_bar, *more_bar = points_bar
            if pull_more is not None:
                p_bar, (y_more, y1_more, slopes_bar), _ = self.over_directions(pull_more, more_bar)
                y_bar, y1_bar = leaves.add(y_bar, y_more), leaves.add(y1_bar, y1_more)
                params_bar = leaves.add(params_bar, p_bar)
            return ((y_bar, y1_bar, slopes_bar), params_bar), (due, queries_bar)

        return run_if((output[0].step == n).any(), all_of_step, (carry, output))


def _state_at(program, record, params, states, capacity, stride, n, n_kept, kept_at, kept):
    """(s, *y) at the start of step n, by advance from the last one kept; keeps more on the way."""
    top = jnp.maximum(n_kept - 1, 0)
    at, newest = schedule.last_kept(n, record.n_steps, stride, capacity), rows.read(kept_at, top)
    at = jnp.where(record.are_states_aligned, at, 0)  # there all lanes have theirs
    is_newer = (n_kept > 0) & (newest >= at)
    slot = schedule.slot(at, capacity)
    state = tuple(
        jnp.where(is_newer, rows.read(a, top), rows.read(b, slot)) for a, b in zip(kept, states, strict=True)
    )
    n_scratch = kept_at.shape[0]

    def advance(carry):
        at, (s, *y) = carry
        row, is_taken = row_of(record, at, s)
        y = tuple(y)
        return at + 1, (row[1], *leaves.where(is_taken, program.advance(row, params, y)[0], y))

    def advance_to_next(carry):
        at, state, n_kept, kept_at, kept = carry
        free = n_scratch - n_kept
        target = jnp.where(free > 0, at + schedule.split(n + 1 - at, jnp.maximum(free, 1)), n)
        at, state = while_loop(lambda c: c[0] < target, advance, (at, state))
        slot = jnp.minimum(n_kept, n_scratch - 1)  # at n a row is written and not counted
        is_room = free > 0
        kept = tuple(
            rows.write(b, jnp.where(is_room, leaf, rows.read(b, slot)), slot)
            for b, leaf in zip(kept, state, strict=True)
        )
        kept_at = rows.write(kept_at, jnp.where(is_room, at, rows.read(kept_at, slot)), slot)
        return at, state, n_kept + (is_room & (at < n)), kept_at, kept

    carry = jnp.where(is_newer, newest, at), state, n_kept, kept_at, kept
    _, state, n_kept, kept_at, kept = while_loop(lambda c: c[0] < n, advance_to_next, carry)
    return state, n_kept, kept_at, kept


def _finite_if_failed(leaf, has_failed):
    """A state with numbers for NaN in lanes that failed: their cotangents are zero, and 0 NaN is not."""
    return jnp.where(leaves.along(has_failed, leaf) & ~jnp.isfinite(leaf), 0, leaf)


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
