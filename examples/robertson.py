"""Robertson's reactions over eleven decades of time, and how each concentration depends on each rate.

    A -> B          k1 = 0.04
    B + B -> B + C  k2 = 3e7
    B + C -> A + C  k3 = 1e4

One component changes in 1e-5, another in 1e4: an explicit method would need some 1e8 steps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import odejax

jax.config.update("jax_enable_x64", True)

Y0 = jnp.array([1.0, 0.0, 0.0])
RATES = jnp.array([0.04, 3e7, 1e4])
TIMES = jnp.logspace(-5, 6, 100)


def reactions(t, y, k):
    a, b, c = y
    first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
    return jnp.stack([third - first, first - second - third, second])


def concentrations(log_rates, method="rodas5p"):
    """A, B and C at all times."""
    return odejax.solve(
        reactions,
        Y0,
        (0.0, TIMES[-1]),
        (jnp.exp(log_rates),),
        t_eval=TIMES,
        method=method,
        rtol=1e-8,
        atol=1e-12,
    )


def main():
    log_rates = jnp.log(RATES)
    for method in ("rodas5p", "kvaerno5", "auto"):
        sol = concentrations(log_rates, method)
        print(f'method="{method}"')
        print(sol)
        print(f"  mass that is lost: {jnp.abs(sol.y1.sum() - 1):.1e}\n")

    sensitivities = jax.jit(jax.jacrev(lambda x: concentrations(x).ys))(log_rates)
    print("dy / d ln k at the end")
    for name, row in zip("ABC", sensitivities[-1], strict=True):
        print(f"  {name}: " + "  ".join(f"k{i + 1} {value:+.3e}" for i, value in enumerate(row)))
    h = 1e-4
    ahead, behind = (concentrations(log_rates.at[2].add(s * h)).y1 for s in (1, -1))
    difference = jnp.abs((ahead - behind) / (2 * h) - sensitivities[-1, :, 2]).max()
    print(f"largest distance of the last column from finite differences: {difference:.1e}")
    plot(concentrations(log_rates).ys, sensitivities)


def plot(ys, sensitivities):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    scale = jnp.array([1.0, 1e4, 1.0])
    for i, name in enumerate(("A", "$10^4$ B", "C")):
        axes[0].semilogx(TIMES, scale[i] * ys[:, i], label=name)
        axes[1].semilogx(TIMES, scale[i] * sensitivities[:, i, 2], label=name)
    axes[0].set(ylabel="concentration", title="Robertson's reactions")
    axes[0].legend()
    axes[1].set(xlabel="$t$", ylabel=r"$d y / d \ln k_3$")
    save(figure, "robertson.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
