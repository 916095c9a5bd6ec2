"""How large an operator is: a shift mu and a bound, or an estimate, of a norm of A - mu I.

For matrices the bound is the smaller of the 1-norm and the infinity-norm. For functions the 2-norm is
estimated by the power method. Where these ask for many steps, roots of norms of powers replace them, which
are much smaller for matrices far from normal.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from odejax.linalg.operators import Transposed
from odejax.linalg.taylor import FIRST_DEGREE

ITERATIONS = 10  # of the power method, for a norm
MARGIN = 1.15  # of an estimated norm: the power method comes from below
POWER = 5  # |A^p|^(1/p) with p = 5 and 6 bounds the remainder of a degree of p (p - 1) - 1 or more
POWER_DEGREE = 19
POWER_ITERATIONS = 4
POWER_MARGIN = 1.1
MANY_STEPS = 8  # with fewer, powers are not worth their estimation


class Size(NamedTuple):
    """What `taylor.choose` needs of an operator; it has no derivative."""

    norm: jax.Array  # of A - mu I
    mu: jax.Array


def of_dense(A):
    """Of an array (n, n)."""
    mu = jnp.trace(A) / A.shape[0]
    A = jnp.abs(A - mu * jnp.eye(A.shape[0], dtype=A.dtype))
    return _checked(jnp.minimum(A.sum(axis=0).max(), A.sum(axis=1).max()), mu)


def of_sparse(values, rows, columns, n):
    """Of a matrix in coordinates."""
    on_diagonal = rows == columns
    is_inside = (rows < n) & (columns < n)
    values = jnp.where(is_inside, values, 0)
    diagonal = jnp.zeros(n, values.dtype).at[rows].add(jnp.where(on_diagonal, values, 0), mode="drop")
    mu = diagonal.sum() / n
    others = jnp.where(on_diagonal, 0, jnp.abs(values))
    diagonal = jnp.abs(diagonal - mu)
    norms = (diagonal.at[index].add(others, mode="drop").max() for index in (rows, columns))
    return _checked(jnp.minimum(*norms), mu)


def of_operator(op, params, like):
    """Of an operator on states like `like`; mu is the mean of the diagonal, as a random vector sees it."""
    x = _random_signs(like)
    n = sum(math.prod(leaf.shape) for leaf in like)
    mu = _inner(x, op(params, x)) / n
    if not all(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in like):
        mu = mu.real
    norm = _norm_of_power(op, params, mu, 1, ITERATIONS, like)
    return _checked(MARGIN * norm, mu)


def refined(op, params, size, t, steps, like):
    """The size, or what the powers of the operator say, if t is long and that is less."""
    last = steps[-1]
    if FIRST_DEGREE + steps.shape[0] <= POWER_DEGREE:
        return size

    def by_powers(norm):
        roots = [
            _norm_of_power(op, params, size.mu, p, POWER_ITERATIONS, like) ** (1 / p)
            for p in (POWER, POWER + 1)
        ]
        root = POWER_MARGIN * jnp.maximum(*roots)
        return jnp.where(root < norm, root, norm).astype(norm.dtype)

    is_long = size.norm * jnp.abs(t).astype(size.norm.dtype) > MANY_STEPS * last
    return Size(lax.cond(is_long, by_powers, lambda norm: norm, size.norm), size.mu)


def with_constant(size):
    """The size of `Affine(A)`: its block for the constant is 0, and |mu| after a shift by mu."""
    distance = jnp.abs(size.mu)
    largest = (size.norm + distance) / 2
    part = jnp.where(distance > size.norm, largest / jnp.where(distance > 0, distance, 1), 1)
    return Size(jnp.maximum(size.norm, largest), size.mu * part)


def _checked(norm, mu):
    """NaN as the shift makes the exponential NaN."""
    return Size(jnp.where(jnp.isfinite(norm), norm, 0), jnp.where(jnp.isfinite(norm), mu, jnp.nan))


def _norm_of_power(op, params, mu, p, iterations, like):
    """An estimate of |(A - mu I)^p| in the 2-norm, from below."""

    def apply(op, mu, x):
        for _ in range(p):
            x = tuple(k - mu.astype(k.dtype) * leaf for k, leaf in zip(op(params, x), x, strict=True))
        return x

    def iterate(_, carry):
        x, _ = carry
        x, _ = _normalised(x)
        y, norm = _normalised(apply(op, mu, x))
        x = _conjugate(apply(Transposed(op), mu, _conjugate(y)))
        return x, norm

    x = _random_signs(like)
    return lax.fori_loop(0, iterations, iterate, (x, jnp.zeros_like(mu.real)))[1]


def _random_signs(like):
    keys = jr.split(jr.key(0), len(like))
    return tuple(jr.rademacher(k, x.shape).astype(x.dtype) for k, x in zip(keys, like, strict=True))


def _normalised(x):
    norm = jnp.sqrt(_inner(x, x).real)
    scale = 1 / jnp.where(norm > 0, norm, 1)
    return tuple(leaf * scale.astype(leaf.dtype) for leaf in x), norm


def _inner(x, y):
    return sum(jnp.vdot(a, b) for a, b in zip(x, y, strict=True))


def _conjugate(x):
    return tuple(map(jnp.conj, x))
