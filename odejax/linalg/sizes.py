"""How large an operator is: a shift mu and a bound, or an estimate, of a norm of A - mu I.

For matrices the bound is the smaller of the 1-norm and the infinity-norm. For functions the 2-norm is
estimated by the power method. Where these ask for many steps, roots of norms of powers replace them, which
are much smaller for matrices far from normal.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from odejax.linalg.operators import Transposed
from odejax.linalg.taylor import FIRST_DEGREE

ITERATIONS = 10  # of the power method, for a norm
MARGIN = 1.15  # of an estimated norm: the power method comes from below
POWER = 5  # |A^p|^(1/p) with p = 5 and 6 bounds the remainder of a degree of p (p - 1) - 1 or more
POWER_DEGREE = 19
POWER_ITERATIONS = 4
POWER_MARGIN = 1.1
EXACT_DIAGONAL = 64  # numbers in a state of which the whole diagonal is computed
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
    """Of an operator on states like `like`."""
    mu = _mean_of_diagonal(op, params, like)
    if not all(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in like):
        mu = mu.real
    norm = _norm_of_power(op, params, mu, 1, ITERATIONS, like)
    return _checked(MARGIN * norm, mu)


def _mean_of_diagonal(op, params, like):
    """Of few numbers exactly; of many as a random vector sees it."""
    n = sum(leaf.size for leaf in like)
    if n > EXACT_DIAGONAL:
        x = _random_signs(like)
        return _inner(x, op(params, x)) / n
    sizes = np.cumsum([leaf.size for leaf in like])[:-1]
    columns = jnp.split(jnp.eye(n), sizes, axis=1)
    basis = tuple(c.reshape(n, *x.shape).astype(x.dtype) for c, x in zip(columns, like, strict=True))
    return lax.map(lambda x: _inner(x, op(params, x)), basis).sum() / n


def refined(op, params, size, t, steps, like, is_exact):
    """The size, or what powers of the operator say, if t is long and that is less.

    A shift that is not `is_exact` is compared with none: of a matrix far from normal it may be far off.
    """
    if FIRST_DEGREE + steps.shape[0] <= POWER_DEGREE:
        return size
    length = jnp.abs(t).astype(size.norm.dtype)

    def by_powers(size):
        def root(case):
            mu, p = case
            return _norm_of_power(op, params, mu, p, POWER_ITERATIONS, like) ** (1 / p)

        shifts = jnp.stack([size.mu] if is_exact else [size.mu, jnp.zeros_like(size.mu)])
        cases = jnp.repeat(shifts, 2), jnp.tile(jnp.array([POWER, POWER + 1]), len(shifts))
        roots = (POWER_MARGIN * lax.map(root, cases)).reshape(-1, 2).max(axis=1)
        norms = jnp.append(size.norm, roots).astype(size.norm.dtype)
        best = jnp.argmin(jnp.where(jnp.isnan(norms), jnp.inf, norms))
        return Size(norms[best], jnp.append(size.mu, shifts)[best])

    return lax.cond(size.norm * length > MANY_STEPS * steps[-1], by_powers, lambda size: size, size)


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
        def once(_, x):
            return tuple(k - mu.astype(k.dtype) * leaf for k, leaf in zip(op(params, x), x, strict=True))

        return lax.fori_loop(0, p, once, x)

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
