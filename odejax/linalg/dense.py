"""exp(A) of a small dense matrix by products of matrices alone: Taylor's polynomial, then squarings.

`jax.scipy.linalg.expm` solves with LAPACK, and scales too little: it rounds the number of squarings down
(JAX 0.12: a relative error of 2e-7 for the norm 10.7).

Higham (2008), Functions of Matrices, sections 4.2 and 10.3.
"""

import math
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.linalg import sizes
from odejax.linalg.taylor import FIRST_DEGREE, largest_steps

ORDER = 4  # powers that are formed; the polynomial has degree ORDER^2 and 2 ORDER - 2 products
MOST_SQUARINGS = 32  # of matrices with a larger norm, above 3e9, the exponential is NaN
WEIGHTS = np.array([1 / math.factorial(k) for k in range(ORDER**2 + 1)])


def expm(A):
    """exp(A)."""
    norm, mu = sizes.of_dense(lax.stop_gradient(A))
    largest = _largest_norm(str(jnp.finfo(A.dtype).dtype))
    n_squarings = jnp.clip(jnp.ceil(jnp.log2(norm / largest)), 0, MOST_SQUARINGS + 1)
    scale = jnp.exp2(-n_squarings)
    mu = jnp.where(n_squarings > MOST_SQUARINGS, jnp.nan, mu)
    B = (A - mu * jnp.eye(A.shape[0], dtype=A.dtype)) * scale.astype(A.dtype)
    power = jnp.exp(mu * scale).astype(A.dtype) * _polynomial(B)

    def square(power, i):
        return lax.cond(i < n_squarings, lambda x: _product(x, x), lambda x: x, power), None

    return lax.scan(square, power, jnp.arange(MOST_SQUARINGS))[0]


@lru_cache
def _largest_norm(dtype):
    """For a backward error of one rounding."""
    return largest_steps(float(jnp.finfo(dtype).eps) / 2, ORDER**2)[ORDER**2 - FIRST_DEGREE]


def _polynomial(B):
    """sum_k B^k / k!, by Paterson and Stockmeyer: Horner's rule in B^ORDER."""
    powers = [jnp.eye(B.shape[0], dtype=B.dtype), B]
    while len(powers) <= ORDER:
        powers.append(_product(powers[-1], B))
    *low, top = powers
    total = WEIGHTS[-1].astype(B.dtype) * top
    for j in reversed(range(ORDER)):
        weights = WEIGHTS[j * ORDER : (j + 1) * ORDER].astype(B.dtype)
        total = total + sum(w * p for w, p in zip(weights, low, strict=True))
        total = _product(total, top) if j else total
    return total


def _product(a, b):
    return jnp.matmul(a, b, precision="highest")
