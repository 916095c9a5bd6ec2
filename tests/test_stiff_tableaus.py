"""Every stiff tableau against the order conditions, stability, and on a problem, without JAX."""

from dataclasses import replace
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest

from odejax.tableaus import (
    METHODS,
    RK4,
    DIRKTableau,
    ImplicitMidpoint,
    Kvaerno3,
    Kvaerno5,
    Rodas4,
    Rodas5P,
    Rosenbrock23,
    RosenbrockTableau,
    Tableau,
)
from rooted_trees import dense_residuals_of, elementary_weights, residuals_of, rosenbrock_weights
from test_tableaus import assert_order, rate, slope, solution

Array = np.ndarray[Any, Any]

STIFF_METHODS = {name: t for name, t in METHODS.items() if isinstance(t, DIRKTableau | RosenbrockTableau)}

# The orders of y1, the embedded method and dense output. A new method must say its orders here.
ORDERS = {
    "implicit_euler": (1, None, 1),
    "implicit_midpoint": (2, None, 1),
    "trbdf2": (2, 3, 2),
    "kvaerno3": (3, 2, 3),
    "kvaerno5": (5, 4, 4),
    "rosenbrock23": (2, 3, 2),
    "rodas4": (4, 3, 3),
    "rodas5p": (5, 4, 4),
}
DIRK = [t for t in STIFF_METHODS.values() if isinstance(t, DIRKTableau)]
ROSENBROCK = [t for t in STIFF_METHODS.values() if isinstance(t, RosenbrockTableau)]
FOR_EACH = pytest.mark.parametrize("tableau", STIFF_METHODS.values(), ids=STIFF_METHODS.keys())
FOR_EACH_ADAPTIVE = pytest.mark.parametrize(
    "tableau", [t for t in STIFF_METHODS.values() if t.is_adaptive], ids=lambda t: t.name
)
FOR_EACH_DIRK = pytest.mark.parametrize("tableau", DIRK, ids=lambda t: t.name)
FOR_EACH_ROSENBROCK = pytest.mark.parametrize("tableau", ROSENBROCK, ids=lambda t: t.name)


def square(rows: Any) -> Array:
    """The strict lower triangle of `rows`."""
    a = np.zeros((len(rows), len(rows)), np.longdouble)
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return a


def inverse(lower: Array) -> Array:
    """By forward substitution, in extended precision."""
    x = np.zeros_like(lower)
    for i, row in enumerate(lower):
        x[i] = (np.eye(len(lower))[i] - row[:i] @ x[:i]) / row[i]
    return x


def matrices(tableau: Tableau) -> tuple[Array, Array, Array]:
    """alpha, alpha + Gamma, and what turns weights of the stages into weights of slopes."""
    assert isinstance(tableau, DIRKTableau | RosenbrockTableau)
    identity = np.eye(tableau.n_stages, dtype=np.longdouble)
    if isinstance(tableau, DIRKTableau):
        a = square(tableau.A) + tableau.GAMMA * np.diag(np.array(tableau.IMPLICIT))
        return a, a, identity
    gamma = inverse(identity / np.longdouble(tableau.GAMMA) - square(tableau.K))
    alpha = square(tableau.A) @ gamma
    return alpha, alpha + gamma, gamma


def trees_of(tableau: Tableau, max_order: int) -> tuple[Array, Array]:
    """Phi_i(t), and what turns weights of the stages into weights of slopes."""
    alpha, beta, to_slopes = matrices(tableau)
    if isinstance(tableau, DIRKTableau):
        return elementary_weights(alpha, max_order), to_slopes
    return rosenbrock_weights(alpha, beta, max_order), to_slopes


# Order


def test_methods_are_named_and_claim_their_orders():
    assert list(STIFF_METHODS) == list(ORDERS)
    for name, tableau in STIFF_METHODS.items():
        claim = (tableau.order, tableau.embedded_order, tableau.dense_order)
        assert (tableau.name, *claim) == (name, *ORDERS[name])
        assert tableau.is_adaptive == (len(tableau.E) == 1) == (tableau.embedded_order is not None)


@FOR_EACH
def test_lengths(tableau):
    n = tableau.n_stages
    assert [len(row) for row in tableau.A] == list(range(n))
    assert len(tableau.B) == len(tableau.C) == len(tableau.P) == n
    assert all(len(row) == n for row in tableau.E)
    assert len({len(row) for row in tableau.P}) == 1
    assert (tableau.n_extra, tableau.extra_A, tableau.extra_C) == (0, (), ())
    rows = (*tableau.A, tableau.B, tableau.C, *tableau.E, *tableau.P, (tableau.GAMMA,))
    if isinstance(tableau, DIRKTableau):
        assert len(tableau.IMPLICIT) == n
        assert [len(row) for row in tableau.PREDICTOR] == list(range(n))
        rows = (*rows, *tableau.PREDICTOR)
    else:
        assert len(tableau.G) == n
        assert [len(row) for row in tableau.K] == list(range(n))
        rows = (*rows, *tableau.K, tableau.G)
    assert all(type(x) is float for row in rows for x in row)


@FOR_EACH
def test_abscissae_are_row_sums(tableau):
    alpha, beta, _ = matrices(tableau)
    np.testing.assert_allclose(alpha.sum(axis=1).astype(float), tableau.C, atol=1e-14)
    if isinstance(tableau, RosenbrockTableau):
        np.testing.assert_allclose((beta - alpha).sum(axis=1).astype(float), tableau.G, atol=1e-14)


@FOR_EACH
def test_order(tableau):
    order, embedded_order, _ = ORDERS[tableau.name]
    phi, to_slopes = trees_of(tableau, order + 1)
    b = np.array(tableau.B, np.longdouble)
    assert_order(residuals_of(phi, b @ to_slopes, order + 1), order)
    if embedded_order is not None:
        phi, to_slopes = trees_of(tableau, embedded_order + 1)
        b_embedded = b - np.array(tableau.E[0], np.longdouble)
        assert_order(residuals_of(phi, b_embedded @ to_slopes, embedded_order + 1), embedded_order)


@FOR_EACH
def test_order_of_dense_output(tableau):
    order = ORDERS[tableau.name][2]
    phi, to_slopes = trees_of(tableau, order + 1)
    p = to_slopes.T @ np.array(tableau.P, np.longdouble)
    assert_order(dense_residuals_of(phi, p, order + 1), order)


@FOR_EACH
def test_dense_output_ends_in_y1(tableau):
    p = np.array(tableau.P)
    np.testing.assert_allclose(p.sum(axis=1), tableau.B, atol=1e-14 * abs(p).max() * p.shape[1])
    if isinstance(tableau, DIRKTableau) and tableau.is_fsal:  # and takes both slopes over
        first, last = np.eye(len(p))[[0, -1]]
        np.testing.assert_allclose(p[:, 0], first, atol=0)
        np.testing.assert_allclose(p @ np.arange(1, p.shape[1] + 1), last, atol=1e-13)


def test_rosenbrock_trees_without_gamma_are_those_of_runge_kutta():
    a = square(RK4.A)
    assert (rosenbrock_weights(a, a, 5) == elementary_weights(a, 5)).all()


# Stability


def stability(tableau: Tableau, weights: Any, z: complex) -> complex:
    """The sum of the weighted stages of y' = lambda y, y0 = 1, with h * lambda = z."""
    _, beta, to_slopes = matrices(tableau)
    beta, weights = beta.astype(float), (np.array(weights) @ to_slopes).astype(float)
    return z * weights @ np.linalg.solve(np.eye(len(beta)) - z * beta, np.ones(len(beta)))


@FOR_EACH
def test_is_a_stable(tableau):
    # The pole 1 / gamma is on the right: what holds on the imaginary axis holds left of it.
    assert tableau.GAMMA > 0
    for y in np.logspace(-3, 6, 200):
        assert abs(1 + stability(tableau, tableau.B, 1j * y)) <= 1 + 1e-13


@FOR_EACH
def test_is_l_stable_except_for_the_midpoint_rule(tableau):
    at_infinity = 1 + stability(tableau, tableau.B, -1e9)
    assert at_infinity == pytest.approx(-1 if tableau is ImplicitMidpoint else 0, abs=2e-7)


@FOR_EACH_ADAPTIVE
def test_error_estimate_stays_bounded_at_infinity(tableau):
    limit = abs(stability(tableau, tableau.E[0], -1e9))
    if isinstance(tableau, DIRKTableau) and tableau.has_damped_error:
        assert limit > 1e8
        limit /= 1 + 1e9 * tableau.GAMMA
    assert limit < 2


def test_fourth_power_in_dense_output_of_kvaerno5_stays_bounded_at_infinity():
    v = [row[3] for row in Kvaerno5.P]
    assert abs(stability(Kvaerno5, v, -1e9)) < 7


def test_which_methods_end_in_the_value_of_a_stage():
    accurate = [name for name, t in STIFF_METHODS.items() if t.is_stiffly_accurate]
    assert accurate == ["implicit_euler", "trbdf2", "kvaerno3", "kvaerno5", "rodas4", "rodas5p"]
    fsal = [name for name, t in STIFF_METHODS.items() if t.is_fsal]
    assert fsal == ["trbdf2", "kvaerno3", "kvaerno5", "rosenbrock23"]


# On a problem


def jacobian(t: float, y: Array) -> tuple[Array, Array]:
    """df/dy and df/dt of `slope`, by complex steps."""
    shift = 1e-30j
    columns = [slope(t, y + shift * e).imag / 1e-30 for e in np.eye(len(y))]
    return np.array(columns).T, slope(t + shift, y).imag / 1e-30


def dirk_step(tableau: DIRKTableau, t: float, y: Array, h: float) -> Array:
    """The h * k_i, by Newton's method from the predicted values."""
    h_k = np.zeros((tableau.n_stages, len(y)))
    for i, (row, c) in enumerate(zip(tableau.A, tableau.C, strict=True)):
        start = y + np.array(row) @ h_k[:i]
        value = y + np.array(tableau.PREDICTOR[i]) @ h_k[:i] if tableau.IMPLICIT[i] else start
        h_gamma = h * tableau.GAMMA * tableau.IMPLICIT[i]
        for _ in range(5 if tableau.IMPLICIT[i] else 0):
            residual = value - start - h_gamma * slope(t + c * h, value)
            value = value - np.linalg.solve(
                np.eye(len(y)) - h_gamma * jacobian(t + c * h, value)[0], residual
            )
        h_k[i] = h * slope(t + c * h, value)
    return h_k


def rosenbrock_step(
    tableau: RosenbrockTableau, t: float, y: Array, h: float, *, is_exact: bool = True
) -> Array:
    """The U_i; with zero derivatives of f unless `is_exact`."""
    j, f_t = jacobian(t, y) if is_exact else (np.zeros((len(y), len(y))), np.zeros(len(y)))
    matrix = np.eye(len(y)) / tableau.GAMMA - h * j
    u = np.zeros((tableau.n_stages, len(y)))
    rows = zip(tableau.A, tableau.C, tableau.G, tableau.K, strict=True)
    for i, (a, alpha, gamma, c) in enumerate(rows):
        h_f = h * slope(t + alpha * h, y + np.array(a) @ u[:i])
        u[i] = np.linalg.solve(matrix, h_f + gamma * h * h * f_t + np.array(c) @ u[:i])
    return u


def step(tableau: Tableau, t: float, y: Array, h: float) -> Array:
    if isinstance(tableau, DIRKTableau):
        return dirk_step(tableau, t, y, h)
    assert isinstance(tableau, RosenbrockTableau)
    return rosenbrock_step(tableau, t, y, h)


def errors(tableau: Tableau, n_steps: int, step: Any = step) -> tuple[float, float]:
    """Mean relative error of y1 and of dense output over 0.2 <= t <= 1.2, in constant steps."""
    at_ends, between = [], []
    t, h = 0.2, 1 / n_steps
    y, p = solution(t), np.array(tableau.P)
    for _ in range(n_steps):
        u = step(tableau, t, y, h)
        for x in (0.25, 0.5, 0.75):
            y_x = y + (p @ x ** np.arange(1, p.shape[1] + 1)) @ u
            between.append(y_x / solution(t + x * h) - 1)
        t, y = t + h, y + np.array(tableau.B) @ u
        at_ends.append(y / solution(t) - 1)
    return float(np.mean(np.abs(at_ends))), float(np.mean(np.abs(between)))


@FOR_EACH
def test_converges_at_its_order(tableau):
    n_steps = {1: 320, 2: 80, 3: 40, 4: 40, 5: 40}[tableau.order]
    coarse, fine = errors(tableau, n_steps), errors(tableau, 2 * n_steps)
    assert rate(coarse[0], fine[0], 2) > tableau.order - 0.2
    assert rate(coarse[1], fine[1], 2) > min(tableau.order, tableau.dense_order + 1) - 0.2


@FOR_EACH_ADAPTIVE
def test_error_estimate_shrinks_at_its_order(tableau):
    def estimate(h: float) -> float:
        return float(np.linalg.norm(np.array(tableau.E[0]) @ step(tableau, 0.8, solution(0.8), h)))

    assert rate(estimate(0.01), estimate(0.0025), 4) == pytest.approx(tableau.error_order + 1, abs=0.3)


def test_rosenbrock23_keeps_its_order_with_wrong_derivatives():
    def wrong(tableau: RosenbrockTableau, t: float, y: Array, h: float) -> Array:
        return rosenbrock_step(tableau, t, y, h, is_exact=False)

    assert rate(errors(Rosenbrock23, 80, wrong)[0], errors(Rosenbrock23, 160, wrong)[0], 2) > 1.8
    big, small = (
        np.linalg.norm(Rosenbrock23.E @ wrong(Rosenbrock23, 0.8, solution(0.8), h)) for h in (0.01, 0.0025)
    )
    assert rate(float(big), float(small), 4) == pytest.approx(3, abs=0.3)
    assert rate(errors(Rodas4, 80, wrong)[0], errors(Rodas4, 160, wrong)[0], 2) < 2.5


@FOR_EACH_DIRK
def test_predictor_knows_stages_of_quadratic_slopes(tableau):
    a, c = matrices(tableau)[0].astype(float), np.array(tableau.C)
    for i, row in enumerate(tableau.PREDICTOR):
        is_again = np.isclose(c[:i], c[i]).any()  # a stage at the time of an earlier one
        for q in range(0 if is_again else min(i, 3)):
            assert np.dot(row, c[:i] ** q) == pytest.approx(a[i] @ c**q, abs=1e-13)
    assert all(abs(x) < 1.5 for row in tableau.PREDICTOR for x in row)


def test_predictor_takes_an_earlier_stage_at_the_same_time():
    assert Kvaerno3.PREDICTOR[3] == (*Kvaerno3.A[2], Kvaerno3.GAMMA)
    assert Kvaerno5.PREDICTOR[6] == (*Kvaerno5.A[5], Kvaerno5.GAMMA)
    third = (0.25, 0.25, 0.5)  # the first two stages are at the same time
    rule = DIRKTableau("mine", order=1, a=((0,), (-0.5, 0.5), third), b=third)
    assert rule.PREDICTOR[2] == pytest.approx((0.5, 0.5))


# The classes


def test_same_value_is_the_same_method():
    for tableau in (Kvaerno5, Rodas4):
        again = replace(tableau)
        assert again is not tableau
        assert again == tableau
        assert hash(again) == hash(tableau)
        assert replace(tableau, name="other") != tableau
        assert tableau not in (METHODS["tsit5"], Rosenbrock23, tableau.name)
    assert repr(Kvaerno5) == "<DIRKTableau kvaerno5: order 5(4), 7 stages>"
    assert repr(Rodas5P) == "<RosenbrockTableau rodas5p: order 5(4), 8 stages>"
    assert repr(ImplicitMidpoint) == "<DIRKTableau implicit_midpoint: order 2, 1 stages>"


def test_sums_that_are_not_given_are_derived():
    derived = replace(Rodas5P, alpha=None, gamma_sums=None)
    np.testing.assert_allclose(derived.C, Rodas5P.C, atol=1e-13)
    np.testing.assert_allclose(derived.G, Rodas5P.G, atol=1e-13)


def test_form_of_slopes_is_the_transformed_form():
    """rodas4 from its alpha and Gamma."""
    alpha, beta, to_slopes = (x.astype(float) for x in matrices(Rodas4))
    b = np.array(Rodas4.B) @ to_slopes
    again = RosenbrockTableau.from_slopes(
        "rodas4",
        order=4,
        alpha=[alpha[i, :i] for i in range(1, 6)],
        gamma=[(*(beta - alpha)[i, :i], 0.25) for i in range(6)],
        b=b,
        b_embedded=b - np.array(Rodas4.E[0]) @ to_slopes,
        embedded_order=3,
        dense=to_slopes.T @ np.array(Rodas4.P),
        dense_order=3,
    )
    for name in "ACGKBEP":
        ours, theirs = getattr(again, name), getattr(Rodas4, name)
        np.testing.assert_allclose(np.hstack(ours), np.hstack(theirs), rtol=1e-13, atol=1e-11)


THETA = F(1, 2)
TRAPEZOIDAL: dict[str, Any] = {"name": "mine", "order": 2, "a": ((0,), (THETA, THETA)), "b": (THETA, THETA)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "`order` must be at least 1, got 0"),
        ({"order": 3}, "`order` 3 fails: sum of b * c**2: the sum is 0.5, expected 0.333"),
        ({"a": ((0,),)}, "`a` has 1 rows and `b` has 2 weights; give one of each for every stage"),
        ({"a": ((0,), (1,))}, "row 2 of `a` has 1 entries, expected 2"),
        ({"a": ((0,), (1, 0))}, "the diagonal of `a` is (0.0, 0.0); it must have one value besides 0"),
        ({"a": ((1,), (THETA, THETA))}, "the diagonal of `a` is (1.0, 0.5); it must have one value"),
        ({"c": (0, 0.5)}, "row 2 of `a` sums to 1.0, but `c` says 0.5"),
        ({"b": (0.5, 0.6)}, "`order` 2 fails: sum of b * c**0: the sum is 1.1, expected 1.0"),
        ({"embedded_order": 1}, "give `embedded_order` together with `b_embedded`"),
        ({"has_damped_error": True}, "`has_damped_error` is used only with `b_embedded`: give that too"),
        ({"b_embedded": (1,), "embedded_order": 1}, "row 1 of `b_embedded` has 1 entries, expected 2"),
        ({"b_embedded": (1, 1), "embedded_order": 1}, "the weights of `b_embedded`: the sum is 2.0"),
        ({"dense_order": 2}, "give `dense_order` together with `dense`"),
        ({"dense": ((1,),), "dense_order": 1}, "`dense` has 1 rows, expected 2, one a stage"),
        ({"dense": ((0.5,), (0.5, 0)), "dense_order": 1}, "row 2 of `dense` has 2 entries, expected 1"),
        ({"dense": ((0.5,), (0.4,)), "dense_order": 1}, "`dense` does not end in y1: row 2"),
        ({"dense": ((0.5,), (0.5,)), "dense_order": 2}, "`dense_order` 2 fails: x**1 in sum of b(x) * c**1"),
    ],
)
def test_dirk_constructor_says_what_is_wrong(change, message):
    with pytest.raises(ValueError) as error:
        DIRKTableau(**{**TRAPEZOIDAL, **change})
    assert str(error.value).startswith("tableau 'mine': ")
    assert message in str(error.value)


# The two-stage method of order 2 with gamma = 1/2: U1 and y1 = y0 + 2 U1 is the midpoint rule.
ROS2: dict[str, Any] = {"name": "mine", "order": 2, "gamma": THETA, "a": ((2,),), "c": ((-4,),), "m": (3, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "`order` must be at least 1, got 0"),
        ({"order": 3}, "`order` 3 fails: sum of b * c**2: the sum is 0.5, expected 0.333"),
        ({"gamma": 0}, "`gamma` must be positive, got 0"),
        ({"c": ()}, "`a` has 1 rows, `c` 0 and `m` 2 weights; `a` and `c` must have one row fewer"),
        ({"a": ((1, 1),)}, "row 2 of `a` has 2 entries, expected 1"),
        ({"c": ((1, 1),)}, "row 2 of `c` has 2 entries, expected 1"),
        ({"m": (2, 1)}, "`order` 2 fails: sum of b * c**0: the sum is 0.5, expected 1.0"),
        ({"alpha": (0, 0.5)}, "row 2 of `a * gamma_sums` sums to 1.0, but `alpha` says 0.5"),
        ({"alpha": (0,)}, "`alpha` has 1 entries, expected 2"),
        (
            {"gamma_sums": (0.5, 0.5)},
            "row 2 of `gamma * (1 + c * gamma_sums)` sums to -0.5, but `gamma_sums` says",
        ),
        ({"embedded_order": 1}, "give `embedded_order` together with `error`"),
        ({"error": (1,), "embedded_order": 1}, "row 1 of `error` has 1 entries, expected 2"),
        ({"error": (1, 0), "embedded_order": 1}, "`error` of a constant slope: the sum is 0.5, expected 0"),
        ({"dense_order": 2}, "give `dense_order` together with `dense`"),
        ({"dense": ((3,),), "dense_order": 1}, "`dense` has 1 rows, expected 2, one a stage"),
        ({"dense": ((3,), (1, 0)), "dense_order": 1}, "row 2 of `dense` has 2 entries, expected 1"),
        ({"dense": ((3,), (2,)), "dense_order": 1}, "`dense` does not end in y1: row 2"),
    ],
)
def test_rosenbrock_constructor_says_what_is_wrong(change, message):
    with pytest.raises(ValueError) as error:
        RosenbrockTableau(**{**ROS2, **change})
    assert str(error.value).startswith("tableau 'mine': ")
    assert message in str(error.value)


SLOPES: dict[str, Any] = {"alpha": ((1,),), "gamma": ((THETA,), (-1, THETA)), "b": (THETA, THETA)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": ()}, "`alpha` has 0 rows, `gamma` 2 and `b` 2 weights; `alpha` must have one fewer"),
        ({"alpha": ((1, 1),)}, "row 2 of `alpha` has 2 entries, expected 1"),
        ({"gamma": ((1,), (1,))}, "row 2 of `gamma` has 1 entries, expected 2"),
        ({"gamma": ((1,), (-1, THETA))}, "the diagonal of `gamma` must have one value"),
        ({"b_embedded": (1,), "embedded_order": 1}, "row 1 of `b_embedded` has 1 entries, expected 2"),
    ],
)
def test_form_of_slopes_says_what_is_wrong(change, message):
    assert RosenbrockTableau.from_slopes("mine", 2, **SLOPES).K == ((), (-4.0,))
    with pytest.raises(ValueError) as error:
        RosenbrockTableau.from_slopes("mine", 2, **{**SLOPES, **change})
    assert str(error.value).startswith("tableau 'mine': ")
    assert message in str(error.value)
