"""A solve of about 100 steps with room for 10^3 of them and for 10^7: a limit must not be a size."""

import jax
import jax.numpy as jnp
import numpy as np
import peers
from common import Timing, alternate, header, milliseconds, print_table, verdict
from oscillator import oscillator

import odejax

T_SPAN = 0.0, 2 * np.pi
TOL = 2e-6  # about 100 steps
LIMITS = 10**3, 10**7


def ours(limit):
    def end(y0, k):
        return odejax.solve(oscillator, y0, T_SPAN, (k,), rtol=TOL, atol=TOL, max_steps=limit).y1

    return end


def theirs(limit):
    def end(y0, k):
        return peers.end(peers.solve(oscillator, y0, T_SPAN, (k,), rtol=TOL, atol=TOL, max_steps=limit))

    return end


def gradient(end):
    return jax.grad(lambda y0, k: jnp.sum(end(y0, k) ** 2), (0, 1))


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    args = jnp.ones(2), jnp.float64(20.0)
    steps = odejax.solve(oscillator, args[0], T_SPAN, (args[1],), rtol=TOL, atol=TOL).stats.num_steps
    print(f"{steps} attempted steps\n")
    rows = []
    for name, work, target in (("forward", lambda f: f, 1.05), ("grad", gradient, 1.2)):
        few, many = alternate(*(jax.jit(work(ours(n))) for n in LIMITS), args=args)
        rows.append(_row(f"odejax {name}", few, many, verdict(many.run / few.run, target)))
        few, many = alternate(*(jax.jit(work(theirs(n))) for n in LIMITS), args=args)
        rows.append(_row(f"diffrax {name}", few, many, ""))
    print_table(("work", *(f"{n:.0e} ms" for n in LIMITS), "ratio", "target"), rows)


def _row(name: str, few: Timing, many: Timing, target: str) -> list[str]:
    runs = [milliseconds(few.run), milliseconds(many.run), f"{many.run / few.run:.2f}"]
    return [name, *runs, target]


if __name__ == "__main__":
    main()
