"""How a solve ended, as a number per lane."""

from enum import IntEnum


class Status(IntEnum):
    """How a solve ended. `Solution.status` holds these numbers."""

    SUCCESS = 0
    RUNNING = 1
    MAX_STEPS = 2
    STEP_UNDERFLOW = 3
    NON_FINITE_START = 4
    NON_FINITE = 5
    RECORD_FULL = 6
    DENSE_FULL = 7
    BAD_TIMES = 8
    NO_CONVERGENCE = 9
    INCONSISTENT_START = 10
    WRONG_JAC = 11
    BAD_NUMBERS = 12

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        return _SENTENCES[self][0]

    @property
    def advice(self) -> str:
        """What to try."""
        return _SENTENCES[self][1]


_SENTENCES = {
    Status.SUCCESS: ("the solve reached t1", ""),
    Status.RUNNING: ("the solve has not ended", ""),
    Status.MAX_STEPS: (
        "the solve used all of its `max_steps`",
        "raise `max_steps`, loosen `rtol` and `atol`, or, if the step size is tiny throughout, suspect a "
        "stiff problem",
    ),
    Status.STEP_UNDERFLOW: (
        "the step size became too small to go on",
        "the solution may blow up or jump there; check f near that time, or loosen `rtol` and `atol`",
    ),
    Status.NON_FINITE_START: (
        "f(t0, y0) or y0 is not finite",
        "check f, y0 and args for NaN, inf, a division by zero or the root or logarithm of a negative number",
    ),
    Status.NON_FINITE: (
        "the state or f became non-finite, however small the step",
        "the solution may blow up or leave the domain of f there",
    ),
    Status.RECORD_FULL: (
        "the record of step sizes that a derivative needs is full",
        "pass `checkpoints=odejax.Checkpoints(steps=...)` with more steps, or loosen `rtol` and `atol`",
    ),
    Status.DENSE_FULL: (
        "the record for dense output is full",
        "pass `dense=` a larger number of steps, or use `t_eval`",
    ),
    Status.NO_CONVERGENCE: (
        "the equations of an implicit step were not solved, however small the step",
        "check that f is smooth there, or use a Rosenbrock method, which needs no iteration",
    ),
    Status.INCONSISTENT_START: (
        "no state near y0 satisfies the algebraic equations of M y' = f with the same M y",
        "pass a y0 that is closer to one, and check that these equations determine what M leaves free "
        "(index 1): else differentiate one of them by hand",
    ),
    Status.WRONG_JAC: (
        "the Jacobian of f has entries outside of the band or pattern that `jac` says",
        "widen it; the state is counted leaf by leaf, each raveled, see `odejax.Banded`",
    ),
    Status.BAD_NUMBERS: (
        "`rtol`, `atol`, `dt0`, `max_steps` or a number of `controller` is out of bounds or NaN",
        "call it outside of `jit` with these numbers, which says what is wrong with which",
    ),
    Status.BAD_TIMES: (
        "`t_eval` is not sorted in the direction of integration, leaves `t_span`, or a time is not finite",
        "sort `t_eval` and keep it inside `t_span`",
    ),
}
