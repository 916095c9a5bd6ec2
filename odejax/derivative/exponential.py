"""exp(A) x as JAX primitives, closed under jvp, transpose and vmap.

The maps and their rules are those of `linear_maps`, with P(params, x) = exp(A(params)) x for the program;
P is linear in x itself, and its transpose is P of the transposed operator. The doubled program is the
exponential of a doubled operator,

    exp([[A, 0], [A', A]]) (x, u) = (P, P' u),

so no derivative of any order forms an exponential. The scheme has no derivative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from odejax.core.transform import select
from odejax.derivative.doubling import instantiate, narrow, union_of, widen
from odejax.derivative.lanes import inputs_in_lanes
from odejax.derivative.linear_primitive import bind, define
from odejax.derivative.record import Active, Inputs, select_inputs
from odejax.linalg import taylor
from odejax.linalg.operators import Doubled, Lanes, Operator, Transposed


class Static(NamedTuple):
    """What does not change with the numbers."""

    op: Operator
    most: int  # terms of the polynomial, at most
    active: tuple[bool, ...]  # which parameters have a derivative

    @property
    def is_small(self):
        return False  # it is products of matrices, which are calls of a library

    def doubled(self):
        """The doubled operator, differentiated by all that were active, twice."""
        active = self.active + (True,) * sum(self.active)
        return self._replace(op=Doubled(self.op, self.active), active=active)


def action(op, most, scheme, params, x):
    """exp(A) x, by a `taylor.Scheme` of at most `most` terms."""
    static = Static(op, most, (False,) * len(params))
    return bind(_action_p, static, (scheme, params), x, jax.tree.structure(x))


def _tangent(static, scheme, inputs, inputs_dot):
    """The derivative in the direction of active inputs."""
    return bind(_tangent_p, static, (scheme, inputs), inputs_dot, jax.tree.structure(inputs.y0))


def _cotangent(static, scheme, inputs, w_bar):
    """Cotangents of the active inputs."""
    return bind(_cotangent_p, static, (scheme, inputs), w_bar, _inputs_tree(static, inputs))


def _curvature(static, scheme, inputs, w_bar, inputs_dot, w_bar_dot):
    """The derivative of `_cotangent` in the direction of active inputs and of the cotangents."""
    tree = _inputs_tree(static, inputs)
    return bind(_curvature_p, static, (scheme, inputs, w_bar), (inputs_dot, w_bar_dot), tree)


def _inputs_tree(static, inputs):
    return jax.tree.structure(select_inputs(inputs, Active(static.active, ())))


def _both(a, b):
    """Each tuple of leaves followed by its counterpart."""
    return Inputs(a.y0 + b.y0, a.params + b.params, ())


# -- the maps


def _run_action(static, points, x, in_blocks):
    scheme, params = points
    return taylor.power(static.op, scheme, params, x)


def _run_tangent(static, points, inputs_dot, in_blocks):
    scheme, inputs = points
    both = _both(inputs, inputs_dot)
    out = taylor.power(static.doubled().op, scheme.for_derivatives(), both.params, both.y0)
    return out[len(inputs.y0) :]


def _run_cotangent(static, points, w_bar, in_blocks):
    scheme, inputs = points
    return _cotangents(static.op, static, scheme, inputs, w_bar)


def _run_curvature(static, points, directions, in_blocks):
    scheme, inputs, w_bar = points
    inputs_dot, w_bar_dot = directions
    first = static.active + (False,) * sum(static.active)
    both = _both(inputs, inputs_dot)
    bars = _cotangents(static.doubled().op, static._replace(active=first), scheme, both, w_bar_dot + w_bar)
    return bars._replace(y0=bars.y0[: len(inputs.y0)])


def _cotangents(op, static, scheme, inputs, w_bar):
    bars, x_bar = taylor.cotangents(
        op, static.active, static.most, scheme.for_derivatives(), inputs.params, inputs.y0, w_bar
    )
    return Inputs(x_bar, bars, ())


# -- shapes


def _action_shapes(static, points, x):
    return jax.tree.map(_shape, x)


def _tangent_shapes(static, points, inputs_dot):
    return jax.tree.map(_shape, points[1].y0)


def _cotangent_shapes(static, points, directions):
    return jax.tree.map(_shape, select_inputs(points[1], Active(static.active, ())))


def _shape(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


# -- derivatives


def _action_jvp(static, points, x, points_dot, x_dot):
    scheme, params = points
    params_dot = points_dot[1]
    active = union_of(Active(static.active, ()), Inputs((), params_dot, ()))
    static = static._replace(active=active.params)
    inputs_dot = Inputs(instantiate(x_dot), instantiate(select(params_dot, active.params)), ())
    return _tangent(static, scheme, Inputs(x, params, ()), inputs_dot)


def _tangent_jvp(static, points, inputs_dot, points_dot, inputs_dot_dot):
    scheme, inputs = points
    wanted, union = _widened(static, points_dot)
    inputs_x_dot = instantiate(select_inputs(points_dot[1], union))
    inputs_dot, inputs_dot_dot = (
        widen(dot, inputs, wanted, union) for dot in (inputs_dot, instantiate(inputs_dot_dot))
    )
    static = static._replace(active=union.params).doubled()
    both, both_dot = _both(inputs, inputs_dot), _both(inputs_x_dot, inputs_dot_dot)
    return _tangent(static, scheme, both, both_dot)[len(inputs.y0) :]


def _cotangent_jvp(static, points, w_bar, points_dot, w_bar_dot):
    scheme, inputs = points
    wanted, union = _widened(static, points_dot)
    inputs_dot = instantiate(select_inputs(points_dot[1], union))
    static = static._replace(active=union.params)
    return narrow(
        _curvature(static, scheme, inputs, w_bar, inputs_dot, instantiate(w_bar_dot)), union, wanted
    )


def _curvature_jvp(static, points, directions, points_dot, directions_dot):
    scheme, inputs, w_bar = points
    inputs_dot, w_bar_dot = directions
    inputs_dot_dot, w_bar_dot_dot = map(instantiate, directions_dot)
    wanted, union = _widened(static, points_dot)
    inputs_x_dot = instantiate(select_inputs(points_dot[1], union))
    w_bar_x_dot = instantiate(points_dot[2])
    inputs_dot, inputs_dot_dot = (widen(dot, inputs, wanted, union) for dot in (inputs_dot, inputs_dot_dot))
    out = _curvature(
        static._replace(active=union.params).doubled(),
        scheme,
        _both(inputs, inputs_dot),
        w_bar_dot + w_bar,
        _both(inputs_x_dot, inputs_dot_dot),
        w_bar_dot_dot + w_bar_x_dot,
    )
    first = Inputs(out.y0[: len(inputs.y0)], out.params[: sum(union.params)], ())
    return narrow(first, union, wanted)


def _widened(static, points_dot):
    """Which parameters were active, and which are with those that have tangents now."""
    wanted = Active(static.active, ())
    return wanted, union_of(wanted, points_dot[1])


# -- transposes


def _action_transpose(static, points, w_bar):
    scheme, params = points
    op = static.op.inner if isinstance(static.op, Transposed) else Transposed(static.op)
    return action(op, static.most, scheme, params, tuple(w_bar))


def _tangent_transpose(static, points, w_bar):
    scheme, inputs = points
    return _cotangent(static, scheme, inputs, tuple(w_bar))


def _cotangent_transpose(static, points, bars):
    scheme, inputs = points
    return _tangent(static, scheme, inputs, jax.tree.unflatten(_inputs_tree(static, inputs), bars))


def _curvature_transpose(static, points, bars):
    scheme, inputs, w_bar = points
    bars = jax.tree.unflatten(_inputs_tree(static, inputs), bars)
    zeros = jax.tree.map(jnp.zeros_like, w_bar)
    inputs_bar = _curvature(static, scheme, inputs, w_bar, bars, zeros)
    return inputs_bar, _tangent(static, scheme, inputs, bars)


# -- batching: a state of many lanes is a state


def _action_batch(static, size, points, x):
    scheme, params = points
    mapped = tuple(p.axis is not None for p in params)
    static, scheme, inputs = _in_lanes(static, scheme, Inputs(x, params, ()), mapped, size)
    return _batched(action(static.op, static.most, scheme, inputs.params, inputs.y0))


def _tangent_batch(static, size, points, inputs_dot):
    scheme, inputs = points
    dots = iter(inputs_dot.params)
    mapped = tuple(
        p.axis is not None or (a and next(dots).axis is not None)
        for p, a in zip(inputs.params, static.active, strict=True)
    )
    inputs_dot = inputs_in_lanes(inputs_dot, select(mapped, static.active), size)
    return _batched(_tangent(*_in_lanes(static, scheme, inputs, mapped, size), inputs_dot))


def _cotangent_batch(static, size, points, w_bar):
    scheme, inputs = points
    lifted = _in_lanes(static, scheme, inputs, _mapped_or_active(static, inputs), size)
    return _batched(_cotangent(*lifted, _states_in_lanes(w_bar, size)))


def _curvature_batch(static, size, points, directions):
    scheme, inputs, w_bar = points
    inputs_dot, w_bar_dot = directions
    lifted = _in_lanes(static, scheme, inputs, _mapped_or_active(static, inputs), size)
    w_bar, w_bar_dot = (_states_in_lanes(w, size) for w in (w_bar, w_bar_dot))
    inputs_dot = inputs_in_lanes(inputs_dot, (True,) * len(inputs_dot.params), size)
    return _batched(_curvature(*lifted, w_bar, inputs_dot, w_bar_dot))


def _mapped_or_active(static, inputs):
    """The parameters that become lanes: each lane gives active ones a cotangent of its own."""
    return tuple(p.axis is not None or a for p, a in zip(inputs.params, static.active, strict=True))


def _in_lanes(static, scheme, inputs, mapped, size):
    """The points of a map in lanes: of one degree and number of steps, the largest of any."""
    static = static._replace(op=Lanes(static.op, tuple(0 if m else None for m in mapped)))
    degree, n_steps = (x.value if x.axis is None else x.value.max(x.axis) for x in scheme[:2])
    scheme = taylor.Scheme(degree, n_steps, scheme.mu.to_shared(0))
    return static, scheme, inputs_in_lanes(inputs, mapped, size)


def _states_in_lanes(leaves, size):
    return tuple(x.to(0, size) for x in leaves)


def _batched(out):
    return out, jax.tree.map(lambda _: 0, out)


def _define(name, run, *rules):
    return define(f"odejax_exponential{name}", run, *rules)


_action_p = _define("", _run_action, _action_shapes, _action_jvp, _action_transpose, _action_batch)
_tangent_p = _define(
    "_tangent", _run_tangent, _tangent_shapes, _tangent_jvp, _tangent_transpose, _tangent_batch
)
_cotangent_p = _define(
    "_cotangent", _run_cotangent, _cotangent_shapes, _cotangent_jvp, _cotangent_transpose, _cotangent_batch
)
_curvature_p = _define(
    "_curvature", _run_curvature, _cotangent_shapes, _curvature_jvp, _curvature_transpose, _curvature_batch
)
