"""The explicit Runge-Kutta methods by name, and the class to bring your own."""

from odejax.tableaus.dop853 import DOP853
from odejax.tableaus.low_order import RK4, SSPRK3, Bosh3, Euler, Heun, Midpoint, Ralston
from odejax.tableaus.order5 import CashKarp, Dopri5, Tsit5
from odejax.tableaus.tableau import ExplicitTableau
from odejax.tableaus.verner import Vern7, Vern9

_ALL = (
    Euler, Heun, Midpoint, Ralston, SSPRK3, Bosh3, RK4, CashKarp, Dopri5, Tsit5,
    Vern7, DOP853, Vern9,
)  # fmt: skip

METHODS: dict[str, ExplicitTableau] = {tableau.name: tableau for tableau in _ALL}

__all__ = [
    "DOP853",
    "METHODS",
    "RK4",
    "SSPRK3",
    "Bosh3",
    "CashKarp",
    "Dopri5",
    "Euler",
    "ExplicitTableau",
    "Heun",
    "Midpoint",
    "Ralston",
    "Tsit5",
    "Vern7",
    "Vern9",
]
