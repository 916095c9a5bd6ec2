"""The Jacobian of the oscillator's end by y0: DESolver's RK45CK on PyTorch, and `jax.jacrev` of Cash-Karp.

DESolver runs in the Python given as argument (default: this one), which needs `desolver` 5 and PyTorch's CPU
build: `python benchmarks/desolver_jacobian.py [python3.11]`.
"""

import json
import pathlib
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from common import alternate, header, milliseconds, print_table, relative_error
from oscillator import T_SPAN, closed_form, oscillator

import odejax

K = 20.0
TOL = 1e-12
REPEATS = 3
LEAST = 200  # times as fast
PEER = pathlib.Path(__file__).with_name("desolver_peer.py")


def theirs(python):
    """One measurement in a process of its own."""
    command = [python, str(PEER), str(K), str(TOL)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def ours(y0, k):
    return odejax.solve(oscillator, y0, T_SPAN, (k,), method="cash_karp", rtol=TOL, atol=TOL)


def main(python=sys.executable):
    jax.config.update("jax_enable_x64", True)
    header(__doc__)
    args = jnp.ones(2), jnp.float64(K)
    jacobian = jax.jit(jax.jacrev(lambda y0, k: ours(y0, k).y1))
    timings, peers = [], []
    for _ in range(REPEATS):
        timings += alternate(jacobian, args=args, seconds=0.5)
        peers.append(theirs(python))
    run = statistics.median(timing.run for timing in timings)
    their_run = statistics.median(peer["seconds"] for peer in peers)
    ratio = their_run / run
    target = f">= {LEAST}" + ("" if ratio >= LEAST else "  MISSED")
    cells = [f"{timings[0].first:.2f}", milliseconds(run), milliseconds(their_run), f"{ratio:.0f}", target]
    columns = "work", "odejax first s", "run ms", "desolver run ms", "times as fast", "target"
    print_table(columns, [["jacobian", *cells]])
    print("\ndesolver ran with " + ", ".join(" ".join(item) for item in peers[0]["versions"].items()))
    print(f"steps: odejax {ours(*args).stats.num_accepted}, desolver {peers[0]['steps']}")
    exact = jax.jacobian(closed_form)(*args)
    for name, value in (("odejax", jacobian(*args)), ("desolver", np.array(peers[0]["jacobian"]))):
        print(f"error of the Jacobian: {name} {relative_error(value, exact):.0e} (relative, norm)")


if __name__ == "__main__":
    main(*sys.argv[1:])
