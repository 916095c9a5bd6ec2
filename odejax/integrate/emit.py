"""Outputs of a step, written into buffers as the loop goes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core.flow import run_if, settle
from odejax.core.turns import ALL_LANES
from odejax.derivative.program import dense_row, position
from odejax.stepping import explicit, weighted


class Emitted(NamedTuple):
    """The outputs of one kind so far, lane by lane."""

    count: jax.Array  # how many
    next: jax.Array | None  # the time of the next one, if they have times; infinity after the last one
    buffers: tuple[Any, ...]  # (rows, lanes, ...), see `Turns`; NaN where not yet given
    step: Any  # (rows, lanes): the recorded step of each


def emit(loop, kind, old, emitted, step, is_accepted, n):
    """The outputs of a step, where it was accepted."""
    output = loop.plan.outputs[kind]
    if output.is_timed:
        return _emit_timed(loop, kind, old, emitted, step, is_accepted, n)
    t = loop.t0 + loop.sign * step.s
    t1 = jnp.where(step.s1 == loop.length, loop.t1, t + step.h)
    if output.save is None:
        slopes = _with_extra(loop, old, step, t)
        columns = weighted.columns(loop.method, old.y, step.y1, step.unit, slopes)
        values = dense_row(t, t1, old.y, step.y1, columns)
    else:
        values = (t1, *output.save((t1,), loop.params, step.y1, ()))

    def write(lanes, mask, emitted):
        return _written(lanes, mask, emitted, lanes.take(emitted.count), lanes.take(values), None, n)

    return loop.turns.once(is_accepted & (emitted.count < output.count), write, emitted)


def needs_extra(loop, old, outputs):
    """Lane by lane: were extra stages evaluated in this step?"""
    if not loop.method.n_extra:
        return 0
    used = jnp.zeros(loop.t0.shape, bool)
    for output, before, after in zip(loop.plan.outputs, old.outputs, outputs, strict=True):
        if output.is_timed or output.save is None:
            used |= after.count > before.count
    return used.astype(jnp.int32)


def _emit_timed(loop, kind, old, emitted, step, is_accepted, n):
    output, (times, *query), turns = loop.plan.outputs[kind], loop.wanted[kind], loop.turns
    t = loop.t0 + loop.sign * step.s

    def is_due(lanes, emitted):
        return lanes.take(is_accepted) & (lanes.take(emitted.next) <= lanes.take(step.s1))

    def emit_all(emitted):
        slopes, dear = _with_extra(loop, old, step, t), None
        if turns.are_taken:
            dear = settle(weighted.dear_columns(loop.method, step.unit, slopes))

        def emit_one(lanes, mask, emitted):
            count, time = settle(lanes.take((emitted.count, emitted.next)))
            sign, s, h, y, y1, of_columns = lanes.take(
                (loop.sign, step.s, step.h, old.y, step.y1, (step.unit, slopes, dear))
            )
            theta = loop.settle_slope(position(sign * (time - s), h))
            y = weighted.interpolate(y, y1, weighted.columns(loop.method, y, y1, *of_columns), theta)
            values = output.save(
                lanes.read(query, count), loop.plan.program.params_of(lanes, loop.params), y, ()
            )
            (later,) = lanes.read((times,), count + 1)
            later = jnp.where(count + 1 < output.count, later, jnp.inf)
            return _written(lanes, mask, emitted, count, values, jnp.where(mask, later, time), n)

        return turns.repeat(is_due, emit_one, emitted)

    if not (loop.method.n_extra or turns.are_taken):
        return emit_all(emitted)
    return run_if(turns.any(is_due(ALL_LANES, emitted)), emit_all, emitted)


def _with_extra(loop, old, step, t):
    """All slopes of the step."""

    def slope(c, y):
        return loop.field(t + c * step.h, y)

    return explicit.extra_stages(loop.method, slope, old.y, step.h, step.slopes)


def _written(lanes, mask, emitted, count, values, later, n):
    """The outputs so far, and `values` in the lanes of the mask."""
    buffers = emitted.buffers
    if emitted.step is not None:
        n = jnp.broadcast_to(n, count.shape).astype(jnp.int32)
        buffers, values = (*buffers, emitted.step), (*values, n)
    buffers, step = lanes.write(buffers, values, count, mask), None
    if emitted.step is not None:
        *buffers, step = buffers
    if later is not None:
        later = lanes.put(emitted.next, later)
    return Emitted(lanes.put(emitted.count, count + mask), later, tuple(buffers), step)
