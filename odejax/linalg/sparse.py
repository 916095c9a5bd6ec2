"""The option `jac` for sparse Jacobians of any pattern."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from odejax.linalg.coloring import Coloring, greedy
from odejax.linalg.compressed import Compressed, Layout


@dataclass(frozen=True, init=False, repr=False)
class Sparse:
    """The Jacobian has entries in some places only: df_i/dy_j = 0 outside of a pattern.

    y is counted as for `Banded`. Columns that have no row in common are differentiated together. The
    unknowns are put in an order (reverse Cuthill-McKee) that brings the entries near the diagonal; if that
    makes a band of them, it is solved as one, else the system is solved as a dense one.

    Args:
        pattern: an (n, n) array, not 0 where the Jacobian may have entries; or a sparse matrix of scipy, or a
            `jax.experimental.sparse.BCOO`, with entries there. What counts is where they are. The diagonal is
            always part of it.

    Example:
        >>> import numpy as np, jax.numpy as jnp, odejax
        >>> def ring(t, u):
        ...     return 1e4 * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1))
        >>> pattern = sum(np.roll(np.eye(100), k, axis=1) for k in (-1, 0, 1))
        >>> sol = odejax.solve(ring, jnp.ones(100), (0.0, 1.0), method="rodas5p", jac=odejax.Sparse(pattern))
        >>> bool(sol.success)
        True

    Reference:
        Curtis, Powell, Reid (1974), On the estimation of sparse Jacobian matrices, IMA J. Appl. Math. 13.
    """

    size: int  # rows, and columns
    indices: bytes  # of the entries' rows, then of their columns

    def __init__(self, pattern: Any):
        shape = np.shape(pattern)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"`pattern` must be square, got shape {shape}.")
        n = shape[0]
        places = np.concatenate([_flat(pattern, n), np.arange(n) * (n + 1)])  # and the diagonal
        indices = np.stack(np.divmod(np.unique(places), n)).astype(np.int32)
        object.__setattr__(self, "size", n)
        object.__setattr__(self, "indices", indices.tobytes())

    def __repr__(self):
        return f"Sparse({len(self.indices) // 8} entries of {self.size} x {self.size})"

    def system(self, leaves) -> Compressed:
        """The linear systems of a state with such leaves."""
        return Compressed.of(leaves, self)

    def layout(self, n) -> Layout:
        """How the matrix is stored."""
        rows, columns = np.frombuffer(self.indices, np.int32).reshape(2, -1)
        order = _order(rows, columns, n)
        if order is not None:
            position = np.argsort(order)
            rows, columns = position[rows], position[columns]
        colors = greedy(rows, columns, n)
        return Layout(Coloring.of(rows, columns, colors), *_widths(rows, columns), order)


def _flat(pattern, n):
    """row n + column of all entries."""
    if hasattr(pattern, "tocoo"):
        pattern = pattern.tocoo()
        rows, columns = pattern.row, pattern.col
    elif hasattr(pattern, "indices"):
        rows, columns = np.asarray(pattern.indices).reshape(-1, 2).T
    else:
        rows, columns = np.nonzero(np.asarray(pattern))
    is_inside = (rows < n) & (columns < n)  # a BCOO may be padded with indices outside
    return rows[is_inside].astype(np.int64) * n + columns[is_inside]


def _widths(rows, columns):
    """(lower, upper)"""
    return int((rows - columns).max()), int((columns - rows).max())


def _order(rows, columns, n):
    """The unknowns in the order that makes the band narrower, or None if they are."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    pattern = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (n, n)).tocsr()
    order = reverse_cuthill_mckee(pattern, symmetric_mode=False)
    position = np.argsort(order)
    is_narrower = max(_widths(position[rows], position[columns])) < max(_widths(rows, columns))
    return order if is_narrower else None
