"""A progress bar for long solves: at most 100 unordered messages from the loop to the host."""

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

UPDATES = 100  # at most


def callback(progress):
    """The function to tell the fraction done, or None."""
    if progress is False or progress is None or isinstance(progress, LanesDone):
        return progress or None
    if progress is True:
        importlib.import_module("tqdm")  # fails here, not in the loop
        return _show
    if not callable(progress):
        raise TypeError(
            f"`progress` must be True, False or a function of the fraction done, got {progress!r}."
        )
    return progress


@dataclass(eq=False)
class LanesDone:
    """Counts the lanes of an ensemble that are done, on any device, up to `total`."""

    show: Callable[[int, int], Any]
    total: int
    done: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, count):
        with self.lock:
            self.done = min(self.done + int(count), self.total)
            self.show(self.done, self.total)


def lanes_done(progress, total):
    """A counter for `total` lanes, that tells what `progress` asks for; None if it asks for nothing."""
    show = callback(progress)
    if show is None:
        return None
    counter = _counter(show, total)
    counter.done = 0
    return counter


@lru_cache
def _counter(show, total):
    """One for each function and number: a new one would be compiled again."""
    if show is _show:
        return LanesDone(_show_lanes, total)
    return LanesDone(lambda done, total: show(done / total), total)


def count_lanes(on_progress, count):
    """Tells the host that so many lanes are done."""
    if isinstance(on_progress, LanesDone):
        jax.debug.callback(on_progress, count)


def init(on_progress, like):
    """The percent told so far, none; None if nothing is to be told."""
    if on_progress is None or isinstance(on_progress, LanesDone):
        return None
    return jnp.zeros_like(like.min(), jnp.int32)


def tell(on_progress, told, s, length, share):
    """Tells the host how far the slowest lane is, if that is a percent more than it knows.

    These lanes are a block; `share` says how many blocks were done before, of how many.
    """
    if told is None:
        return None
    fraction = jnp.where(length > 0, s / jnp.where(length > 0, length, 1.0), 1.0).min()
    fraction = (share[0] + fraction) / share[1]
    done = (UPDATES * fraction).astype(jnp.int32)

    def send():
        jax.debug.callback(_call, fraction, on_progress=on_progress)

    lax.cond(done > told, send, lambda: None)
    return jnp.maximum(done, told)


def _call(fraction, on_progress):
    on_progress(float(fraction))


_bars: dict[str, Any] = {}


def _show(fraction):
    _move("%", fraction, UPDATES)


def _show_lanes(done, total):
    _move("lane", done / total, total)


def _move(unit, fraction, total):
    """Moves a bar, one for all solves that run at a time: they are not told apart."""
    from tqdm.auto import tqdm

    if unit not in _bars:
        _bars[unit] = tqdm(total=total, desc="odejax", unit=unit)
    bar = _bars[unit]
    bar.update(max(0, round(total * fraction) - bar.n))
    if fraction >= 1.0:
        _bars.pop(unit).close()
