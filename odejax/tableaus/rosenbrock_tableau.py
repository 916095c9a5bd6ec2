"""A Rosenbrock method as its paper prints it, checked, and as the stepper uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import ClassVar

from odejax.tableaus.base import Number, Row, Tableau, check_lengths, floats, invalid


@dataclass(frozen=True, eq=False, repr=False)
class RosenbrockTableau(Tableau):
    r"""A linearly implicit Runge-Kutta (Rosenbrock-Wanner) method in its transformed form.

    With the derivatives $J = \partial f / \partial y$ and $T = h\, \partial f / \partial t$ at
    $(t_0, y_0)$, the stages and the step are

    $$\Big(\frac{I}{\gamma} - h J\Big) U_i = h f\Big(t_0 + \alpha_i h,\; y_0 + \sum_{j<i} a_{ij} U_j\Big)
      + \gamma_i h T + \sum_{j<i} c_{ij} U_j, \qquad y_1 = y_0 + \sum_i m_i U_i .$$

    One matrix serves all stages, no iteration is needed, and the products with J that the method
    stands for do not occur. Give the coefficients as the paper prints them in this form, or in the
    form of slopes to `from_slopes`. The constructor checks them and derives the stepper's view of
    them, in capitals: note that there C are the abscissae, as in every tableau, and K the c_ij.

    Args:
        name: what error messages and statistics call the method.
        order: order of `y1`, when J and T are exact.
        gamma: the diagonal entry.
        a: the rows of stages 2 .. s, strictly lower triangle: i - 1 entries for stage i.
        c: rows c_ij, of the same shape.
        m: the s weights of `y1`.
        alpha: the s abscissae. Default: what `a` and `c` imply.
        gamma_sums: the s coefficients gamma_i of T. Default: what `c` and `gamma` imply.
        error: s weights e_i of the error `sum(e_i * U_i)`, which is `y1` minus a second solution.
        embedded_order: order q of the second solution: the error of a step is O(h**(q + 1)).
        dense: a row of coefficients for each stage:
            `y(t0 + x * h) = y0 + sum_i sum_j dense[i][j] * x**(j + 1) * U_i`.
            Default: the straight line from `y0` to `y1`.
        dense_order: order of the dense output. Default, without `dense`: 1.

    Raises:
        ValueError: a shape is wrong, or the coefficients contradict each other or the orders.

    Example:
        >>> from odejax.tableaus import RosenbrockTableau
        >>> linear_euler = RosenbrockTableau("my_euler", order=1, gamma=1, a=[], c=[], m=[1])
        >>> linear_euler.C, linear_euler.G, linear_euler.P
        ((0.0,), (1.0,), ((1.0,),))

    Reference:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section IV.7, equation
        (7.25).
    """

    name: str
    order: int
    gamma: Number
    a: Sequence[Sequence[Number]]
    c: Sequence[Sequence[Number]]
    m: Sequence[Number]
    alpha: Sequence[Number] | None = None
    gamma_sums: Sequence[Number] | None = None
    error: Sequence[Number] | None = None
    embedded_order: int | None = None
    dense: Sequence[Sequence[Number]] | None = None
    dense_order: int = 0

    # The stepper's view, s = n_stages.
    n_stages: int = field(init=False)  # all stages, those that only the error needs included
    GAMMA: float = field(init=False)  # the matrix is I / GAMMA - h * J
    A: tuple[Row, ...] = field(init=False)  # s rows, row i of length i: f is taken at y0 + A @ U
    C: Row = field(init=False)  # s abscissae alpha_i, C[0] == 0
    G: Row = field(init=False)  # s coefficients gamma_i of h * T, T = h * df/dt
    K: tuple[Row, ...] = field(init=False)  # s rows c_ij, row i of length i: K @ U is added to h * f
    B: Row = field(init=False)  # s weights m_i: y1 = y0 + sum(B * U)
    E: tuple[Row, ...] = field(init=False)  # 0 or 1 row of s: the error is sum(E * U)
    P: tuple[Row, ...] = field(init=False)  # s rows: U_i weighs sum_j P[i][j] * x**(j + 1)
    n_extra: ClassVar[int] = 0  # dense output needs no more evaluations of f
    extra_A: ClassVar[tuple[Row, ...]] = ()
    extra_C: ClassVar[Row] = ()

    @classmethod
    def from_slopes(
        cls,
        name: str,
        order: int,
        alpha: Sequence[Sequence[Number]],
        gamma: Sequence[Sequence[Number]],
        b: Sequence[Number],
        b_embedded: Sequence[Number] | None = None,
        embedded_order: int | None = None,
        dense: Sequence[Sequence[Number]] | None = None,
        dense_order: int = 0,
    ) -> RosenbrockTableau:
        r"""The method with stages and step (Hairer, Wanner, section IV.7, equation (7.4))

        $$k_i = f\Big(t_0 + \alpha_i h,\; y_0 + h \sum_{j<i} \alpha_{ij} k_j\Big)
          + h J \sum_{j \le i} \gamma_{ij} k_j + \gamma_i T, \qquad y_1 = y_0 + h \sum_i b_i k_i ,$$

        alpha_i and gamma_i being row sums: U_i stands for h * sum_j gamma_ij k_j.

        Args:
            name: as for the class, like `order`, `embedded_order` and `dense_order`.
            order: as above.
            alpha: the rows of stages 2 .. s, strictly lower triangle: i - 1 entries for stage i.
            gamma: the rows of all stages, diagonal included, which has one value.
            b: the s weights of `y1`.
            b_embedded: s weights of a second solution. The error is `y1` minus that solution.
            embedded_order: as above.
            dense: a row of coefficients for each stage, of h * k_i instead of U_i.
            dense_order: as above.
        """
        n = len(b)
        if not len(alpha) + 1 == len(gamma) == n:
            rows = f"`alpha` has {len(alpha)} rows, `gamma` {len(gamma)} and `b` {n} weights"
            raise invalid(name, f"{rows}; `alpha` must have one fewer than the other two")
        check_lengths(name, "alpha", alpha, range(1, n), first_row=2)
        check_lengths(name, "gamma", gamma, range(1, n + 1))
        if len({float(row[-1]) for row in gamma}) > 1:
            raise invalid(name, "the diagonal of `gamma` must have one value")
        inverse = _inverse(gamma)
        error = None
        if b_embedded is not None:
            check_lengths(name, "b_embedded", (b_embedded,), [n])
            error = _times([x - y for x, y in zip(b, b_embedded, strict=True)], inverse)
        if dense is not None:
            columns = zip(*dense, strict=True)
            dense = list(zip(*(_times(column, inverse) for column in columns), strict=True))
        return cls(
            name,
            order,
            gamma=gamma[0][0],
            a=[_times(row, inverse) for row in alpha],
            c=[[-x for x in row[:-1]] for row in inverse[1:]],
            m=_times(b, inverse),
            alpha=[0, *map(fsum, alpha)],
            gamma_sums=[*map(fsum, gamma)],
            error=error,
            embedded_order=embedded_order,
            dense=dense,
            dense_order=dense_order,
        )

    def __post_init__(self) -> None:
        for name in ("m", "alpha", "gamma_sums", "error"):
            row = getattr(self, name)
            self._set(name, None if row is None else tuple(row))
        for name in ("a", "c", "dense"):
            rows = getattr(self, name)
            self._set(name, None if rows is None else tuple(map(tuple, rows)))
        self._check_options()

        n_stages = len(self.m)
        self._set("n_stages", n_stages)
        self._set("GAMMA", float(self.gamma))
        self._check_lengths("a", self.a, range(1, n_stages), first_row=2)
        self._set("A", ((), *map(floats, self.a)))
        self._check_lengths("c", self.c, range(1, n_stages), first_row=2)
        self._set("K", ((), *map(floats, self.c)))
        self._set("B", floats(self.m))
        self._set("G", self._gamma_sums())
        self._set("C", self._alpha())
        self._set("E", self._error_rows())
        self._set("P", self._dense_rows())
        self._set("dense_order", self.dense_order or 1)

        self._check_order()
        self._check_dense()

    @property
    def is_stiffly_accurate(self) -> bool:
        """Whether the last stage is a correction of `y1`: without it `f` was taken there, at t1."""
        return (*self.A[-1], 1.0) == self.B and (self.C[-1], self.G[-1]) == (1.0, 0.0)

    @property
    def is_fsal(self) -> bool:
        """Whether the last stage takes `f(t1, y1)`, which is `f(t0, y0)` of the next step."""
        return (*self.A[-1], 0.0) == self.B and self.C[-1] == 1.0

    @property
    def _coefficients(self) -> tuple[object, ...]:
        return (self.GAMMA, self.A, self.B, self.C, self.E, self.G, self.K, self.P)

    def _moments(self, q: int) -> Row:
        """With J = 0, and T = 1 for q = 2, else 0."""
        f = [alpha ** (q - 1) for alpha in self.C]
        return self._stages([x + gamma for x, gamma in zip(f, self.G, strict=True)] if q == 2 else f)

    def _stages(self, slopes: Sequence[float]) -> Row:
        """The U_i for J = 0 and given h f + gamma_i h T: the products of Gamma and the slopes."""
        u: list[float] = []
        for row, slope in zip(self.K, slopes, strict=True):
            u.append(self.GAMMA * fsum([slope, *(c * u_j for c, u_j in zip(row, u, strict=True))]))
        return tuple(u)

    def _check_options(self) -> None:
        """Check which arguments are there, and how many rows they have."""
        if self.order < 1:
            raise self._invalid(f"`order` must be at least 1, got {self.order}")
        if not self.gamma > 0:
            raise self._invalid(f"`gamma` must be positive, got {self.gamma}")
        if not len(self.a) + 1 == len(self.c) + 1 == len(self.m):
            raise self._invalid(
                f"`a` has {len(self.a)} rows, `c` {len(self.c)} and `m` {len(self.m)} weights; `a` and "
                "`c` must have one row fewer, because the empty row of the first stage is left out"
            )
        if (self.embedded_order is None) != (self.error is None):
            raise self._invalid("give `embedded_order` together with `error`")
        if (self.dense_order > 0) != (self.dense is not None):
            raise self._invalid("give `dense_order` together with `dense`")

    def _gamma_sums(self) -> Row:
        """The row sums of Gamma. They satisfy gamma_i = gamma * (1 + sum_j c_ij gamma_j)."""
        gamma, sums = self.GAMMA, self.gamma_sums
        if sums is None:
            sums = self._stages([1.0] * self.n_stages)
        rows = [(gamma, *(gamma * c * x for c, x in zip(row, sums, strict=False))) for row in self.K]
        return self._row_sums("gamma * (1 + c * gamma_sums)", rows, "gamma_sums", sums)

    def _alpha(self) -> Row:
        """The row sums of alpha_ij = sum_l a_il gamma_lj."""
        rows = [[a * x for a, x in zip(row, self.G, strict=False)] for row in self.A]
        return self._row_sums("a * gamma_sums", rows, "alpha", self.alpha)

    def _error_rows(self) -> tuple[Row, ...]:
        if self.error is None:
            return ()
        self._check_lengths("error", (self.error,), [self.n_stages])
        terms = [e * x for e, x in zip(self.error, self.G, strict=True)]
        self._check_sum("`error` of a constant slope", terms, 0)
        return (floats(self.error),)

    def _dense_rows(self) -> tuple[Row, ...]:
        if self.dense is None:
            return tuple((m,) for m in self.B)
        if len(self.dense) != self.n_stages:
            n = len(self.dense)
            raise self._invalid(f"`dense` has {n} rows, expected {self.n_stages}, one a stage")
        self._check_lengths("dense", self.dense, [len(self.dense[0])] * self.n_stages)
        return tuple(map(floats, self.dense))


def _times(row: Sequence[Number], lower: Sequence[Sequence[float]]) -> list[float]:
    """The product of a row and the square lower triangle of its size."""
    n = len(row)
    return [fsum(row[i] * lower[i][j] for i in range(j, n)) for j in range(n)]


def _inverse(lower: Sequence[Sequence[Number]]) -> list[list[float]]:
    """Row i of the inverse: 1 / l_ii at the end, before it -1 / l_ii times the product."""
    rows: list[list[float]] = []
    for *row, diagonal in lower:
        rows.append([*(-x / float(diagonal) for x in _times(row, rows)), 1 / float(diagonal)])
    return rows
