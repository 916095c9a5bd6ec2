"""Control flow, in place and under `shard_map`."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def while_loop(is_going, body, init):
    """`lax.while_loop`, for a carry of which only parts vary over the axes of a mesh when it starts."""

    return lax.while_loop(is_going, lambda carry: vary_alike(body(carry)), vary_alike(init))


def run_if(is_wanted, fn, carry):
    """`fn(carry)` if the predicate holds, else `carry`: a loop of one turn at most.

    `lax.cond` copies what it hands through, buffers included; a loop updates them in place.
    """
    return while_loop(lambda c: c[0], lambda c: (jnp.zeros_like(c[0]), fn(c[1])), (is_wanted, carry))[1]


def as_one_function(fn, like):
    """`fn(like)`, arrays like these, as a loop of one turn: on a CPU XLA makes one function of it if it can.

    Else all that is done before and after the loops of a small solve are tasks for a pool of threads, which
    take as long as the solve.
    """
    return run_if(jnp.bool_(True), fn, like)


def choose(is_first, first, second):
    """`lax.cond`, or under `shard_map` both and a choice: there its batching makes what varies vary again."""
    if not jax.typeof(is_first).manual_axis_type.varying:
        return lax.cond(is_first, first, second)
    return jax.tree.map(lambda x, y: jnp.where(is_first, x, y), first(), second())


def vary_as(like, tree):
    """The arrays, varying over the mesh axes that `like` varies over: tangents as their primals must."""
    return vary_alike((like, tree))[1]


def vary_alike(tree):
    """`same_variation` of all arrays of a pytree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(same_variation(leaves))


def same_variation(operands):
    """Operands that all vary over the mesh axes that any of them varies over (under `shard_map`)."""
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in operands))
    if not axes:
        return operands

    def vary(x):
        missing = axes - jax.typeof(x).manual_axis_type.varying
        return lax.pcast(x, tuple(missing), to="varying") if missing else x

    return [vary(jnp.asarray(x)) for x in operands]


MANY = 32  # lanes: for more, storing a number costs less than computing it again for each of its uses


def settlers(lanes):
    """(for stage values, for slopes): `settle` or nothing, whichever is faster for so many lanes."""
    n = math.prod(lanes)
    return (settle if n > MANY else _leave), (settle if n > 1 else _leave)


def _leave(values):
    return values


def settle(values):
    """The values, computed once: without this the compiler fuses what makes them into each of their uses."""
    return lax.optimization_barrier(values)
