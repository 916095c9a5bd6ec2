"""Lanes in blocks: a loop over blocks whose numbers stay in cache, and which end with their own slowest lane.

A leaf has an axis for each level of lanes, or none where the lanes of a level share it; an axis of size 1 is
shared likewise. `Axes` says where they are. Lanes of the last level may be taken in any order, so that a
block has lanes that take equally long: the position of a lane is its place in that order.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core.flow import while_loop

Axes = tuple[int | None, ...]  # for each level of lanes
MOST_LANES = 64  # in a block


class Place(NamedTuple):
    """Where a block is."""

    start: tuple[jax.Array, ...]  # its first position in each level
    lanes: jax.Array | None  # of the last level, if they are not in order
    is_own: jax.Array  # lane by lane: does it belong to this block, not to the one before?


class Grid(NamedTuple):
    """Lanes cut into blocks of one shape. The last overlap those before where that does not come out even."""

    lanes: tuple[int, ...]
    block: tuple[int, ...]

    @classmethod
    def of(cls, lanes, most=MOST_LANES):
        """Blocks of at most `most` lanes, as even as they can be, along the last level first."""
        block = []
        for n in reversed(lanes):
            count = -(-n // max(most, 1))
            block.insert(0, -(-n // count))
            most = most // n
        return cls(tuple(lanes), tuple(block))

    @property
    def counts(self):
        return tuple(-(-n // b) for n, b in zip(self.lanes, self.block, strict=True))

    @property
    def is_one(self):
        """Is there one block only?"""
        return self.block == self.lanes

    @property
    def is_ordered(self):
        """May lanes be taken in any order? Then a block has one index in all levels but the last."""
        return len(self.lanes) > 0 and self.counts[-1] > 1

    def each(self, fn, shift, carry):
        """`fn(place, carry)` for one block after another, from the last one to the first.

        `shift`, of the shape of all lanes, is the lane at each position less the position.
        """

        def body(state):
            j, carry = state
            return j - 1, fn(self._place(j - 1, shift), carry)

        return while_loop(lambda state: state[0] > 0, body, (jnp.int32(math.prod(self.counts)), carry))[1]

    def _place(self, j, shift):
        start, is_own = [], jnp.ones(self.block, bool)
        for level, index in enumerate(jnp.unravel_index(j, self.counts)):
            n, b = self.lanes[level], self.block[level]
            first = (index * b).astype(jnp.int32)
            start.append(jnp.minimum(first, n - b))
            is_own &= start[-1] + lax.broadcasted_iota(jnp.int32, self.block, level) >= first
        place = Place(tuple(start), None, is_own)
        if not self.is_ordered:
            return place
        shift = self.at(shift, tuple(range(len(self.lanes))), place)
        positions = start[-1] + jnp.arange(self.block[-1], dtype=jnp.int32)
        return place._replace(lanes=positions + shift.reshape(-1))

    def take(self, leaf, axes, place):
        """The lanes of a block."""
        if place.lanes is None or axes[-1] is None or leaf.shape[axes[-1]] == 1:
            return self.at(leaf, axes, place)
        part = self.at(leaf, (*axes[:-1], None), place)
        return jnp.take(part, place.lanes, axes[-1], mode="clip", unique_indices=True)

    def at(self, leaf, axes, place):
        """The positions of a block."""
        sizes = list(leaf.shape)
        for axis, size in zip(axes, self.block, strict=True):
            if axis is not None:
                sizes[axis] = min(size, sizes[axis])
        return lax.dynamic_slice(leaf, starts(leaf, axes, place.start), sizes)

    def put_at(self, leaf, part, axes, place):
        """The leaf with the positions of a block set."""
        return lax.dynamic_update_slice(leaf, part.astype(leaf.dtype), starts(leaf, axes, place.start))

    def put(self, leaf, part, axes, place):
        """The leaf with the lanes of a block set."""
        if place.lanes is None or axes[-1] is None:
            return self.put_at(leaf, part, axes, place)
        index, part = self._lanes_of(part, axes, place)
        return leaf.at[index].set(part, mode="promise_in_bounds", unique_indices=True)

    def add(self, leaf, part, axes, place):
        """The leaf with something added to the lanes of a block, or to what they share."""
        if place.lanes is None or axes[-1] is None:
            return self.put_at(leaf, self.at(leaf, axes, place) + part, axes, place)
        index, part = self._lanes_of(part, axes, place)
        return leaf.at[index].add(part, mode="promise_in_bounds", unique_indices=True)

    @staticmethod
    def _lanes_of(part, axes, place):
        """An index of lanes, and a part without its axes of size 1 in other levels."""
        outer = [(axis, s) for axis, s in zip(axes[:-1], place.start, strict=False) if axis is not None]
        first = outer[0][0] if outer else axes[-1]
        index = (slice(None),) * first + (*(s for _, s in outer), place.lanes)
        return index, lax.squeeze(part, [axis for axis, _ in outer])


def order(cost):
    """What takes the lanes of the last level to positions in the order of their cost, see `Grid.each`."""
    lanes = jnp.argsort(cost, axis=-1).astype(jnp.int32)
    return lanes - lax.broadcasted_iota(jnp.int32, lanes.shape, lanes.ndim - 1)


def starts(leaf, axes, start):
    """Where a part of a leaf begins, in each of its axes."""
    out = [jnp.int32(0)] * leaf.ndim
    for axis, s in zip(axes, start, strict=True):
        if axis is not None and leaf.shape[axis] != 1:
            out[axis] = s
    return out


def tree_map(fn, tree, axes, *others):
    """`fn(leaf, axes of the leaf, *other leaves)`; `axes` is the same tree with `Axes` for leaves."""
    leaves, structure = jax.tree.flatten(tree)
    columns = [structure.flatten_up_to(x) for x in (axes, *others)]
    return structure.unflatten([fn(x, *row) for x, *row in zip(leaves, *columns, strict=True)])
