"""The heat equation on 10^6 points, Bosh3: time beside diffrax's, and beside what memory allows."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import peers
from common import Row, alternate, header, print_rows, print_table

import odejax

N = 10**6
T_SPAN = 0.0, 10.0  # with the grid's spacing as unit of length
TOL = 1e-4
TARGET = 0.8

# Passes over one array of the size of the state (each a read or a write) in an accepted step of Bosh3, each
# stage and its slope being one sweep, a stencil read once from cache:
#   Y2 -> k2: y, k1 | k2                       3
#   Y3 -> k3: y, k2 | k3                       3
#   y1: y, k1, k2, k3 | y1                     5
#   k4 = f(y1): y1 | k4                        2
#   error norm: y, y1, k1, k2, k3, k4          6
FORWARD_PASSES = 19
# With a gradient: y is recorded (2); backwards the slopes again, and the adjoint of each stage:
#   k1: y | k1, Y2 -> k2: y, k1 | k2, Y3 -> k3: y, k2 | k3             8
#   Y3_bar: Y3, y1_bar | Y3_bar                                        3
#   Y2_bar: Y2, y1_bar, Y3_bar | Y2_bar                                4
#   Y1_bar: y, y1_bar, Y2_bar | Y1_bar                                 4
#   y_bar: y1_bar, Y1_bar, Y2_bar, Y3_bar | y_bar                      5
GRADIENT_PASSES = FORWARD_PASSES + 26


def heat(t, u, diffusivity):
    return diffusivity * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1))


def ours(u0, diffusivity):
    return odejax.solve(heat, u0, T_SPAN, (diffusivity,), method="bosh3", rtol=TOL, atol=TOL)


def theirs(u0, diffusivity):
    return peers.solve(heat, u0, T_SPAN, (diffusivity,), method=diffrax.Bosh3(), rtol=TOL, atol=TOL)


def our_end(u0, diffusivity):
    return ours(u0, diffusivity).y1


def their_end(u0, diffusivity):
    return peers.end(theirs(u0, diffusivity))


def gradient(end):
    return jax.grad(lambda u0, diffusivity: jnp.mean(end(u0, diffusivity) ** 2), (0, 1))


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    u0 = jnp.asarray(np.random.default_rng(0).normal(size=N))
    args = u0, jnp.float64(1.0)
    steps = int(ours(*args).stats.num_steps), int(theirs(*args).stats["num_steps"])
    copy = alternate(jax.jit(lambda u: u + 1), args=(u0,))[0]
    bandwidth = 2 * u0.nbytes / copy.run
    rows, shares = [], []
    for name, wrap, passes in (
        ("forward", lambda f: f, FORWARD_PASSES),
        ("grad", gradient, GRADIENT_PASSES),
    ):
        pair = alternate(*(jax.jit(wrap(f)) for f in (our_end, their_end)), args=args)
        rows.append(Row(name, pair[0], pair[1], TARGET))
        reached = [n * passes * u0.nbytes / timing.run for n, timing in zip(steps, pair, strict=True)]
        cells = [f"{x / 1e9:.1f} GB/s, {x / bandwidth:.0%}" for x in reached]
        shares.append([name, str(passes), f"{bandwidth / 1e9:.1f} GB/s", *cells])
    print_rows(rows)
    print(f"\nattempted steps: odejax {steps[0]}, diffrax {steps[1]}")
    print("bytes that the method must move a second, and their share of the bandwidth of a copy (u + 1)")
    print_table(("work", "passes a step", "copy", "odejax", "diffrax"), shares)


if __name__ == "__main__":
    main()
