"""Control flow."""

from jax import lax


def run_if(is_wanted, fn, carry):
    """`fn(carry)` if the predicate holds, else `carry`: a `while_loop` of one turn at most.

    `lax.cond` copies what it hands through, buffers included; a loop updates them in place.
    """
    return lax.while_loop(lambda c: c[0], lambda c: (False, fn(c[1])), (is_wanted, carry))[1]
