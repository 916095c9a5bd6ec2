"""A diagonally implicit Runge-Kutta method as its paper prints it, checked, and as steppers use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from odejax.tableaus.base import ROW_SUM_TOLERANCE, Number, Row, Tableau, floats, sums_to
from odejax.tableaus.tableau import hermite

MAX_PREDICTOR_DEGREE = 2  # of the slope: the predicted stage is then right up to O(h**4)


@dataclass(frozen=True, eq=False, repr=False)
class DIRKTableau(Tableau):
    r"""A diagonally implicit Runge-Kutta method with one diagonal entry.

    The stages and the step are

    $$k_i = f(t_0 + c_i h,\; y_0 + h \sum_{j \le i} a_{ij} k_j), \qquad
      y_1 = y_0 + h \sum_i b_i k_i ,$$

    where each diagonal entry is 0, an explicit stage, or the same gamma, an implicit one: all
    implicit stages solve with the matrix I - h gamma J. The first stage of an ESDIRK method is
    explicit. Give the coefficients in the shape of the paper, as fractions, integers or floats.
    The constructor checks them and derives the stepper's view of them, in capitals.

    Args:
        name: what error messages and statistics call the method.
        order: order of `y1`.
        a: the rows of all s stages, diagonal included: i entries for stage i.
        b: the s weights of `y1`.
        c: the s abscissae. Default: the row sums of `a`.
        b_embedded: s weights of a second solution. The error is `y1` minus that solution.
        embedded_order: order q of the second solution: the error of a step is O(h**(q + 1)).
        has_damped_error: whether the estimated error is to be solved for with the matrix
            I - h gamma J once more. Without that it grows with the stiffness of some methods.
        dense: a row of coefficients for each stage:
            `y(t0 + x * h) = y0 + h * sum_i sum_j dense[i][j] * x**(j + 1) * k_i`.
            Default: where `is_fsal`, the cubic Hermite polynomial through `y0`, `y1` and their
            slopes; else the straight line from `y0` to `y1`.
        dense_order: order of the dense output. Default, without `dense`: `min(3, order)` of the
            Hermite polynomial, 1 of the line.

    Raises:
        ValueError: a shape is wrong, or the coefficients contradict each other or the orders.

    Example:
        >>> from odejax.tableaus import DIRKTableau
        >>> trapezoidal = DIRKTableau("my_rule", order=2, a=[[0], [0.5, 0.5]], b=[0.5, 0.5])
        >>> trapezoidal.GAMMA, trapezoidal.IMPLICIT, trapezoidal.C, trapezoidal.PREDICTOR
        (0.5, (False, True), (0.0, 1.0), ((), (1.0,)))

    Reference:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section IV.6; Kennedy,
        Carpenter (2016), Diagonally implicit Runge-Kutta methods for ordinary differential
        equations, NASA TM 219173, section 2 (ESDIRK methods, stage predictors).
    """

    name: str
    order: int
    a: Sequence[Sequence[Number]]
    b: Sequence[Number]
    c: Sequence[Number] | None = None
    b_embedded: Sequence[Number] | None = None
    embedded_order: int | None = None
    has_damped_error: bool = False
    dense: Sequence[Sequence[Number]] | None = None
    dense_order: int = 0

    # The stepper's view, s = n_stages.
    n_stages: int = field(init=False)  # all printed stages
    GAMMA: float = field(init=False)  # the diagonal entry of implicit stages
    IMPLICIT: tuple[bool, ...] = field(init=False)  # whether stage i is: a_ii is GAMMA, not 0
    A: tuple[Row, ...] = field(init=False)  # s rows without the diagonal, row i of length i
    B: Row = field(init=False)  # s weights of y1
    C: Row = field(init=False)  # s abscissae: row sums, diagonal included
    E: tuple[Row, ...] = field(init=False)  # 0 or 1 row of s: the error is h * sum(E * k)
    P: tuple[Row, ...] = field(init=False)  # s rows: k_i weighs sum_j P[i][j] * x**(j + 1)
    PREDICTOR: tuple[Row, ...] = field(init=False)  # rows as of A: y_i is near y0 + h * sum(row * k)
    n_extra: ClassVar[int] = 0  # dense output needs no more evaluations of f
    extra_A: ClassVar[tuple[Row, ...]] = ()
    extra_C: ClassVar[Row] = ()

    def __post_init__(self) -> None:
        for name in ("b", "c", "b_embedded"):
            row = getattr(self, name)
            self._set(name, None if row is None else tuple(row))
        for name in ("a", "dense"):
            rows = getattr(self, name)
            self._set(name, None if rows is None else tuple(map(tuple, rows)))
        self._check_options()

        self._set("n_stages", len(self.b))
        self._check_lengths("a", self.a, range(1, len(self.a) + 1))
        diagonal = [row[-1] for row in self.a]
        self._set("GAMMA", self._diagonal_entry(diagonal))
        self._set("IMPLICIT", tuple(x != 0 for x in diagonal))
        self._set("A", tuple(floats(row[:-1]) for row in self.a))
        self._set("B", floats(self.b))
        self._set("C", self._row_sums("a", self.a, "c", self.c))
        self._set("E", self._error_rows())
        self._set("P", self._dense_rows())
        default_order = min(3, self.order) if self.is_fsal else 1
        self._set("dense_order", self.dense_order or default_order)
        rows = tuple(map(floats, self.a))
        self._set("PREDICTOR", tuple(_predictor(rows[: i + 1], self.C) for i in range(len(rows))))

        self._check_order()
        self._check_dense()

    @property
    def is_stiffly_accurate(self) -> bool:
        """Whether the last stage is implicit and `y1` is its value."""
        return self.IMPLICIT[-1] and (*self.A[-1], self.GAMMA) == self.B

    @property
    def is_fsal(self) -> bool:
        """Whether the last slope is the first one, `f(t0, y0)`, of the next step."""
        return self.is_stiffly_accurate and not self.IMPLICIT[0]

    @property
    def _coefficients(self) -> tuple[object, ...]:
        other = (self.GAMMA, self.IMPLICIT, self.has_damped_error)
        return (*other, self.A, self.B, self.C, self.E, self.P, self.PREDICTOR)

    def _moments(self, q: int) -> Row:
        return tuple(c ** (q - 1) for c in self.C)

    def _check_options(self) -> None:
        """Check which arguments are there, and that `a` and `b` agree on the number of stages."""
        if self.order < 1:
            raise self._invalid(f"`order` must be at least 1, got {self.order}")
        if len(self.a) != len(self.b) or not self.b:
            raise self._invalid(
                f"`a` has {len(self.a)} rows and `b` has {len(self.b)} weights; give one of each "
                "for every stage"
            )
        is_implicit = [row[-1] != 0 for row in self.a if row]
        if is_implicit != sorted(is_implicit):
            raise self._invalid("a stage after an implicit one is explicit; explicit stages come first")
        if (self.embedded_order is None) != (self.b_embedded is None):
            raise self._invalid("give `embedded_order` together with `b_embedded`")
        if self.has_damped_error and self.b_embedded is None:
            raise self._invalid("`has_damped_error` is used only with `b_embedded`: give that too")
        if (self.dense_order > 0) != (self.dense is not None):
            raise self._invalid("give `dense_order` together with `dense`")

    def _diagonal_entry(self, diagonal: Sequence[Number]) -> float:
        entries = set(floats(diagonal)) - {0.0}
        if len(entries) != 1:
            raise self._invalid(
                f"the diagonal of `a` is {floats(diagonal)}; it must have one value besides 0"
            )
        return entries.pop()

    def _error_rows(self) -> tuple[Row, ...]:
        """The weights of y1 minus the embedded solution."""
        if self.b_embedded is None:
            return ()
        self._check_lengths("b_embedded", (self.b_embedded,), [self.n_stages])
        self._check_sum("the weights of `b_embedded`", self.b_embedded, 1)
        return (tuple(float(x - y) for x, y in zip(self.b, self.b_embedded, strict=True)),)

    def _dense_rows(self) -> tuple[Row, ...]:
        if self.dense is None:
            return hermite_of_stages(self.B) if self.is_fsal else tuple((b,) for b in self.B)
        if len(self.dense) != self.n_stages:
            n = len(self.dense)
            raise self._invalid(f"`dense` has {n} rows, expected {self.n_stages}, one a stage")
        self._check_lengths("dense", self.dense, [len(self.dense[0])] * self.n_stages)
        return tuple(map(floats, self.dense))


def hermite_of_stages(b: Row) -> tuple[Row, ...]:
    """The cubic Hermite polynomial where the last of the stages is f(t1, y1)."""
    *rows, last, slope_at_end = hermite(b)
    return (*rows, tuple(x + y for x, y in zip(last, slope_at_end, strict=True)))


def _predictor(a: Sequence[Row], c: Row) -> Row:
    """Weights d for the starting guess y0 + h * sum_{j<i} d_j k_j of the last stage of `a`, stage i.

    The value of an earlier stage at the same time, where there is one. Else d is the smallest with

        sum_{j<i} d_j c_j^q = sum_{j<=i} a_ij c_j^q    for q = 0 .. MAX_PREDICTOR_DEGREE,

    or for as many q as there are different c_j: slopes that are polynomials in t of that degree
    give the very stage. With p_q the polynomials that are orthogonal over c_1 .. c_{i-1} it is

        d_j = sum_q p_q(c_j) sum_{l<=i} a_il p_q(c_l) / sum_{l<i} p_q(c_l)^2 .
    """
    i = len(a) - 1
    for j in reversed(range(i)):
        if sums_to(a[j], c[i], ROW_SUM_TOLERANCE):
            return (*a[j], *(0.0 for _ in range(j + 1, i)))
    d = [0.0] * i
    orthogonal: list[list[float]] = []
    for q in range(min(i, MAX_PREDICTOR_DEGREE + 1)):
        p = [x**q for x in c[: i + 1]]
        for other in orthogonal:
            p = _less(p, _dot(p[:i], other) / _dot(other[:i], other), other)
        if _dot(p[:i], p) < ROW_SUM_TOLERANCE**2:
            break  # no other c_j
        orthogonal.append(p)
        d = _less(d, -_dot(a[i], p) / _dot(p[:i], p), p)
    return tuple(d)


def _dot(u: Sequence[float], v: Sequence[float]) -> float:
    """Over the length of `u`."""
    return sum(x * y for x, y in zip(u, v, strict=False))


def _less(u: Sequence[float], share: float, v: Sequence[float]) -> list[float]:
    """u - share * v over the length of `u`."""
    return [x - share * y for x, y in zip(u, v, strict=False)]
