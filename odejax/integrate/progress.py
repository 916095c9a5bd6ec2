"""A progress bar for long solves: at most 100 unordered messages from the loop to the host."""

import importlib

UPDATES = 100  # at most


def callback(progress):
    """The function to tell the fraction done, or None."""
    if progress is False or progress is None:
        return None
    if progress is True:
        importlib.import_module("tqdm")  # fails here, not in the loop
        return _show
    if not callable(progress):
        raise TypeError(f"`progress` must be True, False or a function of the fraction done, got {progress!r}.")
    return progress


_bars = {}


def _show(fraction):
    from tqdm.auto import tqdm

    bar = _bars.get("solve")
    if bar is None:
        bar = _bars["solve"] = tqdm(total=UPDATES, desc="odejax", unit="%")
    bar.update(max(0, round(UPDATES * float(fraction)) - bar.n))
    if fraction >= 1.0:
        _bars.pop("solve").close()
