"""method="auto": explicit where the problem allows, stiff where it must, lane by lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odejax
from odejax import solve
from odejax.tableaus import Bosh3, Euler, Rodas5P, Switching, Tsit5, Vern7
from problems import assert_close, lorenz, oscillator

Y0 = jnp.array([2.0, 0.0])


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def relaxed(mu, t1=2.0, y0=Y0, **options):
    """Stiff on a slow branch, if mu is large."""
    return solve(van_der_pol, y0, (0.0, t1), (mu,), **{"method": "auto", "rtol": 1e-7, **options})


# -- which method


def test_an_easy_problem_is_solved_as_by_tsit5():
    y0, times = jnp.array([1.0, 1.0, 1.0]), jnp.linspace(0.0, 3.0, 7)
    auto, tsit5 = (solve(lorenz, y0, (0.0, 3.0), method=m, t_eval=times) for m in ("auto", "tsit5"))
    assert auto.stats.num_stiff == 0
    assert auto.stats.num_steps == tsit5.stats.num_steps
    assert auto.stats.num_jac_evals == auto.stats.num_factorizations == 0
    assert_close(auto.ys, tsit5.ys, 1e-11)


def test_a_stiff_problem_changes_and_says_so():
    explicit, auto, stiff = (relaxed(1e3, method=m) for m in ("tsit5", "auto", "rodas5p"))
    assert explicit.stats.looks_stiff
    assert "looks stiff" in repr(explicit)
    assert not auto.stats.looks_stiff
    assert "looks stiff" not in repr(auto)
    assert 0 < auto.stats.num_stiff < auto.stats.num_accepted < explicit.stats.num_accepted / 10
    assert auto.stats.num_jac_evals >= auto.stats.num_stiff
    assert_close(auto.y1, stiff.y1, 1e-6)


def test_it_changes_back():
    """Fast decay that is switched off: y' = -k(t) (y - cos t) - sin t."""

    def f(t, y):
        return -jnp.where(t < 1, 1e4, 1.0) * (y - jnp.cos(t)) - jnp.sin(t)

    sol = solve(f, 2.0, (0.0, 60.0), method="auto", save_steps=400)
    n, n_stiff = int(sol.stats.num_accepted), int(sol.stats.num_stiff)
    after = int((sol.ts[:n] > 1).sum())
    assert 0 < n_stiff < n - after / 2
    np.testing.assert_allclose(sol.y1, np.cos(60.0), rtol=1e-5)


def test_failure_of_an_explicit_solve_advises_it():
    with pytest.raises(odejax.SolveError, match='looks stiff: try method="auto"'):
        relaxed(1e6, t1=100.0, method="tsit5", max_steps=2_000)
    assert relaxed(1e6, t1=100.0, max_steps=2_000).success


def test_few_or_accurate_steps_do_not_look_stiff():
    for t1 in (1.0, 100.0):
        sol = solve(oscillator, jnp.array([1.0, 1.0]), (0.0, t1))
        assert not sol.stats.looks_stiff
    assert sol.stats.num_steps > 200
    assert sol.stats.stiffness > 0


def test_lanes_look_stiff_as_they_do_alone():
    def stiffness(k):
        return solve(lambda t, y: -k * y, 1.0, (0.0, 10.0)).stats.stiffness

    ks = jnp.array([8.0, 20.0, 1000.0])
    assert_close(jax.vmap(stiffness)(ks), jnp.stack([stiffness(k) for k in ks]), 1e-6)
    assert stiffness(8.0) == 0 < stiffness(1000.0)


def test_own_pairs_of_methods():
    mine = Switching("mine", explicit=Tsit5, stiff=Rodas5P)
    assert mine == Switching("mine", Tsit5, Rodas5P) != odejax.METHODS["auto"]
    assert_close(relaxed(1e3, method=mine).y1, relaxed(1e3).y1, 1e-15)
    for other, complaint in ((Euler, "estimate"), (Bosh3, "last stage"), (Vern7, "dense output")):
        with pytest.raises(ValueError, match=complaint):
            Switching("bad", other, Rodas5P)


# -- derivatives


def test_derivatives_beside_finite_differences():
    def end(y0, mu):
        return relaxed(mu, y0=y0, rtol=1e-10, atol=1e-12).y1

    forward = jax.jacfwd(end, (0, 1))(Y0, 1e3)
    assert_close(jax.jacrev(end, (0, 1))(Y0, 1e3), forward, 1e-9)
    for index in range(2):
        e = jnp.zeros(2).at[index].set(1e-3)
        assert_close((end(Y0 + e, 1e3) - end(Y0 - e, 1e3)) / 2e-3, forward[0][:, index], 1e-5)
    assert_close((end(Y0, 1001.0) - end(Y0, 999.0)) / 2, forward[1], 1e-4)


def test_second_derivatives_both_ways():
    def end(y0):
        return relaxed(50.0, y0=y0, rtol=1e-9).y1[0]

    assert_close(jax.jacfwd(jax.jacrev(end))(Y0), jax.jacrev(jax.jacfwd(end))(Y0), 1e-8)


def test_outputs_have_derivatives():
    times = jnp.linspace(0.0, 2.0, 5)

    def outputs(mu):
        return relaxed(mu, t_eval=times, rtol=1e-9).ys

    forward = jax.jacfwd(outputs)(1e3)
    assert_close(jax.jacrev(outputs)(1e3), forward, 1e-8)
    assert_close((outputs(1001.0) - outputs(999.0)) / 2, forward, 1e-3)


# -- lanes


def test_each_lane_has_its_own_method():
    mus = jnp.array([0.1, 1.0, 30.0, 1e3, 1e5])
    lanes = jax.vmap(relaxed)(mus)
    assert lanes.success.all()
    assert lanes.stats.num_stiff[0] == 0
    assert lanes.stats.num_stiff[-1] > 0
    for i, mu in enumerate(mus):
        alone = relaxed(mu)
        for name in ("num_accepted", "num_rejected", "num_stiff"):
            assert getattr(lanes.stats, name)[i] == getattr(alone.stats, name)
        assert_close(lanes.y1[i], alone.y1, 1e-12)


def test_gradient_of_lanes_beside_each_alone():
    mus = jnp.array([0.1, 30.0, 1e3])

    def loss(mu):
        return jnp.sum(relaxed(mu).y1 ** 2)

    assert_close(jax.jit(jax.vmap(jax.grad(loss)))(mus), jnp.stack([jax.grad(loss)(mu) for mu in mus]), 1e-9)
    assert_close(jax.grad(lambda mus: jax.vmap(loss)(mus).sum())(mus), jax.vmap(jax.grad(loss))(mus), 1e-12)


def test_single_precision():
    sol = relaxed(jnp.float32(1e3), y0=Y0.astype(jnp.float32), rtol=1e-4, atol=1e-6)
    assert sol.y1.dtype == jnp.float32
    assert sol.stats.num_stiff > 0
    assert_close(sol.y1, relaxed(1e3).y1, 1e-3)


def test_dense_output_and_saved_steps():
    dense = relaxed(1e3, dense=200)
    saved = relaxed(1e3, save_steps=200)
    n = int(saved.stats.num_saved)
    assert_close(dense(saved.ts[:n]), saved.ys[:n], 1e-9)
