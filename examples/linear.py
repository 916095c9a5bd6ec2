"""The conductivities of a wall of eight layers, from thermometers inside it.

    T_i' = k_(i+1/2) (T_(i+1) - T_i) - k_(i-1/2) (T_i - T_(i-1)) + b_i

A linear problem of 80 cells, heated from the left, with the right side kept at 0. The matrix is never
formed: A is a function that closes over the conductivities. Jacobians for Gauss-Newton, by `jax.jacfwd`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

import odejax

jax.config.update("jax_enable_x64", True)

N_LAYERS, N_CELLS, N_STEPS = 8, 80, 6
TIMES = jnp.linspace(50.0, 1000.0, 20)  # in hours
SENSORS = jnp.arange(5, N_CELLS, 10)  # in the middle of each layer
TRUTH = jnp.array([4.0, 1.0, 2.0, 8.0, 0.5, 3.0, 1.5, 6.0])  # in (cell width)^2 per hour
HEATING = jnp.zeros(N_CELLS).at[0].set(0.1)  # in degrees per hour
NOISE = 0.01  # in degrees


def temperatures(log_k):
    """At all times, in all cells."""
    k = jnp.repeat(jnp.exp(log_k), N_CELLS // N_LAYERS)
    between = 2 * k[1:] * k[:-1] / (k[1:] + k[:-1])

    def conduct(T):
        flow = between * jnp.diff(T)
        return jnp.append(flow, -k[-1] * T[-1]) - jnp.append(0.0, flow)

    cold = jnp.zeros(N_CELLS)
    return odejax.solve_linear(conduct, cold, (0.0, TIMES[-1]), t_eval=TIMES, b=HEATING).ys


@jax.jit
def gauss_newton(log_k, data):
    """(the next log k, the root mean square residual of this one, the covariance of the next)."""

    def residuals(log_k):
        return (temperatures(log_k)[:, SENSORS] - data).ravel() / NOISE

    r, jacobian = residuals(log_k), jax.jacfwd(residuals)(log_k)
    step, *_ = jnp.linalg.lstsq(jacobian, -r)
    step = step * jnp.minimum(1.0, 1.0 / jnp.abs(step).max())
    return log_k + step, jnp.sqrt(jnp.mean(r**2)), jnp.linalg.inv(jacobian.T @ jacobian)


def main():
    exact = jax.jit(temperatures)(jnp.log(TRUTH))
    data = exact[:, SENSORS] + NOISE * jr.normal(jr.key(0), (len(TIMES), N_LAYERS))
    log_k = jnp.log(jnp.full(N_LAYERS, 2.0))
    for i in range(N_STEPS):
        log_k, residual, covariance = gauss_newton(log_k, data)
        print(f"step {i}: residual {residual:8.2f} standard deviations")

    deviation = jnp.sqrt(jnp.diag(covariance))
    print("\nlayer  truth  estimate  95 % interval")
    for i, (truth, log_value, d) in enumerate(zip(TRUTH, log_k, deviation, strict=True)):
        low, value, high = jnp.exp(log_value + 1.96 * d * jnp.array([-1, 0, 1]))
        print(f"{i:5d}  {truth:5.2f}  {value:8.3f}  {low:6.3f} .. {high:.3f}")
    plot(log_k, deviation, data, exact)


def plot(log_k, deviation, data, exact):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i in (0, 3, 9, 19):
        left.plot(exact[i], color=f"C{i % 4}", label=f"{TIMES[i]:.0f} h")
        left.plot(SENSORS, data[i], ".", color=f"C{i % 4}")
    left.set(xlabel="cell", ylabel="temperature", title="truth and measurements")
    left.legend()
    edges = jnp.arange(N_LAYERS + 1)
    right.stairs(TRUTH, edges, color="0.6", lw=3, label="truth")
    middle, k = edges[:-1] + 0.5, jnp.exp(log_k)
    error = k * (jnp.exp(1.96 * deviation) - 1)
    right.errorbar(middle, k, error, fmt=".", color="C0", capsize=3, label="estimate, 95 %")
    right.set(xlabel="layer", ylabel="$k$", title="conductivities", yscale="log")
    right.legend()
    save(figure, "linear.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
