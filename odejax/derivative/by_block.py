"""Recorded solves walked block by block: what of the record, the inputs and the results a block has."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import blocks, rows
from odejax.core.blocks import Grid
from odejax.core.rows import Rows, Window
from odejax.derivative.lanes import axes_of
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
    program = static.program
    grid = Grid.of(program.lanes, program.most_lanes, static.is_recorded)
    if grid.is_one or not in_blocks:
        steps = _steps(record, record.codes, record.states, jnp.ones(program.lanes, bool))
        return fn(Block(program, steps, inputs), directions)
    levels = tuple(range(len(program.lanes)))
    in_rows = tuple(level + 1 for level in levels)
    first = init()
    input_axes = program.axes_of(inputs)
    directions_axes, result_axes = _axes_of(static, directions), _axes_of(static, first)

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
            stops=take(record.stops, in_rows),
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


def _axes_of(static, tree):
    """Where active `Inputs` or `Results`, in each direction, have their lanes; see `blocks.Axes`."""
    if isinstance(tree, Inputs):
        return static.program.axes_of(tree, static.active, static.n_directions)
    levels = range(len(static.program.lanes))
    first = axes_of(tree, static.n_directions)
    return jax.tree.map(lambda axis: tuple(axis + level for level in levels), first)


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
