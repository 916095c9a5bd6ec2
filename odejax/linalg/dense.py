"""exp(A) of a small dense matrix by products of matrices alone: Taylor's polynomial, then squarings.

`jax.scipy.linalg.expm` solves with LAPACK, and scales too little: it rounds the number of squarings down
(JAX 0.12: a relative error of 2e-7 for the norm 10.7).

Bader, Blanes, Casas (2019), Computing the matrix exponential with an optimized Taylor polynomial
approximation, Mathematics 7(12), section 3: degree 18 in 5 products.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax.linalg import sizes
from odejax.linalg.taylor import FIRST_DEGREE, largest_steps

DEGREE = 18
WEIGHTS = np.array(  # of I, A, A^2, A^3, A^6 in each of the five factors
    [
        [0, -1.00365581030144618291e-1, -8.02924648241156932449e-3, -8.92138498045729985177e-4, 0],
        [
            0,
            3.97849749499645077844e-1,
            1.36783778460411720168,
            4.98289622525382669416e-1,
            -6.37898194594723280150e-4,
        ],
        [
            -1.09676396052962061844e1,
            1.68015813878906206114,
            5.71779846478865511061e-2,
            -6.98210122488052056106e-3,
            3.34975017086070470649e-5,
        ],
        [
            -9.04316832390810593223e-2,
            -6.76404519071381882256e-2,
            6.75961301770459654925e-2,
            2.95552570429315521194e-2,
            -1.39180257516060693404e-5,
        ],
        [0, 0, -9.23364619367118555360e-2, -1.69364939002081722752e-2, -1.40086798182036094347e-5],
    ]
)
MOST_SQUARINGS = 32  # of matrices with a larger norm, above 4e9, the exponential is NaN


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
    return largest_steps(float(jnp.finfo(dtype).eps) / 2, DEGREE)[DEGREE - FIRST_DEGREE]


def _polynomial(B):
    """sum_{k <= 18} B^k / k!."""
    second = _product(B, B)
    third = _product(second, B)
    powers = jnp.eye(B.shape[0], dtype=B.dtype), B, second, third, _product(third, third)
    first, last, outer, middle, inner = (
        sum(w * p for w, p in zip(row, powers, strict=True) if w) for row in WEIGHTS.astype(B.dtype)
    )
    ninth = _product(first, inner) + middle
    return last + _product(outer + ninth, ninth)


def _product(a, b):
    return jnp.matmul(a, b, precision="highest")
