"""Where checkpoints lie, in integers only: which steps the forward solve keeps, and how a gap is reversed.

Forward (the number of steps is not known yet; Stumm & Walther 2010): `capacity` slots, a power of two.
Step n is kept when it is a multiple of the stride, the smallest power of two with
capacity * stride > n. A kept step takes the slot of an odd multiple of the former stride, so the
record thins itself from its beginning and every slot stays in use.

Reverse (the number of steps is known; Griewank & Walther 2000, "revolve"): a gap of `length` steps
with `free` slots is split so that the fewest steps are recomputed.

All functions take Python integers or traced ones.
"""

import jax.numpy as jnp
from jax import lax

from odejax.core.flow import while_loop

COUNT_BITS = 31  # step numbers are int32
LARGEST_PRODUCT = 2**30


def stride_after(stride, n, capacity):
    """The stride in force when step `n` begins, `stride` having been that of step n - 1."""
    return jnp.where(n >= capacity * stride, 2 * stride, stride)


def slot(n, capacity: int):
    """The slot of a kept step: the sum of the digits of `n` in base `capacity`.

    At stride s <= capacity a kept n = capacity * s / 2 + q s replaces m = (2 q + 1) s / 2. Both have the
    digit sum (q s mod capacity) + s / 2 + (q s div capacity); larger strides follow by induction on digits.
    """
    bits = capacity.bit_length() - 1
    if bits == 0:
        return 0 * n
    total = n & (capacity - 1)
    for shift in range(bits, COUNT_BITS, bits):
        total = total + ((n >> shift) & (capacity - 1))
    return total


def final_stride(n_steps, capacity: int):
    """The stride of the record after `n_steps` steps."""
    return while_loop(lambda s: capacity * s < n_steps, lambda s: 2 * s, 0 * n_steps + 1)


def last_kept(n, n_steps, stride, capacity: int):
    """The last step <= n whose state is in the record of a solve of `n_steps` steps."""
    if capacity == 1:
        return 0 * n
    half = jnp.maximum(stride >> 1, 1)
    start = capacity * half  # from here on steps were kept at the final stride
    base = n & -half
    # Below, the odd multiple (2 m + 1) half was replaced by start + m stride, if the solve came so far.
    replaced_by = start + base - half
    is_kept = ((base & (stride - 1)) == 0) | ((base < start) & (replaced_by >= n_steps))
    return jnp.where(is_kept, base, base - half)


def split(length, free):
    """Steps to advance before the next checkpoint, in a gap of `length` steps with `free` slots > 0.

    With r sweeps a gap of reach(r) = binomial(free + 1 + r, r) steps can be reversed; r is the smallest
    that suffices. Any split that leaves both parts within their own bounds is optimal; this is the one
    that advances least.
    """
    zero = 0 * jnp.asarray(length)
    free = jnp.minimum(free, lax.div(LARGEST_PRODUCT + zero, length))  # `reach` is an int32
    _, reach, reach_1, reach_2 = while_loop(
        lambda c: c[1] < length,
        lambda c: (c[0] + 1, lax.div(c[1] * (free + 2 + c[0]), c[0] + 1), c[1], c[2]),
        (zero, zero + 1, zero, zero),
    )
    rest = reach - reach_1  # what the part after the checkpoint can be at most, by Pascal's rule
    return jnp.minimum(jnp.maximum(jnp.maximum(length - rest, reach_2), 1), length - 1)
