"""`ensemble` beside `vmap`, on two devices, in chunks and in two processes."""

import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import odejax
from odejax import SolveError, Status, ensemble, solve
from problems import LOTKA_VOLTERRA_P, decay, lotka_volterra

N = 21  # odd: not the same number on both devices
RATES = jnp.linspace(0.5, 3.0, N)
Y0S = jnp.linspace(1.0, 2.0, N)
SPAN = (0.0, 1.0)
TIMES = jnp.linspace(0.0, 1.0, 4)
EVERYTHING = {"t_eval": TIMES, "dense": 64, "save_fn": lambda t, y, *args: {"square": y**2, "t": t}}


def by_vmap(y0s, rates, **options):
    return jax.vmap(lambda y0, rate: solve(decay, y0, SPAN, (rate,), throw=False, **options))(y0s, rates)


def assert_same(a, b, rtol=1e-13):
    a, b = (jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (a, b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol)


@pytest.mark.parametrize("chunk", [None, 7, 1000])
def test_is_vmap_on_all_devices(chunk):
    sol = ensemble(decay, Y0S, SPAN, (RATES,), in_axes=(0, 0), chunk=chunk, **EVERYTHING)
    assert_same(sol, by_vmap(Y0S, RATES, **EVERYTHING))
    assert sol.ys["square"].shape == (N, 4)
    assert len(sol.y1.sharding.device_set) == 2 or N % 2


def test_lane_axes_may_be_anywhere():
    y0s = {"prey": jnp.full((2, N), 10.0), "hunter": jnp.full(2, 5.0)}
    p = LOTKA_VOLTERRA_P | {"birth": jnp.linspace(0.8, 1.2, N)}
    axes = {"prey": 1, "hunter": None}, ({"birth": 0, "hunt": None, "grow": None, "death": None},)
    sol = ensemble(lotka_volterra, y0s, SPAN, (p,), in_axes=axes)
    wanted = jax.vmap(lambda y0, p: solve(lotka_volterra, y0, SPAN, (p,)), in_axes=(axes[0], axes[1][0]))
    assert_same(sol.y1, wanted(y0s, p).y1)


def test_modules_and_closures():
    class Decay(eqx.Module):
        rate: jax.Array
        name: str = "decay"

        def __call__(self, t, y):
            return -self.rate * y

    wanted = np.exp(-2.0) * np.asarray(Y0S)

    def loss(rate):
        return ensemble(lambda t, y: -rate * y, Y0S, SPAN, rtol=1e-9).y1.sum()

    np.testing.assert_allclose(ensemble(Decay(jnp.array(2.0)), Y0S, SPAN).y1, wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(2.0), -wanted.sum(), rtol=1e-8)


@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("transform", [jax.grad, lambda fn: jax.jit(jax.jacfwd(fn))])
def test_derivatives(transform, chunk):
    """With respect to what is shared, and to what each lane has of its own."""

    def loss(fn, own, shared):
        return (fn(own, shared) ** 2).sum()

    def of_all(own, shared):
        options = {"in_axes": (0, (0, None)), "t_eval": TIMES, "chunk": chunk, "throw": False}
        return ensemble(lambda t, y, a, b: -a * b * y, Y0S, SPAN, (own, shared), **options).ys

    def of_vmap(own, shared):
        def one(y0, a):
            return solve(lambda t, y, a, b: -a * b * y, y0, SPAN, (a, shared), t_eval=TIMES).ys

        return jax.vmap(one)(Y0S, own)

    for argnum, operands in ((0, (RATES, 1.5)), (1, (RATES, 1.5))):
        got, wanted = (
            transform(
                lambda x, fn=fn, argnum=argnum, ops=operands: loss(fn, *ops[:argnum], x, *ops[argnum + 1 :])
            )(operands[argnum])
            for fn in (of_all, of_vmap)
        )
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5", "auto"])
def test_implicit_methods(method):
    """And their derivatives, of states of four numbers: what implicit steps make of constants varies too."""

    def f(t, y, rate):
        return rate * jnp.roll(y, 1) - jnp.cos(t) * y

    def of_all(rates):
        return ensemble(f, jnp.ones(4), SPAN, (rates,), in_axes=(None, 0), method=method).y1

    def of_vmap(rates):
        return jax.vmap(lambda rate: solve(f, jnp.ones(4), SPAN, (rate,), method=method).y1)(rates)

    for derivative in (lambda fn: fn, lambda fn: jax.grad(lambda rates: (fn(rates) ** 2).sum())):
        got, wanted = (derivative(fn)(RATES[:4]) for fn in (of_all, of_vmap))
        np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_second_derivative_by_what_is_shared():
    def loss(rate):
        return ensemble(decay, Y0S, SPAN, (rate,), rtol=1e-9, throw=False).y1.sum()

    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(2.0), Y0S.sum() * np.exp(-2.0), rtol=1e-7)


def test_devices_talk_only_after_the_loops():
    """No collective in a loop; one sum over the devices for what all lanes share."""
    n = 8

    def loss(rate):
        sol = ensemble(decay, Y0S[:n], SPAN, (rate,), throw=False)
        return (sol.y1**2).sum()

    text = jax.jit(jax.grad(loss)).lower(2.0).compile().as_text()
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    assert bodies
    reached, blocks = set(bodies), dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \((.*?)^}", text, re.M | re.S))
    while True:
        called = {
            c
            for name in reached
            for c in re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", blocks.get(name, ""))
        }
        if called <= reached:
            break
        reached |= called
    collective = re.compile(
        r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    )
    assert not any(collective.search(blocks.get(name, "")) for name in reached)
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) >= 1


def test_a_failed_lane_is_one_status_among_others():
    rates = RATES.at[5].set(jnp.nan)
    sol = ensemble(decay, Y0S, SPAN, (rates,), in_axes=(0, 0), throw=False)
    assert sol.status[5] == Status.NON_FINITE_START
    assert sol.success.sum() == N - 1
    assert np.isnan(np.asarray(sol.y1)).sum() == 1
    with pytest.raises(SolveError, match=f"in 1 of {N} lanes, first in lane 5"):
        ensemble(decay, Y0S, SPAN, (rates,), in_axes=(0, 0))


def test_progress_counts_lanes():
    told = []
    ensemble(decay, Y0S, SPAN, (RATES,), in_axes=(0, 0), chunk=4, progress=told.append).y1.block_until_ready()
    jax.effects_barrier()
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) >= N // 4


def test_a_mesh_of_ones_own():
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("those",))
    sol = ensemble(decay, Y0S, SPAN, (2.0,), mesh=mesh)
    assert len(sol.y1.sharding.device_set) == 1
    assert_same(sol.y1, by_vmap(Y0S, jnp.full(N, 2.0)).y1)


@pytest.mark.parametrize(
    ("operands", "options", "message"),
    [
        ((Y0S, SPAN, (RATES[:3],)), {"in_axes": (0, 0)}, r"one number of lanes.*\[3, 21\]"),
        ((Y0S, SPAN, (2.0,)), {"in_axes": (None, None)}, "no lane axis"),
        ((1.0, SPAN, (2.0,)), {}, r"axis 0 of an array of shape \(\)"),
        ((Y0S[:0], SPAN, (2.0,)), {}, "empty"),
        ((Y0S, SPAN, (2.0,)), {"in_axes": (0, {"a": 0})}, "`in_axes` of `args` must be"),
        ((Y0S, SPAN, (2.0,)), {"chunk": 0}, "`chunk` must be an integer of at least 1"),
        ((Y0S, SPAN, (2.0,)), {"t_eval": [1.0, 0.5]}, "`t_eval`"),
        ((Y0S, SPAN, (2.0,)), {"rtol": -1.0}, "`rtol`"),
        ((Y0S, SPAN, (2.0,)), {"method": "tsit6"}, "tsit5"),
        (
            (Y0S, SPAN, (2.0,)),
            {"mesh": Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("a", "b"))},
            "one axis",
        ),
    ],
)
def test_what_is_refused(operands, options, message):
    with pytest.raises(ValueError, match=message):
        ensemble(decay, *operands, **options)


def test_meshes_and_arrays_that_are_somewhere():
    """`jax.make_mesh` makes axes of another type; arrays may be on one device, or on the mesh already."""
    wanted = by_vmap(Y0S[:4], RATES[:4]).y1
    made = jax.make_mesh((2,), ("any",))
    one, sharded = jax.devices()[1], NamedSharding(made, PartitionSpec("any"))
    for mesh in (None, made):
        for where in (None, one, sharded):
            y0s = Y0S[:4] if where is None else jax.device_put(Y0S[:4], where)
            sol = ensemble(decay, y0s, SPAN, (RATES[:4],), in_axes=(0, 0), mesh=mesh)
            np.testing.assert_allclose(sol.y1, wanted, rtol=1e-13)


def test_gradients_are_where_the_lanes_are():
    """Each device has those of its own lanes only."""

    def loss(y0s, rates):
        return (ensemble(decay, y0s, SPAN, (rates,), in_axes=(0, 0)).y1 ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(Y0S[:4], RATES[:4]).compile()
    assert "all-gather" not in (compiled.as_text() or "")
    assert all(not x.is_fully_replicated for x in compiled.output_shardings)


def test_several_devices_cannot_be_stopped_inside_jit():
    def end(rates):
        return ensemble(decay, Y0S, SPAN, (rates,), in_axes=(0, 0), throw=True).y1

    with pytest.raises(ValueError, match="`throw=True` cannot stop several devices"):
        jax.jit(end)(RATES)


PROCESS = """
    import sys

    import jax

    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import odejax

    mesh = Mesh(np.asarray(jax.devices()), ("lanes",))
    assert mesh.size == 2 and len(jax.local_devices()) == 1
    sharding = NamedSharding(mesh, PartitionSpec("lanes"))
    y0s, rates = (
        jax.make_array_from_callback((8,), sharding, lambda i, x=np.linspace(*ends, 8): x[i])
        for ends in ((1.0, 2.0), (0.5, 3.0))
    )

    def f(t, y, rate, shared):
        return -rate * shared * y

    def loss(shared, y0s, rates):
        sol = odejax.ensemble(f, y0s, (0.0, 1.0), (rates, shared), in_axes=(0, (0, None)), mesh=mesh)
        return (sol.y1**2).sum()

    sol = odejax.ensemble(f, y0s, (0.0, 1.0), (rates, 1.5), in_axes=(0, (0, None)), mesh=mesh)
    mine = [x for shard in sol.y1.addressable_shards for x in np.asarray(shard.data)]
    value, slope = jax.jit(jax.value_and_grad(loss))(1.5, y0s, rates)
    print("RESULT", *mine, float(value), float(slope))
"""


def test_two_processes_are_one():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    root = str(Path(odejax.__file__).parents[1])
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
        )
        for i in range(2)
    ]
    outputs = [p.communicate(timeout=240) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    rows = [next(line for line in out.splitlines() if line.startswith("RESULT")) for out, _ in outputs]
    first, second = ([float(x) for x in row.split()[1:]] for row in rows)
    assert first[-2:] == second[-2:]

    def f(t, y, rate, shared):
        return -rate * shared * y

    def end(shared):
        operands = jnp.linspace(1.0, 2.0, 8), jnp.linspace(0.5, 3.0, 8)
        return jax.vmap(lambda y0, rate: solve(f, y0, (0.0, 1.0), (rate, shared)).y1)(*operands)

    np.testing.assert_allclose(first[:-2] + second[:-2], end(1.5), rtol=1e-13)
    wanted = jax.value_and_grad(lambda shared: (end(shared) ** 2).sum())(1.5)
    np.testing.assert_allclose(first[-2:], wanted, rtol=1e-12)
