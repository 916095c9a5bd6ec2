"""The option `jac` for Jacobians whose entries are all near the diagonal."""

from dataclasses import dataclass

import numpy as np

from odejax.linalg.coloring import Coloring
from odejax.linalg.compressed import Compressed, Layout


@dataclass(frozen=True)
class Banded:
    """The Jacobian is a band: df_i/dy_j = 0 for j < i - lower and for j > i + upper.

    y is counted as one real vector: the leaves of the state in their order, each raveled; of a complex leaf
    first all real parts, then all imaginary parts. The Jacobian takes lower + upper + 1 derivatives of f,
    and the time of a step is proportional to the size of the state.

    Args:
        lower: number of diagonals below the main one.
        upper: number of diagonals above it.

    Example:
        >>> import jax.numpy as jnp, odejax
        >>> def heat(t, u):
        ...     wide = jnp.pad(u, 1)
        ...     return 1e4 * (wide[2:] - 2 * u + wide[:-2])
        >>> sol = odejax.solve(heat, jnp.ones(100), (0.0, 1.0), method="rodas5p", jac=odejax.Banded(1, 1))
        >>> bool(sol.success)
        True
    """

    lower: int
    upper: int

    def __post_init__(self):
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
                raise ValueError(f"`{name}` must be an integer of at least 0, got {value!r}.")
            object.__setattr__(self, name, int(value))

    def system(self, leaves) -> Compressed:
        """The linear systems of a state with such leaves."""
        return Compressed.of(leaves, self)

    def layout(self, n) -> Layout:
        """How a matrix of so many rows is stored."""
        lower, upper = min(self.lower, n - 1), min(self.upper, n - 1)
        i, offset = np.ogrid[:n, -lower : upper + 1]
        rows, columns = (x.ravel() for x in np.broadcast_arrays(i, i + offset))
        is_inside = (columns >= 0) & (columns < n)
        colors = np.arange(n) % min(lower + upper + 1, n)
        return Layout(Coloring.of(rows[is_inside], columns[is_inside], colors), lower, upper)
