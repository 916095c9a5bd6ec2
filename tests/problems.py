"""Problems with known solutions, and solvers that share no code with odejax: scipy, and the naive twin."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import odejax
from odejax import METHODS

ADAPTIVE = [name for name, method in METHODS.items() if method.is_adaptive]


def decay(t, y, rate):
    return -rate * y


def oscillator(t, y, k=20.0):
    return jnp.stack([y[1], -k * y[0]])


def oscillator_exact(t, y0, k=20.0):
    w = jnp.sqrt(k)
    c, s = jnp.cos(w * t), jnp.sin(w * t)
    return jnp.stack([y0[0] * c + y0[1] / w * s, -y0[0] * w * s + y0[1] * c])


def lorenz(t, y, sigma=10.0, rho=28.0, beta=8 / 3):
    a, b, c = y
    return jnp.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c])


def lotka_volterra(t, y, p):
    return {
        "prey": p["birth"] * y["prey"] - p["hunt"] * y["prey"] * y["hunter"],
        "hunter": p["grow"] * y["prey"] * y["hunter"] - p["death"] * y["hunter"],
    }


LOTKA_VOLTERRA_Y0 = {"prey": 10.0, "hunter": 5.0}
LOTKA_VOLTERRA_P = {"birth": 1.1, "hunt": 0.4, "grow": 0.1, "death": 0.4}


def hairer(t, y):
    """Nonlinear, non-autonomous, with a closed form (Hairer, Norsett, Wanner 1993, p. 174 ff)."""
    a, b = y["a"], y["b"]
    return {
        "a": jnp.stack([2 * t * a[1] ** 0.2 * b[1], 10 * t * jnp.exp(5 * (b[0] - 1)) * b[1]]),
        "b": jnp.stack([2 * t * b[1], -2 * t * jnp.log(a[0])]),
    }


def hairer_exact(t):
    t = np.asarray(t)
    s, c = np.sin(t**2), np.cos(t**2)
    return {
        "a": np.stack([np.exp(s), np.exp(5 * s)], axis=-1),
        "b": np.stack([s + 1, c], axis=-1),
    }


def rotation(t, z, omega):
    """Complex, with a closed form: z0 exp(i omega t)."""
    return 1j * omega * z


class Network(eqx.Module):
    """tanh layers."""

    layers: list[tuple[jax.Array, jax.Array]]

    def __call__(self, y):
        for w, b in self.layers[:-1]:
            y = jnp.tanh(w @ y + b)
        w, b = self.layers[-1]
        return w @ y + b


def network(sizes, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(sizes)
    return Network([(jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(n), dtype),
                     jnp.asarray(0.1 * rng.normal(size=m), dtype)) for n, m in pairs])  # fmt: skip


def flat(tree):
    """All real numbers of a pytree as a vector, real and imaginary parts apart."""
    parts = []
    for leaf in map(jnp.asarray, jax.tree.leaves(tree)):
        is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        parts += [leaf.real.ravel(), leaf.imag.ravel()] if is_complex else [leaf.ravel()]
    return jnp.concatenate(parts)


def distance(got, wanted):
    """The largest difference of two pytrees in units of the largest number of each leaf of the second."""
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, (a.shape, b.shape)
        difference = np.abs(a - b).max()
        worst = np.maximum(worst, difference if difference == 0 else difference / np.abs(b).max())
    return worst  # NaN if there is one


def bits(tree):
    """The bytes of all arrays, for comparisons to the last bit that hold NaN equal to itself."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def reference(f, y0, t_span, args=(), t_eval=None, tol=1e-13):
    """scipy's solution for real states of any pytree: leaves (times, ...)."""
    y0 = jax.tree.map(lambda x: np.asarray(x, float), y0)
    y, unravel = ravel_pytree(y0)
    slope = jax.jit(lambda t, y: ravel_pytree(f(t, unravel(y), *args))[0])
    t_eval = np.asarray([t_span[1]]) if t_eval is None else np.asarray(t_eval)
    sol = solve_ivp(
        lambda t, y: np.asarray(slope(t, y)), t_span, np.asarray(y), "DOP853", t_eval, rtol=tol, atol=tol
    )
    assert sol.success
    return jax.vmap(unravel)(jnp.asarray(sol.y.T))


# -- the naive twin


def recorded_steps(f, y0, t_span, args=(), capacity=64, **options):
    """Elapsed times |t - t0| at the ends of the accepted steps, the start first; the last one repeats."""
    sol = odejax.solve(f, y0, t_span, args, save_steps=capacity, **options)
    n = int(sol.stats.num_saved)
    assert n == int(sol.stats.num_accepted) < capacity
    s = np.abs(np.asarray(sol.ts) - float(t_span[0]))
    s[n - 1 :] = abs(t_span[1] - t_span[0])
    return np.concatenate([[0.0], s])


def naive_twin(f, y0, t_span, args, s, method="tsit5", t_eval=None, save_fn=None):
    """Plain Runge-Kutta steps from one of the times `s` to the next: (y1, outputs at t_eval).

    Its derivatives are JAX's own. Sizes are constants, but that of the step which ends on t1.
    """
    method, (t0, t1), s = METHODS[method], t_span, lax.stop_gradient(s)
    sign = jnp.where(t1 >= t0, 1.0, -1.0)
    is_taken = (s[1:] > s[:-1]) | (jnp.arange(len(s) - 1) == 0)
    is_last = is_taken & (s[1:] == s[-1])
    ts = t0 + sign * s[:-1]
    hs = jnp.where(is_last, t1 - ts, sign * (s[1:] - s[:-1]))

    def plus(y, h, weights, ks):
        for w, k in zip(weights, ks, strict=True):
            y = jax.tree.map(lambda y, k, w=w: y + h * w * k, y, k)
        return y

    def step(y, row):
        t, h = row
        ks = []
        for c, weights in zip(method.C, method.A, strict=True):
            ks.append(f(t + c * h, plus(y, h, weights, ks), *args))
        y1 = plus(y, h, method.B, ks)
        return y1, (y, ks, y1)

    y1, (ys, ks, ends) = lax.scan(step, jax.tree.map(jnp.asarray, y0), (ts, hs))
    if t_eval is None:
        return y1, None

    def at(time):
        elapsed = lax.stop_gradient(jnp.abs(time - t0))
        i = jnp.maximum(jnp.searchsorted(s, elapsed, side="left") - 1, 0)
        t, h = ts[i], hs[i]
        y, end, k = jax.tree.map(lambda x: x[i], (ys, ends, ks))
        k = [*k, f(t + h, end, *args)]
        for c, weights in zip(method.extra_C, method.extra_A, strict=True):
            k.append(f(t + c * h, plus(y, h, weights, k), *args))
        x = (time - t) / h
        weights = [sum(p * x ** (j + 1) for j, p in enumerate(row)) for row in method.P]
        return plus(y, h, weights, k)

    outputs = jax.vmap(at)(t_eval)
    if save_fn is not None:
        outputs = jax.vmap(lambda t, y: save_fn(t, y, *args))(t_eval, outputs)
    return y1, outputs
