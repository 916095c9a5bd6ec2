"""The record of a solve, and how it is read step by step; the arguments and results of its program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import codes, rows
from odejax.core.flow import settle
from odejax.core.transform import select

Leaves = tuple[Any, ...]  # arrays; in rules for primitives also their shapes or axes


class Record(NamedTuple):
    """What a solve leaves for its derivatives; lane axes follow the row axes.

    A step is coded in two bytes, as its size in units of `unit`: step sizes are rounded to that when they
    are chosen. 0 is a step not taken, infinity one that ends on the next stop.
    """

    n_steps: jax.Array  # (lanes,): rows in use, the same for every lane of a block; at its position
    shift: jax.Array  # (lanes,): the lane at each position, less the position; see `blocks`
    codes: jax.Array  # (capacity, lanes), at positions
    unit: jax.Array  # (lanes,)
    stops: jax.Array  # (stops, lanes): times that steps end on exactly, the length of the span the last
    states: (
        tuple[jax.Array, ...] | None
    )  # kept (s, *y), by `schedule.slot`, at positions; None: only the first
    output_step: tuple[jax.Array, ...]  # (outputs, lanes): the step that gave each output
    n_outputs: tuple[jax.Array, ...]  # (lanes,): how many outputs were given
    has_failed: jax.Array  # (lanes,)


class Inputs(NamedTuple):
    """What the program is a function of."""

    y0: Leaves
    params: Leaves
    queries: tuple[Leaves, ...]  # for each kind of output; rows first, then lanes


class Results(NamedTuple):
    y1: Leaves
    outputs: tuple[Leaves, ...]


class Active(NamedTuple):
    """Which parameters and queries have a derivative."""

    params: tuple[bool, ...]
    queries: tuple[tuple[bool, ...], ...]


class Static(NamedTuple):
    """What does not change with the numbers."""

    program: Any  # a `Program`
    n_directions: int  # leading axes of linear operands that share one solve
    active: Active
    n_scratch: int  # states the reverse pass may keep besides the record's
    is_recorded: tuple[bool, ...]  # for each level of lanes: has the record an axis for it?

    @property
    def is_small(self):
        return self.program.is_one_block


def select_inputs(inputs, active):
    queries = tuple(select(q, a) for q, a in zip(inputs.queries, active.queries, strict=True))
    return Inputs(inputs.y0, select(inputs.params, active.params), queries)


def row_of(steps, n, s):
    """Step n as (s, s1, which of two methods), and lane by lane: was it taken?

    The first may have length 0, as the span.
    """
    code, which = codes.split(rows.read(steps.codes, n))
    size = codes.decode(code, s.dtype)
    s1 = jnp.where(jnp.isinf(size), next_stop(steps.stops, s), s + size * steps.unit)
    return settle(((s, s1, which.astype(s.dtype)), steps.is_own & ((size > 0) | (n == 0))))


def next_stop(stops, s):
    """The first of the increasing `stops` (rows) after s, lane by lane; the last one if there is none."""
    if stops.shape[0] == 1:
        return jnp.broadcast_to(stops[0], s.shape)
    return jnp.where(stops > s, stops, stops[-1]).min(axis=0)


def over(n_directions):
    """Applies a function in each direction."""

    def over_directions(fn, *args):
        if not jax.tree.leaves(args):
            return fn(*args)
        for _ in range(n_directions):
            fn = jax.vmap(fn)
        return fn(*args)

    return over_directions


class Due(NamedTuple):
    """The output that comes next, lane by lane."""

    count: jax.Array  # its number
    step: jax.Array  # the step that gave it; -1: there is none

    @classmethod
    def of(cls, record, kind, count, turns):
        """That of number `count`."""
        step = turns.read_all(record.output_step[kind], count)
        return cls(count, _if_given(step, count, record.n_outputs[kind]))

    def after(self, lanes, count, record, kind):
        """Number `count` is next for these lanes."""
        (step,) = lanes.read((record.output_step[kind],), count)
        step = _if_given(step, count, lanes.take(record.n_outputs[kind]))
        return Due(*lanes.put(tuple(self), (count, step)))


def _if_given(step, count, n_outputs):
    return jnp.where((count >= 0) & (count < n_outputs), step, -1)


def while_due(record, kind, n, state, one, increment, turns):
    """Lets `one(lanes, mask, count, carry)` treat the outputs of step n, in the order of `increment`.

    `state` is (due, carry).
    """

    def wants(lanes, state):
        return lanes.take(state[0].step) == n

    def treat(lanes, mask, state):
        due, carry = state
        count = settle(lanes.take(due.count))
        carry = one(lanes, mask, count, carry)
        return due.after(lanes, count + increment * mask, record, kind), carry

    return turns.repeat(wants, treat, state)
