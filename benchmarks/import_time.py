"""What `import odejax` takes beyond JAX and equinox, in new processes, in turns with diffrax."""

import statistics
import subprocess
import sys

from common import header, print_table, verdict

REPEATS = 5
MOST = 0.1  # seconds

PROGRAM = """
import time
import jax, jax.numpy, equinox
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def measure(module: str) -> float:
    """Seconds of one import after JAX's and equinox's own."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    header(__doc__, "diffrax", "equinox")
    modules = "odejax", "diffrax"
    for module in modules:  # compiles to bytecode and warms the disk's cache
        measure(module)
    turns = [[measure(module) for module in modules] for _ in range(REPEATS)]
    ours, theirs = map(statistics.median, zip(*turns, strict=True))
    cells = [f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}", verdict(ours, MOST)]
    print_table(("work", "odejax s", "diffrax s", "ratio", "target of odejax s"), [["import", *cells]])


if __name__ == "__main__":
    main()
