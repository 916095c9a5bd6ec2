"""`expm_multiply` and `solve_linear`, beside scipy, closed forms and plain autodiff of a dense exponential."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.experimental.sparse import BCOO, BCSR

import odejax
from odejax import Status, expm_multiply, solve_linear
from odejax.linalg import dense, taylor

RNG = np.random.default_rng(0)
A, V, WEIGHTS = RNG.normal(size=(4, 4)), RNG.normal(size=4), RNG.normal(size=4)
B = RNG.normal(size=4)
T = 0.7


def as_array(A):
    return A


def as_function(A):
    return lambda v: A @ v


def as_sparse(A):
    indices = np.stack(np.meshgrid(*map(np.arange, np.shape(A)), indexing="ij"), axis=-1).reshape(-1, 2)
    return BCOO((A.reshape(-1), indices), shape=A.shape)


KINDS = pytest.mark.parametrize("kind", [as_array, as_function, as_sparse])


def naive_expm(A):
    """exp(A) by 6 squarings of a polynomial: enough for the norms here, and plain JAX."""
    B, one = A / 2.0**6, jnp.eye(A.shape[0])

    def horner(total, k):
        return one + B @ total / k, None

    total, _ = jax.lax.scan(horner, one, jnp.arange(14.0, 0.0, -1.0))
    return jax.lax.scan(lambda x, _: (x @ x, None), total, length=6)[0]


def naive(A, v, t):
    return naive_expm(t * A) @ v


def relative_error(value, exact):
    value, exact = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (value, exact))
    return np.linalg.norm(value - exact) / np.linalg.norm(exact)


def skew(n):
    a = RNG.normal(size=(n, n))
    return a - a.T


def laplacian(n):
    return np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)


def of_norm(A, norm):
    return A * (norm / np.abs(A).sum(axis=0).max())


MATRICES = {
    "one number": of_norm(np.ones((1, 1)), -30.0),
    "random": of_norm(RNG.normal(size=(20, 20)), 20.0),
    "rotation, norm 100": of_norm(skew(10), 100.0),
    "rotation, norm 1000": of_norm(skew(10), 1000.0),
    "diffusion, norm 1000": of_norm(laplacian(30), 1000.0),
    "generator": of_norm(np.abs(RNG.normal(size=(20, 20))) - 20 * np.eye(20), 50.0),
    "Jordan block": 3.0 * np.eye(12, k=1) - np.eye(12),
    "far from normal": np.array([[1.0, 1e4], [0.0, -1.0]]),
    "nilpotent": np.array([[0.0, 1e6], [0.0, 0.0]]),
    "shifted": of_norm(RNG.normal(size=(8, 8)), 3.0) - 300 * np.eye(8),
    "complex": 1j * (skew(6) + 1j * RNG.normal(size=(6, 6))),
    "tiny": 1e-9 * RNG.normal(size=(5, 5)),
}


# -- values


def check_value(name, kind):
    A = MATRICES[name]
    v, op = RNG.normal(size=A.shape[0]).astype(A.dtype), kind(A)
    norm = np.abs(A).sum(axis=0).max()
    for t in (1.0, -0.01):
        exact = scipy.linalg.expm(t * A) @ v
        assert np.linalg.norm(expm_multiply(op, v, t) - exact) <= 1e-14 * max(norm, 1) * np.linalg.norm(exact)


@pytest.mark.parametrize("name", MATRICES)
def test_value(name):
    check_value(name, as_array)


@pytest.mark.parametrize(
    "name", ["rotation, norm 1000", "diffusion, norm 1000", "far from normal", "complex"]
)
@pytest.mark.parametrize("kind", [as_function, as_sparse])
def test_value_of_operator(name, kind):
    check_value(name, kind)


def test_value_of_single_precision():
    A32, v = (x.astype(np.float32) for x in (of_norm(skew(10), 20.0), np.ones(10)))
    for kind in (as_array, as_function, as_sparse):
        w = expm_multiply(kind(A32), v, 1.0)
        assert w.dtype == np.float32
        assert relative_error(w, scipy.linalg.expm(A32.astype(float)) @ v) < 3e-6


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
def test_tolerance_bounds_the_backward_error(tol):
    for angle in (0.3, 3.0, 40.0):  # exp of a rotation by angle (1 + e): an error of e |angle|
        w = expm_multiply(jnp.array([[0.0, -angle], [angle, 0.0]]), jnp.array([1.0, 0.0]), tol=tol)
        error = np.linalg.norm(w - np.array([np.cos(angle), np.sin(angle)]))
        assert error <= tol * angle
    traced = jax.jit(lambda tol: expm_multiply(jnp.array([[0.0, -3.0], [3.0, 0.0]]), jnp.ones(2), tol=tol))
    known = expm_multiply(jnp.array([[0.0, -3.0], [3.0, 0.0]]), jnp.ones(2), tol=tol)
    np.testing.assert_allclose(traced(tol), known, rtol=1e-12)


def test_steps_are_those_of_al_mohy_and_higham():
    """Table 3.1 of the paper, as far as steps are not limited here; it is exact where this is a bound."""
    steps = taylor.largest_steps(2.0**-53, 30)
    for m, theta in ((10, 1.44e-1), (15, 6.41e-1), (20, 1.44), (25, 2.43), (30, 3.54)):
        assert 0.93 * theta < steps[m - taylor.FIRST_DEGREE] < 1.01 * theta


def test_far_from_normal_takes_few_steps():
    A = jnp.array([[1.0, 1e5], [0.0, -1.0]])
    sol = solve_linear(lambda y: A @ y, jnp.ones(2), (0.0, 1.0))
    assert sol.stats.num_f_evals < 10_000
    assert relative_error(sol.y1, scipy.linalg.expm(A) @ np.ones(2)) < 1e-12


def test_matrix_of_vectors_and_pytrees():
    v = RNG.normal(size=(4, 3))
    exact = scipy.linalg.expm(T * A) @ v
    for kind in (as_array, as_sparse):
        np.testing.assert_allclose(expm_multiply(kind(A), v, T), exact, rtol=1e-12)
    tree = expm_multiply(lambda v: {"x": A @ v["x"], "y": -2 * v["y"]}, {"x": V, "y": np.float32(1)}, T)
    np.testing.assert_allclose(tree["x"], scipy.linalg.expm(T * A) @ V, rtol=1e-12)
    np.testing.assert_allclose(tree["y"], np.exp(-2 * T), rtol=1e-6)
    np.testing.assert_allclose(expm_multiply(BCSR.fromdense(jnp.asarray(A)), V, T), tree["x"], rtol=1e-12)


@KINDS
def test_zero_is_the_identity(kind):
    run = jax.jit(lambda A, t: expm_multiply(kind(A), V, t))
    np.testing.assert_array_equal(run(0 * A, 1.0), V)
    np.testing.assert_array_equal(run(A, 0.0), V)


def test_integers_become_floats():
    np.testing.assert_allclose(expm_multiply(np.eye(2, dtype=int), np.ones(2, int)), np.e * np.ones(2))


@KINDS
def test_what_cannot_be_computed_is_nan(kind):
    run = jax.jit(lambda A: expm_multiply(kind(A), jnp.ones(2)))
    for bad in (np.nan, np.inf, 1e12):
        assert np.isnan(run(jnp.array([[0.0, bad], [-bad, 0.0]]))).all()


def test_nan_in_the_vector_propagates():
    assert np.isnan(expm_multiply(A, jnp.array([1.0, np.nan, 0.0, 0.0]))).all()


def test_weights_of_the_dense_polynomial():
    """For a nilpotent matrix the powers are apart: its exponential shows all coefficients."""
    got = dense._polynomial(jnp.eye(19, k=1))[0]
    exact = np.array([1 / math.factorial(k) for k in range(19)])
    np.testing.assert_allclose(got[:12], exact[:12], rtol=1e-11, atol=1e-16)
    np.testing.assert_allclose(got[12:], exact[12:], rtol=1e-9)


@pytest.mark.parametrize("norm", [0.0, 1e-3, 1.0, 10.7, 1e3])
def test_dense_exponential(norm):
    B = of_norm(skew(8), norm)
    exact = scipy.linalg.expm(B)
    assert relative_error(dense.expm(jnp.asarray(B)), exact) < 1e-13 * max(norm, 1)
    assert relative_error(dense.expm(jnp.asarray(B, jnp.float32)), exact) < 1e-5 * max(norm, 1)


# -- derivatives, by the names of the transformations


def scalar(fn):
    return lambda A, v, t: WEIGHTS @ fn(A, v, t) ** 2


TRANSFORMED = {
    "grad": lambda f: jax.grad(scalar(f), (0, 1, 2)),
    "jacfwd": lambda f: jax.jacfwd(f, (0, 1, 2)),
    "jacrev": lambda f: jax.jacrev(f, (0, 1, 2)),
    "hessian": lambda f: jax.hessian(scalar(f), (0, 1, 2)),
    "jacrev_of_grad": lambda f: jax.jacrev(jax.grad(scalar(f), (0, 1, 2)), (0, 1, 2)),
    "grad_of_jvp": lambda f: jax.grad(
        lambda A, v, t: WEIGHTS @ jax.jvp(f, (A, v, t), (A * A, v, t))[1], (0, 1, 2)
    ),
    "jvp_of_hvp": lambda f: (
        lambda A, v, t: jax.jvp(
            lambda A, t: jax.jvp(jax.grad(scalar(f)), (A, v, t), (A * A, v, t))[1], (A, t), (A, 1.0)
        )[1]
    ),
    "vmap_of_grad": lambda f: (
        lambda A, v, t: jax.vmap(jax.grad(scalar(f), (0, 1, 2)), (None, 0, 0))(
            A, jnp.stack([v, v * v]), jnp.stack([t, -t])
        )
    ),
    "grad_of_vmap": lambda f: (
        lambda A, v, t: jax.grad(
            lambda A: jax.vmap(scalar(f), (None, 0, 0))(A, jnp.stack([v, v * v]), jnp.stack([t, 3 * t])).sum()
        )(A)
    ),
}


def check_derivative(name, kind):
    transform = TRANSFORMED[name]
    got = jax.jit(transform(lambda A, v, t: expm_multiply(kind(A), v, t)))(A, V, T)
    exact = jax.jit(transform(naive))(A, V, T)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        assert relative_error(x, y) < 1e-12


@pytest.mark.parametrize("name", TRANSFORMED)
def test_derivative(name):
    check_derivative(name, as_array)


@pytest.mark.parametrize(("name", "kind"), [("hessian", as_function), ("grad", as_sparse)])
def test_derivative_of_operator(name, kind):
    check_derivative(name, kind)


def test_second_derivatives_where_little_is_computed():
    hessian, exact_hessian = (jax.jit(jax.hessian(scalar(fn), (0, 2))) for fn in (expm_multiply, naive))
    for arguments in ((A, V, 0.0), (0 * A, V, T), (0 * A, V, 0.0)):
        second, exact = hessian(*arguments), exact_hessian(*arguments)
        for x, y in zip(jax.tree.leaves(second), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_grad_of_many_steps():
    """With more steps than states are kept; a rotation by the angle a."""
    J = jnp.array([[0.0, -1.0], [1.0, 0.0]])

    def component(angle):
        return expm_multiply(lambda v: angle * (J @ v), jnp.array([1.0, 0.0]))[0]

    derivatives = jax.jit(lambda a: (jax.grad(component)(a), jax.grad(jax.grad(component))(a)))
    for angle in (100.0, 5000.0):
        first, second = derivatives(angle)
        assert abs(first + np.sin(angle)) < 1e-13 * angle
        assert abs(second + np.cos(angle)) < 1e-12 * angle


def test_grad_beside_finite_differences():
    B, v = of_norm(RNG.normal(size=(6, 6)), 10.0), RNG.normal(size=6)
    direction = RNG.normal(size=(6, 6))

    @jax.jit
    def loss(B):
        return (expm_multiply(B, v) ** 2).sum()

    h = 1e-6
    difference = (loss(B + h * direction) - loss(B - h * direction)) / (2 * h)
    assert relative_error(jnp.vdot(jax.grad(loss)(B), direction), difference) < 1e-7


def test_grad_of_complex():
    def loss(fn):
        return lambda H, v: jnp.abs(fn(-1j * (H + H.T), v.astype(complex), T)[0]) ** 2

    got = jax.jit(jax.grad(loss(expm_multiply), (0, 1)))(A, V)
    exact = jax.jit(jax.grad(loss(lambda A, v, t: jax.scipy.linalg.expm(t * A) @ v), (0, 1)))(A, V)
    assert relative_error(got, exact) < 1e-12


def test_grad_of_single_precision():
    A32, v = A.astype(np.float32), V.astype(np.float32)
    got = jax.jit(jax.grad(scalar(expm_multiply), (0, 1, 2)))(A32, v, T)
    assert got[0].dtype == np.float32
    assert relative_error(got, jax.jit(jax.grad(scalar(naive), (0, 1, 2)))(A, V, T)) < 1e-5


def test_grad_of_an_equinox_module():
    class Rates(eqx.Module):
        log: jax.Array
        name: str = "rates"

        def __call__(self, v):
            return jnp.exp(self.log) @ v

    log = jnp.asarray(A)
    got = eqx.filter_jit(eqx.filter_grad(lambda m: WEIGHTS @ expm_multiply(m, V, T)))(Rates(log)).log
    exact = jax.jit(jax.grad(lambda log: WEIGHTS @ naive(jnp.exp(log), V, T)))(log)
    assert relative_error(got, exact) < 1e-12


def test_grad_keeps_few_states():
    """The reverse pass of 10,000 numbers over 250 steps of 35 terms: less than 150 states."""
    n = 10_000

    def loss(k, v):
        def advection(v):
            return k * (jnp.roll(v, 1) - jnp.roll(v, -1))

        return (expm_multiply(advection, v, 500.0) ** 3).sum()

    memory = jax.jit(jax.grad(loss)).lower(1.0, jnp.ones(n)).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 200 * 8 * n


def test_vmap_over_all():
    As, vs, ts = RNG.normal(size=(3, 4, 4)), RNG.normal(size=(3, 4)), np.array([0.0, -1.0, 20.0])
    exact = [scipy.linalg.expm(t * A) @ v for A, v, t in zip(As, vs, ts, strict=True)]
    for kind in (as_array, as_function):
        got = jax.jit(jax.vmap(lambda A, v, t: expm_multiply(kind(A), v, t)))(As, vs, ts)
        for x, y in zip(got, exact, strict=True):
            assert relative_error(x, y) < 1e-13


# -- solve_linear

TIMES = {
    "equal": np.array([0.5, 1.0, 1.5, 2.0]),
    "equal, inside": np.array([0.4, 0.8, 1.2, 1.6]),
    "unequal": np.array([0.3, 0.5, 1.1, 1.7]),
    "repeated": np.array([0.0, 0.0, 1.0, 2.0]),
}


def exact_states(A, y0, b, t0, ts):
    n = A.shape[0]
    augmented = jnp.block([[A, b[:, None]], [jnp.zeros((1, n + 1))]])
    start = jnp.append(y0, 1.0)
    return jax.vmap(lambda t: naive_expm((t - t0) * augmented) @ start)(jnp.asarray(ts))[:, :n]


@pytest.mark.parametrize("kind", [as_array, as_function])
def test_states(kind):
    op = kind(A)
    traced = jax.jit(lambda ts: solve_linear(op, V, (0.0, 2.0), t_eval=ts, b=B))
    exact = jax.jit(lambda ts: exact_states(A, V, B, 0.0, ts))
    for ts in TIMES.values():
        for sol in (solve_linear(op, V, (0.0, 2.0), t_eval=ts, b=B), traced(ts)):
            assert relative_error(sol.ys, exact(ts)) < 1e-12
            assert relative_error(sol.y1, exact(TIMES["equal"])[-1]) < 1e-12
            assert sol.success
            assert sol.t1 == 2.0
            assert sol.stats.num_saved == len(ts)


def test_one_propagator_for_equal_spacing():
    equal = solve_linear(A, V, (0.0, 2.0), t_eval=np.linspace(0.0, 2.0, 5))
    unequal = solve_linear(A, V, (0.0, 2.0), t_eval=TIMES["unequal"])
    assert equal.stats.num_f_evals == 0
    assert equal.stats.num_accepted == 4
    assert unequal.stats.num_f_evals > 0
    backwards = solve_linear(A, V, (2.0, 0.0), t_eval=TIMES["equal"][::-1])
    assert backwards.stats.num_f_evals == 0
    assert relative_error(backwards.y1, scipy.linalg.expm(-2 * A) @ V) < 1e-12


@pytest.mark.parametrize(
    ("transform", "times"), [(jax.jacfwd, "equal"), (jax.jacrev, "equal"), (jax.jacrev, "unequal")]
)
def test_jacobian_of_states(transform, times):
    """With respect to the matrix, the state, the constant, and all times."""
    arguments = A, V, B, 0.0, TIMES[times]

    def states(A, y0, b, t0, ts):
        return solve_linear(A, y0, (t0, 2.0), t_eval=ts, b=b).ys

    got = jax.jit(transform(states, range(5)))(*arguments)
    exact = jax.jit(transform(exact_states, range(5)))(*arguments)
    for x, y in zip(got, exact, strict=True):
        assert relative_error(x, y) < 1e-12


def test_hessian_of_states():
    ts = TIMES["equal"]

    def loss(states):
        return lambda A, b: (states(A, b) ** 3).sum()

    def states(A, b):
        return solve_linear(A, V, (0.0, 2.0), t_eval=ts, b=b).ys

    got = jax.jit(jax.hessian(loss(states), (0, 1)))(A, B)
    exact = jax.jit(jax.hessian(loss(lambda A, b: exact_states(A, V, b, 0.0, ts)), (0, 1)))(A, B)
    assert relative_error(got, exact) < 1e-12


def test_grad_of_end_time():
    y1, slope = jax.jit(lambda t1: jax.jvp(lambda t1: solve_linear(A, V, (0.0, t1), b=B).y1, (t1,), (1.0,)))(
        2.0
    )
    np.testing.assert_allclose(slope, A @ y1 + B, rtol=1e-12)


def test_vmap_of_solve_linear():
    def states(y0):
        return solve_linear(A, y0, (0.0, 2.0), t_eval=TIMES["equal"], b=B).ys

    ys = jax.jit(jax.vmap(states))(jnp.stack([V, B]))
    for y, y0 in zip(ys, (V, B), strict=True):
        assert relative_error(y, states(y0)) < 1e-13


def test_columns_and_large_constants():
    y0, b = RNG.normal(size=(4, 3)), 1e8 * RNG.normal(size=(4, 3))
    exact = scipy.linalg.solve(A, (scipy.linalg.expm(A) - np.eye(4)) @ b) + scipy.linalg.expm(A) @ y0
    for kind in (as_array, as_sparse):
        sol = solve_linear(kind(A), y0, (0.0, 1.0), b=b)
        assert relative_error(sol.y1, exact) < 1e-12


def test_stiff_with_constant():
    """y' = -1000 (y - 1), by an operator; the constant's own eigenvalue is 0."""
    sol = solve_linear(lambda y: -1000.0 * y, jnp.zeros(3), (0.0, 1.0), b=jnp.full(3, 1000.0))
    np.testing.assert_allclose(sol.y1, np.ones(3), rtol=1e-12)


def test_large_matrix_forms_no_exponential():
    n = 200
    laplace = 100.0 * laplacian(n)
    sol = solve_linear(laplace, np.ones(n), (0.0, 1.0), t_eval=np.linspace(0.0, 1.0, 3))
    assert sol.stats.num_f_evals > 0
    assert relative_error(sol.y1, scipy.linalg.expm(laplace) @ np.ones(n)) < 1e-12


# -- failures and messages


def test_overflow_is_a_failure():
    growth, y0 = np.array([[1000.0]]), np.ones(1)
    sol = solve_linear(growth, y0, (0.0, 1.0), t_eval=[0.0, 0.5, 1.0], throw=False)
    assert sol.status == Status.NON_FINITE
    assert not sol.success
    assert sol.t1 == 0.5
    assert sol.stats.num_saved == 2
    np.testing.assert_array_equal(np.isnan(sol.ys[:, 0]), [False, False, True])
    assert np.isnan(sol.y1).all()
    assert np.isfinite(sol.y_reached).all()
    with pytest.raises(odejax.SolveError, match=r"at t = 0\.5"):
        solve_linear(growth, y0, (0.0, 1.0), t_eval=[0.0, 0.5, 1.0])
    slope = jax.grad(lambda a: solve_linear(a * growth, y0, (0.0, 1.0), throw=False).y1.sum())(1.0)
    assert np.isnan(slope)


def test_nan_is_a_failure():
    with pytest.raises(odejax.SolveError) as info:
        solve_linear(np.full((2, 2), np.nan), np.ones(2), (0.0, 1.0))
    assert info.value.status == Status.NON_FINITE_START


def test_traced_times_out_of_order_are_a_failure():
    run = jax.jit(lambda ts: solve_linear(A, V, (0.0, 1.0), t_eval=ts))
    assert run(np.array([0.5, 0.2])).status == Status.BAD_TIMES
    assert run(np.array([0.5, 1.2])).status == Status.BAD_TIMES


WRONG = {
    "`A` must be square, got shape": lambda: expm_multiply(np.ones((2, 3)), np.ones(3)),
    "`A` must be an array": lambda: expm_multiply("matrix", np.ones(3)),
    "`v` must have shape": lambda: expm_multiply(np.eye(2), np.ones(3)),
    "`y0` must have shape": lambda: solve_linear(np.eye(2), np.ones(3), (0.0, 1.0)),
    "`v` is empty": lambda: expm_multiply(np.eye(2), np.ones(0)),
    "`v` has no arrays": lambda: expm_multiply(np.eye(2), {}),
    "`t` must be a real number": lambda: expm_multiply(np.eye(2), np.ones(2), 1j),
    "`t` must be a scalar": lambda: expm_multiply(np.eye(2), np.ones(2), np.ones(2)),
    "`tol` must be a number": lambda: expm_multiply(np.eye(2), np.ones(2), tol="tight"),
    "`tol` must be at least 1.1e-16": lambda: expm_multiply(np.eye(2), np.ones(2), tol=1e-20),
    "`A` must return the shapes of `v`": lambda: expm_multiply(lambda v: v[:1], np.ones(2)),
    "`A` must return the structure of `v`": lambda: expm_multiply(lambda v: (v, v), np.ones(2)),
    "`A` returned complex numbers": lambda: expm_multiply(lambda v: 1j * v, np.ones(2)),
    "neither batch nor dense": lambda: expm_multiply(BCOO.fromdense(jnp.eye(2), n_dense=1), np.ones(2)),
    "`b` must have the structure": lambda: solve_linear(np.eye(2), np.ones(2), (0.0, 1.0), b=np.ones(3)),
    "`t_span` must be a pair": lambda: solve_linear(np.eye(2), np.ones(2), 1.0),
    "`t_eval` must be increasing": lambda: solve_linear(np.eye(2), np.ones(2), (0.0, 1.0), t_eval=[0.5, 0.2]),
}


@pytest.mark.parametrize("message", WRONG)
def test_message(message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        WRONG[message]()
