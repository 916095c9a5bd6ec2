"""What all tableaus share: name, orders and error estimate, equality by value, and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import fsum
from typing import TypeAlias

Number: TypeAlias = int | float | Fraction
Row: TypeAlias = tuple[float, ...]

ROW_SUM_TOLERANCE = 1e-13  # coefficients printed to 16 digits or more pass
CONDITION_TOLERANCE = 1e-12  # products of such coefficients


class Tableau(ABC):
    """A one-step method as data: the coefficients that its stepper needs, checked when built."""

    name: str
    order: int
    embedded_order: int | None
    dense_order: int
    n_stages: int
    B: Row  # weights of y1
    E: tuple[Row, ...]  # rows of weights of the error; none in a method of fixed steps
    P: tuple[Row, ...]  # dense output: stage i weighs sum_j P[i][j] * x**(j + 1)

    @cached_property
    def NESTED(self) -> tuple[tuple[float, Row], ...]:
        """The dense output in nested form, a pair (s, w) for each power of x over the first.

        With D = y1 - y0 and c_m = s_m D + sum_i w_mi stage_i it is
        y0 + x (D + (1 - x) (c_0 + x (c_1 + (1 - x) (c_2 + x ( ... ))))). Where slopes at the ends are those
        of stages, as they mostly are, c_0 and c_1 are made of few.
        """
        exact = [[Fraction(p) for p in row] for row in self.P]
        ends = [sum(row, Fraction(0)) for row in exact]
        nested = map(_nested, exact, ends)
        noise = tuple(ROW_SUM_TOLERANCE * sum(map(abs, row)) for row in self.P)
        return tuple(_sparsest(column, ends, noise) for column in zip(*nested, strict=True))

    @property
    @abstractmethod
    def _coefficients(self) -> tuple[object, ...]:
        """All coefficients of the stepper's view."""

    @abstractmethod
    def _moments(self, q: int) -> Row:
        """The stages of y' = t**(q - 1) from t0 = 0 with h = 1, in the order of `P`."""

    @property
    def is_adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return len(self.E) > 0

    @property
    def error_order(self) -> int:
        """The q for which the estimated error of a step is O(h**(q + 1)); else `order`."""
        return self.order if self.embedded_order is None else min(self.order, self.embedded_order)

    def __repr__(self) -> str:
        embedded = f"({self.embedded_order})" if self.is_adaptive else ""
        order = f"order {self.order}{embedded}"
        return f"<{type(self).__name__} {self.name}: {order}, {self.n_stages} stages>"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Tableau):
            return NotImplemented
        return self._value == other._value

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _value(self) -> tuple[object, ...]:
        """All that a solve can depend on."""
        orders = (self.order, self.error_order, self.dense_order)
        return (type(self), self.name, *orders, *self._coefficients)

    @cached_property
    def _hash(self) -> int:
        return hash(self._value)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _invalid(self, message: str) -> ValueError:
        return invalid(self.name, message)

    def _check_lengths(
        self,
        name: str,
        rows: Sequence[Sequence[Number]],
        lengths: Sequence[int],
        first_row: int = 1,
    ) -> None:
        check_lengths(self.name, name, rows, lengths, first_row)

    def _check_sum(self, what: str, terms: Sequence[Number], expected: float) -> None:
        if not sums_to(terms, expected, CONDITION_TOLERANCE):
            raise self._invalid(f"{what}: the sum is {fsum(terms)!r}, expected {expected!r}")

    def _row_sums(
        self,
        a_name: str,
        rows: Sequence[Sequence[Number]],
        c_name: str,
        given: Sequence[Number] | None,
        first_row: int = 1,
    ) -> Row:
        """The row sums, or the given numbers when they agree with them."""
        sums = tuple(fsum(row) for row in rows)
        if given is None:
            return sums
        if len(given) != len(sums):
            raise self._invalid(f"`{c_name}` has {len(given)} entries, expected {len(sums)}")
        for i, (row, c) in enumerate(zip(rows, given, strict=True), start=first_row):
            if not sums_to(row, c, ROW_SUM_TOLERANCE):
                raise self._invalid(
                    f"row {i} of `{a_name}` sums to {fsum(row)!r}, but `{c_name}` says {float(c)!r}"
                )
        return floats(given)

    def _check_order(self) -> None:
        """Check the order conditions of y' = f(t).

        The other conditions, one for each rooted tree, are tested for the built-in methods only.
        """
        for q in range(1, self.order + 1):
            terms = [b * m for b, m in zip(self.B, self._moments(q), strict=False)]
            self._check_sum(f"`order` {self.order} fails: sum of b * c**{q - 1}", terms, 1 / q)

    def _check_dense(self) -> None:
        """Check that dense output ends in y1 and has its order for y' = f(t)."""
        ends = (*self.B, *(0.0 for _ in self.P[len(self.B) :]))
        for i, (row, end) in enumerate(zip(self.P, ends, strict=True), start=1):
            self._check_sum(f"`dense` does not end in y1: row {i}", row, end)
        for q in range(1, self.dense_order + 1):
            moments = self._moments(q)
            for j, column in enumerate(zip(*self.P, strict=True), start=1):
                terms = [p * m for p, m in zip(column, moments, strict=True)]
                what = f"`dense_order` {self.dense_order} fails: x**{j} in sum of b(x) * c**{q - 1}"
                self._check_sum(what, terms, 1 / q if j == q else 0.0)


def _nested(row: Sequence[Fraction], end: Fraction) -> list[Fraction]:
    """The c of sum_j row[j] x^(j+1) = end x + x (1 - x) (c_0 + x (c_1 + (1 - x) (c_2 + ...)))."""
    rest, nested = _over_one_minus_x([row[0] - end, *row[1:]]), []
    while rest:
        at_one = len(nested) % 2 == 1
        nested.append(sum(rest) if at_one else rest[0])
        rest[0] -= nested[-1]
        rest = _over_one_minus_x(rest) if at_one else rest[1:]
    return nested


def _over_one_minus_x(row: Sequence[Fraction]) -> list[Fraction]:
    """The polynomial sum_j row[j] x^j, which is 0 at 1, divided by 1 - x."""
    return list(accumulate(row))[:-1]


def _sparsest(weights: Sequence[Fraction], ends: Sequence[Fraction], noise: Row) -> tuple[float, Row]:
    """(s, w) with weights = s ends + w and most zeros in w, as what is less than `noise` becomes."""

    def rest(share):
        row = (float(w - share * end) for w, end in zip(weights, ends, strict=True))
        return tuple(0.0 if abs(w) <= less else w for w, less in zip(row, noise, strict=True))

    return max(((float(s), rest(s)) for s in (0, -1, 1, -2, 2)), key=lambda pair: pair[1].count(0.0))


def invalid(tableau: str, message: str) -> ValueError:
    return ValueError(f"tableau {tableau!r}: {message}")


def check_lengths(
    tableau: str,
    name: str,
    rows: Sequence[Sequence[Number]],
    lengths: Sequence[int],
    first_row: int = 1,
) -> None:
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True), start=first_row):
        if len(row) != n:
            raise invalid(tableau, f"row {i} of `{name}` has {len(row)} entries, expected {n}")


def floats(row: Sequence[Number]) -> Row:
    return tuple(float(x) for x in row)


def sums_to(terms: Sequence[Number], expected: Number, tolerance: float) -> bool:
    """Whether the sum is right up to rounding of its terms; False for NaN."""
    return abs(fsum(terms) - expected) <= tolerance * max(1.0, fsum(map(abs, terms)))
