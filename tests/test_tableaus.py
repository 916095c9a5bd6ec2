"""Every tableau against the order conditions, and on a problem, without JAX."""

from dataclasses import replace
from fractions import Fraction as F
from math import factorial
from typing import Any

import numpy as np
import pytest

import odejax
from odejax.tableaus import METHODS as ALL_METHODS
from odejax.tableaus import RK4, Bosh3, CashKarp, Dopri5, Euler, ExplicitTableau, Vern7
from rooted_trees import elementary_weights, residuals, rooted_trees

Array = np.ndarray[Any, Any]

ROUNDING = 1e-12  # order conditions with coefficients that are float64
BROKEN = 1e-7  # a condition that is missed by more is one that the method does not satisfy
VERN7_DENSE_DEFECT = 3e-7  # in 12 conditions of order 7; see odejax/tableaus/verner.py

# The orders of y1 and of the embedded methods. A new method must say its orders here.
ORDERS = {
    "euler": (1, ()),
    "heun": (2, (1,)),
    "midpoint": (2, (1,)),
    "ralston": (2, (1,)),
    "ssprk3": (3, (2,)),
    "bosh3": (3, (2,)),
    "rk4": (4, (3,)),
    "cash_karp": (5, (4,)),
    "dopri5": (5, (4,)),
    "tsit5": (5, (4,)),
    "vern7": (7, (6,)),
    "dop853": (8, (5, 3)),
    "vern9": (9, (8,)),
}
DENSE_ORDERS = {
    "euler": 1,
    "heun": 2,
    "midpoint": 2,
    "ralston": 2,
    "ssprk3": 3,
    "bosh3": 3,
    "rk4": 3,
    "cash_karp": 4,
    "dopri5": 4,
    "tsit5": 4,
    "vern7": 7,
    "dop853": 7,
    "vern9": 9,
}
METHODS = {name: t for name, t in ALL_METHODS.items() if isinstance(t, ExplicitTableau)}
FOR_EACH = pytest.mark.parametrize("tableau", METHODS.values(), ids=METHODS.keys())


def all_stages(tableau: ExplicitTableau) -> Array:
    """The square matrix of all stages: those of y1, f(t1, y1), and the extra ones."""
    rows = (*tableau.A, tableau.B, *tableau.extra_A)
    a = np.zeros((len(rows), len(rows)), np.longdouble)
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return a


def padded(row: tuple[float, ...], tableau: ExplicitTableau) -> Array:
    return np.array([*row, *[0.0] * (len(tableau.P) - len(row))], np.longdouble)


def dense_weights(tableau: ExplicitTableau, x: Any) -> Array:
    p = np.array(tableau.P, np.longdouble)
    return p @ np.longdouble(x) ** np.arange(1, p.shape[1] + 1)


def assert_order(defects: Array, order: int, tolerance: float = ROUNDING) -> None:
    """`defects` has one entry for each order up to `order + 1`."""
    assert defects[: order - 1].max(initial=0.0) < ROUNDING
    assert defects[order - 1] < tolerance
    assert defects[order] > BROKEN


def test_rooted_trees_are_all_there():
    trees = rooted_trees(9)
    counts = np.bincount(trees.orders)[1:].tolist()
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    # n! / (gamma sigma) ways to number the vertices increasingly; all trees have (n - 1)! together
    for n in range(1, 10):
        of_order = [i for i, order in enumerate(trees.orders) if order == n]
        total = sum(F(factorial(n), trees.densities[i] * trees.symmetries[i]) for i in of_order)
        assert total == factorial(n - 1)


def test_methods_are_named_and_claim_their_orders():
    assert list(METHODS) == list(ORDERS) == list(DENSE_ORDERS)
    for name, tableau in METHODS.items():
        order, embedded = ORDERS[name]
        assert (tableau.name, tableau.order, len(tableau.E)) == (name, order, len(embedded))
        assert tableau.is_adaptive == bool(embedded)
        assert tableau.dense_order == DENSE_ORDERS[name]
        if len(embedded) == 1:
            assert tableau.error_order == embedded[0]
    assert METHODS["dop853"].error_order == 7  # 2 * (5 + 1) - (3 + 1) - 1


@pytest.mark.parametrize("tableau", ALL_METHODS.values(), ids=list(ALL_METHODS))
def test_nested_dense_output(tableau):
    """The nested form is the same polynomial; where both ends have their slopes, c_0 and c_1 have few terms."""
    p = np.array(tableau.P, np.longdouble)
    end = p.sum(axis=1)
    for x in np.linspace(0, 1, 7, dtype=np.longdouble):
        between = np.zeros_like(end)
        for j, (share, row) in reversed(list(enumerate(tableau.NESTED))):
            between = share * end + row + (1 - x if j % 2 else x) * between
        expected = p @ x ** np.arange(1, p.shape[1] + 1)
        assert abs(x * end + x * (1 - x) * between - expected).max() < 1e-15 * max(1, abs(p).sum())
    assert len(tableau.NESTED) == p.shape[1] - 1
    if tableau.name in ("tsit5", "dopri5", "dop853", "vern7", "vern9", "bosh3", "kvaerno5"):
        terms = [(share, sum(w != 0 for w in row)) for share, row in tableau.NESTED[:2]]
        assert terms == [(-1, 1), (2, 2)]


@FOR_EACH
def test_lengths(tableau):
    n, n_extra = tableau.n_stages, tableau.n_extra
    assert [len(row) for row in tableau.A] == list(range(n))
    assert len(tableau.B) == len(tableau.C) == n
    assert all(len(row) == n + 1 for row in tableau.E)
    assert [len(row) for row in tableau.extra_A] == [n + 1 + j for j in range(n_extra)]
    assert len(tableau.extra_C) == n_extra
    assert len(tableau.P) == n + 1 + n_extra
    assert len({len(row) for row in tableau.P}) == 1
    rows = (*tableau.A, tableau.B, *tableau.extra_A, *tableau.E, *tableau.P)
    assert all(type(x) is float for row in rows for x in row)


@FOR_EACH
def test_abscissae_are_row_sums(tableau):
    c = np.array([*tableau.C, 1.0, *tableau.extra_C])
    np.testing.assert_allclose(all_stages(tableau).sum(axis=1).astype(float), c, atol=1e-14)
    assert c[0] == 0


@FOR_EACH
def test_order(tableau):
    order = ORDERS[tableau.name][0]
    defects = residuals(padded(tableau.B, tableau), all_stages(tableau), order + 1, x=1)
    assert_order(defects, order)


@FOR_EACH
def test_order_of_embedded(tableau):
    for row, order in zip(tableau.E, ORDERS[tableau.name][1], strict=True):
        embedded = padded(tableau.B, tableau) - padded(row, tableau)
        assert_order(residuals(embedded, all_stages(tableau), order + 1, x=1), order)


@FOR_EACH
@pytest.mark.parametrize("x", [0.3, 0.5, 0.85])
def test_order_of_dense_output(tableau, x):
    order, x = DENSE_ORDERS[tableau.name], np.longdouble(x)
    defects = residuals(dense_weights(tableau, x), all_stages(tableau), order + 1, x)
    assert_order(defects, order, VERN7_DENSE_DEFECT if tableau is Vern7 else ROUNDING)


def test_dense_output_of_vern7_has_order_6_exactly():
    defects = residuals(dense_weights(Vern7, 0.3), all_stages(Vern7), 7, np.longdouble(0.3))
    assert defects[:6].max() < ROUNDING < defects[6]  # else take VERN7_DENSE_DEFECT out


@FOR_EACH
def test_dense_output_joins_smoothly(tableau):
    p = np.array(tableau.P)
    rounding = 1e-14 * abs(p).max() * p.shape[1]
    first, last = np.eye(len(p))[[0, tableau.n_stages]]
    np.testing.assert_allclose(p.sum(axis=1), padded(tableau.B, tableau).astype(float), atol=rounding)
    np.testing.assert_allclose(p[:, 0], first, atol=0)  # the slope at the start is f(t0, y0)
    np.testing.assert_allclose(p @ np.arange(1, p.shape[1] + 1), last, atol=rounding)


@pytest.mark.parametrize("tableau", [RK4, CashKarp, Dopri5, Bosh3], ids=lambda t: t.name)
def test_fractions_satisfy_the_conditions_exactly(tableau):
    n_paper = len(tableau.b)
    a = np.full((n_paper, n_paper), F(0), object)
    for i, row in enumerate(tableau.a, start=1):
        a[i, :i] = row
    b = np.array([F(x) for x in tableau.b], object)
    assert not residuals(b, a, tableau.order, x=F(1)).any()
    assert elementary_weights(a, 3)[1].tolist() == list(tableau.c)


# On a problem


def slope(t: float, y: Array) -> Array:
    """HNW I, (II.10): nonlinear and non-autonomous, with y = solution(t)."""
    return np.array(
        [
            2 * t * y[1] ** 0.2 * y[3],
            10 * t * np.exp(5 * (y[2] - 1)) * y[3],
            2 * t * y[3],
            -2 * t * np.log(y[0]),
        ]
    )


def solution(t: float) -> Array:
    s = np.sin(t**2)
    return np.array([np.exp(s), np.exp(5 * s), s + 1, np.cos(t**2)])


def step(tableau: ExplicitTableau, t: float, y: Array, h: float) -> tuple[Array, list[Array]]:
    """y1 and the slopes of all stages, extra ones included."""
    k: list[Array] = []

    def increment(row: tuple[float, ...]) -> Array:
        return h * sum((x * k_i for x, k_i in zip(row, k, strict=True)), np.zeros_like(y))

    for row, c in zip(tableau.A, tableau.C, strict=True):
        k.append(slope(t + c * h, y + increment(row)))
    y1 = y + increment(tableau.B)
    k.append(slope(t + h, y1))
    for row, c in zip(tableau.extra_A, tableau.extra_C, strict=True):
        k.append(slope(t + c * h, y + increment(row)))
    return y1, k


def errors(tableau: ExplicitTableau, n_steps: int) -> tuple[float, float]:
    """Mean relative error of y1 and of dense output over 0.2 <= t <= 1.2, in constant steps."""
    at_ends, between = [], []
    t, h = 0.2, 1 / n_steps
    y = solution(t)
    for _ in range(n_steps):
        y1, k = step(tableau, t, y, h)
        for x in (0.25, 0.5, 0.75):
            y_x = y + h * dense_weights(tableau, x).astype(float) @ np.array(k)
            between.append(y_x / solution(t + x * h) - 1)
        t, y = t + h, y1
        at_ends.append(y / solution(t) - 1)
    return float(np.mean(np.abs(at_ends))), float(np.mean(np.abs(between)))


def rate(coarse: float, fine: float, ratio: float) -> float:
    """The power of h at which the error became smaller when h was divided by `ratio`."""
    return float(np.log(coarse / fine) / np.log(ratio))


@FOR_EACH
def test_converges_at_its_order(tableau):
    n_steps = {1: 160, 2: 80, 3: 40, 4: 20, 5: 20, 7: 10, 8: 7, 9: 4}[tableau.order]
    coarse, fine = errors(tableau, n_steps), errors(tableau, 4 * n_steps)
    assert rate(coarse[0], fine[0], 4) > tableau.order - 0.2
    assert rate(coarse[1], fine[1], 4) > min(tableau.order, tableau.dense_order + 1) - 0.2


@pytest.mark.parametrize("tableau", [t for t in METHODS.values() if t.is_adaptive], ids=lambda t: t.name)
def test_error_estimate_shrinks_at_its_order(tableau):
    def estimate(h: float) -> float:
        _, k = step(tableau, 0.8, solution(0.8), h)
        norms = [np.linalg.norm(h * np.array(e) @ np.array(k[: len(e)])) for e in tableau.E]
        if len(norms) == 1:
            return float(norms[0])
        e5, e3 = norms
        return float(e5**2 / np.sqrt(e5**2 + 0.01 * e3**2))

    h = {7: 0.04, 9: 0.08}.get(tableau.order, 0.02)
    assert rate(estimate(h), estimate(h / 4), 4) == pytest.approx(tableau.error_order + 1, abs=0.3)


# The class


def test_same_value_is_the_same_method():
    again = replace(Dopri5)
    assert again is not Dopri5
    assert again == Dopri5
    assert hash(again) == hash(Dopri5)
    assert replace(Dopri5, name="other") != Dopri5
    assert Dopri5 != "dopri5"
    assert repr(Dopri5) == "<ExplicitTableau dopri5: order 5(4), 6 stages>"
    assert repr(Euler) == "<ExplicitTableau euler: order 1, 1 stages>"


def test_lists_and_floats_make_the_same_method_as_fractions():
    given = ExplicitTableau(
        name="bosh3",
        order=3,
        a=[[0.5], [0.0, 0.75], [2 / 9, 1 / 3, 4 / 9]],
        b=[2 / 9, 1 / 3, 4 / 9, 0.0],
        error=Bosh3.E,
        embedded_order=2,
    )
    assert given == Bosh3


def test_arrays_of_weights():
    """Those of numpy compare to booleans that are not Python's."""
    weights = {"order": 2, "b_embedded": [1, 0], "embedded_order": 1}
    method = ExplicitTableau("mine", a=[np.ones(1)], b=np.array([0.5, 0.5]), **weights)
    assert method == ExplicitTableau("mine", a=[[1.0]], b=[0.5, 0.5], **weights)
    assert method.is_fsal is False
    assert odejax.solve(lambda t, y: -y, 1.0, (0.0, 1.0), method=method).success


def test_first_same_as_last_is_recognised():
    assert (Dopri5.is_fsal, Dopri5.n_stages, len(Dopri5.b)) == (True, 6, 7)
    assert (CashKarp.is_fsal, CashKarp.n_stages, len(CashKarp.b)) == (False, 6, 6)
    assert (Euler.is_fsal, Euler.n_stages, Euler.A) == (False, 1, ((),))


def test_error_may_weigh_the_slope_at_the_end():
    assert len(RK4.b) == 4
    np.testing.assert_allclose(RK4.E, [(0, 0, 0, 0.1, -0.1)], atol=1e-16)
    np.testing.assert_allclose(METHODS["heun"].E, [(-0.5, 0.5, 0)])


HEUN: dict[str, Any] = {"name": "mine", "order": 2, "a": ((1,),), "b": (F(1, 2), F(1, 2))}
ESTIMATE: dict[str, Any] = {"b_embedded": (1, 0), "embedded_order": 1}
LINEAR = ((0.5,), (0.5,), (0,))  # dense output of order 1
EXTRA: dict[str, Any] = {"extra_a": ((0, 0, 0.5),), "dense": (*LINEAR, (0,)), "dense_order": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "`order` must be at least 1, got 0"),
        ({"order": 3}, "`order` 3 fails: sum of b * c**2: the sum is 0.5, expected 0.333"),
        ({"a": ((), (1,))}, "`a` has 2 rows and `b` has 2 weights; `a` must have one row fewer"),
        ({"a": ((1, 0),)}, "row 2 of `a` has 2 entries, expected 1"),
        ({"b": (0.5, 0.6)}, "`order` 2 fails: sum of b * c**0: the sum is 1.1, expected 1.0"),
        ({"b": (0.5, float("nan"))}, "the sum is nan, expected 1.0"),
        ({"c": (0, 0.5)}, "row 2 of `a` sums to 1.0, but `c` says 0.5"),
        ({"c": (0.5, 1)}, "row 1 of `a` sums to 0.0, but `c` says 0.5"),
        ({"c": (0,)}, "`c` has 1 entries, expected 2"),
        ({"b_embedded": (1, 0)}, "give `embedded_order` together with `b_embedded` or `error`"),
        ({"embedded_order": 1}, "give `embedded_order` together with `b_embedded` or `error`"),
        ({**ESTIMATE, "error": ((1, -1),)}, "give `b_embedded` or `error`, not both"),
        ({**ESTIMATE, "b_embedded": (1,)}, "row 1 of `b_embedded` has 1 entries, expected 3"),
        (
            {**ESTIMATE, "b_embedded": (1, 1)},
            "the weights of `b_embedded`: the sum is 2.0, expected 1",
        ),
        (
            {"error": ((1, 0),), "embedded_order": 1},
            "the weights of `error`: the sum is 1.0, expected 0",
        ),
        ({"error": ((0, 0),) * 3, "embedded_order": 1}, "`error` has 3 rows; give one or two"),
        ({"extra_a": ((0, 0, 0.5),)}, "`extra_a` is used only by dense output: give `dense` too"),
        ({**EXTRA, "extra_a": ((0.5,),)}, "row 4 of `extra_a` has 1 entries, expected 3"),
        ({**EXTRA, "extra_c": (0.6,)}, "row 4 of `extra_a` sums to 0.5, but `extra_c` says 0.6"),
        (
            {**EXTRA, "dense": LINEAR},
            "`dense` has 3 rows, expected 4: 2 stages, f(t1, y1) and 1 extra",
        ),
        ({"dense_order": 3}, "`dense_order` is 3, but without `dense` it is 2"),
        ({"dense": LINEAR}, "give `dense_order` together with `dense`"),
        ({"dense": ((0.5,), (0.5, 0), (0,)), "dense_order": 1}, "row 2 of `dense` has 2 entries"),
        ({"dense": ((0.5,), (0.4,), (0,)), "dense_order": 1}, "`dense` does not end in y1: row 2"),
        ({"dense": LINEAR, "dense_order": 2}, "`dense_order` 2 fails: x**1 in sum of b(x) * c**1"),
    ],
)
def test_constructor_says_what_is_wrong(change, message):
    with pytest.raises(ValueError) as error:
        ExplicitTableau(**{**HEUN, **change})
    assert str(error.value).startswith("tableau 'mine': ")
    assert message in str(error.value)


def test_first_same_as_last_counts_the_slope_at_the_end_once():
    with pytest.raises(ValueError, match="row 1 of `b_embedded` has 5 entries, expected 4"):
        replace(Bosh3, b_embedded=(1, 0, 0, 0, 0))
