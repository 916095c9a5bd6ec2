"""exp(A) x by scaling and Taylor's polynomial, and the pullback of the same computation.

With B = A - mu I,

    exp(A) x = (exp(mu / s) exp(B / s))^s x,     exp(B / s) x ~ sum_{k <= m} (B / s)^k x / k!

Degree m and number of steps s are chosen for the size of B, not for x, and are recorded: derivatives are
those of this computation, and a bound on B bounds their remainders as well as that of the value.

Al-Mohy, Higham (2011), Computing the action of the matrix exponential, SIAM J. Sci. Comput. 33(2).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from odejax.core import leaves, rows
from odejax.core.flow import while_loop
from odejax.core.transform import merge, select
from odejax.linalg.operators import Transposed, apply_to_rows

LARGEST_STEP = 4.0  # of |B / s|: terms grow to exp(4) / sqrt(8 pi) = 11 times x, which costs one digit
FIRST_DEGREE = 6  # the least that is considered: lower ones save nothing
MORE_TERMS = 2  # than the value needs: the remainder of a second derivative has two factors B / s less
LEAST_DEGREE = FIRST_DEGREE + MORE_TERMS
MOST_STEPS = 2**20  # more are refused: the result is NaN
KEPT = 32  # states the reverse pass keeps on each of two levels
BLOCK = 8  # terms whose parameters are pulled back together


class Scheme(NamedTuple):
    """The choices of one exponential; it has no derivative."""

    degree: jax.Array  # m
    n_steps: jax.Array  # s; 0 if t is 0 and the value known
    mu: jax.Array  # the shift of t A; under `vmap` (lanes,), or (1,) if they share it

    def for_derivatives(self):
        """With a step: the derivative with respect to t is none of those known."""
        return self._replace(n_steps=jnp.maximum(self.n_steps, 1))


# -- the choice of degree and steps


def largest_steps(tol, most):
    r"""For degrees from FIRST_DEGREE to `most`, the largest |B / s| with a relative backward error of `tol`.

    T_m(X) = e^X (I - G) with G = e^-X sum_{k > m} X^k / k!, so that

        |G| <= e^theta theta^(m+1) / (m+1)! / (1 - theta / (m+2)),    theta = |X| < m + 2,

    and T_m(X) = exp(X + log(I - G)) is the exponential of a matrix that differs from X by tol |X| if
    |G| <= tol theta. In z = log(theta) the logarithm of this is convex and increasing: Newton's iteration
    from where the growing terms are left out comes down to its root. `tol` is a number or traced.
    """
    xp, gamma = (np, np.vectorize(math.lgamma)) if not isinstance(tol, jax.Array) else (jnp, gammaln)
    m = np.arange(FIRST_DEGREE, most + 1)
    target = gamma(m + 2.0) + xp.log(tol)
    z = target / m
    for _ in range(12):
        theta = xp.exp(z)
        excess = theta + m * z - xp.log1p(-theta / (m + 2)) - target
        z = z - excess / (theta + m + theta / (m + 2 - theta))
    return xp.minimum(xp.exp(z), LARGEST_STEP)


@lru_cache
def known_steps(tol, most):
    return largest_steps(tol, most)


@lru_cache
def most_degree(dtype):
    """The degree for which LARGEST_STEP has a backward error of one rounding."""
    candidates = largest_steps(float(jnp.finfo(dtype).eps) / 2, 60)
    return FIRST_DEGREE + int(np.argmax(candidates >= LARGEST_STEP))


def choose(size, mu, t, steps):
    """The cheapest `Scheme` for exp(t A), |A - mu I| <= size, given `largest_steps`; t is real."""
    t = t.astype(size.dtype)
    counts = jnp.maximum(jnp.ceil(size * jnp.abs(t) / jnp.asarray(steps, size.dtype)), 1)
    degrees = LEAST_DEGREE + jnp.arange(steps.shape[0])
    best = jnp.argmin(jnp.where(jnp.isfinite(counts), counts, 1) * degrees)
    is_good = counts[best] <= MOST_STEPS
    n_steps = jnp.where(is_good, counts[best], 1).astype(jnp.int32)
    return Scheme(degrees[best], jnp.where(t == 0, 0, n_steps), jnp.where(is_good, mu * t, jnp.nan))


# -- the value


def power(op, scheme, params, x):
    """exp(A) x."""
    return advance(op, scheme, params, x, scheme.n_steps)


def advance(op, scheme, params, x, n_steps):
    return _repeat(n_steps, lambda _, x: step(op, scheme, params, x), x)


def step(op, scheme, params, x):
    """exp(A / s) x."""

    def add_term(k, carry):
        total, x = carry
        x = _next(op, scheme, params, _inverse(scheme, k + 1), x)
        return leaves.add(total, x), x

    total, _ = _repeat(scheme.degree, add_term, (x, x))
    return _scale(_growth(scheme), total)


def _next(op, scheme, params, factor, x):
    """factor (A - mu I) x."""
    return tuple(
        factor.astype(k.dtype) * (k - _fit(scheme.mu, k) * leaf)
        for k, leaf in zip(op(params, x), x, strict=True)
    )


def _inverse(scheme, k):
    """1 / (s k)."""
    return 1 / (scheme.n_steps * k).astype(scheme.mu.real.dtype)


def _growth(scheme):
    return jnp.exp(scheme.mu / scheme.n_steps.astype(scheme.mu.dtype))


# -- the pullback


def cotangents(op, active, most, scheme, params, x, w_bar):
    """Cotangents of (active parameters, x) for those of exp(A) x.

    Of the s states KEPT are kept, and KEPT again between two of them; up to s = KEPT^2 each is computed twice
    at most. Terms and their cotangents take `most` states each.
    """
    n = scheme.n_steps
    stride = jnp.maximum(-(-n // KEPT), 1)
    inner_stride = -(-stride // KEPT)
    n_segments = -(-n // stride)
    outer = _states(op, scheme, params, x, n_segments, stride)
    n_terms = -(-most // BLOCK) * BLOCK
    terms = tuple(jnp.zeros((n_terms, *leaf.shape), leaf.dtype) for leaf in x)
    bars = tuple(jnp.zeros_like(p) for p in select(params, active))

    def segment(i, carry):
        first = (n_segments - 1 - i) * stride
        length = jnp.minimum(stride, n - first)
        start = _row(outer, n_segments - 1 - i)
        inner = _states(op, scheme, params, start, -(-length // inner_stride), inner_stride)

        def back(j, carry):
            j = length - 1 - j
            near = _row(inner, j // inner_stride)
            return _back(
                op, active, scheme, params, advance(op, scheme, params, near, j % inner_stride), carry
            )

        return _repeat(length, back, carry)

    _, _, bars, x_bar = _repeat(n_segments, segment, (terms, terms, bars, w_bar))
    return bars, x_bar


def _states(op, scheme, params, x, count, stride):
    """The states of `count` steps, from x on, `stride` apart; room for KEPT."""
    kept = tuple(jnp.zeros((KEPT, *leaf.shape), leaf.dtype) for leaf in x)

    def keep(i, carry):
        x, kept = carry
        x = advance(op, scheme, params, x, stride)
        return x, _write(kept, i + 1, x)

    return _repeat(count - 1, keep, (x, _write(kept, 0, x)))[1]


def _back(op, active, scheme, params, x, carry):
    """The pullback of one step from x.

    w = g sum_k x_k,  x_k = B x_(k-1) / (s k):  with f_bar = g w_bar the cotangent of x_k is
    x_bar_(k-1) = f_bar + B^T u_k,  u_k = x_bar_k / (s k), and parameters get that of (A x_(k-1), u_k).
    """
    terms, bars, params_bar, w_bar = carry

    def keep_term(k, carry):
        x, terms = carry
        return _next(op, scheme, params, _inverse(scheme, k + 1), x), _write(terms, k, x)

    if any(active):
        _, terms = _repeat(scheme.degree, keep_term, (x, terms))
    f_bar = _scale(_growth(scheme), w_bar)
    transposed, one = Transposed(op), jnp.ones((), scheme.mu.real.dtype)

    def keep_bar(i, carry):
        x_bar, bars = carry
        k = scheme.degree - i
        u = _scale(_inverse(scheme, k), x_bar)
        return leaves.add(f_bar, _next(transposed, scheme, params, one, u)), _write(bars, k - 1, u)

    x_bar, bars = _repeat(scheme.degree, keep_bar, (f_bar, bars))
    if any(active):
        params_bar = _pull_back_terms(op, active, params, terms, bars, -(-scheme.degree // BLOCK), params_bar)
    return terms, bars, params_bar, x_bar


def _pull_back_terms(op, active, params, terms, bars, n_blocks, params_bar):
    """Adds the cotangents of parameters over all terms, BLOCK of them together: a product of matrices."""

    def block(i, params_bar):
        x, u = (
            tuple(jax.lax.dynamic_slice_in_dim(b, i * BLOCK, BLOCK) for b in buffers)
            for buffers in (terms, bars)
        )

        def of_active(own):
            return apply_to_rows(op, merge(params, own, active), x)

        _, pull_back = jax.vjp(of_active, select(params, active))
        return leaves.add(params_bar, pull_back(u)[0])

    return _repeat(n_blocks, block, params_bar)


# -- tuples of arrays


def _repeat(n, body, carry):
    """`body(i, carry)` for i = 0 .. n - 1; n is traced."""
    start = jnp.zeros_like(n), carry
    return while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, body(*c)), start)[1]


def _fit(value, leaf):
    """A number, or one for each lane, as a factor of a leaf."""
    return leaves.along(value, leaf).astype(leaf.dtype)


def _scale(value, state):
    return tuple(_fit(value, leaf) * leaf for leaf in state)


def _row(buffers, i):
    return tuple(rows.read(b, i) for b in buffers)


def _write(buffers, i, x):
    return tuple(rows.write(b, leaf, i) for b, leaf in zip(buffers, x, strict=True))
