"""The naive twin of a solve: the same steps by plain formulas, whose derivatives are JAX's own.

It shares no code with odejax but the coefficients. Equations of implicit stages are solved by Newton's
method with a new Jacobian for every iteration, differentiated as it is.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax import METHODS, DIRKTableau, ExplicitTableau, RosenbrockTableau, Switching, solve
from problems import flat

ITERATIONS = 12  # of Newton's method, from a guess as good as the last stage


def recorded_steps(f, y0, t_span, args=(), capacity=64, **options):
    """Elapsed times |t - t0| at the ends of the accepted steps, the start first; the last one repeats."""
    sol = solve(f, y0, t_span, args, save_steps=capacity, **options)
    n = int(sol.stats.num_saved)
    assert n == int(sol.stats.num_accepted) < capacity
    s = np.abs(np.asarray(sol.ts) - float(t_span[0]))
    s[n - 1 :] = abs(t_span[1] - t_span[0])
    return np.concatenate([[0.0], s])


def naive_twin(f, y0, t_span, args, s, method="tsit5", t_eval=None, save_fn=None):
    """Steps from one of the times `s` to the next: (y1, outputs at t_eval).

    Sizes are constants, but that of the step which ends on t1. "auto" is its explicit method.
    """
    method, (t0, t1), s = METHODS[method], t_span, lax.stop_gradient(s)
    method = method.explicit if isinstance(method, Switching) else method
    sign = jnp.where(t1 >= t0, 1.0, -1.0)
    is_taken = (s[1:] > s[:-1]) | (jnp.arange(len(s) - 1) == 0)
    is_last = is_taken & (s[1:] == s[-1])
    ts = t0 + sign * s[:-1]
    hs = jnp.where(is_last, t1 - ts, sign * (s[1:] - s[:-1]))

    def step(y, row):
        t, h = row
        y1, terms = STEPS[type(method)](method, partial(slope, f, args, t, h), y)
        return y1, (y, y1, terms)

    y1, (ys, ends, terms) = lax.scan(step, jax.tree.map(jnp.asarray, y0), (ts, hs))
    if t_eval is None:
        return y1, None

    def at(time):
        elapsed = lax.stop_gradient(jnp.abs(time - t0))
        i = jnp.maximum(jnp.searchsorted(s, elapsed, side="left") - 1, 0)
        x = (time - ts[i]) / hs[i]
        weights = [sum(p * x ** (j + 1) for j, p in enumerate(row)) for row in method.P]
        y, end, of_step = jax.tree.map(lambda x: x[i], (ys, ends, terms))
        if isinstance(method, ExplicitTableau):
            of_step = all_stages(method, partial(slope, f, args, ts[i], hs[i]), y, end, of_step)
        return plus(y, weights, of_step)

    outputs = jax.vmap(at)(t_eval)
    if save_fn is not None:
        outputs = jax.vmap(lambda t, y: save_fn(t, y, *args))(t_eval, outputs)
    return y1, outputs


def slope(f, args, t, h, c, y):
    """h f(t + c h, y)."""
    return jax.tree.map(lambda k: h * k, f(t + c * h, y, *args))


def plus(y, weights, terms):
    """y + sum_i weights[i] terms[i]."""
    for w, term in zip(weights, terms, strict=True):
        y = jax.tree.map(lambda y, x, w=w: y + w * x, y, term)
    return y


# -- a step of each kind of method: (y1, the terms that dense output weighs)


def explicit_step(method, slope, y):
    terms = []
    for c, weights in zip(method.C, method.A, strict=True):
        terms.append(slope(c, plus(y, weights, terms)))
    return plus(y, method.B, terms), terms


def all_stages(method, slope, y, y1, terms):
    """Those besides that only dense output needs."""
    terms = [*terms, slope(1.0, y1)]
    for c, weights in zip(method.extra_C, method.extra_A, strict=True):
        terms.append(slope(c, plus(y, weights, terms)))
    return terms


def rosenbrock_step(method, slope, y):
    """(I / gamma - h J) U_i = h f(t + alpha_i h, y + sum_j a_ij U_j) + gamma_i h T + sum_j c_ij U_j."""
    v, of_vector = as_vector(y)
    slope = on_vectors(slope, of_vector)
    matrix = jnp.eye(len(v)) / method.GAMMA - jax.jacfwd(lambda v: slope(0.0, v))(v)
    change = jax.jvp(lambda c: slope(c, v), (0.0,), (1.0,))[1]  # h T
    terms = []
    for alpha, gamma, a, c in zip(method.C, method.G, method.A, method.K, strict=True):
        right = plus(slope(alpha, plus(v, a, terms)), c, terms) + gamma * change
        terms.append(jnp.linalg.solve(matrix, right))
    return of_vector(plus(v, method.B, terms)), [of_vector(u) for u in terms]


def dirk_step(method, slope, y):
    """Y_i = y + sum_{j<i} a_ij h k_j + gamma h k_i at each implicit stage."""
    v, of_vector = as_vector(y)
    slope, terms = on_vectors(slope, of_vector), []
    last = v
    for c, a, is_implicit in zip(method.C, method.A, method.IMPLICIT, strict=True):
        base = plus(v, a, terms)
        if is_implicit:
            last = newton(lambda x: x - base - method.GAMMA * slope(c, x), last)
            terms.append((last - base) / method.GAMMA)
        else:
            terms.append(slope(c, base))
    y1 = plus(v, method.B, terms)
    return of_vector(y1), [of_vector(k) for k in terms]


STEPS = {ExplicitTableau: explicit_step, RosenbrockTableau: rosenbrock_step, DIRKTableau: dirk_step}


def newton(residual, guess):
    """The zero of `residual`."""

    def iterate(x, _):
        return x - jnp.linalg.solve(jax.jacfwd(residual)(x), residual(x)), None

    return lax.scan(iterate, guess, None, length=ITERATIONS)[0]


def as_vector(y):
    """A state as one real vector, and the way back."""
    leaves, tree = jax.tree.flatten(y)
    is_complex = [jnp.iscomplexobj(x) for x in leaves]
    sizes = [x.size * (1 + c) for x, c in zip(leaves, is_complex, strict=True)]

    def back(v):
        out = []
        for x, c, part in zip(leaves, is_complex, jnp.split(v, np.cumsum(sizes)[:-1]), strict=True):
            part = lax.complex(*jnp.split(part, 2)) if c else part
            out.append(part.reshape(x.shape).astype(x.dtype))
        return jax.tree.unflatten(tree, out)

    return flat(y), back


def on_vectors(slope, of_vector):
    return lambda c, v: flat(slope(c, of_vector(v)))
