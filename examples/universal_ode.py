"""A universal ODE: diffusion on an unknown network and an unknown reaction, fitted together.

    u_i' = sum_j p_ij (u_j - u_i) + r(u_i),   i = 1 .. 100

The 10,000 rates p_ij are free parameters, r is a small neural network. The data are the states of a
256 experiments at four times. The truth: a ring with shortcuts, and logistic growth.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import odejax

jax.config.update("jax_enable_x64", True)

N_STATES, N_EXPERIMENTS, N_STEPS = 100, 256, 90
TIMES = jnp.linspace(1.0, 4.0, 4)


class Network(eqx.Module):
    """Rates between all states and a reaction in each."""

    rates: jax.Array  # (states, states)
    reaction: eqx.nn.MLP

    def __call__(self, t, u):
        diffusion = self.rates @ u - self.rates.sum(axis=1) * u
        return diffusion + jax.vmap(self.reaction)(u)


def truth(t, u, rates):
    return rates @ u - rates.sum(axis=1) * u + growth(u)


def growth(u):
    return u * (1 - u)


def true_rates(key):
    """Neighbours on a ring, and fifty shortcuts."""
    rates = 0.5 * (jnp.eye(N_STATES, k=1) + jnp.eye(N_STATES, k=-1))
    rates = rates.at[0, -1].set(0.5).at[-1, 0].set(0.5)
    i, j = jr.randint(key, (2, 50), 0, N_STATES)
    return rates.at[i, j].set(0.3).at[jnp.diag_indices(N_STATES)].set(0.0)


def states(f, u0, *args):
    """The states at the four times, for each experiment."""

    def one(u0):
        return odejax.solve(f, u0, (1.0, 4.0), args, t_eval=TIMES, rtol=1e-4, atol=1e-4).ys

    return jax.vmap(one)(u0)


def loss(network, data):
    return jnp.mean((states(network, data[:, 0]) - data) ** 2)


def train(network, data):
    """L-BFGS on all experiments; all steps in one `lax.scan`."""
    weights, static = eqx.partition(network, eqx.is_inexact_array)
    optimiser = optax.lbfgs(memory_size=20)

    def loss_of(weights):
        return loss(eqx.combine(weights, static), data)

    def step(carry, _):
        weights, state = carry
        value, grad = optax.value_and_grad_from_state(loss_of)(weights, state=state)
        updates, state = optimiser.update(grad, state, weights, value=value, grad=grad, value_fn=loss_of)
        return (optax.apply_updates(weights, updates), state), value

    @jax.jit
    def run(weights):
        start = weights, optimiser.init(weights)
        (weights, _), losses = jax.lax.scan(step, start, length=N_STEPS)
        return weights, losses

    weights, losses = run(weights)
    return eqx.combine(weights, static), losses


def main():
    key_rates, key_data, key_test, key_model = jr.split(jr.key(0), 4)
    rates = true_rates(key_rates)
    data = states(truth, jr.uniform(key_data, (N_EXPERIMENTS, N_STATES)), rates)
    mlp = eqx.nn.MLP("scalar", "scalar", width_size=16, depth=1, activation=jnp.tanh, key=key_model)
    network = Network(jnp.full((N_STATES, N_STATES), 0.01), mlp)
    n_parameters = sum(x.size for x in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    print(f"{n_parameters} parameters, {N_EXPERIMENTS} experiments, {len(TIMES)} times")
    network, losses = train(network, data)
    for i in (0, 10, 30, N_STEPS - 1):
        print(f"  step {i:2d}: mean square error {losses[i]:.1e}")

    new = states(truth, jr.uniform(key_test, (8, N_STATES)), rates)
    predicted = states(network, new[:, 0])
    error = jnp.sqrt(jnp.mean((predicted - new) ** 2, axis=(0, 2)))
    for t, e in zip(TIMES[1:], error[1:], strict=True):
        print(f"new experiments, t = {t:.0f}: root mean square error {e:.1e}")
    plot(network, new[0], rates)


def plot(network, data, rates):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fine = jnp.linspace(1.0, 4.0, 100)
    curves = odejax.solve(network, data[0], (1.0, 4.0), t_eval=fine).ys
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for i, node in enumerate(range(0, N_STATES, 12)):
        axes[0].plot(fine, curves[:, node], color=f"C{i}")
        axes[0].plot(TIMES, data[:, node], "o", color=f"C{i}")
    axes[0].set(xlabel="$t$", ylabel="$u_i$", title="a new experiment: truth (dots), model (lines)")
    u = jnp.linspace(0.0, 1.2, 100)
    axes[1].plot(u, growth(u), color="0.6", lw=3, label="truth, $u(1-u)$")
    axes[1].plot(u, jax.vmap(network.reaction)(u), label="network")
    axes[1].set(xlabel="$u$", title="reaction")
    axes[1].legend()
    largest = float(rates.max())
    image = axes[2].imshow(network.rates, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes[2].set(xlabel="$j$", ylabel="$i$", title="learned rates $p_{ij}$")
    figure.colorbar(image, ax=axes[2])
    save(figure, "universal_ode.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
