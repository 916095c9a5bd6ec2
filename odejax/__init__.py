"""Differentiable ODE solvers on JAX: `solve`, with every derivative from the same call."""

from odejax.arguments import Checkpoints
from odejax.core.status import Status
from odejax.ensemble import ensemble
from odejax.ivp import solve
from odejax.linalg.banded import Banded
from odejax.linalg.sparse import Sparse
from odejax.linear import expm_multiply, solve_linear
from odejax.solution import Solution, SolveError, Statistics, check
from odejax.stepping.controller import ConstantStep, PIController, PIDController
from odejax.tableaus import METHODS, DIRKTableau, ExplicitTableau, RosenbrockTableau, Switching

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Banded",
    "Checkpoints",
    "ConstantStep",
    "DIRKTableau",
    "ExplicitTableau",
    "PIController",
    "PIDController",
    "RosenbrockTableau",
    "Solution",
    "SolveError",
    "Sparse",
    "Statistics",
    "Status",
    "Switching",
    "check",
    "ensemble",
    "expm_multiply",
    "solve",
    "solve_linear",
]
