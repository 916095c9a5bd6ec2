"""Where the references of `stiff_problems.py` come from: collocation in extended precision, checked by scipy.

Radau IIA of five stages, order 9, on twice and on four times the steps that scipy's Radau takes at 1e-7.
The equations of the stages are evaluated in numpy's longdouble (64 bits of mantissa on x86) and solved by
simplified Newton iterations with matrices in float64, until the increments are below 1e-18. Printed is the
solution of the finer grid, how far the coarser one differs from it, and how far scipy's Radau at 1e-13 does.

The gradients are central differences of such solutions on the coarser grid, parameter by parameter, with two
changes of each, extrapolated. They are printed with how far those of the smaller change alone differ.

`python benchmarks/stiff_reference.py [NAME ...] [--save]`; `--save` writes the file of the Brusselator.
"""

import argparse
import itertools
from collections.abc import Callable

import jax
import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.polynomial import legendre, polynomial
from scipy.integrate import solve_ivp
from stiff_problems import BRUSSELATOR_FILE, PROBLEMS, gradient_error, jacobian

STAGES = 5
GRID_TOL = 1e-7  # of the scipy solution whose steps are divided
DIVISIONS = 2, 4
CHECK_TOL = 1e-13
CONVERGED = 1e-18  # of an increment, relative
MOST_ITERATIONS = 60
RATIO = 2
CHANGES = np.longdouble(1e-5), RATIO * np.longdouble(1e-5)  # of the parameters, relative
SHOWN = 20  # components


def radau_matrix(stages):
    """A of Radau IIA in longdouble: integrals of Lagrange's polynomials from 0 to each node."""
    series = np.zeros(stages + 1)
    series[-2:] = -1, 1  # P_s - P_{s-1} vanishes at the nodes, on (-1, 1]
    x = np.sort(legendre.legroots(series).real).astype(np.longdouble)
    for _ in range(5):
        x -= legendre.legval(x, series) / legendre.legval(x, legendre.legder(series))
    c = (1 + x) / 2
    columns = []
    for j in range(stages):
        others = np.delete(c, j)
        lagrange = polynomial.polyfromroots(others) / np.prod(c[j] - others)
        columns.append(polynomial.polyval(c, polynomial.polyint(lagrange)))
    return np.stack(columns, axis=1)


def scipy_radau(problem, tol):
    f = jax.jit(problem.f)
    jac = jacobian(problem)
    return solve_ivp(
        lambda t, y: np.asarray(f(t, y, problem.args)),
        problem.t_span,
        problem.y0,
        "Radau",
        rtol=tol,
        atol=tol * problem.floor,
        jac=lambda t, y: jac(t, y, problem.args),
    )


def collocation(problem, times, args=None):
    """The state at the last of `times`, by one step of Radau IIA from each to the next."""
    A = radau_matrix(STAGES)
    args = problem.args.astype(np.longdouble) if args is None else args
    jac = jacobian(problem)
    y = problem.y0.astype(np.longdouble)
    for t, h in zip(times, np.diff(times), strict=False):
        solve = stage_solver(jac(float(t), y.astype(float), problem.args), A.astype(float) * float(h))
        y = y + last_stage(lambda y, t=t: problem.f(t, y, args, xp=np), y, h * A, solve, problem.floor)
    return y


def stage_solver(J, hA) -> Callable:
    """Solves (I - hA x J) D = R for arrays (stages, components)."""
    n_stages, n = len(hA), J.shape[0]
    if not scipy.sparse.issparse(J):
        factors = scipy.linalg.lu_factor(np.eye(n * n_stages) - np.kron(hA, J))
        return lambda R: scipy.linalg.lu_solve(factors, R.ravel()).reshape(R.shape)
    matrix = scipy.sparse.identity(n * n_stages) - scipy.sparse.kron(J, hA)
    factors = scipy.sparse.linalg.splu(matrix.tocsc())
    return lambda R: factors.solve(R.T.ravel()).reshape(n, n_stages).T


def last_stage(f, y, hA, solve, floor):
    """y1 - y of one step; f is autonomous."""
    Z = np.zeros((len(hA), len(y)), np.longdouble)
    size, last = np.inf, np.inf
    for _ in range(MOST_ITERATIONS):
        residual = hA @ np.stack([f(y + z) for z in Z]) - Z
        increment = solve(residual.astype(float))
        Z += increment
        size, last = np.max(np.abs(increment) / (np.abs(y) + np.abs(Z[-1]) + floor / 100)), size
        if size < CONVERGED or (size < 1e2 * CONVERGED and size > last / 2):  # or rounding is reached
            return Z[-1]
    raise RuntimeError(f"Newton's method has not converged: {size}")


def gradient(problem, times, change):
    """Of the component of y1 by the parameters, which are changed by the fraction `change` of themselves."""
    out = []
    for i, k in enumerate(problem.args.astype(np.longdouble)):
        values = []
        for sign in (1, -1):
            args = problem.args.astype(np.longdouble)
            args[i] = k * (1 + sign * change)
            values.append(collocation(problem, times, args)[problem.component])
        out.append((values[0] - values[1]) / (2 * k * change))
    return np.array(out)


def divided(times, n):
    """Each interval in n equal parts."""
    times = times.astype(np.longdouble)
    parts = [a + (b - a) * np.arange(1, n + 1) / n for a, b in itertools.pairwise(times)]
    return np.concatenate([times[:1], *parts])


def print_gradient(problem, times):
    small, large = (gradient(problem, times, change) for change in CHANGES)
    exact = small + (small - large) / (RATIO**2 - 1)
    print(f"gradient of component {problem.component}")
    print("\n".join(np.format_float_scientific(x, precision=14) for x in exact))
    print(
        f"without extrapolation it differs by {gradient_error(problem._replace(gradient=exact), small):.1e}",
        flush=True,
    )


def main(names, is_saved):
    jax.config.update("jax_enable_x64", True)
    for name in names or PROBLEMS:
        problem = PROBLEMS[name]
        steps = scipy_radau(problem, GRID_TOL).t
        coarse, fine = (collocation(problem, divided(steps, n)) for n in DIVISIONS)
        check = scipy_radau(problem, CHECK_TOL).y[:, -1]
        print(f"\n{name}, {len(steps) - 1} steps divided by {DIVISIONS}")
        print("\n".join(np.format_float_scientific(y, precision=17) for y in fine[:SHOWN]))
        for what, value in ("coarse grid", coarse), (f"scipy at {CHECK_TOL}", check):
            difference = np.max(np.abs(value - fine) / (np.abs(fine) + problem.floor))
            print(f"{what} differs by {float(difference):.1e}", flush=True)
        print_gradient(problem, divided(steps, DIVISIONS[0]))
        if is_saved and problem.widths is not None:
            np.save(BRUSSELATOR_FILE, fine.astype(float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROBLEMS))
    parser.add_argument("--save", action="store_true", help="write the reference of the Brusselator")
    options = parser.parse_args()
    main(options.names, options.save)
