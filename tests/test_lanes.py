"""Many lanes: blocks, the order in which lanes are taken, and each lane as if it were alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from odejax import Checkpoints, ConstantStep, Status, solve
from odejax.core.blocks import MOST_LANES, Grid, shift_by
from problems import bits, lorenz

N = 2 * MOST_LANES + 22  # three blocks, which overlap
KEY = jax.random.key(7)
Y0 = 1 + 0.1 * jax.random.normal(KEY, (N, 3))
RHO = jax.random.permutation(KEY, jnp.linspace(1.0, 12.0, N))
SPAN = (0.0, 1.0)
SOME = (0, 1, MOST_LANES, N - 1)


def solution(y0, rho, **options):
    return solve(lorenz, y0, SPAN, (10.0, rho), **({"rtol": 1e-8, "atol": 1e-8} | options))


def cost(y0, rho, **options):
    ys = solution(y0, rho, **options).ys
    return (ys**2).sum()


# -- blocks, without a solve


@pytest.mark.parametrize("lanes", [(1,), (5,), (64,), (65,), (150,), (3, 4), (3, 150), (150, 2), (7, 1, 130)])
@pytest.mark.parametrize("recorded", ["all", "last", "first"])
def test_every_lane_belongs_to_one_block(lanes, recorded):
    flags = {
        "all": [True] * len(lanes),
        "last": [False] * (len(lanes) - 1) + [True],
        "first": [True] + [False] * (len(lanes) - 1),
    }[recorded]
    grid = Grid.of(lanes, 64, tuple(flags))
    assert all(1 <= b <= n for b, n in zip(grid.block, lanes, strict=True))
    assert np.prod(grid.block) <= max(64, np.prod([n for n, f in zip(lanes, flags, strict=True) if not f]))
    levels = tuple(range(len(lanes)))
    cost = jax.random.uniform(KEY, [n if f else 1 for n, f in zip(lanes, flags, strict=True)])
    if grid.sorted is None:
        shift = jnp.zeros(cost.shape, jnp.int32)
    else:  # along the sorted level
        moved = jnp.moveaxis(cost, grid.sorted, -1)
        shift = jnp.moveaxis(shift_by(moved), -1, grid.sorted)
    leaf = jax.random.normal(KEY, (2, *lanes, 3))
    axes = tuple(1 + level for level in levels)

    def one(place, carry):
        owned, copied, summed, shared = carry
        part = grid.take(leaf, axes, place)
        own = place.is_own.reshape(1, *grid.block, 1)
        owned = grid.add(owned, place.is_own.astype(jnp.int32), levels, place)
        copied = grid.put(copied, part, axes, place)
        summed = grid.add(summed, jnp.where(own, part, 0), axes, place)
        total = jnp.where(own, part, 0).sum(axis=axes[:-1]) if len(lanes) > 1 else None
        shared = shared if total is None else shared + total.sum(axis=1)
        return owned, copied, summed, shared

    start = jnp.zeros(lanes, jnp.int32), jnp.zeros_like(leaf), jnp.zeros_like(leaf), jnp.zeros((2, 3))
    owned, copied, summed, shared = grid.each(one, shift, start)
    assert (owned == 1).all()
    assert (copied == leaf).all()
    assert (summed == leaf).all()
    if len(lanes) > 1:
        np.testing.assert_allclose(shared, leaf.sum(axis=axes), rtol=1e-12)


def test_blocks_have_lanes_of_like_cost():
    cost = jax.random.permutation(KEY, jnp.arange(200, dtype=jnp.int32))
    grid, shift = Grid.of((200,), 64), shift_by(cost)

    def widths(place, carry):
        part = grid.take(cost, (0,), place)
        return jnp.maximum(carry, part.max() - part.min())

    assert grid.each(widths, shift, jnp.int32(0)) == grid.block[0] - 1


# -- lanes as if they were alone


@pytest.mark.parametrize("method", ["tsit5", "dop853", "bosh3"])
def test_a_lane_takes_its_own_steps(method):
    options = {"method": method, "t_eval": jnp.linspace(0.0, 1.0, 4), "rtol": 1e-6}
    many = jax.vmap(lambda y0, rho: solution(y0, rho, **options))(Y0, RHO)
    one = jax.jit(lambda y0, rho: solution(y0, rho, **options))
    for lane in SOME:
        alone = one(Y0[lane], RHO[lane])
        for name in ("num_accepted", "num_rejected", "num_f_evals", "num_saved"):
            assert getattr(many.stats, name)[lane] == getattr(alone.stats, name)
        np.testing.assert_allclose(many.ys[lane], alone.ys, rtol=1e-13)
        np.testing.assert_allclose(many.y1[lane], alone.y1, rtol=1e-13)
        np.testing.assert_allclose(many.stats.min_step[lane], alone.stats.min_step, rtol=1e-13)


def test_a_lane_that_fails_changes_no_bit_of_another():
    fails = {3: jnp.nan, MOST_LANES: jnp.nan, N - 1: 1e300}
    bad = RHO.at[jnp.array(list(fails))].set(jnp.array(list(fails.values())))
    others = np.array([lane not in fails for lane in range(N)])
    options = {"t_eval": jnp.linspace(0.0, 1.0, 3), "throw": False}

    def run(rho):
        sol = jax.vmap(lambda y0, r: solution(y0, r, **options))(Y0, rho)
        grads = jax.vmap(jax.grad(lambda y0, r: cost(y0, r, **options), (0, 1)))(Y0, rho)
        return sol, grads

    (good, good_grads), (sol, grads) = jax.jit(run)(RHO), jax.jit(run)(bad)
    assert set(np.flatnonzero(np.asarray(sol.status))) == set(fails)
    for a, b in zip(jax.tree.leaves((good, good_grads)), jax.tree.leaves((sol, grads)), strict=True):
        np.testing.assert_array_equal(bits(a[others]), bits(b[others]))
    assert np.isnan(np.asarray(sol.y1)[~others]).all()
    assert all(np.isnan(np.asarray(g)[~others]).all() for g in grads)


def test_lanes_of_very_different_length():
    k = jax.random.permutation(KEY, jnp.logspace(0.0, 4.0, N))

    def f(t, y, k):
        return -k * (y - jnp.cos(t))

    sol = jax.vmap(lambda k: solve(f, 0.0, SPAN, (k,), rtol=1e-7))(k)
    assert sol.success.all()
    exact = (k**2 * (jnp.cos(1.0) - jnp.exp(-k)) + k * jnp.sin(1.0)) / (k**2 + 1)
    np.testing.assert_allclose(sol.y1, exact, rtol=1e-5)
    assert sol.stats.num_accepted.max() > 30 * sol.stats.num_accepted.min()


# -- derivatives

DERIVATIVES = {
    "grad": lambda fn: jax.grad(fn, (0, 1)),
    "jacfwd": lambda fn: jax.jacfwd(fn, (0, 1)),
    "hessian": lambda fn: jax.hessian(fn, (0, 1)),
    "jacfwd of jacfwd": lambda fn: jax.jacfwd(jax.jacfwd(fn, 1), 1),
}


@pytest.mark.parametrize(("name", "is_jitted"), [("grad", False), *((name, True) for name in DERIVATIVES)])
def test_vmap_of_derivatives(name, is_jitted):
    options = {"t_eval": jnp.array([0.3, 1.0]), "rtol": 1e-5, "atol": 1e-5}
    transform = DERIVATIVES[name](lambda y0, rho: cost(y0, rho, **options))
    many, one = jax.vmap(transform), jax.jit(transform)
    got = (jax.jit(many) if is_jitted else many)(Y0, RHO)
    for lane in SOME:
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(one(Y0[lane], RHO[lane])), strict=True):
            np.testing.assert_allclose(a[lane], b, rtol=1e-11, atol=1e-11 * abs(b).max())


@pytest.mark.parametrize("transform", [jax.jacrev, lambda fn: jax.jacfwd(jax.jacrev(fn))])
def test_derivatives_of_vmap_with_a_shared_parameter(transform):
    some = jnp.array(SOME)
    weights = jnp.zeros(N).at[some].set(1.0)

    def total(rho):
        return weights @ jax.vmap(lambda y0: cost(y0, rho))(Y0)

    def of_some(rho):
        return sum(cost(Y0[lane], rho) for lane in SOME)

    np.testing.assert_allclose(jax.jit(transform(total))(5.0), jax.jit(transform(of_some))(5.0), rtol=1e-11)


def test_one_lane():
    def loss(y0, rho):
        return cost(y0, rho, t_eval=jnp.array([0.3, 1.0]))

    operands = Y0[:1], RHO[:1]
    for transform in (lambda fn: fn, lambda fn: jax.hessian(fn, 1), lambda fn: jax.grad(fn, (0, 1))):
        fn = transform(loss)
        for a, b in zip(
            jax.tree.leaves(jax.vmap(fn)(*operands)), jax.tree.leaves(fn(Y0[0], RHO[0])), strict=True
        ):
            np.testing.assert_allclose(a[0], b, rtol=1e-13)
    shared = jax.grad(lambda rho: jax.vmap(loss, (0, None))(Y0[:1], rho).sum())(5.0)
    np.testing.assert_allclose(shared, jax.grad(loss, 1)(Y0[0], 5.0), rtol=1e-13)


def test_output_times_of_each_lane():
    times = jnp.sort(jax.random.uniform(KEY, (N, 3)), axis=1)

    def at(y0, rho, times):
        return solution(y0, rho, t_eval=times).ys

    many = jax.jit(jax.vmap(at))(Y0, RHO, times)
    jacobians = jax.jit(jax.vmap(jax.jacrev(at, 2)))(Y0, RHO, times)
    for lane in SOME:
        operands = Y0[lane], RHO[lane], times[lane]
        np.testing.assert_allclose(many[lane], at(*operands), rtol=1e-13)
        np.testing.assert_allclose(jacobians[lane], jax.jacrev(at, 2)(*operands), rtol=1e-10, atol=1e-10)


def test_lanes_in_lanes():
    """A parameter for each outer lane, one for each inner lane, and one that all share."""
    sigma = jnp.array([8.0, 10.0])

    def run(y0, sigma, rho, beta):
        sol = solve(lorenz, y0, SPAN, (sigma, rho, beta), rtol=1e-6)
        return sol.y1

    def every(y0, sigma, rho, beta):
        inner = jax.vmap(run, (0, None, 0, None))
        return jax.vmap(inner, (None, 0, None, None))(y0, sigma, rho, beta)

    def loss(*operands):
        return (every(*operands) ** 2).sum()

    got = jax.jit(every)(Y0, sigma, RHO, 2.0)
    grads = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(Y0, sigma, RHO, 2.0)
    pull = jax.jit(jax.grad(lambda *operands: (run(*operands) ** 2).sum(), (0, 1, 2, 3)))
    for i, lane in itertools.product(range(2), SOME):
        np.testing.assert_allclose(got[i, lane], run(Y0[lane], sigma[i], RHO[lane], 2.0), rtol=1e-13)
    for lane in SOME:
        by_sigma = [pull(Y0[lane], s, RHO[lane], 2.0) for s in sigma]
        np.testing.assert_allclose(grads[0][lane], sum(g[0] for g in by_sigma), rtol=1e-11)
        np.testing.assert_allclose(grads[2][lane], sum(g[2] for g in by_sigma), rtol=1e-11)
    every_grad = jax.vmap(jax.vmap(pull, (0, None, 0, None)), (None, 0, None, None))(Y0, sigma, RHO, 2.0)
    np.testing.assert_allclose(grads[1], every_grad[1].sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(grads[3], every_grad[3].sum(), rtol=1e-11)


def test_pullbacks_made_one_by_one_and_applied_to_all():
    """The records of lanes that were solved alone are those of many lanes, too."""
    bars = jax.random.normal(KEY, (N, 3))

    def end(y0):
        return solution(y0, 5.0, rtol=1e-5).y1

    _, pulls = lax.map(lambda y0: jax.vjp(end, y0), Y0)
    many = jax.vmap(lambda pull, bar: pull(bar)[0])(pulls, bars)
    wanted = lax.map(lambda operands: jax.vjp(end, operands[0])[1](operands[1])[0], (Y0, bars))
    np.testing.assert_allclose(many, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [{"checkpoints": Checkpoints(4, 500)}, {"controller": ConstantStep(0.01)}, {"method": "dop853"}],
    ids=["few states", "constant steps", "extra stages"],
)
def test_gradients_with(options):
    options = options | {"t_eval": jnp.linspace(0.1, 1.0, 3)}
    pull = jax.jit(jax.grad(lambda y0, rho: cost(y0, rho, **options), (0, 1)))
    many = jax.jit(jax.vmap(pull))(Y0, RHO)
    for lane in SOME:
        for a, b in zip(many, pull(Y0[lane], RHO[lane]), strict=True):
            np.testing.assert_allclose(a[lane], b, rtol=1e-11)


def test_lanes_under_a_condition():
    """Branches of `cond` hand on records of one shape, whatever the number of lanes."""

    def loss(y0, rho):
        return lax.cond(rho > 6.0, lambda y0: cost(y0, rho, rtol=1e-5), lambda y0: (y0**2).sum(), y0)

    many = jax.jit(jax.vmap(jax.grad(loss)))(Y0, RHO)
    for lane in SOME:
        np.testing.assert_allclose(many[lane], jax.grad(loss)(Y0[lane], RHO[lane]), rtol=1e-11)


def test_statistics_and_statuses_of_lanes():
    sol = jax.vmap(lambda y0, rho: solution(y0, rho, max_steps=40, throw=False))(Y0, RHO)
    assert set(np.unique(sol.status)) == {Status.SUCCESS, Status.MAX_STEPS}
    assert (np.asarray(sol.stats.num_steps) <= 40).all()
    assert ((sol.t1 < 1.0) == (sol.status == Status.MAX_STEPS)).all()
