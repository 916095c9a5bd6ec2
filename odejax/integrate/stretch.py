"""Outputs of many lanes, a stretch of steps at a time.

Each lane passes an output in a step of its own, so that nearly every step has outputs, each of a few lanes.
Written as they come they would be scatters, and cost several times what the steps do: on a CPU XLA makes one
function of a loop only if there is no scatter in it. So the states of a stretch of steps are logged, and the
outputs among them computed one by one, for all lanes together, each from its step made again.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import leaves, rows
from odejax.core.flow import while_loop
from odejax.integrate.attempt import Explicit, Replayed

MOST_STEPS, FEWEST_STEPS = 512, 32  # in a stretch
MOST_BYTES = 2**20  # of the log: it should stay in cache
FEWEST_OUTPUTS = 8  # fewer are written as they come


class Log(NamedTuple):
    """States where steps start, and after them that where the last step ends."""

    n: jax.Array  # steps, the same for every lane
    s: jax.Array  # (rows, lanes)
    y: tuple[jax.Array, ...]


def n_steps(plan, state):
    """Of a stretch, from states like `state`, time included; 0: outputs are written as they come."""
    n_lanes = math.prod(plan.lanes)
    n_outputs = sum(output.count for output in plan.outputs if output.is_timed)
    is_cheap = type(plan.attempt) in (Explicit, Replayed) and not plan.program.method.n_extra
    is_cheap &= all(x.ndim == len(plan.lanes) for x in state)  # else f may be a network
    if n_lanes <= 1 or n_outputs < FEWEST_OUTPUTS or not is_cheap or plan.stops_at_outputs:
        return 0
    n = min(MOST_STEPS, MOST_BYTES // sum(x.size * x.dtype.itemsize for x in state))
    return n if n >= FEWEST_STEPS else 0


def init(n, s, y):
    """An empty log."""
    return Log(jnp.int32(0), *jax.tree.map(lambda x: lax.empty((n + 1, *x.shape), x.dtype), (s, y)))


def write(log, s, y):
    """The log with a state in the row after its steps."""
    s, y = jax.tree.map(lambda buffer, x: rows.write(buffer, x, log.n), (log.s, log.y), (s, y))
    return log._replace(s=s, y=y)


def give(loop, carry, log):
    """The outputs of the stretch that ends with `carry`."""
    log = write(log, carry.s, carry.y)
    return tuple(
        _give(loop, kind, carry, emitted, log) if output.is_timed else emitted
        for kind, (output, emitted) in enumerate(zip(loop.plan.outputs, carry.outputs, strict=True))
    )


def _give(loop, kind, carry, emitted, log):
    times, queries = loop.times[kind], loop.queries[kind]
    # An output at t0 belongs to the first step that is accepted; one that has no length is the first.
    is_long = loop.length > 0
    times = jnp.where(is_long, jnp.maximum(times, jnp.finfo(times.dtype).tiny), 0)
    is_past = (times <= carry.s) & (is_long | (carry.stats.num_accepted > 0))
    end = is_past.sum(axis=0, dtype=jnp.int32)

    def one(state):
        i, row, buffers, steps = state
        row = _advance(log, row, rows.read(times, i))
        s, s1 = rows.read_each(log.s, row), rows.read_each(log.s, row + 1)
        y, y1 = (tuple(rows.read_each(x, at) for x in log.y) for at in (row, row + 1))
        query = tuple(rows.read(q, i) for q in queries)
        values = _output(loop, kind, (s, s1, jnp.zeros_like(s)), y, y1, query)
        is_new = (i >= emitted.count) & (i < end)

        def put(buffer, new):
            return rows.write(buffer, jnp.where(leaves.along(is_new, new), new, rows.read(buffer, i)), i)

        if steps is not None:
            steps = put(steps, carry.tape.n - log.n + row)
        return i + 1, row, tuple(map(put, buffers, values)), steps

    has_new = end > emitted.count
    first = jnp.where(has_new, emitted.count, times.shape[0]).min()
    last = jnp.where(has_new, end, 0).max()
    state = first, jnp.zeros_like(end), emitted.buffers, emitted.step
    _, _, buffers, steps = while_loop(lambda state: state[0] < last, one, state)
    return emitted._replace(count=jnp.maximum(emitted.count, end), buffers=buffers, step=steps)


def _advance(log, row, time):
    """Lane by lane the last of the steps from `row` on that starts before a time."""

    def is_later(row):
        return (row + 1 < log.n) & (rows.read_each(log.s, row + 1) < time)

    def one(state):
        row = state[0] + state[1]
        return row, is_later(row)

    return while_loop(lambda state: state[1].any(), one, (row, is_later(row)))[0]


def _output(loop, kind, row, y, y1, query):
    program, params = loop.plan.program, loop.params
    _, slopes = program.advance(row, params, y)
    slopes = program.more_slopes(row, params, y, y1, slopes)
    return program.output(kind, row, params, (y, y1, *slopes), query)
