"""The same problems in diffrax, called as `odejax.solve` is."""

import diffrax
import jax
import jax.numpy as jnp

MAX_STEPS = 4096  # diffrax's default; its reverse mode pays for more


def solve(f, y0, t_span, args=(), *, t_eval=None, method=None, rtol, atol, adjoint=None, max_steps=MAX_STEPS):
    """`diffrax.diffeqsolve` with its defaults: initial step, controller, adjoint."""
    options = {} if adjoint is None else {"adjoint": adjoint}
    t0, t1 = t_span
    saveat = diffrax.SaveAt(t1=True) if t_eval is None else diffrax.SaveAt(ts=jnp.asarray(t_eval))
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: f(t, y, *args)),
        diffrax.Tsit5() if method is None else method,
        t0,
        t1,
        None,
        y0,
        args,
        saveat=saveat,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        **options,
    )


def end(solution):
    """The state at t1."""
    return jax.tree.map(lambda y: y[-1], solution.ys)
