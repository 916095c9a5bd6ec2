"""The loop over attempted steps: one `while_loop`, every lane one attempt at a time.

Time is counted from t0 in the direction of integration, s = |t - t0|, so that it survives large offsets
and low precision; the step size is the difference of two such numbers, exactly.
"""

from functools import partial

import jax
import jax.numpy as jnp

from odejax.core import codes, leaves, rows
from odejax.core.flow import settle, settlers, while_loop
from odejax.core.status import Status
from odejax.derivative import schedule
from odejax.derivative.program import direction
from odejax.derivative.record import Record, next_stop
from odejax.integrate import emit, progress
from odejax.integrate.state import Carry, Solved, Stats, Step, Tape
from odejax.stepping import controller, error

LAST_STEP_STRETCH = 1.01  # a step this close to its end is stretched to it
SMALLEST_STRETCH = 1.01  # the smallest step, rounded as it is coded
CONSTANT_STEP_STRETCH = 1 + 1e-6  # the same for steps of given size: rounding only


class Loop:
    """The pieces of the loop's body, over what does not change in it."""

    def __init__(self, plan, inputs, numbers, share=(0, 1), turns=None):
        self.plan, self.numbers = plan, numbers
        self.turns = turns or plan.program.turns()  # for outputs
        self.share = share  # how many blocks of how many are done
        self.y0, self.params, self.queries = inputs
        self.t0, t1 = self.params[:2]
        self.t1, self.length = t1, jnp.abs(t1 - self.t0)
        self.sign = direction(self.t0, t1)
        self.times = tuple(self.sign * (q[0] - self.t0) if q else None for q in self.queries)
        self.wanted = tuple(
            tuple(map(self.turns.lanes_first, (times, *q))) if q else ()
            for times, q in zip(self.times, self.queries, strict=True)
        )
        self.unit = self.length if plan.is_adaptive else jnp.abs(numbers.controller.h)
        stops = [times for times in self.times if times is not None] if plan.stops_at_outputs else []
        self.stops = jnp.concatenate([*stops, self.length[None]])
        self.method = plan.program.method
        self.settle_stage, self.settle_slope = settlers(plan.lanes)

    def field(self, t, y):
        return self.plan.field((t,), self.params, y, ())

    def start(self, empty):
        """What the first attempt is left, with the buffers of an empty `Solved`."""
        lanes = self.t0.ndim
        self.k0 = self.field(self.t0, self.y0)
        is_finite = leaves.is_finite(self.k0, lanes) & leaves.is_finite(self.y0, lanes)
        y = leaves.where(is_finite, self.y0, leaves.zeros_like(self.y0))
        k = leaves.where(is_finite, self.k0, leaves.zeros_like(self.k0))
        begin = jnp.where(is_finite, self.numbers.begin, Status.NON_FINITE_START)
        for times in self.times:
            if times is not None:
                is_sorted = (times[1:] >= times[:-1]).all(axis=0)
                is_inside = (times[0] >= 0) & (times[-1] <= self.length)
                begin = jnp.where(is_sorted & is_inside, begin, Status.BAD_TIMES)
        begin = jnp.where(jnp.isfinite(self.length), begin, Status.BAD_TIMES)
        h, n_evals = self._first_step(y, k)
        zero = jnp.zeros_like(self.t0)
        count = jnp.zeros(self.t0.shape, jnp.int32)
        counts = (count, count, count + n_evals, count, count, count, count)
        stats = Stats(*counts, min_step=jnp.full_like(zero, jnp.inf), min_step_at=zero, stiffness=zero)
        steps, tape = [None] * len(self.times), None
        if empty.record is not None:
            steps = empty.record.output_step
            tape = Tape(jnp.int32(0), jnp.int32(1), empty.record.codes, empty.record.states)
        outputs = tuple(
            emit.Emitted(count, None if times is None else times[0], buffers, step)
            for times, buffers, step in zip(self.times, empty.outputs, steps, strict=True)
        )
        return Carry(
            zero,
            h,
            y,
            self.plan.attempt.init(self, k),
            controller.init(zero),
            begin.astype(jnp.int32),
            is_finite,
            stats,
            outputs,
            tape,
            progress.init(self.plan.on_progress, zero),
        )

    def _first_step(self, y, k):
        control = self.numbers.controller
        if not self.plan.is_adaptive:
            return jnp.abs(control.h) + jnp.zeros_like(self.t0), 1
        if self.plan.has_dt0:
            h, n_evals = jnp.abs(self.numbers.dt0), 1
        else:
            rtol, atol = self.numbers.rtol, self.numbers.atol
            h = error.first_step(self.method, self.field, self.t0, self.sign, self.length, y, k, rtol, atol)
            n_evals = 2
        h = jnp.maximum(jnp.minimum(h, control.max_step), self._smallest_step(jnp.zeros_like(h)))
        return h, n_evals

    def run(self, carry):
        """The loop itself."""
        return while_loop(lambda c: (c.status == Status.RUNNING).any(), self.body, carry)

    def body(self, old):
        # A single lane is running, else the loop would have ended.
        is_running = old.status == Status.RUNNING if self.plan.lanes else True
        step = self.step(old, is_running)
        is_accepted, h, memory, is_finite = settle(self.control(old, step))
        is_accepted &= is_running
        outputs = self.emit(old, step, is_accepted)
        tape = self.record(old, step, is_accepted)
        return self.select(old, step, is_running, is_accepted, h, memory, is_finite, outputs, tape)

    def step(self, old, is_running):
        s, (s1, code) = old.s, settle(self._end_of_step(old))
        h = leaves.select(is_running, self.sign * (s1 - s), jnp.zeros_like(s))
        return Step(s, s1, code, h, *self.plan.attempt(self, old.y, s, s1, h, old.kept))

    def _end_of_step(self, old):
        """Where the next step ends, and the code that says so."""
        end = next_stop(self.stops, old.s)
        stretch = LAST_STEP_STRETCH if self.plan.is_adaptive else CONSTANT_STEP_STRETCH
        is_end = old.s + stretch * old.h >= end
        if self.plan.is_adaptive:
            code = codes.encode(jnp.where(self.unit > 0, old.h / self.unit, 0.0))
        else:
            code = codes.encode(jnp.ones(end.shape))
        s1 = jnp.where(is_end, end, old.s + codes.decode(code, end.dtype) * self.unit)
        return s1, jnp.where(is_end, codes.INFINITE, code).astype(codes.CODE)

    def control(self, old, step):
        """(accept?, next size, memory, was the attempt finite?)"""
        if not self.plan.is_adaptive:
            is_finite = leaves.is_finite(step.y1, self.t0.ndim)
            is_accepted = is_finite if step.retry is None else is_finite & (step.retry == 0)
            return is_accepted, old.h, old.memory, is_finite
        numbers, method = self.numbers, self.method
        ratio = error.squared_ratio(old.y, step.y1, step.errors, step.h, numbers.rtol, numbers.atol)
        size = step.s1 - step.s
        if step.retry is not None:
            ratio = jnp.where(step.retry == 0, ratio, jnp.inf)
        is_accepted, h, memory = controller.control(
            numbers.controller, method.error_order + 1, ratio, size, old.memory
        )
        h = jnp.where(
            is_accepted & (step.code == codes.INFINITE), jnp.maximum(h, old.h), h
        )  # it was cut at a stop
        is_finite = jnp.isfinite(ratio)
        if step.retry is not None:
            h = jnp.where(step.retry == 0, h, step.retry * size)
            is_finite |= step.retry > 0
        return is_accepted, jnp.maximum(h, self._smallest_step(old.s)), memory, is_finite

    def _smallest_step(self, s):
        """The least that is tried: `min_step`, or what still advances time."""
        eps = jnp.finfo(s.dtype).eps
        return jnp.maximum(self.numbers.controller.min_step, jnp.maximum(4 * eps * s, eps**2 * self.length))

    def emit(self, old, step, is_accepted):
        n = old.tape.n if old.tape is not None else None
        return tuple(
            emit.emit(self, kind, old, emitted, step, is_accepted, n)
            for kind, emitted in enumerate(old.outputs)
        )

    def record(self, old, step, is_accepted):
        tape = old.tape
        if tape is None:
            return None
        capacity = rows.count(tape.states[0]) - 1
        stride = schedule.stride_after(tape.stride, tape.n, capacity)
        is_kept = (tape.n & (stride - 1)) == 0
        slot = jnp.where(is_kept, schedule.slot(tape.n, capacity), capacity)
        kept = old.s, *old.y
        states = tuple(rows.write(b, leaf, slot) for b, leaf in zip(tape.states, kept, strict=True))
        code = step.code if step.is_stiff is None else codes.join(step.code, step.is_stiff)
        code = jnp.where(is_accepted, code, codes.NONE).astype(codes.CODE)
        sizes = rows.write(tape.codes, code, tape.n)
        n = tape.n + is_accepted.any()
        return Tape(n, jnp.where(n > tape.n, stride, tape.stride), sizes, states)

    def select(self, old, step, is_running, is_accepted, h, memory, is_finite, outputs, tape):
        stats = self._count(old, step, is_running, is_accepted, outputs)
        s = jnp.where(is_accepted, step.s1, step.s)
        return Carry(
            s,
            leaves.select(is_running, h, old.h),
            *self._next_state(old, step, is_accepted),
            jax.tree.map(partial(leaves.select, is_running), memory, old.memory),
            self._next_status(old, step, s, is_accepted, is_finite, stats, outputs, tape),
            is_finite,
            stats,
            outputs,
            tape,
            progress.tell(self.plan.on_progress, old.percent_told, s, self.length, self.share),
        )

    def _next_state(self, old, step, is_accepted):
        if not self.plan.is_adaptive and not self.plan.lanes:
            return step.y1, step.if_accepted  # a step of given size is only refused when that ends the solve

        def choose(new, other):
            return jnp.where(leaves.along(is_accepted, new), new, other)

        kept = jax.tree.map(choose, step.if_accepted, step.if_rejected)
        return leaves.where(is_accepted, step.y1, old.y), kept

    def _count(self, old, step, is_running, is_accepted, outputs):
        stats, size = old.stats, step.s1 - step.s
        is_smallest = is_accepted & (size < stats.min_step) & (step.s1 < self.length)
        work = step.work
        f_evals = work.f_evals + self.method.n_extra * emit.needs_extra(self, old, outputs)
        return Stats(
            stats.num_accepted + is_accepted,
            stats.num_rejected + (~is_accepted & is_running),
            stats.num_f_evals + f_evals * is_running,
            stats.num_jac_evals + work.jac_evals * is_running,
            stats.num_factorizations + work.factorizations * is_running,
            stats.num_newton_iterations + work.newton_iterations * is_running,
            stats.num_stiff + (is_accepted & step.is_stiff if step.is_stiff is not None else 0),
            jnp.where(is_smallest, size, stats.min_step),
            jnp.where(is_smallest, self.t0 + self.sign * step.s, stats.min_step_at),
            stats.stiffness,
        )

    def _next_status(self, old, step, s, is_accepted, is_finite, stats, outputs, tape):
        if self.plan.is_adaptive:
            is_stuck = ~is_accepted & (step.s1 - step.s <= SMALLEST_STRETCH * self._smallest_step(old.s))
        else:
            is_stuck = ~is_accepted
        is_stuck |= (step.s1 <= step.s) & (self.length > 0)
        reason = jnp.where(is_finite, Status.STEP_UNDERFLOW, Status.NON_FINITE)
        if step.retry is not None:
            reason = jnp.where(step.retry > 0, Status.NO_CONVERGENCE, reason)
        new = jnp.where(is_stuck, reason, Status.RUNNING)
        n_attempts = stats.num_accepted + stats.num_rejected
        new = jnp.where(
            (new == Status.RUNNING) & (n_attempts >= self.numbers.max_steps), Status.MAX_STEPS, new
        )
        if tape is not None:
            is_full = (new == Status.RUNNING) & (tape.n >= rows.count(tape.codes))
            new = jnp.where(is_full, Status.RECORD_FULL, new)
        for output, emitted in zip(self.plan.outputs, outputs, strict=True):
            if output.save is None:
                is_full = (new == Status.RUNNING) & (emitted.count >= output.count)
                new = jnp.where(is_full, Status.DENSE_FULL, new)
        new = jnp.where(is_accepted & (s >= self.length), Status.SUCCESS, new)
        return jnp.where(old.status == Status.RUNNING, new, old.status).astype(jnp.int32)

    def finish(self, carry, n_steps, shift):
        has_failed = carry.status != Status.SUCCESS
        y1 = tuple(jnp.where(leaves.along(has_failed, leaf), jnp.nan, leaf) for leaf in carry.y)
        t1 = jnp.where(has_failed, self.t0 + self.sign * carry.s, self.t1)
        counts = tuple(e.count for e in carry.outputs)
        record = None
        if carry.tape is not None:
            steps = tuple(e.step for e in carry.outputs)
            tape = carry.tape
            unit = self.unit + 0 * self.t0
            record = Record(
                n_steps, shift, tape.codes, unit, self.stops, tape.states, steps, counts, has_failed
            )
        outputs = tuple(e.buffers for e in carry.outputs)
        has_begun = carry.status != Status.NON_FINITE_START
        y = leaves.where(has_begun, carry.y, self.y0)
        k = leaves.where(has_begun, self.plan.attempt.slope(self, carry), self.k0)
        stats = carry.stats._replace(stiffness=self.plan.attempt.stiffness(self, carry))
        return Solved(y1, outputs, t1, y, k, carry.status, stats, counts, record)
