"""Stiff methods forwards: orders, problems with known answers, statistics, kinds of states, failures.

Their order on problems that are not stiff is tested with that of the others, in test_solve.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from odejax import (
    METHODS,
    ConstantStep,
    DIRKTableau,
    PIController,
    RosenbrockTableau,
    SolveError,
    Status,
    solve,
)
from odejax.linalg.inverse import LARGEST_ELIMINATED
from problems import HIRES_P, STIFF, bits, distance, lotka_volterra, oscillator, robertson, van_der_pol

ROSENBROCK = [name for name, method in METHODS.items() if isinstance(method, RosenbrockTableau)]
DIRK = [name for name, method in METHODS.items() if isinstance(method, DIRKTableau)]
ADAPTIVE = [name for name in (*DIRK, *ROSENBROCK) if METHODS[name].is_adaptive]
BOTH = pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
TIGHT = {"rtol": 1e-9, "atol": 1e-12}

# -- accuracy

# Of y' = lam (y - phi(t)) + phi'(t) in the limit lam -> -inf: the errors of y1 and between steps fall with
# these powers of h, and that of y1 is smaller by 1 / |lam| where the method ends in the value of a stage.
STIFF_ORDERS = {
    "implicit_euler": (1, 2, True),
    "implicit_midpoint": (2, 2, False),
    "trbdf2": (2, 3, True),
    "kvaerno3": (2, 3, True),
    "kvaerno5": (2, 3, True),
    "rosenbrock23": (2, 2, False),
    "rodas4": (1, 3, True),
    "rodas5p": (3, 4, True),
}


@pytest.mark.parametrize("method", STIFF_ORDERS)
def test_order_on_a_very_stiff_problem(method):
    """Prothero, Robinson (1974): the order that is left."""
    lam = -1e6

    def f(t, y):
        return lam * (y - jnp.sin(t)) + jnp.cos(t)

    errors = []
    for n in (16, 32):
        times = 0.5 + (np.arange(0, n, n // 4) + 0.4) / n
        sol = solve(f, np.sin(0.5), (0.5, 1.5), t_eval=times, method=method, controller=ConstantStep(1 / n))
        errors.append([abs(sol.y1 - np.sin(1.5)), np.abs(sol.ys - np.sin(times)).max()])
    at_end, between, is_damped = STIFF_ORDERS[method]
    assert np.log2(np.divide(*errors)) == pytest.approx([at_end, between], abs=0.3)
    assert errors[0][0] < (1 / abs(lam) if is_damped else 1) * (1 / 16) ** at_end


@pytest.mark.parametrize("name", STIFF)
@pytest.mark.parametrize("method", [*ADAPTIVE, "auto"])
def test_known_answers(method, name):
    """From loose tolerances to tight ones. Errors of y1 grow with rtol, of low orders with rtol^(2/3)."""
    f, y0, t_span, y1 = STIFF[name]
    is_high = METHODS[method].order >= 4
    steps = []
    for rtol in 10.0 ** -np.arange(3, 11 if is_high else 8):
        sol = solve(f, jnp.array(y0), t_span, method=method, rtol=rtol, atol=1e-10 * rtol, throw=False)
        assert sol.success, rtol
        error = np.abs(np.asarray(sol.y1) / y1 - 1).max()
        assert error < 30 * (rtol if is_high else rtol ** (2 / 3)) + 1e-7, rtol  # and rounding errors
        steps.append(int(sol.stats.num_steps))
        assert sol.stats.num_rejected <= max(10, sol.stats.num_accepted)
    assert steps[-1] > 3 * steps[0]


def test_loose_tolerances_take_few_steps():
    """With slopes of the last step's stages, what Newton's iteration leaves is not multiplied by h J."""
    f, y0, _, _ = STIFF["robertson"]
    for method, most in {"trbdf2": 100, "kvaerno3": 100, "kvaerno5": 50}.items():
        stats = solve(f, jnp.array(y0), (0.0, 1e5), method=method, rtol=1e-3, atol=1e-7).stats
        assert stats.num_accepted < most
        assert stats.num_rejected < 10


def test_implicit_midpoint_conserves_quadratic_invariants():
    """Energy of an oscillator and momentum of a top, after a thousand steps, to rounding errors."""

    def top(t, y):
        a, b, c = y
        return jnp.stack([b * c, -2 * c * a, a * b])

    options = {"method": "implicit_midpoint", "controller": ConstantStep(0.1)}
    y0 = jnp.array([1.0, 0.5, -0.3])
    y1 = solve(top, y0, (0.0, 100.0), **options).y1
    assert abs((y1**2).sum() - (y0**2).sum()) < 1e-12
    y1 = solve(oscillator, y0[:2], (0.0, 100.0), **options).y1
    assert abs(10 * y1[0] ** 2 + 0.5 * y1[1] ** 2 - 10.125) < 1e-11


# -- equations of steps


@pytest.mark.parametrize("method", ["implicit_euler", "kvaerno5"])
def test_numbers_of_very_different_size_are_all_solved_for(method):
    """One iteration is enough for the first, which is no measure for the others."""

    def f(t, y):
        _, a, b = y
        return jnp.stack([0.0 * t, 1e-15 - 3e15 * a * b, a - 5e16 * b * b])

    def scaled(t, y):
        a, b = y
        return jnp.stack([1 - 3 * a * b, a - 50 * b * b])

    options = {"method": method, "controller": ConstantStep(0.05)}
    y1 = solve(f, jnp.array([1e10, 1e-15, 1e-15]), (0.0, 1.0), **options).y1
    wanted = solve(scaled, jnp.array([1.0, 1.0]), (0.0, 1.0), **options).y1
    assert distance(y1[1:] * 1e15, wanted) < 1e-13


@pytest.mark.parametrize("method", ["implicit_euler", "trbdf2", "kvaerno5"])
def test_a_number_may_be_nothing_but_rounding_errors(method):
    """The last one, whose equation is never solved to a relative accuracy."""

    def f(t, y):
        a, b, noise = y
        return -3 * a + a * a, -3.0 * b + b * b, -100 * noise + 1e3 * (0.1 * a - b / 10)

    sol = solve(f, (1.0, 1.0, 0.0), (0.0, 3.0), method=method, controller=ConstantStep(0.03))
    assert abs(sol.y1[2]) < 1e-15


def test_a_very_good_guess_is_no_reason_to_fail():
    """In some steps of this problem the second iteration changes more than the first."""
    for n in (40, 41, 43):
        sol = solve(lotka_volterra, {"prey": 10.0, "hunter": 5.0}, (0.0, 12.0),
                    ({"birth": 1.1, "hunt": 0.4, "grow": 0.1, "death": 0.4},), method="trbdf2",
                    controller=ConstantStep(12 / n))  # fmt: skip
        assert sol.success


# -- statistics


@pytest.mark.parametrize("method", ROSENBROCK)
def test_rosenbrock_methods_factor_once_for_each_attempt(method):
    f, y0, t_span, _ = STIFF["van_der_pol"]
    stats = solve(f, jnp.array(y0), t_span, method=method, rtol=1e-4).stats
    assert stats.num_rejected > 0
    assert stats.num_jac_evals == stats.num_factorizations == stats.num_steps
    assert stats.num_newton_iterations == 0
    assert stats.num_f_evals == 2 + METHODS[method].n_stages * stats.num_steps


@pytest.mark.parametrize("method", ["trbdf2", "kvaerno3", "kvaerno5"])
def test_newton_methods_keep_jacobians_and_factors(method):
    f, y0, t_span, _ = STIFF["van_der_pol"]
    stats = solve(f, jnp.array(y0), t_span, method=method, rtol=1e-6).stats
    assert stats.num_jac_evals < stats.num_steps / 3
    assert stats.num_jac_evals <= stats.num_factorizations < stats.num_steps
    tableau = METHODS[method]
    assert isinstance(tableau, DIRKTableau)
    n_implicit = sum(tableau.IMPLICIT)
    assert n_implicit * stats.num_steps <= stats.num_newton_iterations < 5 * n_implicit * stats.num_steps
    # The first slope is the last one of the step before.
    assert stats.num_f_evals == 2 + stats.num_newton_iterations


def test_a_linear_problem_needs_few_matrices():
    """Its iterations converge at once; most of them are made twice, to see that."""
    a = jnp.array([[-1e4, 1e3], [10.0, -2.0]])
    stats = solve(lambda t, y: a @ y, jnp.ones(2), (0.0, 10.0), method="kvaerno5", rtol=1e-8).stats
    assert stats.num_jac_evals <= 3
    assert stats.num_factorizations < stats.num_steps / 2
    assert stats.num_newton_iterations < 2.2 * 6 * stats.num_steps


# -- states and outputs


def heat(n):
    """(A, y0, t1): diffusion on n points, and some flow."""
    a = (np.diag(np.full(n - 1, 1.1), 1) - 2 * np.eye(n) + np.diag(np.full(n - 1, 0.9), -1)) * n**2
    return a, np.sin(np.arange(n)) + 1.0, 3.0 / n**2


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 20, LARGEST_ELIMINATED + 1])
def test_states_of_many_sizes(method, n):
    """Closed forms, elimination and LU beside the exponential of the matrix."""
    a, y0, t1 = heat(n)
    sol = solve(lambda t, y: a @ y, jnp.asarray(y0), (0.0, 20 * t1), method=method, t_eval=[t1], **TIGHT)
    assert distance(sol.ys[0], expm(a * t1) @ y0) < 1e-7
    assert np.abs(sol.y1 - expm(20 * a * t1) @ y0).max() < 1e-7


@BOTH
def test_scalar(method):
    def f(t, y, rate):
        return -rate * (y - jnp.cos(t)) - jnp.sin(t)

    times = [0.0, 0.1, 0.1, 2.0, 2.0]
    sol = solve(f, 0, (0, 2), (1000,), t_eval=times, dense=True, method=method, **TIGHT)
    wanted = np.cos(times) - np.exp(-1000 * np.array(times))
    assert sol.y1.shape == ()
    assert sol.y1.dtype == jnp.float64
    assert np.abs(sol.ys - wanted).max() < 1e-8
    assert (sol.ys[1] == sol.ys[2]) & (sol.ys[3] == sol.y1)
    assert np.abs(sol(1.234) - np.cos(1.234)) < 1e-8
    assert np.abs(sol.derivative(1.234) + np.sin(1.234)) < 1e-4
    assert np.isnan(sol(2.01))


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5", "auto"])
def test_complex(method):
    """f is not analytic: its Jacobian is one of real and imaginary parts."""

    def f(t, z):
        return -1000 * (z - jnp.exp(1j * t)) + 1j * jnp.exp(1j * t) + 10 * (jnp.abs(z) ** 2 - 1)

    z0 = jnp.array([1.0 + 0j, 1.0 + 0.5j])
    sol = solve(f, z0, (0.0, 3.0), method=method, t_eval=[1.0, 2.0, 3.0], **TIGHT)
    assert sol.ys.dtype == jnp.complex128
    assert distance(sol.ys, np.exp(1j * np.array([[1.0], [2.0], [3.0]])) * np.ones(2)) < 1e-8


@pytest.mark.parametrize("method", ["rosenbrock23", "trbdf2", "auto"])
def test_pytree_of_several_kinds(method):
    """Numbers of several dtypes; integers among y0 and args; save_fn; steps that end on outputs."""
    y0 = {"real": jnp.ones((2, 1)), "complex": (1.0 + 0j, 2), "one": np.float32(1.0)}

    def f(t, y, rates, n):
        target = jnp.cos(t)
        return {
            "real": -rates["fast"] * (y["real"] - target) - jnp.sin(t),
            "complex": (1j * y["complex"][0] * n, t * 1.0),
            "one": -y["one"],
        }

    def save_fn(t, y, rates, n):
        return {"sum": y["real"].sum() + n * y["complex"][1], "t": t * 1.0}

    sol = solve(
        f, y0, (0, 1), ({"fast": 1000}, 2), method=method, rtol=1e-6, atol=1e-8, t_eval=[0.0, 0.25, 1.0],
        save_fn=save_fn, controller=PIController(exact_t_eval=True), dense=True,
    )  # fmt: skip
    wanted = {"real": np.full((2, 1), np.cos(1)), "complex": (np.exp(2j), np.asarray(2.5)), "one": np.exp(-1)}
    assert distance(sol.y1, wanted) < 1e-3
    assert sol.y1["one"].dtype == jnp.float32
    assert sol.y1["complex"][0].dtype == jnp.complex128
    assert distance(sol.ys["sum"][1:], 2 * np.cos([0.25, 1.0]) + 4 + np.array([0.25, 1.0]) ** 2) < 1e-3
    assert (sol.ys["t"] == jnp.array([0.0, 0.25, 1.0])).all()
    assert distance(sol(0.25)["real"], np.full((2, 1), np.cos(0.25))) < 1e-3


@BOTH
def test_backwards_in_time(method):
    def f(t, y):
        return jnp.stack([1000 * (y[0] - jnp.cos(t)) - jnp.sin(t), y[0] - 0.0 * y[1]])

    times = [3.0, 1.5, 1.5, 1.0]
    sol = solve(f, jnp.array([np.cos(3.0), np.sin(3.0)]), (3.0, 1.0), method=method, t_eval=times, **TIGHT)
    assert distance(sol.ys, np.stack([np.cos(times), np.sin(times)], axis=1)) < 1e-8
    assert sol.stats.num_accepted < 500


@BOTH
def test_exact_output_times(method):
    """Values at outputs are those of steps; none is cut otherwise."""
    times = jnp.array([0.0, 0.013, 0.013, 0.4, 1.0])

    def f(t, y):
        return jnp.stack([y[1], -1e4 * (y[1] + jnp.sin(t)) - jnp.cos(t)])

    options = {"method": method, "save_steps": None}
    sol = solve(f, jnp.array([1.0, 0.0]), (0.0, 1.0), t_eval=times, method=method, **TIGHT,
                controller=PIController(exact_t_eval=True))  # fmt: skip
    assert distance(sol.ys, jnp.stack([jnp.cos(times), -jnp.sin(times)], axis=1)) < 1e-8
    fixed = solve(f, jnp.array([1.0, 0.0]), (0.0, 1.0), t_eval=times, **options,
                  controller=ConstantStep(0.1, exact_t_eval=True))  # fmt: skip
    assert fixed.stats.num_accepted == 1 + 4 + 6


@pytest.fixture
def single():
    """Without double precision at all, times included."""
    with jax.enable_x64(False):
        yield


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("method", ADAPTIVE)
def test_single_precision(method):
    """With the default tolerances, 1e-4 and 1e-6, and the given ones."""
    f, y0, _, _ = STIFF["robertson"]
    for options in ({}, {"rtol": 1e-3, "atol": 1e-8}):
        sol = solve(f, jnp.array(y0), (0.0, 40.0), method=method, **options)
        assert sol.y1.dtype == jnp.float32
        assert np.abs(sol.y1 / np.array([0.7158270688, 0.9185534765e-5, 0.2841637457]) - 1).max() < 2e-2


def test_half_precision():
    """Equations are solved in the dtype of the state."""
    sol = solve(lambda t, y: -50 * (y - 1), jnp.zeros(4, jnp.bfloat16), (0.0, 1.0), method="rosenbrock23")
    assert sol.y1.dtype == jnp.bfloat16
    assert np.abs(sol.y1.astype(float) - 1).max() < 0.1


# -- failures


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5", "implicit_euler"])
def test_f_that_becomes_nan(method):
    def f(t, y):
        return jnp.where(t < 0.5, -y, jnp.nan)

    options = {"controller": ConstantStep(0.1)} if method == "implicit_euler" else {}
    sol = solve(f, jnp.ones(2), (0.0, 1.0), method=method, throw=False, **options)
    assert sol.status in (Status.NON_FINITE, Status.NO_CONVERGENCE)
    assert 0.35 < sol.t1 <= 0.5
    assert np.isnan(sol.y1).all()
    with pytest.raises(SolveError, match=r"at t = 0\.[45].*(non-finite|not solved)"):
        solve(f, jnp.ones(2), (0.0, 1.0), method=method, **options)
    assert solve(lambda t, y: y * jnp.nan, 1.0, (0.0, 1.0), method=method, throw=False, **options).status == (
        Status.NON_FINITE_START
    )


@BOTH
def test_forbidden_region(method):
    """Steps into what f forbids are made smaller, and the solution never goes there."""

    def f(t, y):
        return -1e3 * jnp.sqrt(y) * (y - 1e-3)

    sol = solve(f, 1.0, (0.0, 10.0), method=method, dt0=1.0)
    assert sol.success
    assert sol.stats.num_rejected > 0
    assert abs(sol.y1 - 1e-3) < 1e-8
    blown = solve(lambda t, y: y * y, 1.0, (0.0, 2.0), method=method, throw=False)
    assert not blown.success
    assert abs(blown.t1 - 1) < 1e-4


def test_equations_without_a_solution():
    """y - base = h f(y) has none for h of any size that is tried: a status, a sentence, NaN derivatives."""

    def f(t, y, a):
        return a * jnp.where(y > 0, -1.0, 1.0) * (1 + 0.0 * y)

    sol = solve(
        f, 1e-3, (0.0, 1.0), (1.0,), method="kvaerno5", throw=False, controller=PIController(min_step=1e-2)
    )
    assert sol.status == Status.NO_CONVERGENCE
    assert np.isnan(sol.y1)
    with pytest.raises(SolveError, match="equations of an implicit step were not solved") as caught:
        solve(f, 1e-3, (0.0, 1.0), (1.0,), method="kvaerno5", controller=PIController(min_step=1e-2))
    assert caught.value.status == Status.NO_CONVERGENCE
    assert "Rosenbrock" in str(caught.value)

    def end(y0, a, method, **options):
        return solve(f, y0, (0.0, 1.0), (a,), method=method, throw=False, **options).y1

    options = {"controller": PIController(min_step=1e-2)}
    for method, o in (("kvaerno5", options), ("implicit_euler", {"controller": ConstantStep(0.3)})):
        for jac in (jax.jacfwd, jax.jacrev):
            assert np.isnan(jac(lambda y0, a: end(y0, a, method, **o), (0, 1))(1e-3, 1.0)).all()


def test_methods_without_error_estimate_need_a_constant_step():
    for method in ("implicit_euler", "implicit_midpoint"):
        with pytest.raises(ValueError, match="ConstantStep"):
            solve(oscillator, jnp.ones(2), (0.0, 1.0), method=method)


# -- lanes

COUNTS = ("num_accepted", "num_rejected", "num_f_evals", "num_jac_evals", "num_factorizations",
          "num_newton_iterations")  # fmt: skip


def check_lanes(run, operands, lanes):
    """Statistics of lanes equal those of each alone; the largest relative difference of their ys."""
    many, one = jax.jit(jax.vmap(run))(operands), jax.jit(run)
    assert many.success.all()
    worst = 0.0
    for lane in lanes:
        alone = one(operands[lane])
        for name in COUNTS:
            assert getattr(many.stats, name)[lane] == getattr(alone.stats, name), (name, lane)
        worst = max(worst, np.abs(many.ys[lane] / alone.ys - 1).max())
    return many, worst


def random_rates():
    rng = np.random.default_rng(0)
    return jnp.asarray(np.array([0.04, 3e7, 1e4]) * 10 ** rng.uniform(-1, 1, (200, 3)))


@pytest.mark.parametrize("method", ["rodas5p", "trbdf2", "kvaerno5"])
def test_lanes_of_robertson(method):
    """Rates that differ by a factor of ten either way: all succeed, each with its own steps."""

    def run(k):
        return solve(
            robertson, jnp.array([1.0, 0.0, 0.0]), (0.0, 1e4), (k,), t_eval=[1.0, 1e4], method=method
        )

    _, worst = check_lanes(run, random_rates(), (0, 66, 199))
    assert worst < 1e-12


@BOTH
@pytest.mark.parametrize(("name", "p"), [("robertson", (0.04, 3e7, 1e4)), ("hires", HIRES_P)], ids=["3", "8"])
def test_parameters_that_differ_by_a_percent(method, name, p):
    """All lanes succeed, and none needs three times the steps of another."""
    f, y0, t_span, _ = STIFF[name]
    lanes = jnp.asarray(np.array(p) * (1 + 0.01 * np.random.default_rng(1).normal(size=(1000, len(p)))))

    def run(p):
        return solve(f, jnp.array(y0), t_span, (tuple(p),), method=method)

    many, worst = check_lanes(run, lanes, (0, 999))
    n = np.asarray(many.stats.num_steps)
    assert n.max() < 3 * np.median(n)
    assert worst < 1e-6  # the tolerance: a step size, which has 8 bits, may be rounded the other way


@BOTH
def test_a_lane_that_fails_changes_no_bit_of_another(method):
    mu = jnp.array([10.0, 1.0, 1000.0, 100.0])

    def run(mu):
        return solve(van_der_pol, jnp.array([2.0, 0.0]), (0.0, 3.0), (mu,), method=method, throw=False)

    good, bad = jax.vmap(run)(mu), jax.vmap(run)(mu.at[1].set(jnp.nan))
    others = np.array([0, 2, 3])
    assert not bad.success[1]
    assert np.isnan(bad.y1[1]).all()
    assert bits(good.y1[others]) == bits(bad.y1[others])
    for name in COUNTS:
        assert (getattr(good.stats, name)[others] == getattr(bad.stats, name)[others]).all()


def test_span_of_no_length_and_of_one_step():
    for method in ("implicit_euler", "kvaerno3", "rodas4"):
        y0 = jnp.array([1.0, 1.0])
        o = {} if METHODS[method].is_adaptive else {"controller": ConstantStep(0.1)}
        sol = solve(oscillator, y0, (2.0, 2.0), method=method, t_eval=[2.0, 2.0], **o)
        assert (sol.ys == y0).all()
        assert solve(oscillator, y0, (2.0, 2.0 + 1e-9), method=method, **o).stats.num_accepted == 1
