"""A reaction-diffusion line of 1,000 points, by the band of its Jacobian, and the gradient of a distance.

    u_t = 1 + u^2 v - 4 u + a(x) u_xx
    v_t = 3 u - u^2 v + a(x) v_xx,    0 < x < 1,  u = 1 and v = 3 at both ends

the Brusselator of Hairer and Wanner. With u and v by turns in the state, an entry of f depends on two
neighbours on each side: 5 derivatives make the Jacobian, 10,000 entries of 4,000,000. The gradient is that of
the distance of the final state from a wanted one, by the diffusion a(x) at each point.
"""

from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp

import odejax

jax.config.update("jax_enable_x64", True)

N = 1000
X = jnp.linspace(0.0, 1.0, N + 2)[1:-1]
Y0 = jnp.stack([1 + jnp.sin(2 * jnp.pi * X), jnp.full(N, 3.0)], axis=1).ravel()
TIMES = jnp.linspace(0.0, 10.0, 200)


def brusselator(t, y, diffusion):
    u, v = y.reshape(N, 2).T
    reaction = u * u * v
    slopes = [
        1 + reaction - 4 * u + diffusion * second_derivative(u, 1.0),
        3 * u - reaction + diffusion * second_derivative(v, 3.0),
    ]
    return jnp.stack(slopes, axis=1).ravel()


def second_derivative(u, end):
    wide = jnp.pad(u, 1, constant_values=end)
    return (wide[2:] - 2 * u + wide[:-2]) * (N + 1) ** 2


def solve(diffusion):
    options = {"method": "rodas5p", "jac": odejax.Banded(2, 2), "t_eval": TIMES}
    return odejax.solve(brusselator, Y0, (TIMES[0], TIMES[-1]), (diffusion,), **options)


def distance(diffusion, wanted):
    """Of the final u from what is wanted: the mean square."""
    return jnp.mean((solve(diffusion).y1[::2] - wanted) ** 2)


def timed(fn, *args):
    """The result and the seconds of a second call: the first one compiles."""
    jax.block_until_ready(fn(*args))
    start = perf_counter()
    result = jax.block_until_ready(fn(*args))
    return result, perf_counter() - start


def main():
    true = 0.02 * (1 + 0.5 * jnp.sin(3 * jnp.pi * X))
    sol, seconds = timed(solve, true)
    print(f"{sol.stats.num_steps} steps, {sol.stats.num_jac_evals} Jacobians, {1e3 * seconds:.0f} ms")
    wanted = sol.y1[::2]

    even = jnp.full(N, 0.02)
    gradient, seconds = timed(jax.jit(jax.grad(distance)), even, wanted)
    print(f"gradient by {N} coefficients: {1e3 * seconds:.0f} ms")
    direction, h = jnp.cos(jnp.arange(N) / 50), 1e-6
    ahead, behind = (distance(even + s * h * direction, wanted) for s in (1, -1))
    slope = float(gradient @ direction)
    print(f"along one direction: {slope:.8f}, by finite differences {float((ahead - behind) / (2 * h)):.8f}")
    plot(sol.ys, gradient)


def plot(ys, gradient):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    image = axes[0].pcolormesh(X, TIMES, ys[:, ::2])
    axes[0].set(xlabel="$x$", ylabel="$t$", title="$u$")
    figure.colorbar(image, ax=axes[0])
    axes[1].plot(X, N * gradient)
    axes[1].set(xlabel="$x$", title="derivative of the distance by $a(x)$")
    save(figure, "reaction_diffusion.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
