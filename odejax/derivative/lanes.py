"""Programs, records and their operands for many lanes: what `vmap` makes of them."""

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from odejax.derivative.record import Inputs, Record, Results


def define_batching(primitive, batch):
    """Gives a primitive a batching rule.

    `batch(size, operands, **params)` of `Mapped` operands returns trees: the results and their lane axes.
    """

    def rule(operands, axes, **params):
        pairs = [Mapped(x, axis) for x, axis in zip(operands, axes, strict=True)]
        size = next(p.value.shape[p.axis] for p in pairs if p.axis is not None)
        if size == 1:  # a single lane is faster alone
            out = primitive.bind(*(p.alone() for p in pairs), **params)
            return [jnp.expand_dims(x, 0) for x in out], [0] * len(out)
        return tuple(map(jax.tree.leaves, batch(size, pairs, **params)))

    batching.primitive_batchers[primitive] = rule


class Mapped:
    """An operand with the axis it is mapped over, or None."""

    def __init__(self, value, axis):
        self.value, self.axis = value, axis

    def alone(self):
        """The operand of the only lane there is."""
        return self.value if self.axis is None else jnp.squeeze(self.value, self.axis)

    def to(self, position, size):
        """The operand with its mapped axis at `position`, made if there is none."""
        if self.axis is None:
            value = jnp.expand_dims(self.value, position)
            return jnp.broadcast_to(value, (*value.shape[:position], size, *value.shape[position + 1 :]))
        return jnp.moveaxis(self.value, self.axis, position)

    def to_shared(self, position):
        """The operand with its mapped axis at `position`, of size 1 if there is none."""
        if self.axis is None:
            return jnp.expand_dims(self.value, position)
        return jnp.moveaxis(self.value, self.axis, position)


def is_mapped(tree):
    return any(x.axis is not None for x in jax.tree.leaves(tree))


def record_in_lanes(record):
    """A record of `Mapped` buffers with an axis for one more level of lanes, if any of them has one."""
    if not is_mapped(record):
        return values_of(record)
    axes = axes_of_record(record, 0)
    return jax.tree.map(lambda x, axis: x.to_shared(axis), record, axes)


def axes_of_record(record, level):
    """Where the lanes of a level are; rows come before."""
    return Record(
        n_steps=level,
        shift=level,
        codes=1 + level,
        unit=level,
        stops=1 + level,
        states=None if record.states is None else (1 + level,) * len(record.states),
        output_step=(1 + level,) * len(record.output_step),
        n_outputs=(level,) * len(record.n_outputs),
        has_failed=level,
    )


def record_for(static, record):
    """The record with an axis for all levels of lanes: of size 1 where it had none, if it describes steps."""
    for level, flag in enumerate(static.is_recorded):
        if not flag:
            record = jax.tree.map(jnp.expand_dims, record, axes_of_record(record, level))
    lanes = static.program.lanes
    return record._replace(
        output_step=tuple(jnp.broadcast_to(x, (x.shape[0], *lanes)) for x in record.output_step),
        n_outputs=tuple(jnp.broadcast_to(x, lanes) for x in record.n_outputs),
        has_failed=jnp.broadcast_to(record.has_failed, lanes),
    )


def inputs_in_lanes(inputs, params_mapped, size, n_directions=0):
    """Inputs of `Mapped` leaves; a parameter gets a lane axis where `params_mapped` says so."""
    d = n_directions
    return Inputs(
        tuple(x.to(d, size) for x in inputs.y0),
        tuple(x.to(d, size) if m else x.value for x, m in zip(inputs.params, params_mapped, strict=True)),
        tuple(tuple(x.to(d + 1, size) for x in q) for q in inputs.queries),
    )


def results_in_lanes(results, size, n_directions):
    d = n_directions
    return Results(
        tuple(x.to(d, size) for x in results.y1),
        tuple(tuple(x.to(d + 1, size) for x in o) for o in results.outputs),
    )


def to_directions(tree, size):
    return jax.tree.map(lambda x: x.to(0, size), tree)


def values_of(tree):
    return jax.tree.map(lambda x: x.value, tree)


def static_in_lanes(static, size, params_mapped, record):
    axes = tuple(0 if m else None for m in params_mapped)
    return static._replace(
        program=static.program.in_lanes(size, axes),
        is_recorded=(is_mapped(record), *static.is_recorded),
    )


def axes_of(tree, n_directions):
    """Where the lane axis of each result is: in rows, behind the row axis."""
    return map_rows(lambda axis: axis + 1, jax.tree.map(lambda _: n_directions, tree))


def mask_of(active, flags):
    """`flags` of the active leaves as flags of all."""
    values = iter(flags)
    return tuple(next(values) if a else False for a in active)


class Lift:
    """Makes the directions of a linear map lanes, for its points to have tangents that differ in them."""

    def __init__(self, static, union, linear_leaf):
        self.sizes = linear_leaf.shape[: static.n_directions]
        axes = tuple(0 if a else None for a in union.params)
        program = static.program
        for size in reversed(self.sizes):
            program = program.in_lanes(size, axes)
        is_recorded = (False,) * len(self.sizes) + static.is_recorded
        self.static = static._replace(program=program, active=union, n_directions=0, is_recorded=is_recorded)

    def linear(self, tree):
        """Directions as lanes: in rows, behind the row axis."""
        d = len(self.sizes)
        return map_rows(lambda x: jnp.moveaxis(x, d, 0), tree)

    def back(self, tree):
        """Lanes as directions again."""
        d = len(self.sizes)
        return map_rows(lambda x: jnp.moveaxis(x, 0, d), tree)

    def shared(self, inputs, is_lifted):
        """Inputs that are the same in all directions; `is_lifted` says which parameters become lanes."""
        params = tuple(
            self._spread(x, 0) if lifted else x for x, lifted in zip(inputs.params, is_lifted, strict=True)
        )
        queries = tuple(tuple(self._spread(x, 1) for x in q) for q in inputs.queries)
        return Inputs(tuple(self._spread(x, 0) for x in inputs.y0), params, queries)

    def _spread(self, x, position):
        x = jnp.expand_dims(x, tuple(range(position, position + len(self.sizes))))
        shape = (*x.shape[:position], *self.sizes, *x.shape[position + len(self.sizes) :])
        return jnp.broadcast_to(x, shape)


def map_rows(fn, tree):
    """`fn` of what `Inputs` or `Results` have in rows, their last field."""
    *others, rows = tree
    return type(tree)(*others, jax.tree.map(fn, rows))
