"""`odejax.linalg`: inverses without LAPACK beside numpy's, and the systems that steps are solved with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odejax.linalg.inverse import LARGEST_ELIMINATED, cofactor_inverse, inverse
from odejax.linalg.system import Dense, Scalars, system_for

SIZES = pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 17, LARGEST_ELIMINATED])
RNG = np.random.default_rng(0)
invert = jax.jit(inverse)


def error(got, wanted):
    return np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()


def needs_pivots(n):
    """The first n - 1 pivots are zero."""
    return np.eye(n)[::-1] + np.triu(RNG.normal(size=(n, n)), 1)[:, ::-1]


@SIZES
def test_inverse(n):
    matrix = RNG.normal(size=(n, n)) + 2 * np.sqrt(n) * np.eye(n)
    assert error(invert(jnp.asarray(matrix)), np.linalg.inv(matrix)) < 1e-13


@SIZES
def test_inverse_of_a_stiff_matrix(n):
    """I / gamma - h J of many scales, none of which needs pivots."""
    rates = np.logspace(-3, 8, n)
    vectors = np.linalg.qr(RNG.normal(size=(n, n)))[0]
    matrix = 4 * np.eye(n) + vectors @ np.diag(rates) @ vectors.T
    wanted = vectors @ np.diag(1 / (4 + rates)) @ vectors.T
    assert error(invert(jnp.asarray(matrix)), wanted) < 1e-7
    assert np.abs(np.asarray(invert(jnp.asarray(matrix))) @ matrix - np.eye(n)).max() < 1e-5


@SIZES
def test_inverse_that_needs_pivots(n):
    for matrix in (np.eye(n)[::-1], np.roll(np.eye(n), 1, axis=0), needs_pivots(n)):
        assert error(invert(jnp.asarray(matrix)), np.linalg.inv(matrix)) < 1e-8


@pytest.mark.parametrize("pivot", [0.0, 1e-300, 1e-15, 1e-12, 1e-9, 1e-6])
def test_inverse_with_a_small_first_pivot(pivot):
    """Good to the root of the precision at least: below that, pivots are sought."""
    for n in (2, 4, 8):
        matrix = RNG.normal(size=(n, n)) + 2 * np.eye(n)[::-1]
        matrix[0, 0] = pivot
        assert error(invert(jnp.asarray(matrix)), np.linalg.inv(matrix)) < 3e-8


@SIZES
def test_inverse_of_rows_and_columns_of_any_size(n):
    scale = 10.0 ** RNG.uniform(-30, 30, n)
    matrix = RNG.normal(size=(n, n)) + 2 * np.sqrt(n) * np.eye(n)
    wanted = np.linalg.inv(matrix)
    got = np.asarray(invert(jnp.asarray(scale[:, None] * matrix)))
    assert error(got * scale, wanted) < 1e-10
    got = np.asarray(invert(jnp.asarray(matrix * scale)))
    assert error(scale[:, None] * got, wanted) < 1e-10


def test_inverse_of_what_has_none():
    for matrix in (np.ones((5, 5)), np.zeros((5, 5)), np.full((5, 5), np.nan)):
        assert not np.isfinite(np.asarray(invert(jnp.asarray(matrix)))).all()


def test_inverse_in_lanes():
    """Some need pivots, some have no inverse: the others do not change."""
    matrices = RNG.normal(size=(5, 6, 6)) + 5 * np.eye(6)
    matrices[1] = np.eye(6)[::-1]
    matrices[3] = 0
    got = jax.jit(jax.vmap(inverse))(jnp.asarray(matrices))
    for i in (0, 1, 2, 4):
        assert error(got[i], np.linalg.inv(matrices[i])) < 1e-13
    assert not np.isfinite(np.asarray(got[3])).any()


def test_inverse_in_single_precision():
    matrix = (RNG.normal(size=(8, 8)) + 6 * np.eye(8)).astype(np.float32)
    got = invert(jnp.asarray(matrix))
    assert got.dtype == jnp.float32
    assert error(got, np.linalg.inv(matrix)) < 1e-5
    reverse = np.eye(8, dtype=np.float32)[::-1]
    assert (np.asarray(invert(jnp.asarray(reverse))) == reverse).all()


# -- cofactors


def scalars(matrix):
    return [[None if x == 0 else jnp.asarray(x) for x in row] for row in matrix]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cofactor_inverse(n):
    for _ in range(10):
        matrix = RNG.normal(size=(n, n)) * 10 ** RNG.uniform(-100, 100, (n, 1))
        got = np.array([[float(x) for x in row] for row in cofactor_inverse(scalars(matrix))])
        unit = np.abs(matrix).max(axis=1)
        assert error(got * unit, np.linalg.inv(matrix / unit[:, None])) < 1e-12


@pytest.mark.parametrize(
    "pattern",
    [
        [[1, 0], [0, 1]], [[1, 1], [0, 1]], [[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 1, 1], [1, 1, 1], [0, 1, 1]],
        [[0, 1], [1, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
    ],
)  # fmt: skip
def test_cofactor_inverse_of_matrices_with_zeros(pattern):
    """A zero that the pattern has stays None."""
    matrix = np.array(pattern) * (RNG.normal(size=np.shape(pattern)) + 3)
    rows = cofactor_inverse(scalars(matrix))
    got = np.array([[0.0 if x is None else float(x) for x in row] for row in rows])
    assert error(got, np.linalg.inv(matrix)) < 1e-13


# -- systems


def struct(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_which_system():
    one = struct((), jnp.float64)
    full = ((True,) * 3,) * 3
    assert isinstance(system_for((one,) * 3, full, 1), Scalars)
    for leaves in ((one,) * 4, (one, one, struct((), jnp.float32)), (struct((), jnp.complex128),) * 3):
        assert isinstance(system_for(leaves, ((True,) * len(leaves),) * len(leaves), 1), Dense)
    assert isinstance(system_for((struct((2,), jnp.float64),), None, 1), Dense)


def test_states_are_packed_and_unpacked():
    leaves = jnp.ones((2, 3)), jnp.array([1 + 2j, 3 - 1j]), jnp.float32(4.0)
    system = Dense(tuple(struct(x.shape, x.dtype) for x in leaves))
    (packed,) = system.pack(leaves)
    assert packed.shape == (system.size,) == (11,)
    for a, b in zip(system.unpack((packed,)), leaves, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()
    sizes = 2 * jnp.ones((2, 3)), jnp.array([3.0, 4.0]), jnp.float32(5.0)
    (packed,) = system.pack_sizes(sizes)
    assert packed.tolist() == [2.0] * 6 + [3.0, 4.0, 3.0, 4.0, 5.0]


def problem(kind):
    """(system, fn of packed states, packed state): fn is not linear."""
    n = {"scalars": 3, "eliminated": 6, "factored": LARGEST_ELIMINATED + 2}[kind]
    weights = jnp.asarray(RNG.normal(size=(n, n)) / n)
    y = jnp.asarray(RNG.normal(size=n))

    def fn(y, k):
        return -k * y + jnp.sin(weights @ y)

    if kind != "scalars":
        return Dense((struct((n,), y.dtype),)), lambda y, k: (fn(y[0], k),), (y,)
    return Scalars(((True,) * n,) * n), lambda y, k: tuple(fn(jnp.stack(y), k)), tuple(y)


@pytest.mark.parametrize("kind", ["scalars", "eliminated", "factored"])
def test_solver_and_its_derivatives(kind):
    """Beside plain solves with the whole matrix: values, jvp, vjp, and a second derivative."""
    system, fn, y = problem(kind)

    def ours(k, b):
        jacobian = system.jacobian(partial(fn, k=k), y)
        x = system.solver(jacobian, jnp.asarray(4.0))(b)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in x])

    def plain(k, b):
        flat, b = (jnp.concatenate([jnp.ravel(leaf) for leaf in v]) for v in (y, b))

        def of_vector(v):
            parts = (v,) if len(y) == 1 else tuple(v)
            return jnp.concatenate([jnp.ravel(x) for x in fn(parts, k)])

        return jnp.linalg.solve(4.0 * jnp.eye(flat.size) - jax.jacfwd(of_vector)(flat), b)

    b = jax.tree.map(lambda x: jnp.cos(x + 1), y)
    for transform in (
        lambda f: f,
        lambda f: jax.jacfwd(f, (0, 1)),
        lambda f: jax.jacrev(f, (0, 1)),
        lambda f: jax.grad(lambda k, b: (jax.jacfwd(f)(k, b) ** 2).sum(), (0, 1)),
    ):
        got, wanted = (jax.tree.leaves(jax.jit(transform(f))(30.0, b)) for f in (ours, plain))
        for a, c in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, c, rtol=1e-11, atol=1e-12 * np.abs(c).max())


def test_bound_of_eigenvalues():
    system, _, y = problem("eliminated")
    matrix = RNG.normal(size=(6, 6))
    scales = (jnp.asarray(10.0 ** RNG.uniform(-3, 3, 6)),)
    largest = np.abs(np.linalg.eigvals(matrix)).max()
    assert system.bound((jnp.asarray(matrix),), scales) >= largest
    assert system.bound((jnp.asarray(matrix),), (jnp.ones_like(y[0]),)) <= 6 * np.abs(matrix).max()
