"""Problems with known solutions, and scipy's."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

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


def robertson(t, y, k=(0.04, 3e7, 1e4)):
    """Three species, rates over nine orders (Robertson 1966)."""
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b * b, k[2] * b * c
    return jnp.stack([back - slow, slow - fast - back, fast])


def van_der_pol(t, y, mu=1000.0):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


HIRES_P = (1.71, 0.43, 8.32, 0.0007, 8.75, 10.03, 0.035, 1.12, 1.745, 280.0, 0.69, 1.81)


def hires(t, y, p=HIRES_P):
    """High irradiance response: eight species (Schaefer 1975)."""
    a, b, c, d, e, g, h, i, j, k, l, m = p
    bound = k * y[5] * y[7]
    return jnp.stack([
        -a * y[0] + b * y[1] + c * y[2] + d,
        a * y[0] - e * y[1],
        -g * y[2] + b * y[3] + h * y[4],
        c * y[1] + a * y[2] - i * y[3],
        -j * y[4] + b * y[5] + b * y[6],
        -bound + l * y[3] + a * y[4] - b * y[5] + l * y[6],
        bound - m * y[6],
        -bound + m * y[6],
    ])  # fmt: skip


# (f, y0, t_span, y1), y1 to all digits printed: Mazzia, Magherini (2008), Test set for IVP solvers, release
# 2.4; that of van der Pol's equation in t / mu, scipy's Radau at 1e-13 gives the same 13 digits.
STIFF = {
    "robertson": (
        robertson, (1.0, 0.0, 0.0), (0.0, 1e11),
        (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
    ),
    "van_der_pol": (
        van_der_pol, (2.0, 0.0), (0.0, 2000.0), (0.1706167732170483e1, -0.8928097010247975e-3),
    ),
    "hires": (
        hires, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), (0.0, 321.8122),
        (0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
         0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
    ),
}  # fmt: skip


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


def assert_close(got, wanted, rtol):
    """Of two pytrees, number by number and beside the largest of a leaf."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


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
