"""`jac`: solves that know where the Jacobian has entries are those with the whole Jacobian, in every derivative."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import odejax
from odejax import Banded, Sparse, Status, solve
from odejax.linalg import bands, elimination
from problems import assert_close

RNG = np.random.default_rng(0)


def second_difference(u, end):
    wide = jnp.concatenate([jnp.full(1, end), u, jnp.full(1, end)])
    return wide[2:] - 2 * u + wide[:-2]


def brusselator(t, y, p):
    """Reaction and diffusion on a line, u and v by turns: two diagonals on both sides."""
    u, v = y[::2], y[1::2]
    d = p[1] * (len(u) + 1) ** 2
    slopes = [
        p[0] + u * u * v - 4 * u + d * second_difference(u, 1.0),
        3 * u - u * u * v + d * second_difference(v, 3.0),
    ]
    return jnp.stack(slopes, axis=1).ravel()


P = jnp.array([1.0, 0.02])
Y0 = jnp.stack([1 + jnp.sin(2 * jnp.pi * jnp.linspace(0.04, 0.96, 23)), jnp.full(23, 3.0)], axis=1).ravel()


def end(p=P, y0=Y0, f=brusselator, **options):
    options = {"method": "rodas5p", "jac": Banded(2, 2), "rtol": 1e-6, "atol": 1e-6, **options}
    return solve(f, y0, (0.0, 1.0), (p,), **options).y1


def shuffled(order):
    """The Brusselator with its unknowns in some order, and the pattern of its Jacobian."""
    position = np.argsort(order)
    band = np.abs(np.subtract.outer(order, order)) <= 2
    return (lambda t, y, p: brusselator(t, y[position], p)[order]), band


# -- the matrices


def band(n, lower, upper, diagonal, seed=0):
    """Random, with so much on the diagonal."""
    rng, (i, j) = np.random.default_rng(seed), np.indices((n, n))
    inside = (j >= i - lower) & (j <= i + upper)
    return np.where(inside, rng.standard_normal((n, n)), 0) + diagonal * np.eye(n)


def solved(structure, matrix, b):
    """(x, x of the transpose) by the system of a structure whose Jacobian is I - matrix."""
    n = len(matrix)
    system = structure.system((jnp.zeros(n, b.dtype),))
    jacobian = jnp.asarray(np.eye(n) - matrix, b.dtype)

    def of(b):
        made = system.jacobian(lambda y: system.pack((jacobian @ system.unpack(y)[0],)), system.pack((b,)))
        return system.unpack(system.solver(made, jnp.ones((), b.dtype))(system.pack((b,))))[0]

    x, pull = jax.vjp(of, b)
    return x, pull(b)[0]


SIZES = [
    (1, 0, 0),
    (2, 1, 1),
    (33, 0, 0),
    (50, 1, 1),
    (101, 2, 2),
    (64, 0, 3),
    (97, 4, 1),
    (90, 8, 8),
    (60, 5, 30),
]


@pytest.mark.parametrize(("n", "lower", "upper"), SIZES)
def test_solutions_are_those_of_numpy(n, lower, upper):
    """Of numbers of rows that no block divides, by all ways to solve, without and with a strong diagonal."""
    both, b = jax.jit(solved, static_argnums=0), np.cos(np.arange(float(n)))
    for diagonal in (0.0, 5.0):
        matrix = band(n, lower, upper, diagonal, n)
        got = both(Banded(lower, upper), matrix, jnp.asarray(b))
        for x, a in zip(got, (matrix, matrix.T), strict=True):
            tolerance = 1e-14 * np.linalg.cond(a) * np.abs(x).max()
            np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=0, atol=tolerance)


def narrow(structure, n):
    solver = structure.layout(n).solver
    assert isinstance(solver, bands.Narrow)
    return solver


def stored(structure, matrix):
    coloring = structure.layout(len(matrix)).coloring
    rows, columns = np.nonzero(matrix)
    out = np.zeros(coloring.columns.shape)
    out[coloring.colors[columns], rows] = matrix[rows, columns]
    return out


def test_matrices_that_need_pivots_get_them():
    """A chain of [[e, 1], [1, e]]: cyclic reduction divides by e."""
    n, b = 80, jnp.cos(jnp.arange(80.0))
    solver = narrow(Banded(1, 1), n)
    for e, is_good in ((0.0, False), (1e-14, False), (0.5, True)):
        matrix = np.kron(np.eye(n // 2), [[e, 1], [1, e]])
        factors = solver.factor(stored(Banded(1, 1), matrix))
        assert factors.is_good == is_good
        np.testing.assert_allclose(
            solver.apply(factors, b), np.linalg.solve(matrix, b), rtol=1e-10, atol=1e-12
        )
        (transposed,) = jax.linear_transpose(lambda b, f=factors: solver.apply(f, b), b)(b)
        np.testing.assert_allclose(transposed, np.linalg.solve(matrix.T, b), rtol=1e-10, atol=1e-12)


def test_pivots_in_some_lanes():
    n, b = 60, jnp.cos(jnp.arange(180.0)).reshape(3, 60)
    solver = narrow(Banded(2, 2), n)
    chain = np.kron(np.eye(n // 4), np.kron([[0, 1], [1, 0]], np.eye(2)))  # two rows to the right and back
    matrices = [band(n, 2, 2, 5.0), chain, band(n, 2, 2, 5.0)]
    factors = jax.vmap(solver.factor)(jnp.stack([stored(Banded(2, 2), m) for m in matrices]))
    np.testing.assert_array_equal(factors.is_good, [True, False, True])
    x = jax.vmap(solver.apply)(factors, b)
    transposed = jax.vmap(lambda f, b: jax.linear_transpose(lambda b: solver.apply(f, b), b)(b)[0])(
        factors, b
    )
    for m, b1, x1, x2 in zip(matrices, b, x, transposed, strict=True):
        np.testing.assert_allclose(m @ x1, b1, rtol=0, atol=1e-13)
        np.testing.assert_allclose(m.T @ x2, b1, rtol=0, atol=1e-13)


def test_singular_matrices_give_no_number():
    matrix = band(70, 1, 1, 4.0)
    matrix[:, 30] = 0
    solver = narrow(Banded(1, 1), 70)
    assert not np.isfinite(solver.apply(solver.factor(stored(Banded(1, 1), matrix)), np.ones(70))).all()


def test_stiff_diffusion_needs_no_pivots():
    """And loses no digits, however large the step."""
    n = 300
    system = Banded(1, 1).system((jnp.zeros(n),))
    jacobian = 1e5 * (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1))
    (j,) = system.jacobian(lambda y: (jacobian @ y[0],), (jnp.zeros(n),))
    for h in (1e-8, 1e-4, 1.0, 1e4):
        (matrix,) = system.shifted((h * j,), 4.0)
        factors = system.factor((matrix,))
        assert isinstance(factors, bands.Factors)
        assert factors.is_good
        (x,) = system.apply(factors, (jnp.ones(n),))
        w = 4 * np.eye(n) - h * jacobian
        assert np.abs(w @ x - 1).max() <= 1e-14 * (np.abs(w) @ np.abs(x)).max()


def test_elimination_of_no_diagonals():
    rows = jnp.array([[2.0], [4.0]])
    np.testing.assert_allclose(elimination.apply(elimination.factor(rows, 0), jnp.ones(2)), [0.5, 0.25])


# -- solves


@cache
def whole(method="rodas5p", is_gradient=False):
    """With the whole Jacobian."""
    return jax.grad(loss)(P, None, method) if is_gradient else end(jac=None, method=method)


def loss(p, jac, method="rodas5p"):
    return jnp.sum(end(p, jac=jac, method=method) ** 2)


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5", "auto"])
def test_the_solution_is_that_of_the_whole_jacobian(method):
    assert_close(end(method=method), whole(method), 1e-10)


@pytest.mark.parametrize("jac", [Banded(8, 8), Banded(3, 40)], ids=str)
def test_wider_bands_are_right_too(jac):
    assert_close(end(jac=jac), whole(), 1e-10)


def test_sparse_without_a_band():
    """A ring with shortcuts."""
    n = 60
    rates = np.zeros((n, n))
    rates[np.arange(n), (np.arange(n) + 1) % n] = 1
    rates[RNG.integers(0, n, 40), RNG.integers(0, n, 40)] = 1
    rates = 1e3 * (rates + rates.T)

    def f(t, y, p):
        return rates @ y - rates.sum(axis=1) * y + p[0] * y * (1 - y)

    y0 = jnp.asarray(RNG.uniform(size=n))
    assert Sparse(rates).layout(n).solver is None
    assert_close(end(y0=y0, f=f, jac=Sparse(rates)), end(y0=y0, f=f, jac=None), 1e-10)


@pytest.mark.parametrize("jac", [Banded(2, 2), Banded(8, 8)], ids=str)
def test_grad(jac):
    assert_close(jax.grad(loss)(P, jac), whole(is_gradient=True), 1e-9)


@pytest.mark.slow
def test_grad_of_kvaerno5():
    assert_close(jax.grad(loss)(P, Banded(2, 2), "kvaerno5"), whole("kvaerno5", True), 1e-9)


def test_sparse_in_any_order_and_its_grad():
    order = RNG.permutation(len(Y0))
    f, pattern = shuffled(order)

    def both(p):
        y1 = end(p, Y0[order], f=f, jac=Sparse(pattern))
        return jnp.sum(y1**2), y1

    gradient, y1 = jax.grad(both, has_aux=True)(P)
    assert_close(y1, whole()[order], 1e-9)
    assert_close(gradient, whole(is_gradient=True), 1e-9)


def test_jacfwd():
    assert_close(jax.jacfwd(loss)(P, Banded(2, 2)), whole(is_gradient=True), 1e-8)


@pytest.mark.slow
def test_hessian():
    assert_close(
        *(jax.jit(jax.hessian(lambda p, j=jac: loss(p, j)))(P) for jac in (Banded(2, 2), None)), 1e-8
    )


def test_grad_of_vmap_is_vmap_of_grad():
    ps = jnp.stack([P, jnp.array([0.7, 0.3])])

    def total(ps):
        return jax.vmap(lambda p: loss(p, Banded(2, 2)))(ps).sum()

    assert_close(jax.grad(total)(ps)[0], whole(is_gradient=True), 1e-8)


def test_ensemble():
    ps = jnp.stack([P, 2 * P])
    tolerances = {"rtol": 1e-6, "atol": 1e-6}
    options = {"in_axes": (None, 0), "method": "rodas5p", "jac": Banded(2, 2), **tolerances}
    assert_close(odejax.ensemble(brusselator, Y0, (0.0, 1.0), (ps,), **options).y1[0], whole(), 1e-9)


def test_float32():
    y1 = end(P.astype(jnp.float32), Y0.astype(jnp.float32), rtol=1e-4, atol=1e-4)
    assert y1.dtype == jnp.float32
    assert_close(y1, whole(), 1e-2)


def test_a_state_of_several_leaves_is_counted_leaf_by_leaf():
    """Also a complex one, by its real parts and then its imaginary parts."""

    def f(t, y, p):
        heat = 1e3 * p[0] * second_difference(y["heat"], 0.0)
        return {"heat": heat, "wave": (30j - jnp.cos(t)) * y["wave"]}

    y0 = {"heat": jnp.ones(40), "wave": jnp.exp(1j * jnp.arange(3.0))}
    assert_close(end(y0=y0, f=f, jac=Banded(3, 3)), end(y0=y0, f=f, jac=None), 1e-9)


# -- as many derivatives as colors


def test_numbers_of_colors():
    assert len(Banded(2, 1).layout(50).coloring.seeds) == 4
    assert len(Banded(2, 1).layout(2).coloring.seeds) == 2
    line = np.eye(20, k=1) - 2 * np.eye(20) + np.eye(20, k=-1)
    plane = np.kron(line, np.eye(20)) + np.kron(np.eye(20), line)
    assert len(Sparse(plane).layout(400).coloring.seeds) <= 7


def test_the_band_is_found():
    order = RNG.permutation(200)
    layout = Sparse(np.abs(np.subtract.outer(order, order)) <= 2).layout(200)
    assert max(layout.lower, layout.upper) <= 4
    assert isinstance(layout.solver, bands.Narrow)


def test_patterns_of_all_kinds_are_equal():
    pattern = band(12, 2, 1, 1.0) != 0
    kinds = [
        pattern,
        pattern.tolist(),
        scipy.sparse.csr_matrix(pattern),
        scipy.sparse.coo_array(pattern),
        BCOO.fromdense(jnp.asarray(pattern, float)),
        pattern & ~np.eye(12, dtype=bool),  # the diagonal is always part of it
    ]
    made = [Sparse(k) for k in kinds]
    assert len(set(made)) == 1
    assert made[0] != Sparse(np.eye(12))
    assert repr(made[0]) == f"Sparse({pattern.sum()} entries of 12 x 12)"


def test_equal_structures_compile_once():
    n_traces = 0

    def f(t, y, p):
        nonlocal n_traces
        n_traces += 1
        return brusselator(t, y, p)

    end(f=f)
    n_first = n_traces
    end(2 * P, f=f, jac=Banded(2, 2))
    assert n_traces == n_first


# -- a wrong structure


def is_right(structure, f, y0):
    system = structure.system((y0,))
    return bool(system.is_right(lambda y: system.pack((f(system.unpack(y)[0]),)), system.pack((y0,))))


def test_what_is_too_narrow_is_seen():
    def f(y):
        return brusselator(0.0, y, P)

    for jac in (Banded(2, 2), Banded(3, 7), Banded(45, 45), Sparse(np.ones((46, 46)))):
        assert is_right(jac, f, Y0)
    for jac in (Banded(1, 2), Banded(2, 1), Banded(0, 0), Sparse(np.eye(46))):
        assert not is_right(jac, f, Y0)


def test_an_entry_that_is_zero_at_the_start_is_seen():
    def f(y):
        return -y + jnp.roll(y, 3) * y[0]

    assert not is_right(Banded(1, 1), f, jnp.zeros(8))
    assert not is_right(Banded(1, 1), f, jnp.zeros(8).at[1].set(1e-5))


@pytest.mark.parametrize("throw", [None, True, False])
def test_what_is_too_narrow_is_refused(throw):
    with pytest.raises(ValueError, match=r"`jac` is Banded.* has entries outside of the band or pattern"):
        end(jac=Banded(1, 2), throw=throw)


def test_inside_jit_it_is_a_status():
    @jax.jit
    def one(p):
        return solve(brusselator, Y0, (0.0, 1.0), (p,), method="rodas5p", jac=Banded(1, 1))

    sol = one(P)
    assert sol.status == Status.WRONG_JAC
    assert np.isnan(sol.y1).all()
    assert sol.stats.num_steps == 0
    with pytest.raises(odejax.SolveError, match="`jac`"):
        odejax.check(sol)


def test_in_lanes_it_is_an_error_of_the_lane():
    def f(t, y, p):
        return -y + p * jnp.roll(y, 3)

    options = {"in_axes": (None, 0), "method": "rodas5p", "jac": Banded(1, 1)}
    sol = odejax.ensemble(f, jnp.ones(8), (0.0, 1.0), (jnp.array([0.0, 1.0]),), throw=False, **options)
    np.testing.assert_array_equal(sol.status, [Status.SUCCESS, Status.WRONG_JAC])


def test_what_is_not_finite_is_not_judged():
    def f(t, y, p):
        return jnp.sqrt(y - 2.0)

    sol = solve(f, jnp.ones(40), (0.0, 1.0), (P,), method="rodas5p", jac=Banded(1, 1), throw=False)
    assert sol.status == Status.NON_FINITE_START


# -- messages

MESSAGES = [
    (
        lambda: end(jac=(2, 2)),
        TypeError,
        r"`jac` must be an odejax.Banded.*or an odejax.Sparse.*got \(2, 2\)",
    ),
    (lambda: end(jac=Banded), TypeError, "`jac` must be"),
    (lambda: end(method="tsit5"), ValueError, "`jac` is of no use to the explicit `method` 'tsit5'"),
    (
        lambda: end(jac=Sparse(np.eye(3))),
        ValueError,
        "`jac` must have a row and a column for each.*46, got 3",
    ),
    (lambda: Banded(-1, 2), ValueError, "`lower` must be an integer of at least 0, got -1"),
    (lambda: Banded(1, 2.0), ValueError, "`upper` must be an integer"),
    (lambda: Sparse(np.ones((2, 3))), ValueError, r"`pattern` must be square, got shape \(2, 3\)"),
]


@pytest.mark.parametrize(("call", "kind", "message"), MESSAGES, ids=lambda x: x if isinstance(x, str) else "")
def test_messages(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
