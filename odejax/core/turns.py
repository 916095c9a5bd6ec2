"""What only some lanes want: done for one lane after another, or for all of them at once.

Where states are small a lane is a few scalars, and a CPU is faster with those lanes that want something than
with all of them. Then buffers have lanes first, then rows: what a lane reads and writes is in one place.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core import rows
from odejax.core.blocks import Grid, Place
from odejax.core.flow import while_loop


class AllLanes:
    """All of them; the buffers have rows first."""

    def take(self, tree, before=0) -> Any:
        """What of arrays belongs to these lanes, whose axes come after `before` others."""
        return tree

    def put(self, tree, part, before=0) -> Any:
        """The arrays with that set."""
        return part

    def at(self, x, axes) -> Any:
        """What of an array belongs to these lanes, see `blocks.Axes`."""
        return x

    def put_at(self, x, part, axes) -> Any:
        """The array with that set."""
        return part

    def read(self, buffers, index) -> Any:
        """Row `index`, of each lane its own."""
        return tuple(rows.read_each(b, index) for b in buffers)

    def write(self, buffers, values, index, mask) -> Any:
        """The buffers with these rows set, in the lanes of the mask."""
        return rows.write_each(buffers, values, index, mask)


ALL_LANES = AllLanes()


class OneLane(NamedTuple):
    """One of them, with axes of size 1; the buffers have lanes first."""

    lanes: tuple[int, ...]
    start: tuple[jax.Array, ...]
    start_of_results: tuple[jax.Array, ...]  # in the buffers that all blocks write to

    def take(self, tree, before=0):
        return jax.tree.map(lambda x: self.at(x, self._axes(before)), tree)

    def put(self, tree, part, before=0):
        return jax.tree.map(lambda x, new: self.put_at(x, new, self._axes(before)), tree, part)

    def at(self, x, axes):
        return self._grid.at(x, axes, Place(self.start, None, jnp.bool_(True)))

    def put_at(self, x, part, axes):
        return self._grid.put_at(x, part, axes, Place(self.start, None, jnp.bool_(True)))

    @property
    def _grid(self):
        return Grid(self.lanes, (1,) * len(self.lanes), None)

    def _axes(self, before):
        return tuple(before + level for level in range(len(self.lanes)))

    def read(self, buffers, index):
        return tuple(lax.squeeze(self._row(b, index), (len(self.lanes),)) for b in buffers)

    def _row(self, buffer, index):
        n = len(self.lanes)
        sizes = (*(1,) * (n + 1), *buffer.shape[n + 1 :])
        return lax.dynamic_slice(buffer, self._where(self.start, buffer, index), sizes)

    def write(self, buffers, values, index, mask):
        """The mask is true."""
        n = len(self.lanes)
        return tuple(
            lax.dynamic_update_slice(
                b, jnp.expand_dims(v, n).astype(b.dtype), self._where(self.start_of_results, b, index)
            )
            for b, v in zip(buffers, values, strict=True)
        )

    def _where(self, start, buffer, index):
        index = jnp.clip(index.reshape(()), 0, buffer.shape[len(self.lanes)] - 1)
        start = (*start, index, *(0,) * (buffer.ndim - len(start) - 1))
        return tuple(lax.convert_element_type(i, jnp.uint32) for i in start)


class Turns(NamedTuple):
    """How lanes get what they want."""

    are_taken: bool  # one after another?
    lanes: tuple[int, ...]
    grid: Grid | None = None  # these lanes are a block of more
    place: Place | None = None

    def any(self, mask):
        """Does any lane want something?"""
        return (rows.words(mask) != 0).any() if self.are_taken else mask.any()

    def once(self, mask, fn, carry):
        """`fn(lanes, mask, carry)` for those of the mask."""
        if not self.are_taken:
            return fn(ALL_LANES, mask, carry)
        return rows.in_turn(mask, lambda lane, c: fn(*self._one(lane), c), carry)

    def repeat(self, wants, fn, carry):
        """`fn(lanes, mask, carry)` until `wants(lanes, carry)` is false for all of them."""
        if not self.are_taken:
            lanes = ALL_LANES
            return while_loop(lambda c: wants(lanes, c).any(), lambda c: fn(lanes, wants(lanes, c), c), carry)

        def is_wanted(lane, carry):
            one, _ = self._one(lane)
            return wants(one, carry).reshape(())

        mask = wants(ALL_LANES, carry)
        return rows.in_turn(mask, lambda lane, c: fn(*self._one(lane), c), carry, is_wanted)

    def _one(self, lane):
        start = []
        for size in reversed(self.lanes[1:]):
            start.insert(0, lax.rem(lane, jnp.int32(size)))
            lane = lax.div(lane, jnp.int32(size))
        start = (lane, *start)
        in_all = start if self.grid is None or self.place is None else self.grid.start_of(self.place, start)
        return OneLane(self.lanes, start, in_all), jnp.ones((1,) * len(self.lanes), bool)

    def read_all(self, buffer, index):
        """Row `index` of a buffer, of each lane its own."""
        if not self.are_taken:
            return rows.read_each(buffer, index)
        axis = self.row_axis
        index = jnp.expand_dims(jnp.clip(index, 0, buffer.shape[axis] - 1), axis)
        return jnp.take_along_axis(buffer, index, axis, mode="promise_in_bounds").squeeze(axis)

    @property
    def row_axis(self):
        """Where buffers have their rows."""
        return len(self.lanes) if self.are_taken else 0

    def lanes_first(self, buffer, before=0):
        """A buffer with rows first, after `before` other axes, as it is read and written in turn."""
        return jnp.moveaxis(buffer, before, before + self.row_axis)

    def rows_first(self, buffer, before=0):
        """The inverse."""
        return jnp.moveaxis(buffer, before + self.row_axis, before)
