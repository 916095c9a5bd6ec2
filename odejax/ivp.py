"""`solve`: initial value problems, the one door."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from odejax.derivative.program import Output as ProgramOutput
from odejax.derivative.program import Program, Slope
from odejax.integrate import build
from odejax.integrate.loop import Numbers
from odejax.integrate.plan import AtTime, Output, Plan
from odejax.integrate.primitive import solve as solve_plan
from odejax.derivative.replay import Inputs
from odejax.stepping.controller import ConstantStep, PIDController, PIController
from odejax.tableaus import METHODS


def solve(f, y0, t_span, args=(), *, t_eval=None, method="tsit5", rtol=None, atol=None, dt0=None,
          controller=None, max_steps=100_000, save_fn=None, save_steps=None, dense=False, checkpoints=None,
          throw=None):
    method = METHODS[method] if isinstance(method, str) else method
    controller = controller if controller is not None else PIController()
    y0 = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x, jnp.float32 if not jax.config.jax_enable_x64 else jnp.float64) if not jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None), y0)
    real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
    rtol = rtol if rtol is not None else (1e-6 if real == jnp.float64 else 1e-4)
    atol = atol if atol is not None else (1e-9 if real == jnp.float64 else 1e-6)
    dynamic, static = eqx.partition((f, args, save_fn, controller), lambda x: eqx.is_array(x) or isinstance(x, (float, complex, int)))
    dynamic = jax.tree.map(jnp.asarray, dynamic)
    leaves, tree = jax.tree.flatten(static)
    numbers = (t_span, t_eval, rtol, atol, dt0, max_steps)
    return _solve(dynamic, y0, numbers, static=(tuple(leaves), tree), options=(method, save_steps, dense, checkpoints))

@partial(jax.jit, static_argnames=("static", "options"))
def _solve(dynamic, y0, numbers, *, static, options):
    method, save_steps, dense, checkpoints = options
    static = jax.tree.unflatten(static[1], static[0])
    f, args, save_fn, controller = eqx.combine(dynamic, static)
    t_span, t_eval, rtol, atol, dt0, max_steps = numbers
    y_leaves, y_tree = jax.tree.flatten(y0)
    time = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    t0, t1 = (jnp.asarray(t, time) for t in t_span)
    real = jnp.finfo(jnp.result_type(*y_leaves)).dtype
    traced = build.trace(f, t0.astype(real), y0, args)
    theta = list(jax.tree.leaves(args))
    n_args = len(theta)
    fn = build.function(traced, theta, n_args)
    slope = Slope(fn)
    outputs, kinds, queries, shapes = [], [], [], []
    def add(count, timed, save, query, shape):
        outputs.append(Output(count, timed, AtTime(save) if save else None)); kinds.append(ProgramOutput(method, slope, save)); queries.append(query); shapes.append(shape)
    if t_eval is not None:
        t_eval = jnp.asarray(t_eval, time)
        sv = build.trace(save_fn or (lambda t, y, *args: y), t0.astype(real), y0, args)
        save = build.function(sv, theta, n_args)
        add(t_eval.shape[0], True, save, (t_eval,), tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(sv.out)))
    y0_leaves = tuple(y_leaves)
    program = Program(method, slope, tuple(kinds), tuple(shapes))
    plan = Plan(program, AtTime(fn), tuple(outputs), build.capacity(y0_leaves, 1, checkpoints or (None, None)), isinstance(controller, PIDController), False, dt0 is not None)
    def tol(v):
        return tuple(jnp.asarray(v, real) for _ in y_leaves)
    nums = Numbers(tol(rtol), tol(atol), jnp.asarray(0.0 if dt0 is None else dt0, time), jnp.asarray(max_steps, jnp.int32), jax.tree.map(lambda x: jnp.asarray(x, time), controller))
    params = (t0, t1, *theta)
    return solve_plan(plan, Inputs(y0_leaves, params, tuple(queries)), nums)
