"""Linear algebra: the systems of implicit steps, and the action of a matrix exponential."""
