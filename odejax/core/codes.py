"""Step sizes in two bytes: the upper half of a float32, which has 8 significant bits.

The dtype bfloat16 is the same, but conversions to it are not vectorised on a CPU.
"""

import jax.numpy as jnp
from jax import lax

CODE = jnp.uint16
NONE, INFINITE = 0, 0x7F80  # the codes of 0 and of infinity
_HALF = 0x8000
_SIGN = 0x8000  # sizes are positive: the bit says by which of two methods the step was made


def encode(x):
    """The code of positive numbers, rounded."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return ((bits + _HALF) >> 16).astype(CODE)


def decode(code, dtype):
    """The number of a code, exactly."""
    return lax.bitcast_convert_type(code.astype(jnp.uint32) << 16, jnp.float32).astype(dtype)


def join(code, which):
    """The code with the number of a method, 0 or 1."""
    return (code | jnp.where(which, _SIGN, 0)).astype(CODE)


def split(joined):
    """(code, number of the method)."""
    return joined & CODE(_SIGN - 1), joined >> 15
