"""A solve of all its lanes: at once, or one block after another."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp

from odejax.core import blocks
from odejax.core.blocks import Grid
from odejax.core.flow import as_one_function
from odejax.core.rows import Window
from odejax.core.status import Status
from odejax.derivative.record import Inputs
from odejax.integrate import progress
from odejax.integrate.loop import Loop
from odejax.integrate.state import Numbers, Solved, Tape


def integrate(plan, inputs: Inputs, numbers: Numbers, empty: Solved, in_blocks: bool) -> Solved:
    """Steps from t0 to t1; `in_blocks`: on a CPU, many lanes one block after another.

    `empty` has the buffers that are written to.
    """
    plan = replace(plan, program=plan.program.on_cpu(in_blocks))
    turns = plan.program.turns()

    def solved(empty):
        return _integrate(plan, inputs, numbers, empty, in_blocks)

    empty = _map_outputs(turns.lanes_first, empty)
    is_small = in_blocks and plan.program.is_one_block
    return _map_outputs(turns.rows_first, as_one_function(solved, empty) if is_small else solved(empty))


def _map_outputs(fn, solved):
    """With `fn` of what is in rows of outputs."""
    record = solved.record and solved.record._replace(output_step=tuple(map(fn, solved.record.output_step)))
    return solved._replace(outputs=jax.tree.map(fn, solved.outputs), record=record)


def _integrate(plan, inputs, numbers, empty, in_blocks):
    loop, grid = Loop(plan, inputs, numbers), Grid.of(plan.lanes, plan.program.most_lanes)
    carry = loop.start(empty)
    shift = jnp.zeros(plan.lanes, jnp.int32)
    if grid.is_one or not in_blocks:
        carry = loop.run(carry)
        progress.count_lanes(plan.on_progress, jnp.int32(max(1, math.prod(plan.lanes))))
        n_steps = None if carry.tape is None else carry.tape.n + shift
    else:
        if grid.sorted is not None and plan.is_adaptive:
            shift = blocks.shift_by(loop.length / carry.h)
        carry, n_steps = _in_blocks(plan, grid, inputs, numbers, shift, carry)
    return loop.finish(carry, n_steps, shift)


def _in_blocks(plan, grid, inputs, numbers, shift, start):
    """What the loops over all blocks leave, and the rows they recorded, at the position of each lane."""
    lanes, in_rows = tuple(range(len(grid.lanes))), tuple(range(1, 1 + len(grid.lanes)))
    start, tape, told = start._replace(tape=None, percent_told=None), start.tape, start.percent_told
    # Lanes that take turns write to the buffers themselves.
    in_buffers = (None,) * len(lanes) if plan.program.takes_turns else in_rows
    outputs = tuple(
        jax.tree.map(lambda _: in_buffers, e)._replace(count=lanes, next=e.next if e.next is None else lanes)
        for e in start.outputs
    )
    axes = jax.tree.map(lambda _: lanes, start)._replace(outputs=outputs)
    input_axes, number_axes = plan.program.axes_of(inputs), jax.tree.map(lambda _: lanes, numbers)
    n_blocks = math.prod(grid.counts)

    def one(place, state):
        n_done, carry, tape, told, n_steps = state

        def take(x, axes):
            return grid.take(x, axes, place)

        of_block = [blocks.tree_map(take, x, a) for x, a in ((inputs, input_axes), (numbers, number_axes))]
        of_one = plan.of_block(grid)
        loop = Loop(of_one, *of_block, share=(n_done, n_blocks), turns=of_one.program.turns(grid, place))
        begin = blocks.tree_map(
            lambda x, axes, now: take(x, axes) if _has_lanes(axes) else now, start, axes, carry
        )
        status = jnp.where(place.is_own, begin.status, Status.SUCCESS)
        window = None
        if tape is not None:
            sizes, *states = (Window(x, place.start, grid.block) for x in (tape.codes, *tape.states))
            window = Tape(jnp.int32(0), jnp.int32(1), sizes, tuple(states))
        end = loop.run(begin._replace(status=status, tape=window, percent_told=told))
        progress.count_lanes(plan.on_progress, place.is_own.sum())
        carry = blocks.tree_map(
            lambda x, axes, part: grid.put(x, part, axes, place) if _has_lanes(axes) else part,
            carry,
            axes,
            end._replace(tape=None, percent_told=None),
        )
        if tape is not None:
            states = tuple(w.buffer for w in end.tape.states)
            tape = tape._replace(codes=end.tape.codes.buffer, states=states)
            n_steps = grid.put_at(n_steps, jnp.broadcast_to(end.tape.n, grid.block), lanes, place)
        return n_done + 1, carry, tape, end.percent_told, n_steps

    n_steps = None if tape is None else jnp.zeros(grid.lanes, jnp.int32)
    state = jnp.int32(0), start, tape, told, n_steps
    _, carry, tape, told, n_steps = grid.each(one, shift, state)
    return carry._replace(tape=tape, percent_told=told), n_steps


def _has_lanes(axes):
    return any(axis is not None for axis in axes)
