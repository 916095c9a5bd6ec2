"""Sparse matrices by colors: columns of one color have no row in common, so one derivative gives them all.

The entry in row i and column j is stored at [color of j, i].
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, eq=False)
class Coloring:
    """The columns of a square pattern, colored. The diagonal is always part of it."""

    colors: np.ndarray  # (n,): of the columns
    columns: np.ndarray  # (n_colors, n): the column of the entry that is stored there, n where there is none

    @classmethod
    def of(cls, rows, columns, colors):
        """Of the pattern that has entries in these rows and columns."""
        stored = np.full((colors.max() + 1, colors.size), colors.size)
        stored[colors[columns], rows] = columns
        return cls(colors, stored)

    @property
    def size(self):
        """Rows, and columns."""
        return self.colors.size

    @property
    def seeds(self):
        """(n_colors, n): the directions of the derivatives."""
        return self.colors == np.arange(len(self.columns))[:, None]

    @property
    def diagonal(self):
        """(n_colors, n): which entries are on the diagonal?"""
        return self.columns == np.arange(self.size)

    def dense(self, stored):
        """The whole matrix."""
        is_stored = self.columns[self.colors] == np.arange(self.size)[:, None]
        return jnp.where(is_stored, stored[self.colors], 0).T

    def places(self, rows, columns):
        """Where entries are, if what is stored is raveled and followed by a 0 and a 1.

        The 0 is for what is not in the pattern, the 1 for the diagonal beyond the end of the matrix.
        """
        zero, n = self.columns.size, self.size
        i, j = np.minimum(rows, n - 1), np.clip(columns, 0, n - 1)
        is_inside = (rows < n) & (columns >= 0) & (columns < n)
        is_stored = is_inside & (self.columns[self.colors[j], i] == j)
        places = np.where(is_stored, self.colors[j] * n + i, zero + (~is_inside & (rows == columns)))
        return places.astype(np.int32)


def greedy(rows, columns, n):
    """Colors of the columns of a pattern: each in turn gets the first that none of its neighbours has."""
    from scipy.sparse import coo_matrix

    pattern = coo_matrix((np.ones(len(rows), np.int64), (rows, columns)), (n, n)).tocsr()
    neighbours = (pattern.T @ pattern).tocsr()
    colors = np.full(n, -1)
    for j in range(n):
        near = neighbours.indices[neighbours.indptr[j] : neighbours.indptr[j + 1]]
        taken = np.zeros(near.size + 1, bool)
        seen = colors[near]
        taken[seen[(seen >= 0) & (seen <= near.size)]] = True
        colors[j] = np.argmin(taken)
    return colors
