"""Stiff solvers, each called as one function: odejax, diffrax, scipy, and CVODES by casadi.

A solver is made for a problem and a relative tolerance; atol = rtol * problem.floor. What is made is a `Run`:
`call` is the work that is timed, `read` says what came of it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import casadi
import diffrax
import jax
import numpy as np
import optimistix
from scipy.integrate import solve_ivp
from stiff_problems import jacobian

import odejax

MAX_STEPS = 100_000
REVERSE_MAX_STEPS = 4096  # diffrax's default; its reverse mode pays for more, so only these have it
REVERSE_MAX_STEPS_OF = {"van_der_pol": 8192, "oregonator": 16384}
DIFFRAX_DT0 = {"van_der_pol": 1e-8}  # with the step it chooses itself Kvaerno5 rejects every step
CASADI_OPTIONS = {
    "jit": True,  # C code of f, of its Jacobian, and of what the adjoint needs
    "compiler": "shell",
    "jit_options": {"flags": ["-O3", "-march=native"], "verbose": False},
    "max_num_steps": MAX_STEPS,
    "linear_solver": "qr",  # sparse, for bands too: casadi has no way to CVODES' own banded solver
}


class Outcome(NamedTuple):
    """What a solve gave."""

    y1: np.ndarray
    steps: int  # tried
    is_success: bool


class Run(NamedTuple):
    """One solver at work on one problem."""

    call: Callable[[], Any]
    read: Callable[[Any], Outcome]


def read(result):
    """The outcome where the result is (y1, steps, is_success) of any kind of arrays."""
    y1, steps, is_success = result
    return Outcome(np.array(y1, float), int(steps), bool(is_success))


def gradient_of(end, component):
    """args -> (gradient, is_success) of one component of what `end` returns."""

    def value(args):
        y1, _, is_success = end(args)
        return y1[component], is_success

    return jax.grad(value, has_aux=True)


_COMPILED = {}  # functions, by what was compiled


def jax_run(end, problem, rtol, **options):
    """Of end(problem, args, rtol, **options); tolerances are arguments of what is compiled."""
    key = end, problem.name, tuple(options.values())
    if key not in _COMPILED:
        _COMPILED[key] = jax.jit(functools.partial(end, problem, **options))
    solve = _COMPILED[key]
    return Run(lambda: solve(problem.args, rtol), read)


# odejax


def our_end(problem, args, rtol, method):
    """(y1, steps tried, is_success)."""
    options: dict[str, Any] = {} if problem.widths is None else {"jac": odejax.Banded(*problem.widths)}
    tolerances = {"rtol": rtol, "atol": rtol * problem.floor}
    solution = odejax.solve(
        problem.f, problem.y0, problem.t_span, (args,), method=method, throw=False, **tolerances, **options
    )
    return solution.y1, solution.stats.num_steps, solution.success


def our_run(method, problem, rtol):
    return jax_run(our_end, problem, rtol, method=method)


def our_gradient(method, problem, rtol):
    """Of one component of y1 by all parameters."""
    end = functools.partial(our_end, problem, rtol=rtol, method=method)
    gradient = jax.jit(gradient_of(end, problem.component))
    return lambda: gradient(problem.args)


# diffrax


def diffrax_solve(problem, args, rtol, root_finder=None, max_steps=MAX_STEPS):
    """Kvaerno5 with the PI controller that diffrax's documentation has for stiff problems.

    `root_finder`: a class of optimistix; None: the chord method which diffrax takes.
    """
    (t0, t1), atol = problem.t_span, rtol * problem.floor
    options = {} if root_finder is None else {"root_finder": root_finder(rtol=rtol, atol=atol)}
    return diffrax.diffeqsolve(
        diffrax.ODETerm(problem.f),
        diffrax.Kvaerno5(**options),
        t0,
        t1,
        DIFFRAX_DT0.get(problem.name),
        problem.y0,
        args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4),
        max_steps=max_steps,
        throw=False,
    )


def diffrax_end(problem, args, rtol, **options):
    """(y1, steps tried, is_success)."""
    solution = diffrax_solve(problem, args, rtol, **options)
    is_success = solution.result == diffrax.RESULTS.successful
    return solution.ys[-1], solution.stats["num_steps"], is_success  # pyright: ignore[reportOptionalSubscript]  # SaveAt(t1=True)


def diffrax_run(problem, rtol, **options):
    """The forward solve."""
    return jax_run(diffrax_end, problem, rtol, **options)


def diffrax_newton_run(problem, rtol):
    """With a new Jacobian in every iteration, which in diffrax takes far fewer steps than its own choice."""
    return diffrax_run(problem, rtol, root_finder=optimistix.Newton)


def diffrax_gradient(problem, rtol):
    """Of one component of y1 by all parameters, by diffrax's default adjoint."""
    max_steps = REVERSE_MAX_STEPS_OF.get(problem.name, REVERSE_MAX_STEPS)
    end = functools.partial(diffrax_end, problem, rtol=rtol, max_steps=max_steps)
    gradient = jax.jit(gradient_of(end, problem.component))
    return lambda: gradient(problem.args)


# scipy


def scipy_run(method, problem, rtol):
    """`solve_ivp` in Python, with f and the exact Jacobian compiled by JAX."""
    f, jac = jax.jit(problem.f), jacobian(problem)
    options: dict[str, Any] = {"jac": lambda t, y: jac(t, y, problem.args)}
    if method == "LSODA" and problem.widths is not None:
        below, above = problem.widths
        options = {"lband": below, "uband": above}  # and differences

    def call():
        return solve_ivp(
            lambda t, y: np.asarray(f(t, y, problem.args)),
            problem.t_span,
            problem.y0,
            method,
            rtol=rtol,
            atol=rtol * problem.floor,
            **options,
        )

    return Run(call, lambda solution: Outcome(solution.y[:, -1], len(solution.t) - 1, solution.success))


# CVODES


class CasadiNumpy:
    """What the problems use of numpy, for the symbols of casadi."""

    @staticmethod
    def stack(terms, axis=0):
        return casadi.vertcat(*terms) if axis == 0 else casadi.horzcat(*terms)

    @staticmethod
    def pad(x, n, constant_values):
        return casadi.vertcat(*[constant_values] * n, x, *[constant_values] * n)

    @staticmethod
    def ravel(x):
        return casadi.vec(x.T)


def cvodes_integrator(problem, rtol):
    """casadi's function of x0 and p, compiled."""
    y = casadi.SX.sym("y", len(problem.y0))
    k = casadi.SX.sym("k", len(problem.args))
    equations = {"x": y, "p": k, "ode": problem.f(0.0, y, k, xp=CasadiNumpy)}
    options = {"reltol": rtol, "abstol": rtol * problem.floor, **CASADI_OPTIONS}
    t0, t1 = problem.t_span
    return casadi.integrator("solve", "cvodes", equations, t0, t1, options)


def cvodes_run(problem, rtol):
    """Variable order BDF in C."""
    solve = cvodes_integrator(problem, rtol)
    inputs = solve.convert_in({"x0": casadi.DM(problem.y0), "p": casadi.DM(problem.args)})

    def outcome(results):
        return Outcome(results[solve.index_out("xf")].full().ravel(), solve.stats()["nsteps"], True)

    return Run(lambda: solve.call(inputs), outcome)


def cvodes_lanes(problem, args, rtol):
    """y1 of every row of `args`."""
    solve = cvodes_integrator(problem, rtol)
    return np.stack([solve(x0=problem.y0, p=k)["xf"].full().ravel() for k in args])


def cvodes_gradient(problem, rtol):
    """Of one component of y1 by all parameters, by CVODES' adjoint: a second integration, backwards."""
    solve = cvodes_integrator(problem, rtol)
    y0, k = casadi.MX.sym("y0", len(problem.y0)), casadi.MX.sym("k", len(problem.args))
    value = solve(x0=y0, p=k)["xf"][problem.component]
    gradient = casadi.Function("gradient", [y0, k], [casadi.gradient(value, k)])
    inputs = [casadi.DM(problem.y0), casadi.DM(problem.args)]
    return lambda: (gradient.call(inputs)[0].full().ravel(), True)


PEERS = {
    "diffrax": diffrax_run,
    "diffrax Newton": diffrax_newton_run,
    "CVODES": cvodes_run,
    "scipy Radau": functools.partial(scipy_run, "Radau"),
    "scipy BDF": functools.partial(scipy_run, "BDF"),
    "scipy LSODA": functools.partial(scipy_run, "LSODA"),
}
