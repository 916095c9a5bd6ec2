"""The methods by name, explicit and stiff, and the classes to bring your own."""

from odejax.tableaus.base import Tableau
from odejax.tableaus.dirk import TRBDF2, ImplicitEuler, ImplicitMidpoint, Kvaerno3, Kvaerno5
from odejax.tableaus.dirk_tableau import DIRKTableau
from odejax.tableaus.dop853 import DOP853
from odejax.tableaus.low_order import RK4, SSPRK3, Bosh3, Euler, Heun, Midpoint, Ralston
from odejax.tableaus.order5 import CashKarp, Dopri5, Tsit5
from odejax.tableaus.rosenbrock import Rodas4, Rodas5P, Rosenbrock23
from odejax.tableaus.rosenbrock_tableau import RosenbrockTableau
from odejax.tableaus.switching import Auto, Switching
from odejax.tableaus.tableau import ExplicitTableau
from odejax.tableaus.verner import Vern7, Vern9

_EXPLICIT = (
    Euler, Heun, Midpoint, Ralston, SSPRK3, Bosh3, RK4, CashKarp, Dopri5, Tsit5,
    Vern7, DOP853, Vern9,
)  # fmt: skip

_STIFF = (
    ImplicitEuler, ImplicitMidpoint, TRBDF2, Kvaerno3, Kvaerno5,
    Rosenbrock23, Rodas4, Rodas5P,
)  # fmt: skip

METHODS: dict[str, Tableau] = {tableau.name: tableau for tableau in (*_EXPLICIT, *_STIFF, Auto)}

__all__ = [
    "DOP853",
    "METHODS",
    "RK4",
    "SSPRK3",
    "TRBDF2",
    "Auto",
    "Bosh3",
    "CashKarp",
    "DIRKTableau",
    "Dopri5",
    "Euler",
    "ExplicitTableau",
    "Heun",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "Kvaerno3",
    "Kvaerno5",
    "Midpoint",
    "Ralston",
    "Rodas4",
    "Rodas5P",
    "Rosenbrock23",
    "RosenbrockTableau",
    "Switching",
    "Tableau",
    "Tsit5",
    "Vern7",
    "Vern9",
]
