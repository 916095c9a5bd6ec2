"""How a state is carried: as the user's arrays, or, if it is small, as scalars."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odejax.core.components import Components
from odejax.core.leaves import shapes
from odejax.core.parts import leaves_of, pack, regroup, unpack

COMPONENTS = 32  # at most so many numbers are carried as scalars, by default
LARGEST = 4  # times as many numbers may an array have that f makes of them
BUDGET = 64  # operations of scalars that f may be made of: more take minutes to compile in second order


class Form(NamedTuple):
    """Some arrays, of which those with parts are carried as scalars; see `parts.leaves_of`."""

    avals: tuple[jax.ShapeDtypeStruct, ...]
    largest: int  # numbers in an array that is carried as scalars

    @classmethod
    def of(cls, arrays, largest):
        return cls(shapes(arrays), largest)

    @property
    def is_apart(self):
        """Is anything carried as scalars?"""
        return any(p is not None for p in self.parts)

    def evaluator(self):
        """What evaluates functions of such a state component by component."""
        return Components(max(LARGEST * self.largest, LARGEST), BUDGET)

    @property
    def parts(self):
        """Object arrays of the shapes of what is carried as scalars, None for the others."""
        return [np.empty(a.shape, object) if 0 < a.size <= self.largest else None for a in self.avals]

    def apart(self, arrays):
        """The arrays as they are carried."""
        carried = [
            pack(x, a.dtype) if p is None else unpack(x)
            for x, a, p in zip(arrays, self.avals, self.parts, strict=True)
        ]
        return tuple(leaves_of(carried))

    def together(self, leaves):
        """The arrays again; leaves may have leading axes, of rows and powers."""
        groups = regroup(leaves, self.parts)
        return [pack(g, a.dtype) for g, a in zip(groups, self.avals, strict=True)]

    def spread(self, tolerances):
        """For each leaf that is carried its own tolerance."""
        out = []
        for tolerance, aval, parts in zip(tolerances, self.avals, self.parts, strict=True):
            if parts is None:
                out.append(tolerance)
            elif tolerance.ndim == 0:
                out += [tolerance] * parts.size
            else:
                out += leaves_of([unpack(jnp.broadcast_to(tolerance, aval.shape))])
        return tuple(out)
