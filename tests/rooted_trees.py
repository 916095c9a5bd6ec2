"""Rooted trees and the order conditions of Runge-Kutta methods that they stand for.

A method has order p exactly when sum_i b_i Phi_i(t) = 1 / gamma(t) for every rooted tree t with at
most p vertices: Hairer, Norsett, Wanner (1993), section II.2. A dense output b(x) has order p at x
when sum_i b_i(x) Phi_i(t) = x**|t| / gamma(t).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trees:
    """All rooted trees up to some order. Tree 0 is the single vertex.

    Every other tree is grown from a smaller one, its trunk, by hanging one more tree, its branch,
    on the root. The branches come in descending order, so every tree is grown in one way only.
    """

    orders: Array  # number of vertices
    densities: list[int]  # gamma
    symmetries: list[int]  # sigma: the order of the group that leaves the tree unchanged
    trunks: Array  # index of the trunk; -1 for tree 0
    branches: Array  # index of the branch; -1 for tree 0


@cache
def rooted_trees(max_order: int) -> Trees:
    orders, gammas, sigmas, repeats, trunks, branches = [1], [1], [1], [0], [-1], [-1]
    for order in range(2, max_order + 1):
        for trunk in range(len(orders)):
            for branch in range(len(orders)):
                grows = orders[trunk] + orders[branch] == order
                if grows and (trunk == 0 or branch <= branches[trunk]):
                    gammas.append(order * (gammas[trunk] // orders[trunk]) * gammas[branch])
                    repeats.append(repeats[trunk] + 1 if branch == branches[trunk] else 1)
                    sigmas.append(sigmas[trunk] * sigmas[branch] * repeats[-1])
                    orders.append(order)
                    trunks.append(trunk)
                    branches.append(branch)
    return Trees(np.array(orders), gammas, sigmas, np.array(trunks), np.array(branches))


def elementary_weights(a: Array, max_order: int) -> Array:
    """Phi_i(t) for all trees (rows) and stages (columns) of the square matrix `a`, in its dtype.

    Phi_i of the single vertex is 1, and of v hung on the root of u: Phi_i(u) * sum_j a_ij Phi_j(v).
    An array of Fractions (dtype object) gives exact weights.
    """
    trees = rooted_trees(max_order)
    phi = np.empty((len(trees.orders), len(a)), a.dtype)
    pushed = np.empty_like(phi)  # sum_j a_ij Phi_j
    phi[0] = 1
    for order in range(1, max_order + 1):
        now = trees.orders == order
        if order > 1:
            phi[now] = phi[trees.trunks[now]] * pushed[trees.branches[now]]
        pushed[now] = phi[now] @ a.T
    return phi


def residuals(weights: Array, a: Array, max_order: int, x: Any) -> Array:
    """The largest |sum_i b_i(x) Phi_i(t) - x**|t| / gamma(t)| for the trees of each order."""
    trees = rooted_trees(max_order)
    exact = [x ** int(n) / g for n, g in zip(trees.orders, trees.densities, strict=True)]
    defect = abs(elementary_weights(a, max_order) @ weights - np.array(exact, weights.dtype))
    return np.array([defect[trees.orders == q].max() for q in range(1, max_order + 1)])
