"""Time against error of the state at t1, of all solvers at many tolerances; what `stiff.py` prints first."""

import functools
import time
from typing import NamedTuple

import numpy as np
import stiff_peers as peers
from common import alternate, first_call, milliseconds, print_table, verdict
from stiff_problems import error

RTOLS = tuple(10.0**-n for n in range(3, 11))
LEVELS = 1e-4, 1e-5, 1e-6, 1e-7, 1e-8  # of the error, at which times are compared
COMPARED = "diffrax", "diffrax Newton", "CVODES"
LONG = 0.3  # seconds: a call as long is timed once
SCIPY_RTOL = 1e-8  # at least
DENSE_RTOLS = 1e-3, 1e-5  # of diffrax where the Jacobian has a band: a minute each
SECONDS = 0.4  # for the calls of a solver at one tolerance


class Targets(NamedTuple):
    """Of the ratio of the time of our best method to that of a peer."""

    diffrax: float
    cvodes: float
    gradient_diffrax: float | None
    gradient_cvodes: float | None


SMALL = Targets(0.04, 0.15, 0.02, 0.2)
TARGETS = {
    "robertson": SMALL,
    "van_der_pol": SMALL,
    "oregonator": SMALL,
    "hires": Targets(0.2, 0.4, 0.02, 0.2),
    "pollution": Targets(0.2, 0.8, 0.02, 0.6),
    "brusselator": Targets(0.3, 1.5, None, None),
}


class Point(NamedTuple):
    """What a solver reached at one tolerance."""

    method: str
    rtol: float
    error: float  # NaN where it failed
    time: float  # seconds
    steps: int


def work_precision(problem, methods):
    """All points of a problem; prints them, and the ratios at equal error."""
    makers = {name: functools.partial(peers.our_run, name) for name in methods} | peers.PEERS
    points = [point for rtol in RTOLS for point in at_tolerance(problem, rtol, makers)]
    points.sort(key=lambda point: list(makers).index(point.method))
    t0, t1 = problem.t_span
    print(f"\n{problem.name}: {len(problem.y0)} components, t from {t0:g} to {t1:g}")
    print_table(("method", "rtol", "error", "ms", "steps"), [_cells(point) for point in points])
    if methods:
        print(f"\n{problem.name}: time of the best of odejax over that of a peer, at equal error")
        columns = "peer", *(f"{level:.0e}" for level in LEVELS), "target of the largest"
        print_table(columns, [ratio_cells(problem, points, methods, peer) for peer in COMPARED])
    return points


def _cells(point):
    failed = np.isnan(point.error)
    error, time = ("failed", "") if failed else (f"{point.error:.1e}", milliseconds(point.time))
    return [point.method, f"{point.rtol:.0e}", error, time, str(point.steps)]


def at_tolerance(problem, rtol, makers):
    """A point of each solver."""
    points, calls = {}, {}
    for name, make in makers.items():
        if is_left_out(problem, rtol, name):
            continue
        run = make(problem, rtol)
        start = time.perf_counter()
        outcome = run.read(run.call())
        seconds = time.perf_counter() - start
        if not outcome.is_success:
            points[name] = Point(name, rtol, np.nan, np.nan, outcome.steps)
            continue
        points[name] = Point(name, rtol, error(problem, outcome.y1), seconds, outcome.steps)
        if not is_dense(problem, name):  # else the first call stands, which compiles for a few seconds
            calls[name] = run.call
    times = times_of(calls, SECONDS)
    return [point._replace(time=times.get(name, point.time)) for name, point in points.items()]


def is_left_out(problem, rtol, name):
    """What would take long and tell little: Python's loops at sharp tolerances, diffrax without the band."""
    if is_dense(problem, name):
        return name != "diffrax" or rtol not in DENSE_RTOLS
    return name.startswith("scipy") and rtol < SCIPY_RTOL


def is_dense(problem, name):
    """Does the solver make nothing of the band that the Jacobian has?"""
    return problem.widths is not None and name.startswith("diffrax")


def times_of(calls, seconds=1.5):
    """Seconds of each of the calls, which have been compiled: a long one once, the others in turns."""
    times = {name: first_call(call) for name, call in calls.items()}
    quick = [name for name in calls if times[name] < LONG]
    timings = alternate(*(calls[name] for name in quick), seconds=seconds) if quick else []
    return times | {name: timing.run for name, timing in zip(quick, timings, strict=True)}


def time_at(points, level):
    """Seconds that a solver needs for an error of `level`; NaN if it does not reach it."""
    front = []
    for point in sorted(points, key=lambda point: point.time):
        if not np.isnan(point.error) and (not front or point.error < front[-1].error):
            front.append(point)
    if not front or front[-1].error > level:
        return np.nan
    digits, seconds = -np.log([p.error for p in front]), np.log([p.time for p in front])
    return float(np.exp(np.interp(-np.log(level), digits, seconds)))


def ratio_cells(problem, points, methods, peer):
    """A row of ratios; the target where it has one is held against the largest of them."""
    ratios = []
    for level in LEVELS:
        times = {name: time_at([p for p in points if p.method == name], level) for name in (*methods, peer)}
        theirs = times.pop(peer)
        ours = np.nanmin([np.inf, *times.values()])  # infinite: none reaches it
        ratios.append(float(ours / theirs))
    goals = TARGETS[problem.name]
    target = {"diffrax": goals.diffrax, "CVODES": goals.cvodes}.get(peer)
    reached = [ratio for ratio in ratios if not np.isnan(ratio)]
    mark = verdict(max(reached), target) if target is not None and reached else ""
    return [peer, *("-" if np.isnan(ratio) else f"{ratio:.3f}" for ratio in ratios), mark]
