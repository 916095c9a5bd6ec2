"""Derivatives of stiff methods beside plain autodiff of the naive twin, which solves its equations by itself.

Rosenbrock steps are formulas: derivatives are exact with any steps. Newton methods are exact with steps of
given size; else each solve ends within its tolerance, and so do derivatives of different modes.
"""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odejax import ConstantStep, solve
from problems import STIFF, distance, flat, robertson
from test_derivatives import EXACT, FIRST, TRANSFORMATIONS, order_of, taylor
from twins import naive_twin, recorded_steps

TIMES = jnp.array([0.3, 0.9])
POINT = jnp.array([0.9, 0.8, 1.1])  # y0 and the stiffness
OPTIONS = {
    "rosenbrock23": {"rtol": 1e-3, "atol": 1e-3},
    "trbdf2": {"controller": ConstantStep(0.25)},
}
EACH = pytest.mark.parametrize("method", OPTIONS)


def field(t, y, k):
    return jnp.stack([-k * (y[0] - jnp.cos(t)) * y[1], y[0] - y[1] ** 3])


def setup(v):
    return field, v[:2], (0.0, 1.0), (300 * v[2],)


def ours(v, method):
    return solve(*setup(v), t_eval=TIMES, method=method, **OPTIONS[method]).ys.ravel()


@cache
def expansion(method, order):
    """Values and derivatives of the twin at POINT."""
    s = recorded_steps(*setup(POINT), method=method, **OPTIONS[method])

    def twin(v):
        _, ys = naive_twin(*setup(v), s, method, TIMES)
        assert ys is not None
        return ys.ravel()

    fns = [twin]
    for _ in range(order):
        fns.append(jax.jacfwd(fns[-1]))
    return jax.jit(lambda v: tuple(fn(v) for fn in fns))(POINT)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


OFTEN = [*FIRST, "hessian", "jacrev_of_jacrev", "jvp_of_grad"]
RARELY = [name for name in TRANSFORMATIONS if name not in OFTEN and name != "third_order"]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in OFTEN for method in OPTIONS),
        *(slow(name, method) for name in RARELY for method in OPTIONS),
        ("third_order", "rosenbrock23"),
        slow("third_order", "trbdf2"),
    ],
)
def test_transformation(name, method):
    transform = TRANSFORMATIONS[name]
    derivatives = expansion(method, order_of(name))
    wanted = jax.jit(transform(lambda v: taylor(v, POINT, derivatives)))(POINT)
    assert distance(jax.jit(transform(lambda v: ours(v, method)))(POINT), wanted) < EXACT


# -- lanes

LANES = jnp.stack([POINT, 0.9 * POINT, jnp.array([1.1, 0.7, 0.6])])
TRANSFORMATIONS_OF_LANES = {
    "vmap of grad": lambda loss: jax.vmap(jax.grad(loss, (0, 1)), (0, None))(LANES[:, :2], 1.1),
    "grad of vmap, shared": lambda loss: jax.grad(
        lambda y0, k: jax.vmap(loss, (0, None))(y0, k).sum(), (0, 1)
    )(LANES[:, :2], 1.1),
    "jacfwd of vmap, shared": lambda loss: jax.jacfwd(lambda k: jax.vmap(loss, (0, None))(LANES[:, :2], k))(
        1.1
    ),
    "vmap of hessian": lambda loss: jax.vmap(jax.hessian(loss, 1), (0, None))(LANES[:, :2], 1.1),
}


@EACH
@pytest.mark.parametrize(
    "name", [slow(name) if "hessian" in name else name for name in TRANSFORMATIONS_OF_LANES]
)
def test_transformation_of_lanes(name, method):
    """Beside the same of each lane alone."""

    def loss(y0, k):
        return (ours(jnp.append(y0, k), method) ** 2).sum()

    def one_by_one(y0, k):
        return jnp.stack([loss(y, k) for y in y0])

    got = TRANSFORMATIONS_OF_LANES[name](loss)
    by_y0, by_k = jax.jit(jax.jacrev(one_by_one, (0, 1)))(LANES[:, :2], 1.1)
    own = jnp.stack([by_y0[i, i] for i in range(len(LANES))])
    if name == "vmap of hessian":
        wanted = jax.jit(jax.jacfwd(jax.jacrev(one_by_one, 1), 1))(LANES[:, :2], 1.1)
    else:
        wanted = {
            "vmap of grad": (own, by_k),
            "grad of vmap, shared": (own, by_k.sum()),
            "jacfwd of vmap, shared": by_k,
        }[name]
    assert distance(got, wanted) < EXACT


def test_gradients_of_many_lanes():
    """Of lanes in blocks, each with steps of its own; shared parameters beside those of each lane."""
    k = jnp.logspace(0, 3, 70)

    def loss(k, c):
        return solve(field, c, (0.0, 1.0), (k,), method="rosenbrock23", rtol=1e-3).y1.sum()

    c = jnp.array([0.9, 0.8])
    by_k, by_c = jax.jit(jax.grad(lambda k, c: jax.vmap(loss, (0, None))(k, c).sum(), (0, 1)))(k, c)
    each = jax.jit(lambda k, c: jax.lax.map(lambda k: jax.grad(loss, (0, 1))(k, c), k))(k, c)
    assert distance((by_k, by_c), (each[0], each[1].sum(axis=0))) < EXACT


# -- kinds of states and parameters


class Relaxation(eqx.Module):
    rate: jax.Array
    target: dict

    def __call__(self, t, y, shift):
        z, (w,) = y["z"], y["w"]
        goal = self.target["a"] * jnp.exp(1j * (t + shift))
        return {"z": -self.rate * (z - goal) * (1 + jnp.abs(z) ** 2), "w": (z[0].real * w + w**3,)}


@pytest.mark.parametrize("method", [slow("rosenbrock23"), "trbdf2"])
def test_everything_at_once(method):
    """A complex pytree, a module, both ends of the span, times and save_fn; backwards in time."""

    def parts(v):
        y0 = {"z": v[0] + 1j * v[1:3], "w": (v[3],)}
        return Relaxation(-30 * v[4], {"a": v[5]}), y0, (1.0 + 0.1 * v[6], 0.1 * v[7]), (v[8],)

    def save_fn(t, y, shift):
        return jnp.stack([jnp.abs(y["z"][0]) * shift, y["w"][0] + t])

    v = jnp.linspace(0.5, 1.0, 9)
    options = {"method": method, **OPTIONS[method]}
    f, y0, span, args = parts(v)
    s = recorded_steps(f, y0, tuple(map(float, span)), args, **options)
    times = jnp.array([0.9, 0.4])

    def got(v):
        return flat(solve(*parts(v), t_eval=times * v[0] / v[0], save_fn=save_fn, **options).ys)

    def twin(v):
        return flat(naive_twin(*parts(v), s, method, times, save_fn)[1])

    wanted = jax.jit(jax.jacfwd(twin))(v)
    assert distance(jax.jit(got)(v), jax.jit(twin)(v)) < EXACT
    for jac in (jax.jacfwd, jax.jacrev):
        assert distance(jax.jit(jac(got))(v), wanted) < EXACT


def spring(n):
    """(f, y0) of n numbers, stiff and not linear."""
    stiffness = jnp.asarray(np.linspace(1.0, 300.0, n))

    def f(t, y, k):
        return -k * stiffness * (y - jnp.cos(t)) + 0.3 * jnp.sin(jnp.roll(y, 1)) * y

    return f, jnp.asarray(np.sin(np.arange(n)))


@EACH
@pytest.mark.parametrize("n", [slow(1), 8, 50])
def test_gradients_of_states_of_many_sizes(n, method):
    """By closed forms, by elimination and by LU."""
    f, y0 = spring(n)
    options = {"method": method, **OPTIONS[method]}
    s = recorded_steps(f, y0, (0.0, 1.0), (1.0,), **options)

    def got(y0, k):
        return (solve(f, y0, (0.0, 1.0), (k,), **options).y1 ** 2).sum()

    def twin(y0, k):
        return (naive_twin(f, y0, (0.0, 1.0), (k,), s, method)[0] ** 2).sum()

    wanted = jax.jit(jax.grad(twin, (0, 1)))(y0, 1.0)
    assert distance(jax.jit(jax.grad(got, (0, 1)))(y0, 1.0), wanted) < EXACT


def test_derivative_of_dense_output():
    y0 = POINT[:2]

    def at(t, k, method):
        return solve(field, y0, (0.0, 1.0), (k,), dense=300, method=method, rtol=1e-7, atol=1e-7)(t)

    for method in ("rodas4", "kvaerno3"):
        by_t = jax.jit(jax.jacfwd(lambda t: at(t, 300.0, method)))(0.6)
        assert distance(by_t, field(0.6, at(0.6, 300.0, method), 300.0)) < 1e-3
        by_k = [jax.jit(jac(lambda k: at(0.6, k, method)))(300.0) for jac in (jax.jacfwd, jax.jacrev)]
        e = 1e-2
        difference = (at(0.6, 300.0 + e, method) - at(0.6, 300.0 - e, method)) / (2 * e)
        assert distance(by_k[0], difference) < 1e-2
        assert distance(by_k[1], by_k[0]) < 1e-5


# -- adaptive Newton methods: to the tolerance

RATES = jnp.array([0.04, 3e7, 1e4])


def end_of_robertson(k, method, **options):
    _, y0, _, _ = STIFF["robertson"]
    return solve(robertson, jnp.array(y0), (0.0, 1e3), (k * RATES,), method=method, **options).y1


@pytest.mark.parametrize("method", ["trbdf2", slow("kvaerno5")])
def test_newton_methods_differentiate_within_their_tolerance(method):
    """Forward mode makes the steps again from y0, to the last digits: exactly the twin. Reverse mode starts
    from the states that were computed."""
    options = {"rtol": 1e-6, "atol": 1e-10}
    _, y0, _, _ = STIFF["robertson"]
    s = recorded_steps(robertson, jnp.array(y0), (0.0, 1e3), (RATES,), 900, method=method, **options)

    def twin(k):
        return naive_twin(robertson, jnp.array(y0), (0.0, 1e3), (k * RATES,), s, method)[0]

    def got(k):
        return end_of_robertson(k, method, **options)

    one = jnp.ones(3)
    value, wanted = jax.jit(lambda k: (twin(k), jax.jacfwd(twin)(k)))(one)
    assert np.abs(got(one) / value - 1).max() < 1e-5
    assert np.abs(jax.jit(jax.jacfwd(got))(one) / wanted - 1).max() < EXACT
    assert np.abs(jax.jit(jax.jacrev(got))(one) / wanted - 1).max() < 1e-4


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
def test_sensitivities_of_robertson(method):
    """Beside those of the sensitivity equation, solved by another method."""
    _, y0, _, _ = STIFF["robertson"]

    def augmented(t, z):
        def slope(y, k):
            return robertson(t, y, k * RATES)

        y, by_k = z[:3], z[3:].reshape(3, 3)
        j, b = jax.jacfwd(slope, (0, 1))(y, jnp.ones(3))
        return jnp.concatenate([slope(y, jnp.ones(3)), (j @ by_k + b).ravel()])

    z0 = jnp.concatenate([jnp.array(y0), jnp.zeros(9)])
    z1 = solve(augmented, z0, (0.0, 1e3), method="rodas4", rtol=1e-9, atol=1e-14).y1
    wanted = z1[3:].reshape(3, 3)
    for jac in (jax.jacfwd, jax.jacrev):
        got = jax.jit(jac(lambda k: end_of_robertson(k, method, rtol=1e-8, atol=1e-13)))(jnp.ones(3))
        assert np.abs(got / wanted - 1).max() < 1e-5


@pytest.mark.parametrize("method", ["rodas4", "trbdf2", "kvaerno5"])
def test_gradients_are_right_at_loose_tolerances(method):
    """Steps that were solved only roughly are made again to the last digits: that must not fail, nor end in
    another solution of the equations."""
    run = jax.jit(jax.jacrev(lambda k, rtol: end_of_robertson(k, method, rtol=rtol, atol=1e-4 * rtol)))
    exact = run(jnp.ones(3), 1e-8)
    for rtol, allowed in ((3e-2, 0.3), (1e-2, 0.2), (1e-3, 0.1), (1e-4, 0.03), (1e-5, 5e-3)):
        assert np.abs(run(jnp.ones(3), rtol) / exact - 1).max() < allowed, rtol


@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "kvaerno5"])
def test_derivative_with_respect_to_a_boundary_value(method):
    """Of which `jnp.pad` makes two numbers; JAX cannot transpose that alone."""

    def heat(t, u, edge):
        wide = jnp.pad(u, 1, constant_values=edge)
        return 50 * (wide[2:] - 2 * u + wide[:-2])

    def end(edge):
        return solve(heat, jnp.zeros(40), (0.0, 1.0), (edge,), method=method).y1[3]

    assert jax.grad(end)(2.0) == pytest.approx(float(end(3.0) - end(2.0)), rel=1e-5)  # it is linear
    assert jax.jvp(end, (2.0,), (1.0,))[1] == pytest.approx(float(jax.grad(end)(2.0)), rel=1e-6)
