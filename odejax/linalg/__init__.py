"""Linear algebra: the action of a matrix exponential."""
