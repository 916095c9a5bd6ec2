"""The recorded steps walked backwards, with cotangents, from the states that were kept."""

from functools import partial

import jax
import jax.numpy as jnp

from odejax.core import leaves, rows
from odejax.core.blocks import Grid
from odejax.core.flow import choose, run_if, settle, while_loop
from odejax.core.transform import select, vjp
from odejax.derivative import schedule
from odejax.derivative.by_block import origin, walk
from odejax.derivative.lanes import record_for
from odejax.derivative.record import (
    Due,
    Inputs,
    over,
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
    dues = [Due.of(record, kind, count, step.turns) for kind, count in enumerate(counts)]
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
        self.n_directions, self.over_directions = n_directions, over(n_directions)
        self.turns = program.turns()

    def __call__(self, n, s, y, y1_bar, params_bar, outputs):
        row, is_taken = row_of(self.record, n, s)
        program, zero = self.program, leaves.zeros_like(y1_bar)
        y1, slopes, pull = program.scheme.linearize(row, self.params, y, self.active.params, program.lanes)
        idle_bar, taken_bar = (
            self.over_directions(partial(_only_where, mask), y1_bar) for mask in (~is_taken, is_taken)
        )
        states_bar = idle_bar, taken_bar, [zero] * len(slopes)
        new = []
        for kind, output in enumerate(outputs):
            more, params_bar, output = self.pull_outputs(
                kind, n, row, (y, y1, slopes), zero, params_bar, output
            )
            states_bar = jax.tree.map(jnp.add, states_bar, more)
            new.append(output)
        y_bar, y1_bar, slopes_bar = states_bar
        p_bar, steps_bar = self.over_directions(pull, y1_bar, slopes_bar)
        return leaves.add(y_bar, steps_bar), leaves.add(params_bar, p_bar), tuple(new)

    def pull_outputs(self, kind, n, row, states, zero, params_bar, output):
        """What the outputs of one kind in step n pass back to (y, y1, slopes) and the parameters.

        The continuous extension is pulled back once, for all of them.
        """
        program, (y, y1, slopes) = self.program, states
        n_columns = len(program.method.NESTED) if program.uses_columns[kind] else 0
        is_any_due = self.turns.any(output[0].step == n)

        def linearized():
            return vjp(program.columns, row, (self.params, states, ()), self.active.params, ())

        def all_of_step(state):
            points = (y, y1, *(linearized()[0] if n_columns else ()))
            one = partial(self.pull_output, kind, row, points)
            return while_due(self.record, kind, n, state, one, -1, self.turns)

        due, queries_bar = output
        start = due, ((zero,) * (2 + n_columns), params_bar, queries_bar)
        due, (points_bar, params_bar, queries_bar) = run_if(is_any_due, all_of_step, start)
        y_bar, y1_bar, *columns_bar = points_bar
        states_bar = y_bar, y1_bar, [zero] * len(slopes)
        if n_columns:

            def pulled():
                return self.over_directions(linearized()[1], columns_bar)[:2]

            def nothing():
                return jax.tree.map(jnp.zeros_like, jax.eval_shape(pulled))

            p_bar, more = choose(is_any_due, pulled, nothing)
            states_bar, params_bar = jax.tree.map(jnp.add, states_bar, more), leaves.add(params_bar, p_bar)
        return states_bar, params_bar, (due, queries_bar)

    def pull_output(self, kind, row, points, lanes, mask, count, carry):
        """What one output of each of the lanes passes back to `points`, the parameters and its query."""
        points_bar, params_bar, queries_bar = carry
        program, d = self.program, self.n_directions
        query = lanes.read(self.queries[kind], count)
        primals = program.params_of(lanes, self.params), lanes.take(points), query
        fn = partial(program.output, kind)
        pull = vjp(fn, lanes.take(row), primals, self.active.params, self.active.queries[kind])[1]

        def one_direction(buffers):
            return pull(settle(_only_where(mask, lanes.read(buffers, count))))

        p_bar, x_bar, q_bar = self.over_directions(one_direction, self.outputs_bar[kind])
        queries_bar = self.over_directions(lambda b, q: lanes.write(b, q, count, mask), queries_bar, q_bar)
        x_bar = jax.tree.map(jnp.add, lanes.take(points_bar, d), x_bar)
        axes = program.params_axes_of(self.active, d)
        params_bar = tuple(
            lanes.put_at(x, lanes.at(x, a) + new, a)
            for x, new, a in zip(params_bar, p_bar, axes, strict=True)
        )
        return lanes.put(points_bar, x_bar, d), params_bar, queries_bar


def _only_where(mask, state):
    return leaves.where(mask, state, leaves.zeros_like(state))


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
