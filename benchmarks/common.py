"""What the benchmarks share: a header, alternating measurements, one table."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

SAMPLE = 2e-3  # seconds: calls shorter than this are timed several at once
SAMPLES = 5, 60  # of each function, at least and at most


class Timing(NamedTuple):
    """What a function costs, in seconds."""

    first: float  # trace, compile and run
    run: float  # median of the calls after that


class Row(NamedTuple):
    """One line of the table: a piece of work done by us and by a peer."""

    work: str
    ours: Timing
    theirs: Timing | str  # a sentence where the peer cannot
    target: float | None = None  # of the ratio of the run times


def header(question: str | None, *packages: str) -> None:
    """Prints what is asked, of what, and where."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("odejax", *packages, "jax"))
    device = jax.devices()[0]
    print(question)
    print(f"{versions}, Python {platform.python_version()}, x64 {jax.config.jax_enable_x64}")
    print(f"{device.platform} ({device.device_kind}), {_processor()}, {os.cpu_count()} cores\n")


def version(package: str) -> str:
    """The version installed; of a source tree, its own."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.import_module(package).__version__


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def first_call(fn: Callable, *args) -> float:
    """Seconds of one call to its end."""
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - start


def alternate(*fns: Callable, args: tuple = (), seconds: float = 1.5) -> list[Timing]:
    """Times functions of the same `args` in turns, so that a busy machine troubles all of them alike.

    `seconds` is the time given to each beyond its first call.
    """
    firsts = [first_call(fn, *args) for fn in fns]
    numbers = [max(1, round(SAMPLE / first_call(fn, *args))) for fn in fns]
    samples: list[list[float]] = [[] for _ in fns]
    least, most = SAMPLES
    end = time.perf_counter() + seconds * len(fns)
    while len(samples[0]) < least or (time.perf_counter() < end and len(samples[0]) < most):
        for fn, number, times in zip(fns, numbers, samples, strict=True):
            start = time.perf_counter()
            for _ in range(number):
                out = fn(*args)
            jax.block_until_ready(out)
            times.append((time.perf_counter() - start) / number)
    runs = map(statistics.median, samples)
    return [Timing(first, run) for first, run in zip(firsts, runs, strict=True)]


def compare(work: str, fns: Sequence[Callable], args: tuple, target: float | None = None) -> Row:
    """A row of two functions, ours first, which are compiled here."""
    ours, theirs = alternate(*map(jax.jit, fns), args=args)
    return Row(work, ours, theirs, target)


def print_rows(rows: Sequence[Row], names: tuple[str, str] = ("odejax", "diffrax")) -> None:
    """The table of two peers."""
    ours, theirs = names
    columns = ["work", f"{ours} first s", "run ms", f"{theirs} first s", "run ms"]
    columns += ["first ratio", "run ratio", "target"]
    print_table(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    cells = [row.work, f"{row.ours.first:.2f}", milliseconds(row.ours.run)]
    if isinstance(row.theirs, str):
        return [*cells, row.theirs, "", "", "", "works"]
    first, run = row.ours.first / row.theirs.first, row.ours.run / row.theirs.run
    target = "" if row.target is None else verdict(run, row.target)
    cells += [f"{row.theirs.first:.2f}", milliseconds(row.theirs.run)]
    return [*cells, f"{first:.2f}", f"{run:.3f}", target]


def milliseconds(seconds: float) -> str:
    """Three digits or more."""
    return f"{1e3 * seconds:#.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def verdict(value: float, most: float) -> str:
    """The target of a value that should be small, and a mark where it is missed."""
    return f"<= {most:g}" + ("" if value <= most else "  MISSED")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, the first to the left."""
    cells = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for index, row in enumerate(cells):
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        print(" | ".join((first, *others)), flush=True)
        if index == 0:
            print("-|-".join("-" * w for w in widths))


def relative_error(value, exact) -> float:
    """|value - exact| / |exact| over all leaves, in the 2-norm."""
    value, exact = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (value, exact))
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))
