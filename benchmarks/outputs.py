"""Lorenz over 0..10 at 1e-8: what 100 output times cost beside none."""

import jax
import jax.numpy as jnp
import peers
from common import Row, alternate, header, milliseconds, print_rows, print_table, verdict

import odejax

T_SPAN = 0.0, 10.0
TOL = 1e-8
N_OUTPUTS = 100
MOST = 1.3  # of the time without outputs


def lorenz(t, y, sigma, rho, beta):
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def forward(solve, t_eval):
    def run(y0, args):
        return solve(lorenz, y0, T_SPAN, args, t_eval=t_eval, rtol=TOL, atol=TOL).ys

    return jax.jit(run)


def gradient(solve, t_eval):
    run = forward(solve, t_eval)
    return jax.jit(jax.grad(lambda y0, args: jnp.mean(run(y0, args) ** 2), (0, 1)))


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    args = jnp.asarray([1.0, 1.0, 20.0]), (10.0, 28.0, 8 / 3)
    t_eval = jnp.linspace(*T_SPAN, N_OUTPUTS)
    rows, shares = [], []
    for name, work in (("forward", forward), ("grad", gradient)):
        fns = [work(solve, t) for t in (None, t_eval) for solve in (odejax.solve, peers.solve)]
        ours, theirs, ours_many, theirs_many = alternate(*fns, args=args)
        rows += [Row(f"{name}, t1 only", ours, theirs)]
        rows += [Row(f"{name}, {N_OUTPUTS} outputs", ours_many, theirs_many)]
        ratio = ours_many.run / ours.run
        cells = [milliseconds(ours.run), milliseconds(ours_many.run), f"{ratio:.2f}"]
        their_ratio = f"{theirs_many.run / theirs.run:.2f}"
        shares.append([name, *cells, verdict(ratio, MOST) if work is forward else "", their_ratio])
    print_rows(rows)
    print(f"\n{N_OUTPUTS} outputs against none")
    print_table(("work", "none ms", f"{N_OUTPUTS} ms", "ratio", "target", "diffrax ratio"), shares)


if __name__ == "__main__":
    main()
