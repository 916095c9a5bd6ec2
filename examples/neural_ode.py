"""A neural ODE learns the motion along spirals from minibatches of short trajectories."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import odejax

TIMES = jnp.linspace(0.0, 1.0, 16)
N_TRAJECTORIES, BATCH_SIZE, N_STEPS = 256, 32, 2000


def spiral(t, y):
    """Cubic spirals: slow inside, fast outside."""
    return jnp.array([[-0.1, 2.0], [-2.0, -0.1]]) @ y**3


class Field(eqx.Module):
    """y' = MLP(y)."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(2, 2, width_size=64, depth=2, activation=jnp.tanh, key=key)

    def __call__(self, t, y):
        return self.mlp(y)


def trajectories(field, starts, times=TIMES):
    """One solve for each start, all with the same weights."""

    def one(y0):
        return odejax.solve(field, y0, (times[0], times[-1]), t_eval=times).ys

    return jax.vmap(one)(starts)


def loss(field, batch):
    return jnp.mean((trajectories(field, batch[:, 0]) - batch) ** 2)


def train(field, data, key):
    """Adam with a falling learning rate; all steps in one `lax.scan`."""
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, N_STEPS))
    weights, static = eqx.partition(field, eqx.is_inexact_array)

    @jax.jit
    def run(weights, key):
        def step(carry, key):
            weights, state = carry
            batch = jr.choice(key, data, (BATCH_SIZE,), replace=False)
            value, grad = jax.value_and_grad(lambda w: loss(eqx.combine(w, static), batch))(weights)
            updates, state = optimiser.update(grad, state)
            return (optax.apply_updates(weights, updates), state), value

        (weights, _), losses = jax.lax.scan(step, (weights, optimiser.init(weights)), jr.split(key, N_STEPS))
        return weights, losses

    weights, losses = run(weights, key)
    return eqx.combine(weights, static), losses


def starting_points(key, n):
    """Points in the ring 0.5 < |y| < 1.5."""
    key_r, key_phi = jr.split(key)
    r = jr.uniform(key_r, (n, 1), minval=0.5, maxval=1.5)
    phi = jr.uniform(key_phi, (n, 1), maxval=2 * jnp.pi)
    return r * jnp.concatenate([jnp.cos(phi), jnp.sin(phi)], axis=1)


def main():
    key_data, key_model, key_train, key_test = jr.split(jr.key(0), 4)
    data = trajectories(spiral, starting_points(key_data, N_TRAJECTORIES))
    field, losses = train(Field(key_model), data, key_train)
    print(f"{N_STEPS} minibatches of {BATCH_SIZE} trajectories, {len(TIMES)} times each")
    for i in (0, 100, 500, N_STEPS - 1):
        print(f"  step {i:4d}: mean square error {losses[i]:.2e}")

    starts = starting_points(key_test, 64)
    error = trajectories(field, starts) - trajectories(spiral, starts)
    print(f"64 new trajectories: root mean square error {jnp.sqrt(jnp.mean(error**2)):.1e}")
    plot(field, starts[:5])


def plot(field, starts):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fine = jnp.linspace(0.0, 8.0, 400)  # in training they end at 1
    axis_points = jnp.linspace(-1.6, 1.6, 24)
    grid = jnp.stack(jnp.meshgrid(axis_points, axis_points), axis=-1)
    arrows = jax.vmap(jax.vmap(lambda y: field(0.0, y)))(grid)
    arrows = arrows / (0.3 + jnp.linalg.norm(arrows, axis=-1, keepdims=True))

    figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
    axis.quiver(*jnp.moveaxis(grid, -1, 0), *jnp.moveaxis(arrows, -1, 0), color="0.75", width=2e-3)
    pairs = zip(trajectories(spiral, starts, fine), trajectories(field, starts, fine), strict=True)
    for i, (truth, learned) in enumerate(pairs):
        axis.plot(*truth.T, color="0.4", lw=3, alpha=0.5, label="truth" if i == 0 else None)
        axis.plot(*learned.T, color=f"C{i}", lw=1.2, label="learned" if i == 0 else None)
        axis.plot(*starts[i], "o", color=f"C{i}")
    axis.set(xlabel="$y_1$", ylabel="$y_2$", aspect="equal")
    axis.set_title("spirals that the network has not seen, 8 times as long")
    axis.legend(loc="upper right")
    save(figure, "neural_ode.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
