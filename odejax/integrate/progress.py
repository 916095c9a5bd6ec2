"""A progress bar for long solves: at most 100 unordered messages from the loop to the host."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

UPDATES = 100  # at most


def callback(progress):
    """The function to tell the fraction done, or None."""
    if progress is False or progress is None:
        return None
    if progress is True:
        importlib.import_module("tqdm")  # fails here, not in the loop
        return _show
    if not callable(progress):
        raise TypeError(
            f"`progress` must be True, False or a function of the fraction done, got {progress!r}."
        )
    return progress


def init(on_progress, like):
    """Nothing told yet."""
    return None if on_progress is None else jnp.zeros_like(like.min(), jnp.int32)


def tell(on_progress, told, s, length, share):
    """Tells the host how far the slowest lane is, if that is a percent more than it knows.

    These lanes are a block; `share` says how many blocks were done before, of how many.
    """
    if on_progress is None:
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
    """One bar for all solves that run at a time: they are not told apart."""
    from tqdm.auto import tqdm

    if "solve" not in _bars:
        _bars["solve"] = tqdm(total=UPDATES, desc="odejax", unit="%")
    bar = _bars["solve"]
    bar.update(max(0, round(UPDATES * fraction) - bar.n))
    if fraction >= 1.0:
        _bars.pop("solve").close()
