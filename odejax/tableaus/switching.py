"""Two methods of which each step takes one: explicit where the problem allows, stiff where it must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from odejax.tableaus.base import Row, Tableau
from odejax.tableaus.order5 import Tsit5
from odejax.tableaus.rosenbrock import Rodas5P
from odejax.tableaus.rosenbrock_tableau import RosenbrockTableau
from odejax.tableaus.tableau import ExplicitTableau


@dataclass(frozen=True, eq=False, repr=False)
class Switching(Tableau):
    """A method that starts explicit and changes to a stiff method and back, as the solve goes.

    Its "slopes" are the coefficients of x, x^2, ... in a step's dense output, which both methods have.

    Args:
        name: what error messages call the method.
        explicit: a method whose last stage is at t0 + h, by which stiffness is seen.
        stiff: the other one.

    Raises:
        ValueError: a method has no error estimate, or the explicit one no stage at t0 + h.
    """

    name: str
    explicit: ExplicitTableau
    stiff: RosenbrockTableau
    n_extra: ClassVar[int] = 0
    extra_A: ClassVar[tuple[Row, ...]] = ()
    extra_C: ClassVar[Row] = ()

    def __post_init__(self) -> None:
        if not (self.explicit.is_adaptive and self.stiff.is_adaptive):
            raise self._invalid("both methods must estimate their errors")
        if self.explicit.C[-1] != 1 or self.explicit.n_extra:
            raise self._invalid(
                "`explicit` must have its last stage at t0 + h, and dense output from its stages; "
                f"{self.explicit.name} has not"
            )
        methods = self.explicit, self.stiff
        degree = max(len(m.P[0]) for m in methods)
        self._set("order", min(m.order for m in methods))
        self._set("embedded_order", min(m.error_order for m in methods))
        self._set("dense_order", min(m.dense_order for m in methods))
        self._set("n_stages", degree)
        self._set("B", (1.0,) * degree)
        self._set("E", ())
        self._set("P", tuple(tuple(float(i == j) for j in range(degree)) for i in range(degree)))

    @property
    def is_adaptive(self) -> bool:
        return True

    @property
    def _coefficients(self) -> tuple[object, ...]:
        return (self.explicit, self.stiff)

    def _moments(self, q: int) -> Row:
        return tuple(float(j == q) / q for j in range(1, self.n_stages + 1))


Auto = Switching("auto", Tsit5, Rodas5P)
