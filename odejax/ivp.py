"""`solve`: initial value problems, the one door."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from odejax import arguments, spans
from odejax import mass as masses
from odejax.core.probe import count_lanes
from odejax.core.status import Status
from odejax.core.traced import apart, is_known, together
from odejax.integrate import dae
from odejax.integrate import progress as bar
from odejax.integrate.forms import COMPONENTS
from odejax.integrate.methods import check_structure
from odejax.integrate.primitive import solve as run
from odejax.integrate.state import Numbers
from odejax.linalg.banded import Banded
from odejax.linalg.sparse import Sparse
from odejax.problem import Problem
from odejax.solution import Solution, check_as
from odejax.stepping.controller import ConstantStep, PIDController
from odejax.tableaus import Tableau


def solve(
    f: Callable[..., Any],
    y0: Any,
    t_span: tuple[Any, Any],
    args: tuple[Any, ...] = (),
    *,
    t_eval: Any = None,
    method: str | Tableau = "tsit5",
    mass: Any = None,
    jac: Banded | Sparse | None = None,
    rtol: Any = None,
    atol: Any = None,
    dt0: Any = None,
    controller: PIDController | ConstantStep | None = None,
    max_steps: Any = 100_000,
    save_fn: Callable[..., Any] | None = None,
    save_steps: int | None = None,
    dense: bool | int = False,
    checkpoints: int | arguments.Checkpoints | None = None,
    components: int = COMPONENTS,
    throw: bool | None = None,
    progress: bool | Callable[[float], Any] = False,
) -> Solution:
    r"""Solves dy/dt = f(t, y, *args), y(t0) = y0, and has every derivative.

    $$\frac{dy}{dt} = f(t, y, \theta), \qquad y(t_0) = y_0$$

    `jax.grad`, `jax.jvp`, `jax.jacfwd`, `jax.jacrev`, `jax.hessian`, `jax.vmap` and `jax.jit`, nested in any
    order, apply to this call as it is: with respect to `y0`, `args`, what `f` and `save_fn` close over, both
    ends of `t_span`, and `t_eval`. A derivative is that of the computed solution, its accepted steps
    held fixed; t0, t1 and the step that ends on t1 move.

    All numbers (times, tolerances, dt0, max_steps, args) are traced: changing one does not recompile. `f`
    and `save_fn` themselves are treated as `jax.jit` treats functions: outside of `jit`, pass the same
    function object to reuse what was compiled.

    Args:
        f: `f(t, y, *args)` returns dy/dt with the structure and shapes of `y`; a function, or an
            equinox module. It may close over arrays and tracers.
        y0: the state at t0; any pytree of floating or complex arrays (integers become floats).
        t_span: (t0, t1), in units of t. t1 < t0 integrates backwards; t1 == t0 returns `y0`.
        args: tuple of further arguments of `f` and `save_fn`: any pytrees of arrays and modules.
        t_eval: times of the outputs, shape (n,), in the direction of integration, inside the span, repeated
            values allowed. Default: t1 only. Values between steps come from the method's dense output; a
            controller with `exact_t_eval=True` steps exactly to these times instead.
        method: a name in `odejax.METHODS`, or a tableau of your own. `"auto"` finds out if f is stiff.
        mass: M, for M dy/dt = f with a constant M that may be singular: an array of shape (n, n) that acts on
            the n numbers of `y` in the order of `jax.tree.leaves`, each raveled, or the diagonal as a pytree
            like `y0`. Needs a Rosenbrock method, and index 1 if M is singular: then `y0` is corrected so
            that the algebraic equations hold at t0, with M y0 kept. See docs/stiff.md.
        jac: for implicit methods, where the Jacobian of f by y may have entries: an `odejax.Banded` or an
            `odejax.Sparse`. Default: everywhere. One that has others is refused.
        rtol: relative tolerance: a number, an array, or a pytree like `y0`. Default: 1e-6 (float32: 1e-4).
        atol: absolute tolerance in units of y, likewise. Default: 1e-9 (float32: 1e-6).
        dt0: size of the first step, in units of t. Default: chosen from f and the tolerances.
        controller: `odejax.PIController()`, the default, `PIDController(...)` or `ConstantStep(h)`.
        max_steps: the solve fails after so many attempted steps. A limit, not a size: it costs nothing.
        save_fn: `save_fn(t, y, *args)` is what is saved in `ys`. Default: y.
        save_steps: save after each of the first `save_steps` accepted steps, instead of `t_eval`; unused rows
            are NaN, and `stats.num_saved` is the number of the others.
        dense: True, or a number of steps to make room for: `sol(t)` evaluates the solution anywhere.
        checkpoints: how many states are kept for reverse mode, or an `odejax.Checkpoints`, which has the
            defaults.
        components: a state of at most so many numbers is carried as scalars, and f is evaluated component by
            component: faster under `vmap` and in reverse. Implicit methods do so up to 3. 0: never.
        throw: True: a failure raises, inside `jit` too (by equinox). False: it never does. Default: it
            raises outside of `jit`; inside, the failure is data, and `odejax.check(sol)` raises.
        progress: True shows a bar (needs tqdm), or a function to call with the fraction done in [0, 1].

    Returns:
        A `Solution` with `ts`, `ys` (time first), `t1`, `y1`, `status`, `success` and `stats`. Where a solve
        failed, outputs that were not reached are NaN, and so are all derivatives that depend on them.

    Raises:
        SolveError: the solve failed; see `throw`.
        TypeError, ValueError: an argument is not what it should be.

    Example:
        >>> import jax, jax.numpy as jnp, odejax
        >>> def decay(t, y, rate):
        ...     return -rate * y
        >>> sol = odejax.solve(decay, 1.0, (0.0, 1.0), (2.0,))
        >>> bool(jnp.allclose(sol.y1, jnp.exp(-2.0), rtol=1e-3))
        True

    Reference:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, chapter II.
    """
    y0 = arguments.state(y0)
    tableau = arguments.find_method(method)
    numbers = _numbers(y0, t_span, tableau, t_eval, rtol, atol, dt0, max_steps, controller)
    args = arguments.arguments(args)
    if not callable(f):
        raise TypeError(f"`f` must be a function f(t, y, *args), got {f!r}.")
    if save_fn is not None and not callable(save_fn):
        raise TypeError(f"`save_fn` must be a function save_fn(t, y, *args), got {save_fn!r}.")
    if t_eval is not None and save_steps is not None:
        raise ValueError("`t_eval` and `save_steps` exclude each other: pass one of them.")
    mass_arrays, mass = masses.find(mass, y0, tableau)
    are_traced = not all(map(is_known, jax.tree.leaves(numbers[2:])))
    options = (
        tableau,
        arguments.count("save_steps", save_steps),
        arguments.dense_capacity(dense),
        arguments.room(checkpoints),
        bar.callback(progress),
        arguments.count("components", components, least=0) or 0,
        count_lanes((f, y0, args, save_fn, numbers, mass_arrays)),
        check_structure(jac, tableau, y0),
        mass,
        are_traced,
    )
    functions, static = apart((f, args, save_fn, mass_arrays))
    solution = _solve(functions, y0, numbers, static, options)
    if jac is not None and is_known(solution.status) and solution.status == Status.WRONG_JAC:
        raise ValueError(f"`jac` is {jac!r}, but {Status.WRONG_JAC.sentence}: {Status.WRONG_JAC.advice}.")
    return check_as(throw, solution)


def _numbers(y0, t_span, tableau, t_eval, rtol, atol, dt0, max_steps, controller):
    """The numbers of a solve, checked and completed."""
    t_span = spans.span(t_span)
    return (
        t_span,
        spans.output_times(t_eval, t_span),
        arguments.tolerances(rtol, atol, y0),
        arguments.first_step(dt0),
        arguments.step_limit(max_steps),
        arguments.find_controller(controller, tableau),
    )


def check_numbers(y0, t_span, options):
    """Raises what `solve` would, of the numbers among its options: within `jit` they are not known."""
    defaults = {name: p.default for name, p in inspect.signature(solve).parameters.items()}
    given = defaults | options
    names = ("t_eval", "rtol", "atol", "dt0", "max_steps", "controller")
    _numbers(y0, t_span, arguments.find_method(given["method"]), *(given[name] for name in names))


@partial(jax.jit, static_argnums=(3, 4))
def _solve(functions, y0, numbers, static, options):
    f, args, save_fn, mass = together(functions, static)
    *options, are_traced = options
    t_span, t_eval, (rtol, atol), dt0, max_steps, controller = numbers
    problem = Problem(f, y0, t_span, args, save_fn, mass, options)
    if t_eval is not None:
        problem.add_saved(t_eval.shape[0], t_eval)
    if options[1] is not None:
        problem.add_saved(options[1], None)
    if options[2] is not None:
        problem.add_dense(options[2])
    plan = problem.plan(
        is_adaptive=isinstance(controller, PIDController),
        stops_at_outputs=controller.exact_t_eval,
        has_dt0=dt0 is not None,
        on_progress=options[4],
    )
    dt0 = jnp.zeros_like(t_span[0]) if dt0 is None else dt0
    rtol, atol = problem.form.spread(rtol), problem.form.spread(atol)
    integrate = run if mass is None else dae.run
    begin = problem.status()
    if are_traced:
        begin = jnp.where(arguments.are_good(numbers[2:]), begin, Status.BAD_NUMBERS).astype(begin.dtype)
    numbers = Numbers(rtol, atol, dt0, begin, max_steps, controller)
    solved = integrate(plan, problem.inputs(), numbers)
    return problem.solution(solved, t_eval)
