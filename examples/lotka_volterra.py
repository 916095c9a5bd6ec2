"""Parameters of a predator-prey model from noisy data, with their uncertainty from the Hessian."""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import odejax

jax.config.update("jax_enable_x64", True)

NAMES = ["births of prey", "hunting", "deaths of predators", "growth of predators"]
NAMES += ["prey at t = 0", "predators at t = 0"]
TRUTH = jnp.array([1.1, 0.4, 0.4, 0.1, 10.0, 5.0])
GUESS = jnp.array([0.9, 0.3, 0.5, 0.15, 8.0, 6.0])
TIMES = jnp.linspace(0.0, 15.0, 31)
NOISE = 0.12  # standard deviation of the logarithm of a count


def lotka_volterra(t, y, p):
    prey, predators = y
    births, hunting, deaths, growth = p
    return jnp.stack([prey * (births - hunting * predators), predators * (growth * prey - deaths)])


def populations(x, times=TIMES):
    """Both populations over time; `x` has the logarithms of parameters and of initial values."""
    p, y0 = jnp.split(jnp.exp(x), [4])
    return odejax.solve(lotka_volterra, y0, (0.0, 15.0), (p,), t_eval=times).ys


def negative_log_likelihood(x, data):
    return 0.5 * jnp.sum((jnp.log(populations(x)) - jnp.log(data)) ** 2) / NOISE**2


@jax.jit
def fit(x, data, n_steps=40):
    """The most likely `x`, by L-BFGS."""

    def loss(x):
        return negative_log_likelihood(x, data)

    optimiser = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        x, state = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = optimiser.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(x, updates), state), value

    (x, _), losses = jax.lax.scan(step, (x, optimiser.init(x)), length=n_steps)
    return x, losses


def main():
    noise = NOISE * jr.normal(jr.key(0), (len(TIMES), 2))
    data = populations(jnp.log(TRUTH)) * jnp.exp(noise)
    x, losses = fit(jnp.log(GUESS), data)
    print(f"negative log likelihood: {losses[0]:.1f} -> {losses[-1]:.1f} in {len(losses)} steps")
    gradient = jax.grad(negative_log_likelihood)(x, data)
    print(f"norm of its gradient there: {jnp.linalg.norm(gradient):.1e}")

    covariance = jnp.linalg.inv(jax.hessian(negative_log_likelihood)(x, data))
    deviation = jnp.sqrt(jnp.diag(covariance))
    print(f"\n{'':20s} {'truth':>8s} {'estimate':>9s} {'95 % interval':>19s}")
    for name, truth, log_value, d in zip(NAMES, TRUTH, x, deviation, strict=True):
        low, value, high = jnp.exp(log_value + 1.96 * d * jnp.array([-1, 0, 1]))
        print(f"{name:20s} {truth:8.3f} {value:9.3f}   {low:7.3f} .. {high:6.3f}")
    plot(x, covariance, data)


def plot(x, covariance, data):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fine = jnp.linspace(0.0, 15.0, 300)
    samples = jr.multivariate_normal(jr.key(1), x, covariance, (400,))
    curves = jax.vmap(lambda x: populations(x, fine))(samples)
    low, high = jnp.quantile(curves, jnp.array([0.025, 0.975]), axis=0)
    truth = populations(jnp.log(TRUTH), fine)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(2, 1))
    for i, name in enumerate(["prey", "predators"]):
        left.fill_between(fine, low[:, i], high[:, i], color=f"C{i}", alpha=0.3, lw=0)
        left.plot(fine, truth[:, i], "--", color=f"C{i}", lw=1)
        left.plot(TIMES, data[:, i], ".", color=f"C{i}", label=name)
    left.set(xlabel="$t$", ylabel="population", title="data, truth (dashed), 95 % band")
    left.legend()
    right.scatter(*jnp.exp(samples[:, jnp.array([2, 3])]).T, s=4, alpha=0.4, label="samples")
    right.plot(*TRUTH[2:4], "k+", ms=12, label="truth")
    right.set(xlabel=NAMES[2], ylabel=NAMES[3], title="uncertainty from the Hessian")
    right.legend()
    save(figure, "lotka_volterra.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nsaved {path}")


if __name__ == "__main__":
    main()
