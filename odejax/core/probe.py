"""How many lanes are there? Asked of the transforms around a call, by a primitive that does nothing else."""

import math

import jax
import jax.core
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class _Sizes(list):
    """What the batching rule found; a parameter of the primitive, so it needs a hash."""

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


def count_lanes(tree):
    """The number of lanes that `jax.vmap` makes of these operands, where it is not hidden by a `jax.jit`."""
    sizes, leaves = _Sizes(), [x for x in jax.tree.leaves(tree) if isinstance(x, jax.core.Tracer)]
    if leaves:
        _probe_p.bind(*leaves, sizes=sizes)
    return math.prod(sizes)


def _same(*operands, sizes):
    return list(operands)


def _batch(operands, axes, *, sizes):
    sizes.append(next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None))
    return _probe_p.bind(*operands, sizes=sizes), axes


_probe_p = Primitive("odejax_probe")
_probe_p.multiple_results = True
_probe_p.def_impl(_same)
_probe_p.def_abstract_eval(_same)
mlir.register_lowering(_probe_p, mlir.lower_fun(_same, multiple_results=True))
ad.primitive_jvps[_probe_p] = lambda primals, tangents, *, sizes: (
    _probe_p.bind(*primals, sizes=sizes),
    tangents,
)
batching.primitive_batchers[_probe_p] = _batch
