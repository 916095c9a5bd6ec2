"""The static choices of one solve."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from odejax.core.transform import LaneFunction, Lanes
from odejax.derivative.program import JaxprFunction, Program
from odejax.integrate.attempt import Attempt


@dataclass(frozen=True)
class AtTime:
    """`f` at (t, parameters, state), for a row (t,)."""

    f: JaxprFunction

    def __call__(self, row, params, state, query):
        return self.f(row[0], params[2:], state)


@dataclass(frozen=True)
class Output:
    """One kind of output the loop emits."""

    count: int  # rows
    is_timed: bool  # at given times, or after every accepted step
    save: LaneFunction | None  # None: the step itself, for dense evaluation


class Capacity(NamedTuple):
    """Rows of the record of one solve."""

    states: int  # kept, a power of two
    steps: int  # whose sizes are recorded
    scratch: int  # states that the reverse pass may keep besides


# The record is written as the solve goes, but a buffer must be zeroed first. So the defaults keep that
# below the cost of some tens of steps. Of the pairs (rows, bytes) that one which allows most rows counts.
KEPT = ((2**14, 2**20), (2**11, 2**22), (2**9, 2**24), (2**5, 2**28))
KEPT_AT_LEAST = 8
SCRATCH_AT_MOST = 256
CODE_BYTES = 2  # of a recorded step
RECORDED = ((2**17, 2**20), (2**14, 2**24), (2**12, 2**30))
RECORDED_AT_LEAST = 2**10


def capacity(row_bytes, n_lanes, room):
    """How much room a record has; `room` is what the user wishes, as (states, steps), each may be None.

    Wishes are for each lane. By default many lanes share what one lane would have; lanes that are made of a
    solve when it is traced already, as `jax.vmap` of a jitted function does, have as much as one each.
    """
    states, steps = room
    if states is None:
        states = _rows(KEPT, row_bytes * n_lanes, KEPT_AT_LEAST)
    if steps is None:
        steps = _rows(RECORDED, CODE_BYTES * n_lanes, RECORDED_AT_LEAST)
    return Capacity(2 ** (states.bit_length() - 1), steps, min(states, SCRATCH_AT_MOST))


def _rows(choices, row_bytes, at_least):
    return max(at_least, *(min(most, size // row_bytes) for most, size in choices))


@dataclass(frozen=True)
class Plan:
    """What is compiled: everything about a solve but its numbers."""

    program: Program
    field: LaneFunction
    attempt: Attempt
    outputs: tuple[Output, ...]
    capacity: Capacity  # of the record of each lane
    is_adaptive: bool
    stops_at_outputs: bool  # step exactly to the times of timed outputs
    has_dt0: bool
    is_recorded: bool = False
    on_progress: Callable | None = None

    @property
    def lanes(self):
        return self.program.lanes

    @property
    def n_stops(self):
        """How many times steps end on exactly, the end of the span included."""
        counts = (o.count for o in self.outputs if o.is_timed)
        return 1 + (sum(counts) if self.stops_at_outputs else 0)

    def recorded(self):
        """The plan of a solve that leaves a record for its derivatives."""
        return replace(self, is_recorded=True)

    def in_lanes(self, size, params_axes):
        """The plan of `size` lanes."""

        def wrap(fn):
            return None if fn is None else Lanes(fn, params_axes)

        return replace(
            self,
            program=self.program.in_lanes(size, params_axes),
            field=wrap(self.field),
            attempt=self.attempt.in_lanes(params_axes),
            outputs=tuple(replace(o, save=wrap(o.save)) for o in self.outputs),
        )

    def of_block(self, grid):
        """The plan of one block of lanes."""
        return replace(self, program=self.program.of_block(grid))
