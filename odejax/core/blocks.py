"""Lanes in blocks: a loop over blocks whose numbers stay in cache, and which end with their own slowest lane.

A leaf has an axis for each level of lanes, or none where the lanes of a level share it; an axis of size 1 is
shared likewise. `Axes` says where they are. Lanes of one level may be taken in any order, so that a block has
lanes that take equally long: the position of a lane is its place in that order.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core.flow import while_loop

Axes = tuple[int | None, ...]  # for each level of lanes
MOST_LANES = 64  # in a block, where a lane is scalars
MOST_LANES_OF_ARRAYS = 256  # else: matrix products of more lanes are faster
VECTOR = 16  # blocks are multiples of it


class Place(NamedTuple):
    """Where a block is."""

    start: tuple[jax.Array, ...]  # its first position in each level
    lanes: jax.Array | None  # of the sorted level
    is_own: jax.Array  # lane by lane: does it belong to this block, not to the one before?


class Grid(NamedTuple):
    """Lanes cut into blocks of one shape. The last overlap those before where that does not come out even."""

    lanes: tuple[int, ...]
    block: tuple[int, ...]
    sorted: int | None  # the level whose lanes may be in any order

    @classmethod
    def of(cls, lanes, most, is_recorded=None):
        """Blocks of at most `most` lanes, as even as they can be.

        Levels that are not recorded, which are directions of a derivative, are cut last. Of the others the
        last one is sorted, if it is long; a block has one index in the others then.
        """
        is_recorded = is_recorded or (True,) * len(lanes)
        recorded = [level for level, flag in enumerate(is_recorded) if flag]
        level = recorded[-1] if recorded and lanes[recorded[-1]] > most else None
        block = list(lanes)
        for i in sorted(range(len(lanes)), key=lambda i: (is_recorded[i], -i)):
            if level is not None and is_recorded[i] and i != level:
                block[i] = 1
                continue
            count = -(-lanes[i] // max(most, 1))
            block[i] = min(_even(-(-lanes[i] // count)), max(most, 1), lanes[i])
            most = most // block[i]
        return cls(tuple(lanes), tuple(block), level)

    @property
    def counts(self):
        return tuple(-(-n // b) for n, b in zip(self.lanes, self.block, strict=True))

    @property
    def is_one(self):
        """Is there one block only?"""
        return self.block == self.lanes

    def each(self, fn, shift, carry):
        """`fn(place, carry)` for one block after another, from the last one to the first.

        `shift`, with an axis for each level, is the lane at each position less the position.
        """

        def body(state):
            j, shift, carry = state  # `shift` tells `while_loop` which mesh axes all else varies over
            return j - 1, shift, fn(self._place(j - 1, shift), carry)

        start = jnp.int32(math.prod(self.counts)), shift, carry
        return while_loop(lambda state: state[0] > 0, body, start)[2]

    def _place(self, j, shift):
        start, is_own = [], jnp.ones(self.block, bool)
        for level, index in enumerate(jnp.unravel_index(j, self.counts)):
            n, b = self.lanes[level], self.block[level]
            first = (index * b).astype(jnp.int32)
            start.append(jnp.minimum(first, n - b))
            is_own &= start[-1] + lax.broadcasted_iota(jnp.int32, self.block, level) >= first
        place = Place(tuple(start), None, is_own)
        if self.sorted is None:
            return place
        shift = self.at(shift, tuple(range(len(self.lanes))), place)
        positions = start[self.sorted] + jnp.arange(self.block[self.sorted], dtype=jnp.int32)
        return place._replace(lanes=positions + shift.reshape(-1))

    def start_of(self, place, lane):
        """Where a lane of a block is among all lanes."""
        start = [first + i for first, i in zip(place.start, lane, strict=True)]
        if self.sorted is not None:
            start[self.sorted] = lax.dynamic_index_in_dim(place.lanes, lane[self.sorted], keepdims=False)
        return tuple(start)

    def take(self, leaf, axes, place):
        """The lanes of a block."""
        sorted_axis = self._sorted_axis(axes)
        if sorted_axis is None or leaf.shape[sorted_axis] == 1:
            return self.at(leaf, axes, place)
        others = tuple(None if level == self.sorted else axis for level, axis in enumerate(axes))
        part = self.at(leaf, others, place)
        return jnp.take(part, place.lanes, sorted_axis, mode="clip", unique_indices=True)

    def _sorted_axis(self, axes):
        return None if self.sorted is None else axes[self.sorted]

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
        return self._changed(lambda old, new: new.astype(old.dtype), leaf, part, axes, place)

    def add(self, leaf, part, axes, place):
        """The leaf with something added to the lanes of a block, or to what they share."""
        return self._changed(lax.add, leaf, part, axes, place)

    def _changed(self, fn, leaf, part, axes, place):
        """The leaf with `fn(old, new)` in a block: sorted lanes one by one, see `rows.write_each`."""
        sorted_axis = self._sorted_axis(axes)
        if sorted_axis is None:
            return self.put_at(leaf, fn(self.at(leaf, axes, place), part), axes, place)

        def one(i, leaf):
            at = tuple(place.lanes[i] if k == self.sorted else s for k, s in enumerate(place.start))
            new = lax.dynamic_slice_in_dim(part, i, 1, sorted_axis)
            where = starts(leaf, axes, at)
            old = lax.dynamic_slice(leaf, where, new.shape)
            return lax.dynamic_update_slice(leaf, fn(old, new), where)

        return lax.fori_loop(0, len(place.lanes), one, leaf)


def _even(n):
    """`n` lanes or more, so that all go through vector instructions: others may round otherwise."""
    return -(-n // VECTOR) * VECTOR


def shift_by(cost):
    """The shift, see `Grid.each`, that puts lanes of the last level in the order of their cost."""
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
