"""An explicit Runge-Kutta method as its paper prints it, checked, and as the stepper uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum

from odejax.tableaus.base import Number, Row, Tableau, floats

STABILITY_STEP = 0.01  # precision of the stability interval


@dataclass(frozen=True, eq=False, repr=False)
class ExplicitTableau(Tableau):
    r"""An explicit Runge-Kutta method, with its error estimate and its dense output.

    The stages and the step are

    $$k_i = f(t_0 + c_i h,\; y_0 + h \sum_{j<i} a_{ij} k_j), \qquad
      y_1 = y_0 + h \sum_i b_i k_i .$$

    Give the coefficients in the shape of the paper, as fractions, integers or floats. The
    constructor checks them and derives the stepper's view of them, in capitals: tuples of floats,
    where the stages are

    * `0 .. n_stages - 1`: what `y1` and its error estimate need besides the next line;
    * `n_stages`: always `f(t1, y1)`, which is also the first stage of the next step;
    * `n_stages + 1 .. n_stages + n_extra`: evaluated only for dense output.

    A method whose last stage is `f(t1, y1)` already (first same as last: the last row of `a` is `b`
    and the last weight is 0) is recognised; its `n_stages` is one less than its s printed stages.

    Args:
        name: what error messages and statistics call the method.
        order: order of `y1`.
        a: the rows of stages 2 .. s, strictly lower triangle: i - 1 entries for stage i.
        b: the s weights of `y1`.
        c: the s abscissae. Default: the row sums of `a`.
        b_embedded: weights of a second solution, s of them, or s + 1 when the last weighs
            `f(t1, y1)` and the s-th stage is another. The error is `y1` minus that solution.
        error: instead of `b_embedded`, rows of weights e of the error `h * sum(e_i * k_i)` itself.
            Two rows combine in norm to `|e1|**2 / sqrt(|e1|**2 + 0.01 * |e2|**2)`.
        embedded_order: order q of the second solution: the error of a step is O(h**(q + 1)).
        extra_a: rows of the extra stages, over all stages before them, `f(t1, y1)` included.
        extra_c: their abscissae. Default: the row sums of `extra_a`.
        dense: a row of coefficients for each stage, `f(t1, y1)` and extra stages included:
            `y(t0 + x * h) = y0 + h * sum_i sum_j dense[i][j] * x**(j + 1) * k_i`.
            Default: the cubic Hermite polynomial through `y0`, `y1` and their slopes.
        dense_order: order of the dense output. Default, without `dense`: `min(3, order)`.

    Raises:
        ValueError: a shape is wrong, or the coefficients contradict each other or the orders.

    Example:
        >>> from odejax.tableaus import ExplicitTableau
        >>> heun = ExplicitTableau(
        ...     "my_heun", order=2, a=[[1]], b=[0.5, 0.5], b_embedded=[1, 0], embedded_order=1
        ... )
        >>> heun.C, heun.E, heun.dense_order
        ((0.0, 1.0), ((-0.5, 0.5, 0.0),), 2)

    Reference:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, sections II.1,
        II.4 (error estimate), II.6 (dense output), II.10 (two error rows).
    """

    name: str
    order: int
    a: Sequence[Sequence[Number]]
    b: Sequence[Number]
    c: Sequence[Number] | None = None
    b_embedded: Sequence[Number] | None = None
    error: Sequence[Sequence[Number]] = ()
    embedded_order: int | None = None
    extra_a: Sequence[Sequence[Number]] = ()
    extra_c: Sequence[Number] | None = None
    dense: Sequence[Sequence[Number]] | None = None
    dense_order: int = 0

    # The stepper's view. Lengths: m = n_stages, e = n_extra.
    n_stages: int = field(init=False)  # evaluations of f a step, the reused first one included
    A: tuple[Row, ...] = field(init=False)  # m rows, row i of length i
    B: Row = field(init=False)  # m weights of y1
    C: Row = field(init=False)  # m abscissae, C[0] == 0
    E: tuple[Row, ...] = field(init=False)  # 0, 1 or 2 rows of m + 1: the error is h * sum(E * k)
    extra_A: tuple[Row, ...] = field(init=False)  # e rows, row j of length m + 1 + j
    extra_C: Row = field(init=False)  # e abscissae
    P: tuple[Row, ...] = field(init=False)  # m + 1 + e rows: k_i weighs sum_j P[i][j] * x**(j + 1)

    def __post_init__(self) -> None:
        for name in ("b", "c", "b_embedded", "extra_c"):
            row = getattr(self, name)
            self._set(name, None if row is None else _numbers(row))
        for name in ("a", "error", "extra_a", "dense"):
            rows = getattr(self, name)
            self._set(name, None if rows is None else tuple(map(_numbers, rows)))
        self._check_options()

        n_stages = len(self.b) - self.is_fsal
        self._set("n_stages", n_stages)
        stages = ((), *self.a)
        self._check_lengths("a", stages, range(len(stages)))
        self._set("A", tuple(map(floats, stages[:n_stages])))
        self._set("B", floats(self.b[:n_stages]))
        self._set("C", self._row_sums("a", stages, "c", self.c)[:n_stages])
        self._set("E", self._error_rows())

        n_before = n_stages + 1
        lengths = range(n_before, n_before + self.n_extra)
        self._check_lengths("extra_a", self.extra_a, lengths, first_row=n_before + 1)
        self._set("extra_A", tuple(map(floats, self.extra_a)))
        extra_c = self._row_sums("extra_a", self.extra_a, "extra_c", self.extra_c, n_before + 1)
        self._set("extra_C", extra_c)
        self._set("P", self._dense_rows())
        self._set("dense_order", self.dense_order or min(3, self.order))

        self._check_order()
        self._check_dense()

    @property
    def is_fsal(self) -> bool:
        """Whether the last printed stage is `f(t1, y1)`: first same as last."""
        return len(self.b) > 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @property
    def n_extra(self) -> int:
        """How many more evaluations of f dense output needs."""
        return len(self.extra_a)

    @cached_property
    def stability_interval(self) -> float:
        """The x up to which y' = -x y is stable with steps of size 1."""
        ones, moments = [1.0] * self.n_stages, []  # b A^k 1, the coefficients of the stability function
        for _ in range(self.n_stages):
            moments.append(fsum(b * v for b, v in zip(self.B, ones, strict=True)))
            ones = [fsum(a * v for a, v in zip(row, ones, strict=False)) for row in self.A]
        x = 0.0
        while abs(1 + fsum(m * (-x) ** (k + 1) for k, m in enumerate(moments))) <= 1 + 1e-9:
            x += STABILITY_STEP
        return x

    @property
    def _coefficients(self) -> tuple[object, ...]:
        return (self.A, self.B, self.C, self.E, self.extra_A, self.extra_C, self.P)

    def _moments(self, q: int) -> Row:
        return tuple(c ** (q - 1) for c in (*self.C, 1.0, *self.extra_C))

    def _check_options(self) -> None:
        """Check which arguments are there, and that `a` and `b` agree on the number of stages."""
        if self.order < 1:
            raise self._invalid(f"`order` must be at least 1, got {self.order}")
        if len(self.a) + 1 != len(self.b):
            raise self._invalid(
                f"`a` has {len(self.a)} rows and `b` has {len(self.b)} weights; `a` must have one "
                "row fewer, because the empty row of the first stage is left out"
            )
        if self.b_embedded is not None and self.error:
            raise self._invalid("give `b_embedded` or `error`, not both")
        if len(self.error) > 2:
            raise self._invalid(f"`error` has {len(self.error)} rows; give one or two")
        if (self.embedded_order is None) != (self.b_embedded is None and not self.error):
            raise self._invalid("give `embedded_order` together with `b_embedded` or `error`")
        if self.dense is None and self.extra_a:
            raise self._invalid("`extra_a` is used only by dense output: give `dense` too")
        hermite_order = min(3, self.order)
        if self.dense is None and self.dense_order not in (0, hermite_order):
            raise self._invalid(
                f"`dense_order` is {self.dense_order}, but without `dense` it is {hermite_order}"
            )
        if self.dense is not None and self.dense_order < 1:
            raise self._invalid("give `dense_order` together with `dense`")

    def _error_rows(self) -> tuple[Row, ...]:
        """The weights of y1 minus the embedded solution, the one of f(t1, y1) included."""
        if self.b_embedded is not None:
            (row,) = self._check_error_rows("b_embedded", (self.b_embedded,), total=1)
            b = (*self.b[: self.n_stages], 0)
            return (tuple(float(x - y) for x, y in zip(b, row, strict=True)),)
        return tuple(map(floats, self._check_error_rows("error", self.error, total=0)))

    def _check_error_rows(
        self, name: str, rows: Sequence[Sequence[Number]], total: int
    ) -> Sequence[Sequence[Number]]:
        """The rows, with 0 for f(t1, y1) where the paper has no such stage."""
        n = self.n_stages + 1
        if not self.is_fsal:
            rows = [(*row, 0) if len(row) == n - 1 else row for row in rows]
        self._check_lengths(name, rows, [n] * len(rows))
        for row in rows:
            self._check_sum(f"the weights of `{name}`", row, total)
        return rows

    def _dense_rows(self) -> tuple[Row, ...]:
        if self.dense is None:
            return hermite(self.B)
        n = self.n_stages + 1 + self.n_extra
        if len(self.dense) != n:
            raise self._invalid(
                f"`dense` has {len(self.dense)} rows, expected {n}: {self.n_stages} stages, "
                f"f(t1, y1) and {self.n_extra} extra stages"
            )
        self._check_lengths("dense", self.dense, [len(self.dense[0])] * n)
        return tuple(map(floats, self.dense))


def hermite(b: Row) -> tuple[Row, ...]:
    """The cubic Hermite polynomial in terms of the stages.

    y(x) = y0 + (3x^2 - 2x^3) (y1 - y0) + x (1 - x)^2 h f(t0, y0) + x^2 (x - 1) h f(t1, y1), where
    f(t0, y0) is the first stage and y1 - y0 = h sum b_i k_i.
    """
    first, *others = ((0.0, 3 * w, -2 * w) for w in b)
    first = (1.0, first[1] - 2.0, first[2] + 1.0)
    return (first, *others, (0.0, -1.0, 1.0))


def _numbers(row: Sequence[Number]) -> tuple[Number, ...]:
    """Python's own numbers: those of numpy compare to booleans of its own."""
    return tuple(x.item() if hasattr(x, "item") else x for x in row)  # pyright: ignore
