"""Linear problems: `expm_multiply` and `solve_linear`."""

from odejax.linear.multiply import expm_multiply
from odejax.linear.solve import solve_linear

__all__ = ["expm_multiply", "solve_linear"]
