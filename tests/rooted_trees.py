"""Rooted trees and the order conditions of Runge-Kutta and Rosenbrock methods that they stand for.

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


def rosenbrock_weights(alpha: Array, beta: Array, max_order: int) -> Array:
    """Phi_i(t) of a Rosenbrock method with beta = alpha + Gamma, as of `elementary_weights`.

    A vertex with one branch weighs it with beta, as f and J = df/dy both do there; with more
    branches it stands for a higher derivative of f, and each weighs with alpha: Hairer, Wanner
    (1996), section IV.7, theorem 7.3. The trunk of a tree is a single vertex just in the first case.
    """
    trees = rooted_trees(max_order)
    phi = np.empty((len(trees.orders), len(alpha)), alpha.dtype)
    branched = np.empty_like(phi)  # with alpha at the root in any case
    phi[0] = branched[0] = 1
    for i in range(1, len(phi)):
        trunk, branch = trees.trunks[i], trees.branches[i]
        branched[i] = branched[trunk] * (alpha @ phi[branch])
        phi[i] = beta @ phi[branch] if trunk == 0 else branched[i]
    return phi


def residuals(weights: Array, a: Array, max_order: int, x: Any) -> Array:
    """The largest |sum_i b_i(x) Phi_i(t) - x**|t| / gamma(t)| for the trees of each order."""
    return residuals_of(elementary_weights(a, max_order), weights, max_order, x)


def residuals_of(phi: Array, weights: Array, max_order: int, x: Any = 1) -> Array:
    """The same for given Phi_i(t)."""
    trees = rooted_trees(max_order)
    exact = [x ** int(n) / g for n, g in zip(trees.orders, trees.densities, strict=True)]
    defect = abs(phi @ weights - np.array(exact, weights.dtype))
    return np.array([defect[trees.orders == q].max() for q in range(1, max_order + 1)])


def dense_residuals_of(phi: Array, p: Array, max_order: int) -> Array:
    """For all x at once: the largest coefficient of a power of x, b_i(x) being sum_j p_ij x^(j+1)."""
    trees = rooted_trees(max_order)
    defect = np.zeros((len(phi), max(max_order, p.shape[1])), p.dtype)
    defect[:, : p.shape[1]] = phi @ p
    defect[np.arange(len(phi)), trees.orders - 1] -= 1 / np.array(trees.densities, p.dtype)
    defect = abs(defect).max(axis=1)
    return np.array([defect[trees.orders == q].max() for q in range(1, max_order + 1)])
