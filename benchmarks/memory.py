"""Gradient through 20,000 RK4 steps of 10^5 numbers, `checkpoints=40`: memory and recomputed steps.

Each measurement is a new process; its peak is Linux's high-water mark, set back after compilation.
`python benchmarks/memory.py [steps]`.
"""

import functools
import json
import math
import subprocess
import sys
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import peers
from common import header, print_table, verdict

import odejax
from odejax.derivative import schedule
from odejax.integrate.plan import capacity

N = 10**5
N_STEPS = 20_000
CHECKPOINTS = 40
H = 0.5
MOST = 150e6  # bytes above the baseline
EXCESS = 1.1  # recomputed steps over the optimum's


def heat(t, u, diffusivity):
    inner = u[2:] - 2 * u[1:-1] + u[:-2]
    return diffusivity * jnp.pad(inner, 1)


def ours(u0, diffusivity, t1):
    return odejax.solve(
        heat, u0, (0.0, t1), (diffusivity,), method="rk4", controller=odejax.ConstantStep(H),
        checkpoints=CHECKPOINTS,
    ).y1  # fmt: skip


def theirs(u0, diffusivity, t1):
    """Heun instead of RK4, which diffrax lacks: half the evaluations of f."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, u, diffusivity: heat(t, u, diffusivity)),
        diffrax.Heun(),
        0.0,
        t1,
        H,
        u0,
        diffusivity,
        max_steps=2 * N_STEPS,
        adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=CHECKPOINTS),
    )
    return peers.end(solution)


def measure(solve, n_steps):
    """In this process: prints (bytes above the baseline, seconds) as JSON."""
    jax.config.update("jax_enable_x64", True)
    u0 = jnp.asarray(np.sin(np.linspace(0, 2 * np.pi, N)))
    gradient = jax.jit(jax.grad(lambda *args: jnp.mean(solve(*args) ** 2), (0, 1)))
    args = u0, jnp.float64(0.5), jnp.float64(n_steps * H)
    compiled = gradient.lower(*args).compile()
    baseline = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the high-water mark back to what is resident
    start = time.perf_counter()
    bars = jax.block_until_ready(compiled(*args))
    seconds = time.perf_counter() - start
    assert all(np.isfinite(bar).all() for bar in bars)
    print(json.dumps([memory("VmHWM") - baseline, seconds]))


def memory(field):
    """One line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        line = next(line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])


def in_new_process(name, n_steps):
    command = [sys.executable, __file__, str(n_steps), name]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def recomputed(n_steps, n_states, n_scratch):
    """Steps advanced again in reverse, in integers: the loop of `odejax.derivative.replay` without states."""
    last_kept = jax.jit(schedule.last_kept, static_argnums=3)
    split = functools.cache(lambda length, free: int(jax.jit(schedule.split)(length, free)))
    stride = schedule.final_stride(jnp.int32(n_steps), n_states)
    steps = jax.jit(jax.vmap(lambda n: last_kept(n, n_steps, stride, n_states)))(jnp.arange(n_steps))
    recorded, kept, total = np.asarray(steps).tolist(), [], 0
    for n in reversed(range(n_steps)):
        at = max(recorded[n], kept[-1] if kept else 0)
        total += n - at
        while at < n and len(kept) < n_scratch:  # without room no more is kept on the way
            at += split(n + 1 - at, n_scratch - len(kept))
            if at < n:
                kept.append(at)
        if kept and kept[-1] == n:
            kept.pop()
    return total


def optimum(n_steps, n_states):
    """The fewest steps recomputed, the number of steps being known from the start (Griewank & Walther 2000).

    r n - binomial(s + r, r - 1) steps are advanced in all, r the least with n <= binomial(s + r, r);
    the first n - 1 of them are the solve itself.
    """
    r = next(r for r in range(n_steps) if math.comb(n_states + r, r) >= n_steps)
    return r * n_steps - math.comb(n_states + r, r - 1) - (n_steps - 1)


def main(n_steps):
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    rows = []
    for name, label in (("ours", "odejax, RK4"), ("theirs", "diffrax, Heun")):
        size, seconds = in_new_process(name, n_steps)
        target = verdict(size / 1e6, MOST / 1e6) if name == "ours" else ""
        rows.append([label, f"{size / 1e6:.0f}", target, f"{seconds:.1f}"])
    print_table(("gradient", "peak MB", "target", "s"), rows)
    room = capacity(8 * N, 1, (CHECKPOINTS, None))
    total = recomputed(n_steps, room.states, room.scratch)
    print(f"\nrecomputed steps: {total}, {total / n_steps:.2f} for each step; "
          f"{room.states} states kept by the solve, {room.scratch} more in reverse")  # fmt: skip
    best, best_of_all = (optimum(n_steps, n) for n in (CHECKPOINTS, room.states + room.scratch))
    note = verdict(total / best, EXCESS)
    print(f"binomial optimum with {CHECKPOINTS} states: {best}, ratio {total / best:.2f} ({note})")
    print(f"... with all of them: {best_of_all}, ratio {total / best_of_all:.2f}")


if __name__ == "__main__":
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else N_STEPS
    if len(sys.argv) > 2:
        measure({"ours": ours, "theirs": theirs}[sys.argv[2]], n_steps)
    else:
        main(n_steps)
