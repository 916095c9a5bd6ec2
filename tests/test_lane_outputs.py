"""Many outputs of many lanes, beside those of each lane alone: their rows differ from lane to lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odejax import ConstantStep, PIDController, Status, solve
from odejax.core import rows
from odejax.derivative.program import Program
from problems import bits, distance, lorenz

N = 5
KEY = jax.random.key(3)
Y0 = 1 + 0.1 * jax.random.normal(KEY, (N, 3))
RHO = jnp.linspace(1.0, 20.0, N)
TIMES = jnp.array([0.0, 0.0, 1e-9, 0.03, 0.1, 0.1, 0.5, 0.501, 0.502, 0.8, 1.0, 1.0])
EXACT = 1e-12


def solution(y0, rho, times=TIMES, t_span=(0.0, 1.0), **options):
    options = {"rtol": 1e-8, "atol": 1e-8} | options
    return solve(lorenz, y0, t_span, (10.0, rho), t_eval=times, **options)


def alone(fn, *args):
    rows = [fn(*(x[i] for x in args)) for i in range(N)]
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def test_rows_written_in_turn_or_scattered():
    """The one on a CPU, the other elsewhere."""
    buffers = jnp.zeros((12, 3)), jnp.zeros(12, jnp.int32)
    values = jax.random.normal(KEY, (4, 3)), jnp.arange(1, 5, dtype=jnp.int32)
    where, mask = jnp.array([0, 7, 2, 11]), jnp.array([True, False, True, True])
    in_turn, scattered = (fn(buffers, values, where, mask) for fn in (rows._write_in_turn, rows._scatter))
    for a, b, old, new in zip(in_turn, scattered, buffers, values, strict=True):
        assert bits(a) == bits(b) == bits(old.at[where[mask]].set(new[mask]))


@pytest.mark.parametrize("wanted", [[], [0], [31, 32], [64, 99], list(range(100))], ids=str)
def test_rows_of_many_lanes(wanted):
    """More than the flags of one word, some words without any."""
    buffer, values = jnp.zeros(300), jnp.arange(1.0, 101.0)
    where, mask = 3 * jnp.arange(100), jnp.zeros(100, bool).at[jnp.array(wanted, int)].set(True)
    in_turn, scattered = (
        fn((buffer,), (values,), where, mask) for fn in (rows._write_in_turn, rows._scatter)
    )
    assert bits(in_turn) == bits(scattered)
    assert in_turn[0].sum() == values[mask].sum()


KINDS = {
    "t_eval": {"t_eval": TIMES},
    "save_fn": {
        "t_eval": TIMES,
        "save_fn": lambda t, y, sigma, rho: {"a": t * y[0], "b": rho * y[1:] * y[2]},
    },
    "steps": {"save_steps": 60},
    "dense": {"t_eval": TIMES, "dense": True},
    "extra stages": {"t_eval": TIMES, "method": "vern7"},
    "exact": {"t_eval": TIMES, "controller": PIDController(exact_t_eval=True)},
}


@pytest.mark.parametrize(
    ("kind", "lanes"),
    [
        ("t_eval", (2, 40)),
        ("save_fn", (70,)),
        ("steps", (70,)),
        ("dense", (70,)),
        ("extra stages", (3,)),
        ("exact", (3,)),
    ],
    ids=str,
)
def test_outputs_in_turn_or_at_once(kind, lanes, monkeypatch):
    """Of one lane after another, as on a CPU, and of all lanes together, as elsewhere: also in several blocks."""
    options = KINDS[kind]
    y0 = 1 + 0.1 * jax.random.normal(KEY, (*lanes, 3))
    rho = jnp.linspace(1.0, 20.0, lanes[-1])

    def results():
        def alone(y0, rho):  # made anew, as what is compiled is kept
            s = solve(lorenz, y0, (0.0, 1.0), (10.0, rho), rtol=1e-7, atol=1e-7, **options)
            if s.dense is not None:
                return s.ys, jax.vmap(s)(TIMES)
            return s.ys, s.ts

        fn = jax.vmap(alone)
        for _ in lanes[1:]:
            fn = jax.vmap(fn, in_axes=(0, None))

        def loss(y0, rho):
            return sum(jnp.sum(jnp.where(jnp.isnan(x), 0, jnp.cos(x))) for x in jax.tree.leaves(fn(y0, rho)))

        def along(rho):
            return jax.tree.leaves(fn(y0, rho))

        return (
            fn(y0, rho),
            jax.jit(jax.grad(loss, (0, 1)))(y0, rho),
            jax.jvp(along, (rho,), (jnp.cos(rho),))[1],
        )

    in_turn = results()
    monkeypatch.setattr(Program, "on_cpu", lambda program, is_cpu: program)
    at_once = results()
    for a, b in zip(jax.tree.leaves(in_turn), jax.tree.leaves(at_once), strict=True):
        assert a.shape == b.shape
        assert (jnp.isnan(a) == jnp.isnan(b)).all()
        assert distance(jnp.nan_to_num(a), jnp.nan_to_num(b)) < EXACT


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "bosh3", "rk4"])
@pytest.mark.parametrize("t_span", [(0.0, 1.0), (3.0, 2.8)])
def test_outputs(method, t_span):
    """At the ends, repeated, close to each other and far apart, forwards and backwards."""
    times = t_span[0] + (t_span[1] - t_span[0]) * TIMES
    options = (
        {"rtol": 1e-5} if method != "rk4" else {"controller": ConstantStep(0.02), "rtol": None, "atol": None}
    )

    def fn(y0, rho):
        sol = solution(y0, rho, times, t_span, method=method, **options)
        return sol.ys, sol.y1, sol.stats.num_steps, sol.stats.num_f_evals

    ys, y1, n_steps, n_evals = jax.vmap(fn)(Y0, RHO)
    wanted = alone(fn, Y0, RHO)
    assert distance(ys, wanted[0]) < EXACT
    assert bits(ys[:, 0]) == bits(ys[:, 1]) == bits(Y0)
    assert bits(ys[:, -2]) == bits(ys[:, -1]) == bits(y1)
    assert np.array_equal(n_steps, wanted[2])
    assert np.array_equal(n_evals, wanted[3])


def test_times_of_each_lane():
    times = jnp.sort(jax.random.uniform(KEY, (N, 20)), axis=1)

    def fn(y0, rho, times):
        return solution(y0, rho, times).ys

    assert distance(jax.vmap(fn)(Y0, RHO, times), alone(fn, Y0, RHO, times)) < EXACT


def test_spans_of_each_lane():
    """One of them without length."""
    ends = jnp.array([1.0, 0.0, -1.0, 0.5, 2.0])

    def fn(y0, rho, end):
        return solution(y0, rho, end * TIMES, (0.0, end)).ys

    ys = jax.vmap(fn)(Y0, RHO, ends)
    assert distance(ys, alone(fn, Y0, RHO, ends)) < EXACT
    assert bits(ys[1]) == bits(jnp.broadcast_to(Y0[1], ys[1].shape))


def test_lanes_that_fail():
    """Given is what was reached; the others lose no bit."""

    def fn(blow_up, bad):
        def f(t, y):
            return jnp.where(t > 0.6, bad, blow_up * y * y)

        return solve(f, 1.0, (0.0, 1.0), t_eval=jnp.linspace(0.0, 1.0, 21), max_steps=60, throw=False)

    blow_up = jnp.array([0.5, 2.0, -1.0, 0.5])
    bad = jnp.array([0.0, 0.0, jnp.nan, 0.0])
    sol = jax.vmap(fn)(blow_up, bad)
    assert [Status(int(s)).name for s in sol.status] == [
        "SUCCESS",
        "MAX_STEPS",
        "STEP_UNDERFLOW",
        "SUCCESS",
    ] or (not sol.success[1] and not sol.success[2])
    assert np.isnan(sol.ys[1, 10:]).all()
    assert np.isnan(sol.ys[2, 13:]).all()
    assert not np.isnan(sol.ys[1, :10]).any()
    assert not np.isnan(sol.ys[2, :12]).any()
    good = jax.vmap(fn)(jnp.full(4, 0.5), jnp.zeros(4))
    for i in (0, 3):
        assert bits(sol.ys[i]) == bits(good.ys[i])


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0)], ids=str)
def test_gradients(in_axes):
    def cost(y0, rho, times):
        sol = solution(y0, rho, times, save_fn=lambda t, y, sigma, r: {"a": t * y[0] * r, "b": jnp.sin(y)})
        return sum((x**2).sum() for x in jax.tree.leaves(sol.ys))

    args = [x if axis == 0 else x[0] for x, axis in zip((Y0, RHO), in_axes, strict=True)]
    times = jnp.clip(TIMES + 1e-3, 0.0, 0.99)

    def total(cost_of_all):
        return jax.grad(lambda *a: cost_of_all(*a).sum(), (0, 1, 2))

    got = total(jax.vmap(cost, in_axes=(*in_axes, None), axis_size=N))(*args, times)

    def one_by_one(y0, rho, times):
        rows = [
            cost(*(x[i] if axis == 0 else x for x, axis in zip((y0, rho), in_axes, strict=True)), times)
            for i in range(N)
        ]
        return jnp.stack(rows)

    wanted = total(one_by_one)(*args, times)
    for a, b in zip(got, wanted, strict=True):
        assert distance(a, b) < EXACT


@pytest.mark.parametrize(
    "transform", [jax.jacfwd, lambda fn: jax.jacfwd(jax.jacrev(fn))], ids=["jvp", "hessian"]
)
def test_other_derivatives(transform):
    def fn(x):
        return solution(x[:3], x[3]).ys[::3, 0]

    x = jnp.concatenate([Y0, RHO[:, None]], axis=1)
    assert distance(jax.vmap(transform(fn))(x), alone(jax.jit(transform(fn)), x)) < 1e-11


def test_single_precision():
    def fn(y0, rho):
        return solution(y0, rho, TIMES.astype(jnp.float32), rtol=1e-5, atol=1e-6).ys

    y0, rho = Y0.astype(jnp.float32), RHO.astype(jnp.float32)
    ys = jax.vmap(fn)(y0, rho)
    assert ys.dtype == jnp.float32
    assert distance(ys, jax.vmap(solution)(Y0, RHO).ys) < 1e-3
