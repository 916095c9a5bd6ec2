"""What `solve` accepts: each argument checked, completed and brought into one form.

Checks that need numbers are made when the numbers are known (outside `jit`); shapes, structures and types
are always checked. Every message names the argument, says what was got and what to do.
"""

import difflib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odejax.core.traced import as_array, is_array_or_number, is_known
from odejax.spans import time, time_dtype
from odejax.stepping.controller import ConstantStep, PIController, PIDController
from odejax.tableaus import METHODS, Tableau

DEFAULT_TOLERANCES = {  # (rtol, atol) by the precision of the state
    "float64": (1e-6, 1e-9),
    "float32": (1e-4, 1e-6),
    "bfloat16": (1e-1, 1e-2),
    "float16": (1e-2, 1e-3),
}
PEERS_NAMES = {"rk45": "dopri5", "ode45": "dopri5", "rk45ck": "cash_karp", "lsoda": "auto"}
SMALLEST_RTOL = 4  # in units of the precision's rounding error
DENSE_STEPS = 4096  # recorded by dense=True


class Checkpoints(NamedTuple):
    """Room for derivatives in reverse mode.

    Args:
        states: how many states the solve keeps for the reverse pass, which keeps as many more, but at most
            256. Rounded down to a power of two. Default: 16384 if they fit into 1 MB, else 2048 if they fit
            into 4 MB, 512 into 16 MB, or 32 into 256 MB: what allows most of them, and never less than 8.
        steps: how many accepted steps can be differentiated, at 2 bytes each. Default: 131072.

    Both are for each lane under `vmap`. The defaults are shared: many lanes together keep what one would, but
    record at least 16384 steps each if that fits into 16 MB, or 4096 if that fits into 1 GB. Lanes that a
    `jax.vmap` makes of a jitted function are unknown when that is traced: there each has what one would have.
    """

    states: int | None = None
    steps: int | None = None


def state(y0, name="y0") -> Any:
    """`y0` with inexact arrays as leaves."""
    paths, _ = jax.tree.flatten_with_path(y0)
    if not paths:
        raise ValueError(f"`{name}` has no arrays in it: got {y0!r}. Pass an array or a pytree of arrays.")
    for path, leaf in paths:
        at = name + jax.tree_util.keystr(path)
        if not is_array_or_number(leaf):
            raise TypeError(f"`{at}` must be an array or a number, got {type(leaf).__name__}.")
        if np.size(leaf) == 0:
            raise ValueError(f"`{at}` is empty (shape {np.shape(leaf)}). Leave empty arrays out.")
    return jax.tree.map(_inexact, y0)


def _inexact(x):
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    if isinstance(x, (float, complex)):
        dtype = jnp.result_type(type(x))
    return jnp.asarray(x, dtype)


def real_dtype(y0):
    """The precision of the state."""
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype


def find_method(method) -> Tableau:
    """The method of that name, or the one given."""
    if isinstance(method, Tableau):
        return method
    if not isinstance(method, str):
        raise TypeError(f"`method` must be a name or a tableau like odejax.ExplicitTableau, got {method!r}.")
    name = method.lower()
    if name not in METHODS:
        near = PEERS_NAMES.get(name) or "".join(difflib.get_close_matches(name, METHODS, n=1))
        hint = f'Did you mean "{near}"? ' if near else ""
        raise ValueError(f"`method` {method!r} is not known. {hint}Known are: {', '.join(METHODS)}.")
    return METHODS[name]


def find_controller(controller, method):
    """The controller given, or the default one."""
    if controller is None:
        controller = PIController()
    if not isinstance(controller, (PIDController, ConstantStep)):
        raise TypeError(
            f"`controller` must be an odejax.PIController, PIDController or ConstantStep, got {controller!r}."
        )
    if isinstance(controller, PIDController) and not method.is_adaptive:
        raise ValueError(
            f"`method` {method.name!r} has no error estimate, so its steps cannot adapt. "
            "Pass controller=odejax.ConstantStep(h)."
        )
    for name, value in vars(controller).items():
        if name != "exact_t_eval" and np.shape(value) != ():
            raise ValueError(f"`controller.{name}` must be a scalar, got shape {np.shape(value)}.")
    for name, what, holds in controller.bounds():
        if is_known(holds) and not holds:
            raise ValueError(f"`controller.{name}` must be {what}, got {getattr(controller, name)}.")
    return jax.tree.map(lambda x: as_array(x, time_dtype()), controller)


def tolerances(rtol, atol, y0):
    """(rtol, atol), each a tuple with an entry for each leaf of the state."""
    real = real_dtype(y0)
    default_rtol, default_atol = DEFAULT_TOLERANCES[str(real)]
    rtol = _tolerance("rtol", default_rtol if rtol is None else rtol, y0)
    atol = _tolerance("atol", default_atol if atol is None else atol, y0)
    for r, a, leaf in zip(rtol, atol, jax.tree.leaves(y0), strict=True):
        if not (is_known(r) and is_known(a)):
            continue
        smallest = SMALLEST_RTOL * float(jnp.finfo(leaf.dtype).eps)
        if ((np.asarray(r) > 0) & (np.asarray(r) < smallest)).any():
            raise ValueError(
                f"`rtol` = {np.min(r):.3g} is below what {leaf.dtype} can resolve. "
                f"Use at least {smallest:.1g}, or a state of higher precision."
            )
        if ((np.asarray(r) == 0) & (np.asarray(a) == 0)).any():
            raise ValueError("`rtol` and `atol` must not both be 0.")
    return rtol, atol


def _tolerance(name, value, y0):
    leaves, tree = jax.tree.flatten(y0)
    values, value_tree = jax.tree.flatten(value)
    if value_tree != tree:
        if value_tree != jax.tree.structure(0):
            raise ValueError(
                f"`{name}` must be a number, an array or a pytree like `y0` ({tree}), got {value_tree}."
            )
        values = [value] * len(leaves)
    out = []
    for v, leaf in zip(values, leaves, strict=True):
        if not is_array_or_number(v) or jnp.issubdtype(jnp.result_type(v), jnp.complexfloating):
            raise TypeError(f"`{name}` must be real, got {v!r}.")
        if is_known(v) and not (np.asarray(v) >= 0).all():
            raise ValueError(f"`{name}` must not be negative or NaN, got {v}.")
        if not _fits(np.shape(v), leaf.shape):
            raise ValueError(
                f"`{name}` of shape {np.shape(v)} does not fit a leaf of `y0` of shape {leaf.shape}."
            )
        v = as_array(v, jnp.finfo(leaf.dtype).dtype)
        out.append(v if v.ndim == 0 else v.reshape((1,) * (leaf.ndim - v.ndim) + v.shape))
    return tuple(out)


def _fits(shape, target):
    """Does an array of that shape broadcast to the target's?"""
    pairs = zip(shape[::-1], target[::-1], strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def first_step(dt0):
    """`dt0`, or None for the automatic choice."""
    if dt0 is None:
        return None
    dt0 = time("dt0", dt0)
    if is_known(dt0) and dt0 == 0:
        raise ValueError("`dt0` must not be 0. Pass None for an automatic first step.")
    return dt0


def step_limit(max_steps):
    """`max_steps` as an integer scalar."""
    if not jnp.issubdtype(jnp.result_type(max_steps), jnp.integer) or np.shape(max_steps) != ():
        raise TypeError(f"`max_steps` must be an integer, got {max_steps!r}.")
    if is_known(max_steps) and not 0 < max_steps < 2**31:
        raise ValueError(f"`max_steps` must be positive and below 2**31, got {max_steps}.")
    return as_array(max_steps, jnp.int32)


def are_good(numbers):
    """Would tolerances, dt0, max_steps and controller that are traced be accepted if they were known?"""
    (rtol, atol), dt0, max_steps, controller = numbers
    holds = [x.min() >= 0 for x in (*rtol, *atol)]  # false for NaN
    holds += [max_steps > 0, *(holds for _, _, holds in controller.bounds())]
    if dt0 is not None:
        holds.append((dt0 != 0) & jnp.isfinite(dt0))
    return jnp.stack(holds).all()


def count(name, value, least=1):
    """A static number of rows, or None."""
    if value is None or value is False:
        return None
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    return int(value)


def dense_capacity(dense):
    return DENSE_STEPS if dense is True else count("dense", dense)


def room(checkpoints) -> Checkpoints:
    """`checkpoints` as `Checkpoints`."""
    if checkpoints is None:
        return Checkpoints()
    if isinstance(checkpoints, Checkpoints):
        return Checkpoints(
            count("checkpoints.states", checkpoints.states), count("checkpoints.steps", checkpoints.steps)
        )
    return Checkpoints(count("checkpoints", checkpoints))


def arguments(args):
    """`args` as a tuple whose numbers are arrays."""
    if not isinstance(args, tuple):
        raise TypeError(
            f"`args` must be a tuple, got {type(args).__name__}. For one argument write args=(p,)."
        )
    for path, leaf in jax.tree.flatten_with_path(args)[0]:
        if not is_array_or_number(leaf) and not callable(leaf):
            name = "args" + jax.tree_util.keystr(path)
            raise TypeError(
                f"`{name}` must be an array or a number, got {type(leaf).__name__}. "
                "Let f close over what is not a number."
            )
    return args
