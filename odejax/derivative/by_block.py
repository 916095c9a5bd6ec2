"""Recorded solves walked block by block: what of the record, the inputs and the results a block has."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import blocks, rows
from odejax.core.blocks import Grid
from odejax.core.rows import Rows, Window
from odejax.derivative.lanes import axes_of, map_rows
from odejax.derivative.record import Inputs


class Steps(NamedTuple):
    """The record as a block reads it. See `Record`."""

    n_steps: jax.Array  # (): rows in use
    is_own: jax.Array  # (lanes,): the steps of other lanes are not walked
    codes: Rows
    unit: jax.Array
    stops: jax.Array
    states: tuple[Rows, ...] | None
    are_states_aligned: jax.Array  # (): were the states of all lanes kept by one solve?
    output_step: tuple[jax.Array, ...]
    n_outputs: tuple[jax.Array, ...]
    has_failed: jax.Array


class Block(NamedTuple):
    """One block of a recorded solve."""

    program: Any
    steps: Steps
    inputs: Any


def walk(fn, static, record, inputs, directions, init, in_blocks, combine):
    """`fn(block, directions)` of all lanes, or of one block after another.

    Its results are put into `init()`, or added to it, as `combine`, a method of `Grid`, does.
    """
    program = static.program.on_cpu(in_blocks)
    grid = Grid.of(program.lanes, program.most_lanes, static.is_recorded)
    turns, n_directions = program.turns(), static.n_directions
    inputs = map_rows(turns.lanes_first, inputs)
    directions = map_rows(partial(turns.lanes_first, before=n_directions), directions)
    record = record._replace(output_step=tuple(map(turns.lanes_first, record.output_step)))
    if grid.is_one or not in_blocks:
        steps = _steps(record, record.codes, record.states, jnp.ones(program.lanes, bool))
        results = fn(Block(program, steps, inputs), directions)
    else:
        first = map_rows(partial(turns.lanes_first, before=n_directions), init())
        static = static._replace(program=program)
        results = _one_by_one(fn, static, grid, record, inputs, directions, first, combine)
    return map_rows(partial(turns.rows_first, before=n_directions), results)


def _one_by_one(fn, static, grid, record, inputs, directions, first, combine):
    """The results of one block after another."""
    program = static.program
    levels = tuple(range(len(program.lanes)))
    in_rows = tuple(level + (not program.takes_turns) for level in levels)
    input_axes = _axes_of(program, inputs)
    directions_axes, result_axes = (
        _axes_of(program, tree, static.active, static.n_directions) for tree in (directions, first)
    )

    def one(place, total):
        def take(x, axes):
            return grid.take(x, axes, place)

        def take_own(x, axes):
            if None in axes:
                return take(x, axes)
            shape = (1,) * axes[0] + grid.block + (1,) * (x.ndim - axes[-1] - 1)
            return jnp.where(place.is_own.reshape(shape), take(x, axes), 0)

        part = record._replace(
            n_steps=grid.at(record.n_steps, levels, place),
            unit=take(record.unit, levels),
            stops=take(record.stops, tuple(level + 1 for level in levels)),
            output_step=tuple(take(x, in_rows) for x in record.output_step),
            n_outputs=tuple(take(x, levels) for x in record.n_outputs),
            has_failed=take(record.has_failed, levels),
        )
        codes, *states = (Window(x, place.start, grid.block) for x in (record.codes, *(record.states or ())))
        steps = _steps(part, codes, tuple(states) or None, place.is_own)
        block = Block(program.of_block(grid), steps, blocks.tree_map(take, inputs, input_axes))
        out = fn(block, blocks.tree_map(take_own, directions, directions_axes))
        return blocks.tree_map(
            lambda x, axes, part: combine(grid, x, part, axes, place), total, result_axes, out
        )

    return grid.each(one, record.shift, first)


def _axes_of(program, tree, active=None, n_directions=0):
    """Where (active) `Inputs` or `Results`, in each direction, have their lanes; see `blocks.Axes`."""
    if isinstance(tree, Inputs):
        axes = program.axes_of(tree, active, n_directions)
    else:
        levels = range(len(program.lanes))
        axes = jax.tree.map(lambda axis: tuple(axis + level for level in levels), axes_of(tree, n_directions))
    return map_rows(lambda axis: axis - program.takes_turns, axes)


def _steps(record, codes, states, is_own):
    n_steps = jnp.where(is_own, record.n_steps, 0).max()
    is_aligned = jnp.where(is_own, record.n_steps == n_steps, True).all()
    return Steps(
        n_steps,
        is_own,
        codes,
        record.unit,
        record.stops,
        states,
        is_aligned,
        record.output_step,
        tuple(jnp.where(is_own, x, 0) for x in record.n_outputs),
        record.has_failed,
    )


def origin(steps):
    """The elapsed time at the start, of the shape all elapsed times have."""
    return jnp.zeros(
        jnp.broadcast_shapes(rows.read(steps.codes, 0).shape, steps.unit.shape), steps.unit.dtype
    )
