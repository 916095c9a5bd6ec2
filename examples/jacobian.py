"""Derivatives of order one, two and three of an oscillator, against the closed form.

y'' = -k y with k = 20, 0 <= t <= 2 pi, at tolerances of 1e-12. All derivatives are of the same call
of `odejax.solve`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import odejax

jax.config.update("jax_enable_x64", True)

T1 = 2 * jnp.pi
X = jnp.array([1.0, 1.0, 20.0])  # y(0), y'(0), k


def oscillator(t, y, k):
    position, velocity = y
    return jnp.stack([velocity, -k * position])


def solve(x, t_eval=None):
    return odejax.solve(oscillator, x[:2], (0.0, T1), (x[2],), t_eval=t_eval, rtol=1e-12, atol=1e-12)


def computed(x):
    """(y, y') at the end, as a function of (y(0), y'(0), k)."""
    return solve(x).y1


def exact(x, t=None):
    t = T1 if t is None else t
    y, v, k = x
    w = jnp.sqrt(k)
    sin, cos = jnp.sin(w * t), jnp.cos(w * t)
    return jnp.stack([y * cos + v / w * sin, v * cos - y * w * sin])


DERIVATIVES = {
    "value": lambda f: f,
    "jacfwd": jax.jacfwd,
    "jacrev": jax.jacrev,
    "hessian": jax.hessian,
    "jacrev(jacrev)": lambda f: jax.jacrev(jax.jacrev(f)),
    "jacfwd(jacfwd(jacrev))": lambda f: jax.jacfwd(jax.jacfwd(jax.jacrev(f))),
}


def main():
    print(solve(X))
    print("\nlargest entry, and largest error relative to it:")
    for name, derivative in DERIVATIVES.items():
        ours, theirs = jax.jit(derivative(computed))(X), derivative(exact)(X)
        size = jnp.abs(theirs).max()
        error = jnp.abs(ours - theirs).max() / size
        print(f"  {name:23s} {theirs.shape!s:13s} {size:9.3g}  {error:.1e}")
    plot()


def plot():
    """dy/dk and two derivatives more along the solution."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times, fine = jnp.linspace(0.0, T1, 50), jnp.linspace(0.0, T1, 500)

    def positions(k):
        return solve(X.at[2].set(k), t_eval=times).ys[:, 0]

    def exact_positions(k):
        return exact(X.at[2].set(k), fine)[0]

    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(7, 8), layout="constrained")
    labels = ["$y$", "$dy/dk$", "$d^2y/dk^2$", "$d^3y/dk^3$"]
    for axis, label in zip(axes, labels, strict=True):
        axis.plot(fine, exact_positions(X[2]), color="0.6", label="closed form")
        axis.plot(times, positions(X[2]), ".", color="C0", label="odejax")
        axis.set_ylabel(label)
        positions, exact_positions = jax.jacfwd(positions), jax.jacfwd(exact_positions)
    axes[0].legend(loc="upper right", ncols=2)
    axes[0].set_title("$y'' = -k\\,y$ and its derivatives by the stiffness $k = 20$")
    axes[-1].set_xlabel("$t$")
    save(figure, "jacobian.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nsaved {path}")


if __name__ == "__main__":
    main()
