"""What the loop carries, what it is given and what it gives."""

from typing import Any, NamedTuple

import jax

from odejax.core.rows import Rows
from odejax.derivative.record import Record
from odejax.integrate.emit import Emitted
from odejax.stepping.controller import ConstantStep, Memory, PIDController


class Numbers(NamedTuple):
    """The numbers of a solve that have no derivative, lane by lane."""

    rtol: tuple[jax.Array, ...]  # for each leaf of the state, broadcastable to it
    atol: tuple[jax.Array, ...]
    dt0: jax.Array
    begin: jax.Array  # a `Status`: RUNNING, or why the solve is not begun
    max_steps: jax.Array
    controller: PIDController | ConstantStep


class Stats(NamedTuple):
    """Counts, lane by lane."""

    num_accepted: jax.Array
    num_rejected: jax.Array
    num_f_evals: jax.Array
    num_jac_evals: jax.Array
    num_factorizations: jax.Array
    num_newton_iterations: jax.Array
    num_stiff: jax.Array  # accepted steps by the stiff one of two methods
    min_step: jax.Array  # size of the smallest accepted step, but for the one that ends on t1
    min_step_at: jax.Array  # the time it started from
    stiffness: jax.Array  # |h lambda| where an explicit solve ended, by its stability interval


class Solved(NamedTuple):
    """What the loop gives."""

    y1: tuple[jax.Array, ...]
    outputs: tuple[tuple[jax.Array, ...], ...]
    t1: jax.Array  # the time reached
    y_reached: tuple[jax.Array, ...]  # the last accepted state
    f_reached: tuple[jax.Array, ...]  # f at both
    status: jax.Array
    stats: Stats
    n_outputs: tuple[jax.Array, ...]
    record: Record | None


class Tape(NamedTuple):
    """The record while it grows."""

    n: jax.Array  # rows in use, the same for every lane
    stride: jax.Array  # of kept states
    codes: Rows
    states: tuple[Rows, ...]  # and one row more, for those not kept


class Work(NamedTuple):
    """What an attempt costs, lane by lane or for all."""

    f_evals: Any
    jac_evals: Any = 0
    factorizations: Any = 0
    newton_iterations: Any = 0


class Step(NamedTuple):
    """An attempted step."""

    s: jax.Array
    s1: jax.Array
    code: jax.Array  # of s1, see `Record`
    h: jax.Array  # signed
    y1: tuple[jax.Array, ...]
    slopes: list[tuple[jax.Array, ...]]
    unit: jax.Array | None  # what slopes must be multiplied by; None: they are
    errors: list[tuple[jax.Array, ...]]
    if_accepted: Any  # what the next attempt is handed, if this one is accepted
    if_rejected: Any
    work: Work
    retry: jax.Array | None = None  # by how much to change a step whose equations were not solved; else 0
    is_stiff: jax.Array | None = None  # of two methods, is it by the stiff one?


class Carry(NamedTuple):
    """What one attempt leaves to the next, lane by lane."""

    s: jax.Array
    h: jax.Array  # wanted size of the next step, unsigned
    y: tuple[jax.Array, ...]
    kept: Any  # what the last attempt hands to the next
    memory: Memory
    status: jax.Array
    was_finite: jax.Array  # was the last error estimate finite?
    stats: Stats
    outputs: tuple[Emitted, ...]
    tape: Tape | None
    percent_told: jax.Array | None  # how much of the solve has been reported
