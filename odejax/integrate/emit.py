"""Outputs of a step, written into buffers as the loop goes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odejax.core import rows
from odejax.core.flow import run_if, while_loop
from odejax.derivative.program import dense_row, position
from odejax.stepping import explicit, weighted


class Emitted(NamedTuple):
    """The outputs of one kind so far, lane by lane."""

    count: jax.Array  # how many
    next: jax.Array | None  # the time of the next one, if they have times; infinity after the last one
    buffers: tuple[Any, ...]  # (rows, lanes, ...), NaN where not yet given
    step: Any  # (rows, lanes): the recorded step of each


def init(plan, kind, times, is_recorded):
    """No outputs yet."""
    lanes, n_rows = plan.lanes, plan.outputs[kind].count
    buffers = tuple(
        jnp.full((n_rows, *lanes, *x.shape), jnp.nan, x.dtype) for x in plan.program.output_shapes[kind]
    )
    step = jnp.zeros((n_rows, *lanes), jnp.int32) if is_recorded else None
    return Emitted(jnp.zeros(lanes, jnp.int32), None if times is None else times[0], buffers, step)


def emit(loop, kind, old, emitted, step, is_accepted, n):
    """The outputs of a step, where it was accepted."""
    output = loop.plan.outputs[kind]
    if output.is_timed:
        return _emit_timed(loop, kind, old, emitted, step, is_accepted, n)
    mask = is_accepted & (emitted.count < output.count)
    t = loop.t0 + loop.sign * step.s
    t1 = jnp.where(step.s1 == loop.length, loop.t1, t + step.h)
    if output.save is None:
        slopes = _with_extra(loop, old, step, t)
        columns = weighted.polynomial(loop.method, old.y, step.unit, slopes)
        values = dense_row(t, t1, old.y, columns)
    else:
        values = (t1, *output.save((t1,), loop.params, step.y1, ()))
    return _write(emitted, values, None, mask, n)


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
    output, times, query = loop.plan.outputs[kind], loop.times[kind], loop.queries[kind][0]
    t = loop.t0 + loop.sign * step.s

    def is_due(emitted):
        return is_accepted & (emitted.next <= step.s1)

    def emit_all(emitted):
        slopes = _with_extra(loop, old, step, t)

        def emit_one(emitted):
            theta = loop.settle_slope(position(loop.sign * (emitted.next - step.s), step.h))
            y = weighted.interpolate(loop.method, old.y, step.y1, step.unit, slopes, theta, loop.settle_slope)
            values = output.save((rows.read_each(query, emitted.count),), loop.params, y, ())
            mask, after = is_due(emitted), emitted.count + 1
            later = jnp.where(after < output.count, rows.read_each(times, after), jnp.inf)
            return _write(emitted, values, jnp.where(mask, later, emitted.next), mask, n)

        return while_loop(lambda e: is_due(e).any(), emit_one, emitted)

    if loop.method.n_extra:
        return run_if(is_due(emitted).any(), emit_all, emitted)
    return emit_all(emitted)


def _with_extra(loop, old, step, t):
    def slope(c, y):
        return loop.field(t + c * step.h, y)

    return explicit.extra_stages(loop.method, slope, old.y, step.h, step.slopes)


def _write(emitted, values, later, mask, n):
    count, buffers, step = emitted.count, emitted.buffers, emitted.step
    if step is None:
        return Emitted(count + mask, later, rows.write_each(buffers, values, count, mask), None)
    n = jnp.broadcast_to(n, count.shape).astype(jnp.int32)
    *buffers, step = rows.write_each((*buffers, step), (*values, n), count, mask)
    return Emitted(count + mask, later, tuple(buffers), step)
