"""1,000 steps of RK4 on Lorenz: `ConstantStep` beside a hand-written `lax.scan`."""

import jax
import jax.numpy as jnp
from common import compare, header, print_rows, relative_error
from jax import lax
from outputs import lorenz

import odejax

N_STEPS = 1000
T1 = 10.0
H = T1 / N_STEPS
TARGET = 1.1  # "what a hand-written scan costs", with room for noise


def ours(y0, args):
    controller = odejax.ConstantStep(H)
    return odejax.solve(lorenz, y0, (0.0, T1), args, method="rk4", controller=controller).y1


def by_hand(y0, args):
    def step(y, n):
        t = n * H
        k1 = lorenz(t, y, *args)
        k2 = lorenz(t + H / 2, y + H / 2 * k1, *args)
        k3 = lorenz(t + H / 2, y + H / 2 * k2, *args)
        k4 = lorenz(t + H, y + H * k3, *args)
        return y + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return lax.scan(step, y0, jnp.arange(N_STEPS))[0]


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__)
    one = jnp.asarray([1.0, 1.0, 20.0])
    many = one + jnp.linspace(0.0, 1.0, 256)[:, None]
    args = 10.0, 28.0, 8 / 3
    rows = []
    for name, y0, wrap in (("1 lane", one, lambda f: f), ("256 lanes", many, _in_lanes)):
        pairs = [wrap(f) for f in (ours, by_hand)]
        target = TARGET if y0 is one else None
        rows.append(compare(f"{name}, forward", pairs, (y0, args), target))
        gradients = [jax.grad(_loss(f), (0, 1)) for f in pairs]
        rows.append(compare(f"{name}, grad", gradients, (y0, args), target))
    print_rows(rows, ("odejax", "lax.scan"))
    print(f"\nsame numbers: {relative_error(ours(one, args), by_hand(one, args)):.0e} (relative; chaotic)")


def _in_lanes(f):
    return jax.vmap(f, in_axes=(0, None))


def _loss(f):
    return lambda y0, args: jnp.mean(f(y0, args) ** 2)


if __name__ == "__main__":
    main()
