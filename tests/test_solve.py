"""`solve` forwards: right values for every method and kind of problem, and what it says of itself."""

import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odejax
from odejax import METHODS, ConstantStep, ExplicitTableau, PIController, PIDController, solve
from problems import (
    ADAPTIVE,
    LOTKA_VOLTERRA_P,
    LOTKA_VOLTERRA_Y0,
    bits,
    decay,
    distance,
    hairer,
    hairer_exact,
    lorenz,
    lotka_volterra,
    network,
    oscillator,
    oscillator_exact,
    reference,
    rotation,
)
from twins import recorded_steps

Y0 = jnp.array([1.0, 1.0])

# -- accuracy


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_meet_the_tolerance(method):
    tol = 1e-5 if METHODS[method].order < 4 else 1e-9
    y0 = jax.tree.map(jnp.asarray, hairer_exact(0.0))
    times = np.array([0.0, 0.31, 0.5, 0.99, 1.3])
    sol = solve(hairer, y0, (0.0, 1.3), t_eval=times, method=method, rtol=tol, atol=tol)
    assert distance(sol.ys, hairer_exact(times)) < 100 * tol
    assert distance(sol.y1, hairer_exact(1.3)) < 100 * tol
    if METHODS[method].order >= 4:
        assert sol.stats.num_accepted < 700  # by far: it adapts


@pytest.mark.parametrize("method", METHODS)
def test_slope_of_convergence(method):
    """Errors fall with the order of the method, those between steps with the order of the dense output."""
    tableau = METHODS[method]
    t0, t1 = 0.3, 1.5
    y0 = jax.tree.map(jnp.asarray, hairer_exact(t0))
    errors = []
    for n in (40, 80) if tableau.order < 5 else (20, 40) if tableau.order == 5 else (10, 20):
        h = (t1 - t0) / n
        starts = t0 + h * np.arange(0, n, n // 10)
        times = np.stack([starts, starts + 0.4 * h], axis=1).ravel()  # between steps, and in a step
        sol = solve(hairer, y0, (t0, t1), t_eval=times, dense=100, method=method, controller=ConstantStep(h))
        assert sol.stats.num_accepted == n
        assert distance(sol(times), sol.ys) < 1e-11  # the same polynomials, evaluated otherwise
        exact = hairer_exact(times)
        errors.append(
            [
                distance(
                    jax.tree.map(lambda x: x[i::2], sol.ys),
                    jax.tree.map(lambda x: x[i::2], exact),
                )
                for i in (0, 1)
            ]
        )
        assert distance(sol.y1, hairer_exact(t1)) < 20 * errors[-1][0]
    slopes = np.log2(np.divide(*errors))
    between = min(tableau.order, tableau.dense_order + 1)
    assert tableau.order - 0.4 < slopes[0] < tableau.order + 1.0
    assert between - 0.4 < slopes[1] < between + 1.0


def test_all_methods_agree_with_scipy():
    """On a real problem of many scales, at default tolerances and at tight ones."""
    exact = reference(lotka_volterra, LOTKA_VOLTERRA_Y0, (0.0, 12.0), (LOTKA_VOLTERRA_P,))
    exact = jax.tree.map(lambda x: x[0], exact)
    options = {"args": (LOTKA_VOLTERRA_P,)}
    assert distance(solve(lotka_volterra, LOTKA_VOLTERRA_Y0, (0.0, 12.0), **options).y1, exact) < 1e-4
    for method in ("dopri5", "vern7", "dop853", "vern9"):
        sol = solve(
            lotka_volterra, LOTKA_VOLTERRA_Y0, (0.0, 12.0), **options, method=method, rtol=1e-12, atol=1e-12
        )
        assert distance(sol.y1, exact) < 1e-9


def test_lorenz_with_scipy():
    times = np.linspace(0.0, 5.0, 21)
    exact = reference(lorenz, np.ones(3), (0.0, 5.0), t_eval=times)
    sol = solve(lorenz, jnp.ones(3), (0.0, 5.0), t_eval=times, method="vern9", rtol=1e-12, atol=1e-12)
    assert distance(sol.ys, exact) < 1e-8


def test_derivative_of_dense_output():
    times = np.linspace(0.0, 2.0, 41).reshape(1, 41)
    sol = solve(oscillator, Y0, (0.0, 2.0), dense=True, method="dop853", rtol=1e-10, atol=1e-10)
    exact = oscillator_exact(times, Y0)  # components first
    slope = jax.jvp(lambda t: oscillator_exact(t, Y0), (times,), (jnp.ones_like(times),))[1]
    assert sol(times).shape == sol.derivative(times).shape == (1, 41, 2)
    assert distance(sol(times), jnp.moveaxis(exact, 0, -1)) < 1e-8
    assert distance(sol.derivative(times), jnp.moveaxis(slope, 0, -1)) < 1e-6
    one = sol.derivative(0.7)
    assert distance(one, jax.jvp(sol, (jnp.asarray(0.7),), (jnp.ones(()),))[1]) < 1e-12
    assert np.isnan(sol(2.01)).all()
    assert np.isnan(sol(-0.01)).all()
    assert np.isnan(sol.derivative(2.01)).all()


def test_user_tableau():
    """Kutta's 3/8 rule with an estimate of its error by the second order; compared with a loop."""
    third = 1 / 3
    rule = ExplicitTableau(
        "three_eighths", order=4, a=[[third], [-third, 1], [1, -1, 1]], b=[1 / 8, 3 / 8, 3 / 8, 1 / 8],
        b_embedded=[0.5, 0, 0, 0.5, 0], embedded_order=1,
    )  # fmt: skip
    h, t, y = 0.1, 0.0, np.array([1.0, 1.0])

    def f(t, y):
        return np.array([y[1] + t, -4 * np.sin(y[0])])

    for _ in range(10):
        k1 = f(t, y)
        k2 = f(t + h / 3, y + h / 3 * k1)
        k3 = f(t + 2 * h / 3, y + h * (k2 - k1 / 3))
        k4 = f(t + h, y + h * (k1 - k2 + k3))
        t, y = t + h, y + h / 8 * (k1 + 3 * k2 + 3 * k3 + k4)

    def g(t, y):
        return jnp.stack([y[1] + t, -4 * jnp.sin(y[0])])

    sol = solve(g, Y0, (0.0, 1.0), method=rule, controller=ConstantStep(0.1))
    assert distance(sol.y1, y) < 1e-14
    exact = reference(g, Y0, (0.0, 1.0))[0]
    assert distance(solve(g, Y0, (0.0, 1.0), method=rule, rtol=1e-6, atol=1e-6).y1, exact) < 1e-5


# -- time


def test_backwards_in_time():
    times = np.array([1.5, 1.2, 1.2, 0.4, 0.3])
    y0 = jax.tree.map(jnp.asarray, hairer_exact(1.5))
    sol = solve(hairer, y0, (1.5, 0.3), t_eval=times, dense=True, method="vern7", rtol=1e-10, atol=1e-10)
    assert distance(sol.ys, hairer_exact(times)) < 1e-8
    assert distance(sol(times), hairer_exact(times)) < 1e-8
    assert distance(sol.y1, hairer_exact(0.3)) < 1e-8
    assert sol.t1 == 0.3
    assert np.isnan(sol(1.6)["a"]).all()


def test_backwards_undoes_forwards():
    there = solve(oscillator, Y0, (0.0, 3.0), method="vern9", rtol=1e-12, atol=1e-12).y1
    back = solve(oscillator, there, (3.0, 0.0), method="vern9", rtol=1e-12, atol=1e-12).y1
    assert distance(back, Y0) < 1e-9


@pytest.mark.parametrize("controller", [PIController(), ConstantStep(0.1)], ids=["adaptive", "constant"])
def test_span_of_no_length(controller):
    sol = solve(oscillator, Y0, (2.0, 2.0), t_eval=[2.0, 2.0, 2.0], dense=True, controller=controller)
    assert sol.success
    assert sol.t1 == 2.0
    assert (sol.y1 == Y0).all()
    assert (sol.ys == Y0).all()
    assert sol.ys.shape == (3, 2)
    assert (sol(2.0) == Y0).all()
    assert solve(oscillator, Y0, (2.0, 2.0), controller=controller).ys.shape == (1, 2)


def test_derivative_of_dense_output_in_a_span_of_no_length():
    sol = solve(oscillator, Y0, (2.0, 2.0), dense=True)
    assert distance(sol.derivative(2.0), oscillator(2.0, Y0)) < 1e-12


def test_output_times_repeat_and_touch_both_ends():
    times = [0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0]
    sol = solve(oscillator, Y0, (0.0, 1.0), t_eval=times, rtol=1e-10, atol=1e-10)
    assert (sol.ts == jnp.array(times)).all()
    assert (sol.ys[:2] == Y0).all()
    assert (sol.ys[2] == sol.ys[3]).all()
    assert (sol.ys[2] == sol.ys[4]).all()
    assert (sol.ys[5:] == sol.y1).all()
    assert distance(sol.ys, oscillator_exact(jnp.array(times), Y0).T) < 1e-7
    assert sol.stats.num_saved == 7


@pytest.mark.parametrize("method", ["rk4", "tsit5", "dop853"])
def test_exact_output_times(method):
    """With `exact_t_eval` the values are those of steps: with cubic dense output that shows."""
    times = np.array([0.0, 0.013, 0.013, 0.4, 1.1, 2.0])
    exact = oscillator_exact(times, Y0).T
    options = {"t_eval": times, "method": method, "rtol": 1e-8, "atol": 1e-8}
    stepped = solve(oscillator, Y0, (0.0, 2.0), controller=PIController(exact_t_eval=True), **options)
    assert distance(stepped.ys, exact) < 1e-6
    steps = solve(
        oscillator, Y0, (0.0, 2.0), save_steps=200, method=method, rtol=1e-8, atol=1e-8
    )  # other steps than `stepped`
    assert not set(times[1:-1]) & set(np.asarray(steps.ts).tolist())
    fixed = solve(
        oscillator,
        Y0,
        (0.0, 2.0),
        t_eval=times,
        method=method,
        controller=ConstantStep(0.1, exact_t_eval=True),
    )
    assert fixed.stats.num_accepted == 1 + 4 + 7 + 9  # 0.013, 0.4, 1.1, 2.0
    if method != "rk4":
        assert distance(fixed.ys, exact) < 1e-3


def test_exact_output_times_are_values_of_steps():
    """A step to each time and none besides: a solve per interval gives the same."""
    times = np.array([0.1, 0.25, 0.3])
    sol = solve(
        oscillator,
        Y0,
        (0.0, 0.3),
        t_eval=times,
        method="rk4",
        controller=ConstantStep(1.0, exact_t_eval=True),
    )
    y = Y0
    for t0, t1, row in zip([0.0, 0.1, 0.25], times, sol.ys, strict=True):
        y = solve(oscillator, y, (t0, t1), method="rk4", controller=ConstantStep(1.0)).y1
        assert distance(row, y) < 1e-13


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tiny_span(sign):
    t1 = sign * 1e-30
    sol = solve(decay, jnp.array(1.0), (0.0, t1), (jnp.array(sign * 1e30),), t_eval=[0.0, t1 / 2, t1])
    assert sol.t1 == t1
    assert distance(sol.ys, np.exp([0.0, -0.5, -1.0])) < 1e-5


def test_large_offset():
    """Time counts from t0: at 1e9 the spacing of float64 is 1e-7, yet the error is that of the method."""
    sol = solve(oscillator, Y0, (1e9, 1e9 + 2.0), rtol=1e-9, atol=1e-9, dense=True, t_eval=[1e9 + 1.0])
    near = solve(oscillator, Y0, (0.0, 2.0), rtol=1e-9, atol=1e-9)
    assert sol.t1 == 1e9 + 2.0
    assert distance(sol.y1, near.y1) < 1e-9
    assert distance(sol.ys[0], oscillator_exact(1.0, Y0)) < 1e-7
    assert distance(sol(1e9 + 1.0), oscillator_exact(1.0, Y0)) < 1e-5


@pytest.mark.parametrize("t_span", [(0.1, 0.3), (-7.3, 1e-3), (1e5, 0.7), (1 / 3, 2 / 3), (0.0, 1e9)])
def test_end_is_hit_exactly(t_span):
    sol = solve(decay, 1.0, t_span, (1.0 / (t_span[1] - t_span[0]),), t_eval=[t_span[1]], save_steps=None)
    assert sol.t1 == t_span[1]
    assert (sol.ys[0] == sol.y1).all()
    steps = solve(decay, 1.0, t_span, (1.0 / (t_span[1] - t_span[0]),), save_steps=100)
    assert steps.ts[int(steps.stats.num_saved) - 1] == t_span[1]


# -- outputs


def test_save_steps():
    sol = solve(oscillator, Y0, (0.0, 2.0), save_steps=200)
    n = int(sol.stats.num_saved)
    assert n == sol.stats.num_accepted
    assert sol.ts.shape == (200,)
    assert (np.diff(sol.ts[:n]) > 0).all()
    assert np.isnan(sol.ts[n:]).all()
    assert np.isnan(sol.ys[n:]).all()
    assert sol.ts[n - 1] == 2.0
    assert (sol.ys[n - 1] == sol.y1).all()
    assert distance(sol.ys[:n], oscillator_exact(sol.ts[:n], Y0).T) < 1e-3
    few = solve(oscillator, Y0, (0.0, 2.0), save_steps=5)
    assert few.success
    assert few.stats.num_saved == 5
    assert (few.ys == sol.ys[:5]).all()


def test_save_fn():
    def energy(t, y, k):
        return {"energy": 0.5 * y[1] ** 2 + 0.5 * k * y[0] ** 2, "t": t * 1.0}

    def f(t, y, k):
        return oscillator(t, y, k)

    exact = 0.5 + 0.5 * 20.0
    tight = {"rtol": 1e-10, "atol": 1e-10}
    sol = solve(f, Y0, (0.0, 2.0), (20.0,), t_eval=[0.5, 1.5], save_fn=energy, **tight)
    assert distance(sol.ys, {"energy": np.full(2, exact), "t": np.array([0.5, 1.5])}) < 1e-7
    sol = solve(f, Y0, (0.0, 2.0), (20.0,), save_fn=energy, **tight)
    assert distance(sol.ys, {"energy": np.full(1, exact), "t": np.array([2.0])}) < 1e-7
    assert sol.y1.shape == (2,)
    sol = solve(f, Y0, (0.0, 2.0), (20.0,), save_fn=energy, save_steps=500, **tight)
    n = int(sol.stats.num_saved)
    assert distance(sol.ys["energy"][:n], np.full(n, exact)) < 1e-7
    assert (sol.ys["t"][:n] == sol.ts[:n]).all()
    assert np.isnan(sol.ys["energy"][n:]).all()


def test_dense_capacity():
    n = int(solve(oscillator, Y0, (0.0, 2.0)).stats.num_accepted)
    assert solve(oscillator, Y0, (0.0, 2.0), dense=n).success
    sol = solve(oscillator, Y0, (0.0, 2.0), dense=n - 1, throw=False)
    assert sol.status == odejax.Status.DENSE_FULL
    with pytest.raises(ValueError, match="no dense output"):
        solve(oscillator, Y0, (0.0, 2.0))(1.0)


def test_default_output_is_the_end():
    sol = solve(oscillator, Y0, (0.0, 2.0))
    assert sol.ys.shape == (1, 2)
    assert sol.ts.shape == (1,)
    assert sol.ts[0] == sol.t1 == 2.0
    assert (sol.ys[0] == sol.y1).all()
    assert sol.success
    assert sol.stats.num_saved == 1


# -- states and arguments


@pytest.mark.parametrize("y0", [1, 1.0, True, np.float64(1), np.array(1), jnp.array(1)])
def test_scalars_and_integers(y0):
    sol = solve(decay, y0, (0, 1), (1,), rtol=1e-9, atol=1e-9)
    assert sol.y1.dtype == jnp.float64
    assert sol.y1.shape == ()
    assert distance(sol.y1, np.exp(-1)) < 1e-8


def test_pytree_of_several_kinds():
    y0 = {"real": jnp.ones((2, 1)), "complex": (1.0 + 0j, 2), "one": np.float32(1.0)}

    def f(t, y, rate):
        return {"real": -rate * y["real"], "complex": (1j * y["complex"][0], t * 1.0), "one": -y["one"]}

    sol = solve(f, y0, (0.0, 1.0), (2.0,), rtol=1e-6, atol=1e-9, t_eval=[0.5, 1.0])
    wanted = {
        "real": np.exp(-2.0) * np.ones((2, 1)),
        "complex": (np.exp(1j), np.asarray(2.5)),
        "one": np.exp(-1),
    }
    assert distance(sol.y1, wanted) < 1e-5
    assert sol.y1["one"].dtype == jnp.float32
    assert sol.y1["complex"][0].dtype == jnp.complex128
    assert sol.ys["real"].shape == (2, 2, 1)


def test_complex():
    times = np.linspace(0.0, 3.0, 4)
    sol = solve(rotation, jnp.array([1.0 + 1j, 2j]), (0.0, 3.0), (jnp.array([1.0, 2.0 + 0.1j]),), t_eval=times,
                rtol=1e-10, atol=1e-10)  # fmt: skip
    wanted = np.array([1.0 + 1j, 2j]) * np.exp(1j * times[:, None] * np.array([1.0, 2.0 + 0.1j]))
    assert distance(sol.ys, wanted) < 1e-8


class Spring(eqx.Module):
    """A right-hand side with parameters and something static."""

    k: jax.Array
    power: int
    name: str = eqx.field(static=True)

    def __call__(self, t, y):
        return oscillator(t, y, self.k**self.power)


def test_equinox_module_as_f():
    sol = solve(Spring(jnp.sqrt(20.0), 2, "spring"), Y0, (0.0, 1.0), rtol=1e-9, atol=1e-9)
    assert distance(sol.y1, oscillator_exact(1.0, Y0)) < 1e-7


def test_equinox_module_in_args():
    net = network([3, 5, 2])

    def f(t, y, nets, scale):
        return scale * nets["a"](jnp.append(y, t))

    wanted = reference(f, np.ones(2), (0.0, 1.0), ({"a": net}, 0.7))[0]
    sol = solve(f, jnp.ones(2), (0.0, 1.0), ({"a": net}, 0.7), rtol=1e-9, atol=1e-9)
    assert distance(sol.y1, wanted) < 1e-7
    mlp = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
    wanted = reference(lambda t, y: mlp(y), np.ones(2), (0.0, 1.0))[0]
    assert distance(solve(lambda t, y, net: net(y), jnp.ones(2), (0.0, 1.0), (mlp,)).y1, wanted) < 1e-4


def test_tolerances_as_pytrees():
    y0 = {"a": jnp.ones(2), "b": jnp.ones(())}

    def f(t, y):
        return {"a": jnp.stack([y["a"][1], -20 * y["a"][0]]), "b": -y["b"]}

    loose = solve(f, y0, (0.0, 2.0), rtol=0.0, atol={"a": 1e3, "b": 1e-6})
    same = solve(f, y0, (0.0, 2.0), rtol={"a": 0.0, "b": 0.0}, atol={"a": np.array([1e3, 1e3]), "b": 1e-6})
    tight = solve(f, y0, (0.0, 2.0), rtol=0.0, atol={"a": np.array([1e-9, 1e3]), "b": 1e3})
    assert bits(loose) == bits(same)
    exact = {"a": oscillator_exact(2.0, y0["a"]), "b": np.exp(-2.0)}
    assert distance(loose.y1["b"], exact["b"]) < 1e-5
    assert distance(loose.y1["a"], exact["a"]) > 1e-4
    assert distance(tight.y1["a"], exact["a"]) < 1e-7
    assert tight.stats.num_accepted > 2 * loose.stats.num_accepted


def test_default_tolerances():
    """As documented: 1e-6 and 1e-9, in single precision 1e-4 and 1e-6."""
    for dtype, rtol, atol in ((jnp.float64, 1e-6, 1e-9), (jnp.float32, 1e-4, 1e-6)):
        y0 = jnp.ones(2, dtype)
        default = solve(oscillator, y0, (0.0, 3.0))
        assert bits(default) == bits(solve(oscillator, y0, (0.0, 3.0), rtol=rtol, atol=atol))
        assert bits(default) != bits(solve(oscillator, y0, (0.0, 3.0), rtol=rtol / 2, atol=atol))


# -- controllers


def test_min_and_max_step():
    capped = solve(oscillator, Y0, (0.0, 1.0), controller=PIController(max_step=0.01))
    assert capped.stats.num_accepted >= 100
    s = recorded_steps(oscillator, Y0, (0.0, 1.0), capacity=200, controller=PIController(max_step=0.01))
    assert np.diff(s).max() <= 0.0102  # 1 % of stretch at the end
    sol = solve(oscillator, Y0, (0.0, 1.0), controller=PIController(min_step=0.3), throw=False, rtol=1e-10)
    assert sol.status == odejax.Status.STEP_UNDERFLOW


def test_pid_controller():
    exact = oscillator_exact(2.0, Y0)
    runs = [
        solve(oscillator, Y0, (0.0, 2.0), rtol=1e-8, atol=1e-8, controller=c)
        for c in (PIController(), PIDController(), PIDController(0.3, 0.3, 0.05), PIController(safety=0.5))
    ]
    assert all(distance(sol.y1, exact) < 1e-6 for sol in runs)
    assert bits(runs[0]) == bits(runs[1])
    assert bits(runs[0]) != bits(runs[2])
    assert runs[3].stats.num_accepted > 1.3 * runs[0].stats.num_accepted


def test_first_step():
    s = recorded_steps(oscillator, Y0, (0.0, 1.0), dt0=1e-3)
    assert abs(s[1] - 1e-3) < 1e-5  # sizes are rounded to 8 bits
    s = recorded_steps(oscillator, Y0, (1.0, 0.0), dt0=-1e-3)
    assert abs(s[1] - 1e-3) < 1e-5
    sol = solve(oscillator, Y0, (0.0, 1.0), dt0=10.0, rtol=1e-8, atol=1e-8)
    assert distance(sol.y1, oscillator_exact(1.0, Y0)) < 1e-6


@pytest.mark.parametrize(("h", "n"), [(0.1, 10), (0.3, 4), (1 / 3, 3), (5.0, 1), (1e-3, 1000)])
def test_constant_step(h, n):
    sol = solve(oscillator, Y0, (0.0, 1.0), method="rk4", controller=ConstantStep(h), save_steps=2000)
    assert sol.stats.num_accepted == n
    assert sol.stats.num_rejected == 0
    sizes = np.diff(np.concatenate([[0.0], sol.ts[:n]]))
    assert np.allclose(sizes[:-1], h, rtol=1e-12, atol=0)
    assert sol.t1 == 1.0


def test_constant_step_is_exactly_h():
    """Of whatever size: y' = 1 by Euler steps shows it."""
    h = 0.1234567890123
    sol = solve(lambda t, y: jnp.ones_like(y), 0.0, (0.0, 1.0), method="euler", controller=ConstantStep(h),
                save_steps=20)  # fmt: skip
    assert distance(sol.ts[:8], h * np.arange(1, 9)) < 1e-14
    assert distance(sol.ys[:8], h * np.arange(1, 9)) < 1e-14


# -- numbers are traced


def test_everything_may_be_traced():
    def run(t0, t1, t_eval, rtol, atol, dt0, max_steps, k, min_step):
        return solve(
            oscillator, Y0, (t0, t1), (k,), t_eval=t_eval, rtol=rtol, atol=atol, dt0=dt0, max_steps=max_steps,
            controller=PIController(min_step=min_step),
        )  # fmt: skip

    numbers = (0.0, 1.0, jnp.array([0.2, 0.9]), 1e-6, 1e-9, 1e-3, 1000, 20.0, 0.0)
    assert distance(jax.jit(run)(*numbers).ys, run(*numbers).ys) < 1e-14


def counted(f):
    """`f`, and a list that grows at each trace of it."""
    traces = []

    def counting(t, y, *args):
        traces.append(None)
        return f(t, y, *args)

    return counting, traces


VARIATIONS = [
    {},
    {"rtol": 1e-5},
    {"atol": 1e-7},
    {"dt0": 2e-3},
    {"max_steps": 77},
    {"t_span": (0.5, 1.25)},
    {"t_span": (2.0, 1.0), "t_eval": np.array([1.9, 1.1])},
    {"t_eval": np.array([0.3, 0.7])},
    {"k": 3.0},
    {"y0": jnp.array([0.0, 2.0])},
    {"controller": PIController(safety=0.8, max_step=0.5)},
]


def varied(f, t_span=(0.0, 1.0), t_eval=np.array([0.55, 0.9]), k=20.0, rtol=1e-6, atol=1e-8, dt0=1e-3,
           max_steps=500, y0=Y0, controller=PIController()):  # fmt: skip
    return solve(f, y0, t_span, (k,), t_eval=t_eval, rtol=rtol, atol=atol, dt0=dt0, max_steps=max_steps,
                 controller=controller)  # fmt: skip


def test_f_is_traced_once():
    f, traces = counted(oscillator)
    results = [varied(f, **numbers).y1 for numbers in VARIATIONS]
    assert len(traces) == 1
    assert all(distance(a, varied(oscillator, **n).y1) == 0 for a, n in zip(results, VARIATIONS, strict=True))


def test_f_is_traced_once_for_the_gradient():
    """Once for the solve; its derivatives use the trace. Other numbers do not trace again."""
    f, traces = counted(oscillator)
    for numbers in VARIATIONS:
        numbers = dict(numbers)
        k = numbers.pop("k", 20.0)
        jax.grad(lambda k: varied(f, k=k, **numbers).y1[0])(k)
    assert len(traces) == 1


def test_f_is_traced_once_under_jit():
    f, traces = counted(oscillator)

    @jax.jit
    @jax.value_and_grad
    def loss(k, t_span, t_eval, rtol, max_steps):
        return varied(f, k=k, t_span=t_span, t_eval=t_eval, rtol=rtol, max_steps=max_steps).ys.sum()

    for k, span, rtol, steps in ((20.0, (0.0, 1.0), 1e-6, 500), (5.0, (0.2, 1.0), 1e-5, 50)):
        loss(k, span, jnp.array([0.3, 0.9]), rtol, steps)
    assert len(traces) == 1


def test_max_steps_may_change_its_size_without_recompiling():
    f, traces = counted(oscillator)
    for max_steps in (10**3, 10**7, 2**31 - 1, np.int32(200), jnp.asarray(300)):
        solve(f, Y0, (0.0, 1.0), max_steps=max_steps)
    assert len(traces) == 1


# -- statistics


def counts_of_f(f=oscillator, **options):
    """(calls of f as a callback counts them, the solution)"""
    calls = []

    def counting(t, y):
        jax.debug.callback(lambda _: calls.append(None), t)
        return f(t, y)

    sol = solve(counting, Y0, (0.0, 2.0), **options)
    jax.block_until_ready(sol)
    jax.effects_barrier()
    return len(calls), sol


@pytest.mark.parametrize("method", ["rk4", "tsit5", "dop853"])
def test_number_of_evaluations(method):
    calls, sol = counts_of_f(method=method)
    assert sol.stats.num_f_evals == calls
    calls, sol = counts_of_f(method=method, dt0=0.01)
    assert sol.stats.num_f_evals == calls
    calls, sol = counts_of_f(method=method, controller=ConstantStep(0.01))
    assert sol.stats.num_f_evals == calls


@pytest.mark.parametrize("method", ["rk4", "dop853"])
def test_number_of_evaluations_with_outputs(method):
    """Extra stages are evaluated only in steps that hold an output."""
    without, _ = counts_of_f(method=method)
    calls, sol = counts_of_f(method=method, t_eval=[0.5, 0.500001, 1.5])
    assert sol.stats.num_f_evals == calls
    tableau = METHODS[method]
    assert isinstance(tableau, ExplicitTableau)
    assert calls <= without + 3 * tableau.n_extra
    calls, sol = counts_of_f(method=method, dense=100)
    assert sol.stats.num_f_evals == calls


def test_counts_of_steps():
    sol = solve(lorenz, jnp.ones(3), (0.0, 5.0), save_steps=400)
    stats, n = sol.stats, int(sol.stats.num_saved)
    assert stats.num_accepted == n
    assert stats.num_rejected > 0
    assert stats.num_steps == stats.num_accepted + stats.num_rejected
    sizes = np.diff(np.concatenate([[0.0], sol.ts[:n]]))[:-1]
    assert abs(stats.min_step - sizes.min()) < 1e-14
    starts = np.concatenate([[0.0], sol.ts])
    assert abs(stats.min_step_at - starts[sizes.argmin()]) < 1e-14
    assert solve(lorenz, jnp.ones(3), (0.0, 5.0), max_steps=int(stats.num_steps)).success
    cut = solve(oscillator, Y0, (0.0, 1.0), controller=ConstantStep(0.3))
    assert abs(cut.stats.min_step - 0.3) < 1e-14  # not the last one, which is cut to 0.1


def test_prints_as_three_lines():
    sol = solve(oscillator, Y0, (0.0, 2.0))
    lines = repr(sol).splitlines()
    assert len(lines) == 3
    assert "reached t1" in lines[0]
    assert "t = 2" in lines[0]
    assert f"{int(sol.stats.num_accepted)} accepted" in lines[1]
    assert f"{int(sol.stats.num_rejected)} rejected" in lines[1]
    assert f"{int(sol.stats.num_f_evals)} evaluations" in lines[1]
    assert re.search(r"y1: \[-?\d", lines[2])
    failed = solve(oscillator, Y0, (0.0, 2.0), max_steps=3, throw=False)
    assert "max_steps" in repr(failed)
    assert len(repr(failed).splitlines()) == 3
    assert len(repr(solve(decay, jnp.ones(1000), (0.0, 1.0), (1.0,))).splitlines()) == 3
    lanes = jax.vmap(lambda y: solve(oscillator, y, (0.0, 1.0)))(jnp.ones((3, 2)))
    assert len(repr(lanes).splitlines()) <= 3
    assert "float64[3,1,2]" in repr(lanes)
    assert "float64[3,1,2]" in str(lanes)


# -- vmap


def test_vmap_over_everything():
    """Each lane is the solve of its own, with spans, directions, times and numbers of its own."""
    y0 = jnp.array([[1.0, 1.0], [0.3, -2.0], [0.0, 1.0]])
    t0, t1, k = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.0, -1.0, 2.0]), jnp.array([20.0, 3.0, 7.0])
    t_eval = jnp.array([[0.0, 0.7, 2.0], [0.5, 0.5, -0.9], [2.0, 2.0, 2.0]])
    rtol = jnp.array([1e-6, 1e-8, 1e-4])

    def run(y0, t0, t1, k, t_eval, rtol):
        return solve(oscillator, y0, (t0, t1), (k,), t_eval=t_eval, rtol=rtol, method="dopri5", dense=200)

    lanes = jax.vmap(run)(y0, t0, t1, k, t_eval, rtol)
    assert lanes.success.all()
    for i in range(3):
        one = run(y0[i], t0[i], t1[i], k[i], t_eval[i], rtol[i])
        assert distance(lanes.ys[i], one.ys) < 1e-12
        assert distance(lanes.y1[i], one.y1) < 1e-12
        assert lanes.t1[i] == t1[i]
        for name in ("num_accepted", "num_rejected", "num_f_evals"):
            assert getattr(lanes.stats, name)[i] == getattr(one.stats, name)
    values = jax.vmap(lambda sol, t: sol(t))(lanes, t_eval)
    assert distance(values, lanes.ys) < 1e-12


def test_vmap_of_some():
    """Only one argument has lanes; nested; save_steps per lane."""
    ks = jnp.array([1.0, 2.0, 3.0])
    one = [solve(oscillator, Y0, (0.0, 1.0), (k,), save_steps=50) for k in ks]
    lanes = jax.vmap(lambda k: solve(oscillator, Y0, (0.0, 1.0), (k,), save_steps=50))(ks)
    for i, sol in enumerate(one):
        n = int(sol.stats.num_saved)
        assert lanes.stats.num_saved[i] == n
        assert np.isnan(lanes.ys[i, n:]).all()
        assert distance(lanes.ys[i, :n], sol.ys[:n]) < 1e-12
    y0 = jnp.array([[1.0, 1.0], [2.0, 0.0]])
    nested = jax.vmap(lambda y: jax.vmap(lambda k: solve(oscillator, y, (0.0, 1.0), (k,)).y1)(ks))(y0)
    assert distance(nested[1, 2], solve(oscillator, y0[1], (0.0, 1.0), (ks[2],)).y1) < 1e-12
    ends = jnp.array([0.5, 1.0])
    y1 = jax.vmap(lambda t1: solve(oscillator, Y0, (0.0, t1), rtol=1e-9, atol=1e-9).y1)(ends)
    assert distance(y1, oscillator_exact(ends, Y0).T) < 1e-7


# -- single precision


def test_single_precision_state_under_double():
    y0 = jnp.ones(2, jnp.float32)
    sol = solve(oscillator, y0, (0.0, 2.0), t_eval=[0.5, 2.0], dense=True)
    assert sol.y1.dtype == sol.ys.dtype == sol(1.0).dtype == sol.derivative(1.0).dtype == jnp.float32
    assert distance(sol.ys, oscillator_exact(jnp.array([0.5, 2.0]), Y0).T) < 1e-2
    gradient = jax.grad(lambda y: solve(oscillator, y, (0.0, 2.0)).y1.sum())(y0)
    assert gradient.dtype == jnp.float32
    text = str(jax.make_jaxpr(lambda y: solve(lambda t, y: -y, y, (0.0, 1.0)).y1)(y0))
    assert "f32[2]" in text
    assert "f64[2]" not in text


@pytest.fixture
def single():
    """Without double precision at all, times included."""
    with jax.enable_x64(False):
        yield


@pytest.mark.usefixtures("single")
def test_single_precision():
    y0 = jnp.ones(2)
    assert y0.dtype == jnp.float32
    sol = solve(oscillator, y0, (0.0, 2.0), t_eval=[0.5, 2.0])
    assert sol.ys.dtype == sol.ts.dtype == jnp.float32
    assert distance(sol.ys, oscillator_exact(jnp.array([0.5, 2.0]), y0).T) < 1e-2
    assert sol.t1 == 2.0
    gradient = jax.grad(lambda k: solve(oscillator, y0, (0.0, 2.0), (k,)).y1[0])(20.0)
    exact = jax.grad(lambda k: oscillator_exact(2.0, y0, k)[0])(20.0)
    assert distance(gradient, exact) < 1e-2


@pytest.mark.usefixtures("single")
def test_single_precision_over_a_long_time():
    """600 units, some 2,700 radians: the loop ends, on t1, with errors that have only grown in proportion."""
    end = np.float32(600.0)
    sol = solve(oscillator, jnp.ones(2), (0.0, end), rtol=1e-6, atol=1e-6, method="dopri5")
    assert sol.t1 == end
    exact = oscillator_exact(600.0, np.ones(2, np.float64), np.float64(20.0))
    assert distance(sol.y1, np.asarray(exact)) < 0.2


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("t_span", [(0.0, 1e-30), (1e9, 1e9 + 640.0), (1e5, 1e5 + 0.5)])
def test_single_precision_of_time(t_span):
    """At 1e9 float32 resolves 64: steps shorter than that are possible, as time counts from t0."""
    t0, t1 = np.float32(t_span[0]), np.float32(t_span[1])
    length = float(t1) - float(t0)
    sol = solve(decay, jnp.ones(3), (t0, t1), (3.0 / length,), rtol=1e-5)
    assert sol.success
    assert sol.t1 == t1
    assert sol.stats.num_accepted >= 3
    assert distance(sol.y1, np.full(3, np.exp(-3.0))) < 1e-3


@pytest.mark.usefixtures("single")
def test_loop_ends_where_time_cannot_advance():
    """Steps below the resolution of time end the solve as a failure."""
    sol = solve(lambda t, y: -1e12 * (y - jnp.sin(t)), jnp.ones(()), (1e6, 2e6), throw=False, max_steps=10**5)
    assert not sol.success
    sol = solve(
        decay, 1.0, (0.0, 1.0), (1.0,), controller=ConstantStep(1e-9), throw=False, max_steps=2**31 - 1
    )
    assert sol.status == odejax.Status.STEP_UNDERFLOW


def test_half_precision():
    sol = solve(decay, jnp.ones(3, jnp.bfloat16), (0.0, 1.0), (jnp.ones((), jnp.bfloat16),))
    assert sol.y1.dtype == jnp.bfloat16
    assert distance(sol.y1.astype(float), np.full(3, np.exp(-1))) < 0.1


# -- options


def test_progress():
    fractions = []
    sol = jax.jit(lambda: solve(oscillator, Y0, (0.0, 30.0), progress=fractions.append))()
    jax.block_until_ready(sol)
    jax.effects_barrier()
    values = np.array(fractions, float)
    assert 2 <= len(values) <= 100
    assert values.max() == 1.0
    assert ((values >= 0) & (values <= 1)).all()
    assert bits(sol.y1) == bits(jax.jit(lambda: solve(oscillator, Y0, (0.0, 30.0)))().y1)


def test_max_steps_is_enough_to_the_last():
    n = int(solve(oscillator, Y0, (0.0, 1.0)).stats.num_steps)
    assert solve(oscillator, Y0, (0.0, 1.0), max_steps=n).success
    assert not solve(oscillator, Y0, (0.0, 1.0), max_steps=n - 1, throw=False).success


def test_method_by_name_in_any_case_and_by_value():
    wanted = bits(solve(oscillator, Y0, (0.0, 1.0), method="dopri5").y1)
    assert bits(solve(oscillator, Y0, (0.0, 1.0), method="DoPri5").y1) == wanted
    assert bits(solve(oscillator, Y0, (0.0, 1.0), method=METHODS["dopri5"]).y1) == wanted


def test_in_scan_and_loops():
    def step(y, t):
        return solve(oscillator, y, (t, t + 0.1), rtol=1e-9, atol=1e-9).y1, y

    y, _ = jax.lax.scan(step, Y0, 0.1 * jnp.arange(10))
    assert distance(y, oscillator_exact(1.0, Y0)) < 1e-7
    y = jax.lax.fori_loop(0, 10, lambda i, y: step(y, 0.1 * i)[0], Y0)
    assert distance(y, oscillator_exact(1.0, Y0)) < 1e-7


def test_closed_over_arrays_and_tracers():
    def run(k, f=None):
        return solve(partial(oscillator, k=k), Y0, (0.0, 1.0), rtol=1e-9, atol=1e-9).y1

    wanted = oscillator_exact(1.0, Y0, 3.0)
    assert distance(run(3.0), wanted) < 1e-7
    assert distance(jax.jit(run)(3.0), wanted) < 1e-7
    assert distance(jax.vmap(run)(jnp.array([3.0, 5.0]))[0], wanted) < 1e-7
