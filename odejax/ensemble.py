"""`ensemble`: many initial value problems on all devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from odejax import arguments
from odejax.core.traced import is_array_or_number, is_known
from odejax.integrate import progress as bar
from odejax.ivp import check_numbers, solve
from odejax.solution import Solution, check_as

AXIS = "lanes"  # of the default mesh
STATIC_OPTIONS = ("method", "jac", "save_steps", "dense", "checkpoints", "components")  # no numbers


def ensemble(
    f: Callable[..., Any],
    y0s: Any,
    t_span: tuple[Any, Any],
    args: tuple[Any, ...] = (),
    *,
    in_axes: tuple[Any, Any] = (0, None),
    mesh: Mesh | None = None,
    chunk: int | None = None,
    throw: bool | None = None,
    progress: bool | Callable[[float], Any] = False,
    **options: Any,
) -> Solution:
    """Solves many problems that differ in `y0` and `args`: `jax.vmap` of `solve`, on all devices.

    The lanes are split over the devices of a mesh, which do not wait for each other. All derivatives and
    transforms that apply to `solve` apply to this call; the gradient of what all lanes share is summed over
    the devices once, at the end.

    Args:
        f: `f(t, y, *args)` of one lane, as for `solve`.
        y0s: the states at t0, with a lane axis.
        t_span: (t0, t1), shared by all lanes.
        args: tuple of further arguments of `f`, some of them with a lane axis.
        in_axes: (lane axes of `y0s`, lane axes of `args`), each as for `jax.vmap`: an integer, None for what
            all lanes share, or a tree of these that is a prefix of `y0s` or `args`.
        mesh: the devices, a mesh of one axis. Default: all local ones. A CPU is one device, unless
            `jax.config.update("jax_num_cpu_devices", n)` makes it n before JAX starts.
            Under `jax.distributed`, pass a mesh of the devices of all processes, and global arrays.
        chunk: how many lanes are solved at a time, by all devices together. Bounds the memory, that of
            gradients too: they solve each chunk again. Default: all.
        throw: as for `solve`; inside `jit` it needs a mesh of one device.
        progress: True shows a bar of lanes done (needs tqdm), or a function to call with their share.
        options: everything else that `solve` takes, shared by all lanes: `t_eval`, `method`, `rtol`, ...

    Returns:
        A `Solution` whose fields have a leading lane axis. A lane that failed has its own status, and is NaN
        where it was not reached, see `solve`.

    Raises:
        SolveError: lanes failed; see `throw`.
        TypeError, ValueError: an argument is not what it should be.

    Example:
        >>> import jax, jax.numpy as jnp, odejax
        >>> def decay(t, y, rate):
        ...     return -rate * y
        >>> rates = jnp.linspace(0.1, 3.0, 10)
        >>> sol = odejax.ensemble(decay, jnp.ones(10), (0.0, 1.0), (rates,), in_axes=(0, 0))
        >>> bool(jnp.allclose(sol.y1, jnp.exp(-rates), rtol=1e-3))
        True
    """
    args, y0s = arguments.arguments(args), arguments.state(y0s)
    axes = _axes_of("y0s", y0s, in_axes[0]), _axes_of("args", args, in_axes[1])
    n_lanes = _count_lanes((y0s, args), axes)
    mesh = Mesh(np.asarray(jax.local_devices()), (AXIS,)) if mesh is None else mesh
    if len(mesh.axis_names) != 1:
        raise ValueError(f"`mesh` must have one axis, got {mesh.axis_names}. Make one of all its devices.")
    mesh = Mesh(mesh.devices, mesh.axis_names)  # `jax.make_mesh` makes axes that `shard_map` refuses
    chunk = arguments.count("chunk", chunk)
    n_padded = -(-n_lanes // mesh.size) * mesh.size
    check_numbers(_one_lane(y0s, axes[0]), t_span, options)
    lanes = _Lanes(n_lanes, n_padded, None if chunk is None else -(-chunk // mesh.size), mesh)
    fixed = tuple((name, options.pop(name)) for name in STATIC_OPTIONS if name in options)
    leaves, tree = jax.tree.flatten((y0s, args, f, t_span, options))
    all_axes = [*axes[0], *axes[1]]
    all_axes += [None] * (len(leaves) - len(all_axes))
    dynamic = [
        _on(mesh, x, axis) if is_array_or_number(x) else None
        for x, axis in zip(leaves, all_axes, strict=True)
    ]
    static = tuple(None if is_array_or_number(x) else x for x in leaves)
    on_lanes = bar.lanes_done(progress, n_padded)
    solution = _ensemble(dynamic, (static, tree, fixed), tuple(all_axes), lanes, on_lanes)
    if throw and mesh.size > 1 and not is_known(solution.status):
        raise ValueError(
            "`throw=True` cannot stop several devices inside `jit`. "
            "Return the solution, and call odejax.check outside."
        )
    return check_as(throw, solution)


class _Lanes(NamedTuple):
    """How many there are, and on which devices."""

    count: int
    padded: int  # to a multiple of the number of devices
    chunk: int | None  # of a device
    mesh: Mesh

    @property
    def hands(self):
        """How many devices lanes are dealt to, one to each in turn: neighbours often take equally long.

        Processes keep theirs, so that nothing is sent between them. On a GPU all lanes wait for the slowest.
        """
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return self.mesh.size if on_cpu and not self.mesh.is_multi_process else 1

    def deal(self, x):
        """Lanes in the order of the devices that solve them."""
        return self._placed(_transposed(self._placed(x), -1, self.hands))

    def collect(self, x):
        """The inverse of `deal`, without those that were added."""
        return self._placed(_transposed(x, self.hands, -1))[: self.count]

    def _placed(self, x):
        """Each device with its share, in derivatives too."""
        if self.hands == 1:
            return x
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names)))


def _transposed(x, n, m):
    """The first axis as a matrix of n x m, transposed."""
    return x.reshape(n, m, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _axes_of(name, tree, axes):
    """For each leaf its lane axis, or None."""
    try:
        spread = jax.tree.broadcast(axes, tree, is_leaf=lambda x: x is None)
    except ValueError as error:
        raise ValueError(
            f"`in_axes` of `{name}` must be an integer, None, or a prefix of its tree, got {axes!r}: {error}"
        ) from None
    return jax.tree.leaves(spread, is_leaf=lambda x: x is None)


def _count_lanes(trees, axes):
    """The number of lanes, which all leaves that have a lane axis agree on."""
    sizes = set()
    for x, axis in zip(jax.tree.leaves(trees), (*axes[0], *axes[1]), strict=True):
        if axis is None:
            continue
        if not isinstance(axis, int) or not -np.ndim(x) <= axis < np.ndim(x):
            raise ValueError(
                f"`in_axes` says axis {axis!r} of an array of shape {np.shape(x)}, which has none such."
            )
        sizes.add(np.shape(x)[axis])
    if len(sizes) != 1 or sizes == {0}:
        what = f"lane axes of sizes {sorted(sizes)}" if sizes else "no lane axis"
        raise ValueError(
            f"`in_axes` must give one number of lanes, at least 1; got {what}. Check `y0s` and `args`."
        )
    return sizes.pop()


def _one_lane(y0s, axes):
    """The state of a lane, but for its numbers."""
    leaves, tree = jax.tree.flatten(y0s)
    shapes = [x.shape if a is None else np.delete(x.shape, a) for x, a in zip(leaves, axes, strict=True)]
    return tree.unflatten([np.zeros(shape, x.dtype) for x, shape in zip(leaves, shapes, strict=True)])


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _ensemble(dynamic, static, axes, lanes, on_lanes):
    static, tree, fixed = static
    operands = [
        x if axis is None or x is None else lanes.deal(_lanes_first(x, axis, lanes.padded))
        for x, axis in zip(dynamic, axes, strict=True)
    ]
    lane_axes = [None if axis is None else 0 for axis in axes]

    def one(*operands):
        leaves = [s if x is None else x for x, s in zip(operands, static, strict=True)]
        y0, args, f, t_span, options = tree.unflatten(leaves)
        return solve(f, y0, t_span, args, throw=False, progress=on_lanes, **options, **dict(fixed))

    every = jax.vmap(one, in_axes=lane_axes)

    def on_device(*operands):
        return (
            every(*operands) if lanes.chunk is None else _in_chunks(every, lane_axes, lanes.chunk, operands)
        )

    name = lanes.mesh.axis_names[0]
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(name) for axis in axes)
    solution = jax.shard_map(on_device, mesh=lanes.mesh, in_specs=specs, out_specs=PartitionSpec(name))(
        *operands
    )
    return jax.tree.map(lanes.collect, solution)


def _on(mesh, x, axis):
    """An array that is committed to some devices, on those of the mesh."""
    if not (isinstance(x, jax.Array) and is_known(x) and x.committed) or mesh.is_multi_process:
        return x
    spec: list[str | None] = [None] * x.ndim
    if axis is not None and x.shape[axis] % mesh.size == 0:
        spec[axis] = mesh.axis_names[0]
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def _lanes_first(x, axis, n):
    """A leaf with its lanes first, the last one repeated up to n."""
    return _repeat_last(jnp.moveaxis(jnp.asarray(x), axis, 0), n)


def _repeat_last(x, n):
    return jnp.concatenate([x, jnp.repeat(x[-1:], n - len(x), axis=0)]) if n > len(x) else x


def _in_chunks(fn, axes, size, operands):
    """`fn` of so many lanes at a time. In reverse a chunk is solved again: one is in memory at a time."""
    mapped = [jnp.asarray(x) for x, axis in zip(operands, axes, strict=True) if axis is not None]
    n = len(mapped[0])
    count = -(-n // size)
    chunks = [_repeat_last(x, count * size).reshape(count, size, *x.shape[1:]) for x in mapped]

    def one(chunk):
        values = iter(chunk)
        return fn(*(x if axis is None else next(values) for x, axis in zip(operands, axes, strict=True)))

    solution = lax.map(jax.checkpoint(one), chunks)
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], solution)
