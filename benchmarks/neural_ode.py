"""A neural ODE, 4-64-64-4 tanh, float32: 256 lanes by `vmap` with shared weights, 11 saves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import peers
from common import compare, header, print_rows, relative_error

import odejax

N_LANES, N_STATES, WIDTH = 256, 4, 64
T_SPAN = 0.0, 1.0
N_SAVES = 11
RTOL, ATOL = 1e-4, 1e-6


def field(t, y, net):
    return net(y)


def loss_of(solve):
    def loss(net, y0):
        def one(y0):
            t_eval = jnp.linspace(*T_SPAN, N_SAVES)
            return solve(field, y0, T_SPAN, (net,), t_eval=t_eval, rtol=RTOL, atol=ATOL).ys

        return jnp.mean(jax.vmap(one)(y0) ** 2)

    return loss


def problem():
    """The network's arrays, the network from them, and the initial states."""
    key, key_y0 = jax.random.split(jax.random.key(0))
    net = eqx.nn.MLP(N_STATES, N_STATES, WIDTH, depth=2, activation=jnp.tanh, key=key)
    weights, static = eqx.partition(net, eqx.is_array)
    y0 = jax.random.normal(key_y0, (N_LANES, N_STATES))
    return weights, static, y0


def main():
    header(__doc__, "diffrax", "equinox")
    weights, static, y0 = problem()

    def of_weights(solve):
        loss = loss_of(solve)
        return lambda weights, y0: loss(eqx.combine(weights, static), y0)

    losses = [of_weights(solve) for solve in (odejax.solve, peers.solve)]
    gradients = [jax.grad(loss) for loss in losses]
    args = weights, y0
    rows = [
        compare("forward", losses, args),
        compare("grad", gradients, args, target=0.4),
    ]
    print_rows(rows)
    ours, theirs = (jax.jit(gradient)(*args) for gradient in gradients)
    print(f"\ngradient, odejax against diffrax: {relative_error(ours, theirs):.0e} (relative)")
    print_steps(eqx.combine(weights, static), y0)


def print_steps(net, y0):
    """Steps of each lane."""

    def count(solve, y0):
        return solve(field, y0, T_SPAN, (net,), rtol=RTOL, atol=ATOL).stats

    ours = jax.vmap(lambda y0: count(odejax.solve, y0))(y0).num_steps
    theirs = jax.vmap(lambda y0: count(peers.solve, y0))(y0)["num_steps"]
    print(
        f"attempted steps of a lane, mean and most: odejax {ours.mean():.1f}, {ours.max()}; "
        f"diffrax {theirs.mean():.1f}, {theirs.max()}"
    )


if __name__ == "__main__":
    main()
