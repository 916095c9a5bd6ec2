"""The static choices of one solve."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from odejax.core.transform import LaneFunction, Lanes
from odejax.derivative.program import JaxprFunction, Program


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


@dataclass(frozen=True)
class Capacity:
    """Rows of the record of one solve."""

    states: int  # kept, a power of two
    steps: int  # whose sizes are recorded
    scratch: int  # states that the reverse pass may keep besides


@dataclass(frozen=True)
class Plan:
    """What is compiled: everything about a solve but its numbers."""

    program: Program
    field: LaneFunction
    outputs: tuple[Output, ...]
    capacity: Capacity
    is_adaptive: bool
    stops_at_outputs: bool  # step exactly to the times of timed outputs
    has_dt0: bool
    is_recorded: bool = False
    on_progress: Callable | None = None

    @property
    def lanes(self):
        return self.program.lanes

    def recorded(self):
        """The plan of a solve that leaves a record for its derivatives."""
        return replace(self, is_recorded=True)

    def in_lanes(self, size, params_axes):
        """The plan of `size` lanes."""

        def wrap(fn):
            return None if fn is None else Lanes(fn, size, params_axes)

        return replace(
            self,
            program=self.program.in_lanes(size, params_axes),
            field=wrap(self.field),
            outputs=tuple(replace(o, save=wrap(o.save)) for o in self.outputs),
        )
