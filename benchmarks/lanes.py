"""What a plain `vmap` of a small ODE costs: Lorenz for many r and y0 over 0..10 at 1e-8 by Tsit5, float64.

Devices: the process has two CPU devices, as `odejax.ensemble` needs, but every other time is that of one, the
first, which runs such a loop on one thread; so do the C and PyTorch. The row of `ensemble` means something
only where two cores are idle: others at work on them take its gain away. With more devices it gains more.

Lanes of very different length: y' = -k y over 0..1, k from 1 to 10^4 in shuffled order; stability sets steps.
It could not be better than that each lane costs its own steps only: (sum of the steps of all lanes) * (time
per step and lane). The latter is that of a `vmap` of as many equal lanes, whose k has the steps closest to
the mean: their time / (lanes * steps). Forward and gradient have equal lanes of their own beside them.

`python benchmarks/lanes.py [--figure PATH]`; the figure has more numbers of lanes and takes longer.
"""

import argparse
import ctypes
import functools
import itertools
import pathlib
import shutil
import statistics
import subprocess
import tempfile

import compile_time
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import peers
from common import (
    Row,
    Timing,
    alternate,
    compare,
    first_call,
    header,
    milliseconds,
    print_rows,
    print_table,
    verdict,
    version,
)

import odejax

DEVICES = 2  # on the CPU
SIGMA, BETA = 10.0, 8 / 3
R = 5.0, 28.0  # from the first lane to the last; a single one has the last
T_SPAN = 0.0, 10.0
TOL = 1e-8
LANES = 1, 16, 256, 4096
LANES_OF_FIGURE = tuple(4**n for n in range(7))
FORWARD_TARGETS = {1: 0.5, 16: 0.2, 256: 0.2, 4096: 0.09}
GRADIENT_TARGETS = {1: 0.35, 16: 0.12, 256: 0.1, 4096: 0.05}
MANY = 4096  # lanes: diffrax's gradient takes long, and is run twice only
N_OUTPUTS, OUTPUTS_TARGET = 100, 1.4
JACOBIAN_LANES, JACOBIAN_TARGET = 16, 0.2
FIRST_CALL_LANES, FIRST_CALL_TARGET = 256, 0.4
PYTORCH_LANES = 256
RATES = 1.0, 1e4
RATE_LANES, RATE_TARGET = 1024, 2.0
ENSEMBLE_TARGET = 0.6
SOURCE = pathlib.Path(__file__).with_suffix(".c")
C_WIDTHS = 1, 8  # lanes side by side
C_DIFFERENCE = 1e-6  # at most: both take the same steps


def lorenz(t, y, r):
    return jnp.stack([SIGMA * (y[1] - y[0]), y[0] * (r - y[2]) - y[1], y[0] * y[1] - BETA * y[2]])


def problem(n):
    """y0 and r of n lanes."""
    noise = np.random.default_rng(0).normal(size=(n, 3))
    return jnp.asarray(1 + 0.1 * noise), jnp.linspace(*R, n) if n > 1 else jnp.array(R[1:])


def ours(y0, r):
    return odejax.solve(lorenz, y0, T_SPAN, (r,), rtol=TOL, atol=TOL).y1


def ours_saved(y0, r):
    t_eval = jnp.linspace(*T_SPAN, N_OUTPUTS)
    return odejax.solve(lorenz, y0, T_SPAN, (r,), t_eval=t_eval, rtol=TOL, atol=TOL).ys


def theirs(y0, r, adjoint=None):
    return peers.end(peers.solve(lorenz, y0, T_SPAN, (r,), rtol=TOL, atol=TOL, adjoint=adjoint))


def theirs_forward_mode(y0, r):
    return theirs(y0, r, diffrax.ForwardMode())


def on_all_devices(y0, r):
    return odejax.ensemble(lorenz, y0, T_SPAN, (r,), in_axes=(0, (0,)), rtol=TOL, atol=TOL).y1


def gradient(fn):
    """Of the sum of what `fn` returns for all lanes, by both of its arguments."""
    return jax.grad(lambda *args: jnp.sum(fn(*args)), (0, 1))


def main(figure=None):
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    lanes = LANES if figure is None else LANES_OF_FIGURE
    forward, backward = plain_vmap(lanes)
    c = beside_c(lanes)
    outputs()
    jacobians()
    different_lengths()
    beside_devices()
    beside_pytorch()
    first_calls()
    if figure is not None:
        save_figure(figure, lanes, forward, backward, c)


def plain_vmap(lanes):
    """The rows of all numbers of lanes: forward, gradient."""
    pair = jax.vmap(ours), jax.vmap(theirs)
    gradients = [gradient(fn) for fn in pair]
    forward = [_row("forward", n, pair, FORWARD_TARGETS) for n in lanes]
    backward = [_row("grad", n, gradients, GRADIENT_TARGETS, n >= MANY) for n in lanes]
    print_rows(forward + backward)
    return forward, backward


def _row(work, n, fns, targets, is_long=False):
    name, target = f"{work}, {n} lane{'s'[: n > 1]}", targets.get(n)
    if not is_long:
        return compare(name, fns, problem(n), target)
    quick, slow = map(jax.jit, fns)
    first, run = (first_call(slow, *problem(n)) for _ in range(2))
    return Row(name, alternate(quick, args=problem(n))[0], Timing(first, run), target)


def outputs():
    """What the outputs cost us."""
    rows = []
    for n, (work, wrap) in itertools.product(LANES, (("forward", lambda f: f), ("grad", gradient))):
        fns = [jax.jit(wrap(jax.vmap(fn))) for fn in (ours, ours_saved)]
        none, many = alternate(*fns, args=problem(n))
        name = f"{work}, {n} lane{'s'[: n > 1]}"
        rows.append([name, *_cells(none.run, many.run, OUTPUTS_TARGET)])
    print(f"\nodejax with {N_OUTPUTS} output times, beside t1 only")
    print_table(("work", "t1 only ms", f"{N_OUTPUTS} ms", "ratio", "target"), rows)


def _cells(least, run, target):
    """The times, how many times the first the second is, and its target."""
    return [milliseconds(least), milliseconds(run), f"{run / least:.2f}", verdict(run / least, target)]


def jacobians():
    """Of y1 by y0, lane by lane."""
    reverse = [jax.vmap(jax.jacrev(fn)) for fn in (ours, theirs)]
    forward = [jax.vmap(jax.jacfwd(fn)) for fn in (ours, theirs_forward_mode)]
    args = problem(JACOBIAN_LANES)
    print(f"\nJacobians by y0, {JACOBIAN_LANES} lanes")
    works = ("jacrev", reverse), ("jacfwd", forward)
    print_rows([compare(name, fns, args, JACOBIAN_TARGET) for name, fns in works])


def decay(t, y, k):
    return -k * y


def different_lengths():
    """The `vmap` of lanes with few and with many steps, beside what their own steps cost in equal lanes."""

    def solve(y0, k):
        return odejax.solve(decay, y0, (0.0, 1.0), (k,), rtol=TOL, atol=TOL)

    end = jax.vmap(lambda y0, k: solve(y0, k).y1)
    k = np.random.default_rng(0).permutation(np.geomspace(*RATES, RATE_LANES))
    y0, k = jnp.ones(RATE_LANES), jnp.asarray(k)
    steps = np.asarray(jax.jit(jax.vmap(lambda y0, k: solve(y0, k).stats.num_steps))(y0, k))
    middle = np.argmin(np.abs(steps - steps.mean()))
    equal = jnp.full(RATE_LANES, k[middle])
    rows = []
    for name, fn in (("forward", end), ("grad", gradient(end))):
        fn = jax.jit(fn)
        different, same = alternate(*(functools.partial(fn, y0, rates) for rates in (k, equal)))
        per_step = same.run / (RATE_LANES * steps[middle])
        least = steps.sum() * per_step
        rows.append([name, f"{1e9 * per_step:.1f}", *_cells(least, different.run, RATE_TARGET)])
    counts = f"{steps.min()} to {steps.max()} steps, mean {steps.mean():.0f}"
    print(f"\n{RATE_LANES} lanes of different length: {counts}")
    columns = "work", "ns a step in equal lanes", "own steps ms", "vmap ms", "ratio", "target"
    print_table(columns, rows)


def beside_devices():
    """`ensemble` on all devices beside the `vmap` on one."""
    n_devices = len(jax.devices())
    print(f"\n{MANY} lanes by odejax.ensemble on {n_devices} devices, beside vmap on one")
    if n_devices == 1:
        print("there is one device only")
        return
    rows = []
    args = problem(MANY)
    for name, wrap in (("forward", lambda f: f), ("grad", gradient)):
        fns = [jax.jit(wrap(fn)) for fn in (jax.vmap(ours), on_all_devices)]
        one, all_of_them = alternate(*fns, args=args)
        rows.append([name, *_cells(one.run, all_of_them.run, ENSEMBLE_TARGET)])
    print_table(("work", "vmap ms", "ensemble ms", "ratio", "target"), rows)


def beside_c(lanes):
    """The forward times of `lanes.c` for each of its widths, or None where it cannot be compiled."""
    print(f"\n{SOURCE.name}, forward, one lane after another and {C_WIDTHS[-1]} side by side")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        print("left out: there is no C compiler")
        return None
    try:
        solvers = [compiled(compiler, width) for width in C_WIDTHS]
    except subprocess.CalledProcessError as error:
        print(f"left out: {compiler} failed with {error.stderr.strip().splitlines()[-1]}")
        return None
    fn = jax.jit(jax.vmap(ours))
    rows, times = [], []
    for n in lanes:
        args = problem(n)
        mine, *in_c = alternate(fn, *solvers, args=args)
        values = [np.asarray(solve(*args)) for solve in (fn, *solvers)]
        difference = max(float(np.abs(value - values[0]).max()) for value in values[1:])
        ratios = [f"{mine.run / timing.run:.2f}" for timing in in_c]
        cells = [milliseconds(timing.run) for timing in (mine, *in_c)]
        rows.append([str(n), *cells, *ratios, f"{difference:.0e}", verdict(difference, C_DIFFERENCE)])
        times.append([timing.run for timing in in_c])
    labels = [f"C x {width}" for width in C_WIDTHS]
    columns = "lanes", "odejax ms", *(f"{c} ms" for c in labels), *(f"odejax / {c}" for c in labels)
    print_table((*columns, "difference", "target"), rows)
    return times


def compiled(compiler, width):
    """solve(y0, r) of `lanes.c` with `width` lanes side by side."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(pathlib.Path(folder) / "lanes.so")
        flags = "-O3", "-march=native", f"-DWIDTH={width}", "-shared", "-fPIC", "-w"
        command = [compiler, *flags, str(SOURCE), "-o", library, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        function = ctypes.CDLL(library).solve
    numbers = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    function.argtypes = ctypes.c_longlong, numbers, numbers, ctypes.c_double, ctypes.c_double, numbers
    function.restype = ctypes.c_longlong

    def solve(y0, r):
        y0, r = np.asarray(y0), np.asarray(r)
        y1 = np.empty_like(y0)
        function(len(r), y0, r, T_SPAN[1] - T_SPAN[0], TOL, y1)
        return y1

    return solve


def beside_pytorch():
    """The forward solve by torchode and torchdiffeq, if this Python has them."""
    print(f"\nPyTorch, forward, {PYTORCH_LANES} lanes")
    args = problem(PYTORCH_LANES)
    fn = jax.jit(jax.vmap(ours))
    rows = []
    for name, make in (("torchode", torchode_solver), ("torchdiffeq", torchdiffeq_solver)):
        try:
            solve = make(*args)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        mine, peer = (timing.run for timing in alternate(fn, solve, args=args))
        difference = np.abs(solve(*args) - fn(*args)).max()
        cells = milliseconds(mine), milliseconds(peer), f"{mine / peer:.3f}", f"{difference:.0e}"
        rows.append([f"{name} {version(name)}", *cells])
    if rows:
        print_table(("peer", "odejax ms", "peer ms", "ratio", "difference"), rows)


def torchode_solver(y0, r):
    """Tsit5 with steps of each lane's own; a loop in Python."""
    import torch  # pyright: ignore[reportMissingImports]  # not in odejax's own environment
    import torchode  # pyright: ignore[reportMissingImports]

    y0, f = _in_pytorch(torch, y0, r)
    term = torchode.ODETerm(f)
    controller = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
    t_eval = torch.tensor(T_SPAN, dtype=y0.dtype).repeat(len(y0), 1)
    value = torchode.InitialValueProblem(y0=y0, t_eval=t_eval)
    return lambda *_: solver.solve(value).ys[:, -1].numpy()


def torchdiffeq_solver(y0, r):
    """Dopri5, as it has no Tsit5; all lanes share each step, whose error is a mean over all of them."""
    import torch  # pyright: ignore[reportMissingImports]
    import torchdiffeq  # pyright: ignore[reportMissingImports]

    y0, f = _in_pytorch(torch, y0, r)
    times = torch.tensor(T_SPAN, dtype=y0.dtype)
    return lambda *_: torchdiffeq.odeint(f, y0, times, rtol=TOL, atol=TOL, method="dopri5")[-1].numpy()


def _in_pytorch(torch, y0, r):
    """The initial states, and f of all lanes."""
    torch.set_num_threads(1)  # more are slower on so few numbers
    y0, r = (torch.tensor(np.asarray(x)) for x in (y0, r))

    def f(t, y):
        a, b, c = y.unbind(1)
        return torch.stack([SIGMA * (b - a), a * (r - c) - b, a * b - BETA * c], 1)

    return y0, f


def first_calls():
    """Of gradients that nothing has seen before; the last table, as caches are cleared."""

    def make(solve):
        def f(t, y, r):
            return lorenz(t, y, r)

        def one(y0, r):
            return solve(f, y0, T_SPAN, (r,), rtol=TOL, atol=TOL).ys[-1]

        return gradient(jax.vmap(one)), problem(FIRST_CALL_LANES)

    solvers = odejax.solve, peers.solve
    turns = [[compile_time.measure(make, solve) for solve in solvers] for _ in range(compile_time.REPEATS)]
    mine, peer = map(statistics.median, zip(*turns, strict=True))
    target = verdict(mine / peer, FIRST_CALL_TARGET)
    cells = [f"{mine:.2f}", f"{peer:.2f}", f"{mine / peer:.2f}", target]
    print()
    columns = "first call", "odejax s", "diffrax s", "ratio", "target"
    print_table(columns, [[f"grad, {FIRST_CALL_LANES} lanes", *cells]])


def save_figure(path, lanes, forward, backward, c):
    """Time against lanes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    plt.switch_backend("agg")
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, layout="constrained")
    for axis, title, rows in zip(axes, ("forward", "gradient"), (forward, backward), strict=True):
        axis.plot(lanes, [1e3 * row.theirs.run for row in rows], "s-", color="tab:orange", label="diffrax")
        axis.plot(lanes, [1e3 * row.ours.run for row in rows], "o-", color="tab:blue", label="odejax")
        if rows is forward and c is not None:
            for width, style, times in zip(C_WIDTHS, (":", "--"), zip(*c, strict=True), strict=True):
                label = "C, lane by lane" if width == 1 else f"C, {width} lanes side by side"
                axis.plot(lanes, [1e3 * run for run in times], style, color="0.35", label=label)
        axis.set(title=title, xlabel="lanes", xscale="log", yscale="log")
        axis.xaxis.set(major_locator=FixedLocator(lanes), major_formatter=ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ms")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    print(f"\nsaved {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", metavar="PATH", help="save a figure of time against lanes")
    main(parser.parse_args().figure)
