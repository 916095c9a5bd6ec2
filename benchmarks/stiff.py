"""Stiff problems: time against error, gradients, first calls and lanes, beside diffrax, CVODES and scipy.

The error is that of the state at t1: the largest of |y - reference| / (|reference| + atol / rtol) over the
components. Every solver has the same rtol and atol; times are those of the call of the solver, compiled, and
medians in turns. "Time at an error" is interpolated in logarithms between the tolerances of a solver, leaving
out those which another tolerance betters in both; where even the loosest gives less error, its time counts.

diffrax runs Kvaerno5 with the controller its documentation has for stiff problems; targets are held against
that. "diffrax Newton" is the same with a root finder that users must choose themselves. CVODES is reached
through casadi: f, its Jacobian and what its adjoint needs are C code, compiled by gcc and called without
Python in between; its sparse QR serves the banded Jacobian. scipy's solvers are loops in Python.

`python benchmarks/stiff.py [--problems NAME ...] [--parts work gradient compile lanes] [--methods NAME ...]
[--figure PATH]`; all of it takes about half an hour.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import compile_time
import jax
import numpy as np
import optimistix
import stiff_peers as peers
from common import header, milliseconds, print_table, verdict
from stiff_figure import save_figure
from stiff_problems import PROBLEMS, ROBERTSON, gradient_error
from stiff_work import TARGETS, times_of, work_precision

import odejax

OURS = "rodas5p", "rodas4", "rosenbrock23", "kvaerno5"
GRADIENT_RTOL = 1e-6
LANES, LANES_RTOL, LANES_TARGET = 1000, 1e-6, 0.03
FIRST_SOLVE_TARGET, FIRST_GRADIENT_TARGET = 0.5, 0.4


def main(problems, parts, methods, figure):
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax", "casadi", "scipy")
    methods = tuple(name for name in methods if name in odejax.METHODS)
    print(f"methods of odejax: {', '.join(methods) or 'none of those asked for'}")
    if "work" in parts:
        points = {problem.name: work_precision(problem, methods) for problem in problems}
        if figure is not None:
            save_figure(figure, points)
    if "gradient" in parts:
        gradients(problems, methods)
    if "lanes" in parts:
        lanes(methods)
    if "compile" in parts:  # the last, as it clears caches
        first_calls(problems, methods)


def gradients(problems, methods):
    """Of one component of y1 by all parameters, at equal tolerances."""
    rows = []
    for problem in problems:
        makers = gradient_makers(problem, methods)
        calls = {name: make(problem, GRADIENT_RTOL) for name, make in makers.items()}
        results = {name: call() for name, call in calls.items()}
        times = times_of(calls)
        for name, (gradient, is_success) in results.items():
            cells = [f"{problem.name}, {name}", milliseconds(times[name])]
            cells += [f"{gradient_error(problem, gradient):.1e}" if is_success else "failed"]
            rows.append(cells + gradient_ratios(problem, name, times))
    print(f"\ngradient of one component of y1 by all parameters k, rtol {GRADIENT_RTOL:g}")
    print("error: the largest of |k_i (g_i - exact_i)| over the largest of |k_i exact_i|")
    columns = "problem, method", "ms", "error", "/ diffrax", "target", "/ CVODES", "target"
    print_table(columns, rows)


def gradient_makers(problem, methods):
    """(problem, rtol) -> call, by the name of the method."""
    makers: dict[str, Callable] = {name: functools.partial(peers.our_gradient, name) for name in methods}
    if problem.widths is None:  # diffrax would take minutes
        makers["diffrax"] = peers.diffrax_gradient
    return makers | {"CVODES": peers.cvodes_gradient}


def gradient_ratios(problem, name, times):
    """Cells of the ratios to the peers, for methods of ours only."""
    if name in ("diffrax", "CVODES"):
        return [""] * 4
    goals = TARGETS[problem.name]
    cells = []
    for peer, target in (("diffrax", goals.gradient_diffrax), ("CVODES", goals.gradient_cvodes)):
        if peer not in times:
            cells += [""] * 2
            continue
        ratio = times[name] / times[peer]
        cells += [f"{ratio:.3f}", "" if target is None else verdict(ratio, target)]
    return cells


def solvers(methods):
    """(problem, args, rtol) -> (y1, steps tried, is_success), ours by their names and diffrax."""
    ours = {name: functools.partial(peers.our_end, method=name) for name in methods}
    return ours | {"diffrax": peers.diffrax_end}


def lanes(methods):
    """Robertson with rates of every lane times 10^U(-1, 1), by plain `vmap`."""
    noise = np.random.default_rng(0).uniform(-1, 1, (LANES, 3))
    args = ROBERTSON.args * 10**noise
    ends = solvers(methods) | {
        "diffrax Newton": functools.partial(peers.diffrax_end, root_finder=optimistix.Newton)
    }
    solves = {name: functools.partial(end, ROBERTSON, rtol=LANES_RTOL) for name, end in ends.items()}
    calls = {name: functools.partial(jax.jit(jax.vmap(solve)), args) for name, solve in solves.items()}
    results = {name: tuple(map(np.asarray, call())) for name, call in calls.items()}
    times = times_of(calls)
    exact = peers.cvodes_lanes(ROBERTSON, args, LANES_RTOL / 1000)
    rows = []
    for name, (y1, steps, is_success) in results.items():
        worst = np.max(np.abs(y1 - exact) / (np.abs(exact) + ROBERTSON.floor))
        ratio = times[name] / times["diffrax"]
        succeeded = f"{is_success.sum()} of {LANES}" + ("" if is_success.all() else "  MISSED")
        cells = [name, milliseconds(times[name]), succeeded, f"{worst:.1e}"]
        cells += [f"{steps.min()} to {steps.max()}", f"{ratio:.3f}"]
        rows.append([*cells, verdict(ratio, LANES_TARGET) if name in methods else ""])
    print(f"\n{LANES} lanes of Robertson, rtol {LANES_RTOL:g}; the largest error of all lanes, beside CVODES")
    print_table(("method", "ms", "success", "error", "steps", "/ diffrax", "target"), rows)


def first_calls(problems, methods):
    """Trace, compile and run, of functions that nothing has seen before."""
    ends, rows = solvers(methods), []
    for problem in problems:
        if problem.widths is not None:  # diffrax would take minutes
            continue
        for work, target in (("forward", FIRST_SOLVE_TARGET), ("grad", FIRST_GRADIENT_TARGET)):
            make = functools.partial(new_function, problem, work == "grad")
            turns = [
                [compile_time.measure(make, end) for end in ends.values()]
                for _ in range(compile_time.REPEATS + 1)
            ]
            seconds = dict(zip(ends, map(statistics.median, zip(*turns[1:], strict=True)), strict=True))
            for name, time in seconds.items():
                ratio = time / seconds["diffrax"]
                mark = verdict(ratio, target) if name in methods else ""
                rows.append([f"{problem.name}, {work}, {name}", f"{time:.2f}", f"{ratio:.2f}", mark])
    print("\nfirst call")
    print_table(("problem, work, method", "s", "/ diffrax", "target"), rows)


def new_function(problem, is_gradient, end):
    """(function, its arguments), everything defined anew."""

    def f(t, y, k):
        return problem.f(t, y, k)

    solve = functools.partial(end, problem._replace(f=f), rtol=GRADIENT_RTOL)
    return (peers.gradient_of(solve, problem.component) if is_gradient else solve), (problem.args,)


def parsed():
    parser = argparse.ArgumentParser()
    parts = "work", "gradient", "compile", "lanes"
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--methods", nargs="+", default=OURS, metavar="NAME", help="of odejax")
    parser.add_argument("--figure", metavar="PATH", help="save a figure of time against error")
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    main([PROBLEMS[name] for name in options.problems], options.parts, options.methods, options.figure)
