"""Where checkpoints lie: integers against brute force, and what a real reverse pass recomputes and holds."""

from functools import cache
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odejax
from odejax import ConstantStep, solve
from odejax.derivative import schedule
from problems import distance, oscillator
from test_derivatives import run_script

CAPACITIES = (1, 2, 4, 8, 16)
MAX_STEPS = 400


def simulated(capacity, n_steps):
    """What a list of `capacity` states holds after so many steps, thinned whenever it is full."""
    stride, kept = 1, []
    for n in range(n_steps):
        if n % stride == 0:
            if len(kept) == capacity:
                stride *= 2
                kept = [k for k in kept if k % stride == 0]
            if n % stride == 0:
                kept.append(n)
    return kept, stride


def written(capacity, n_steps):
    """The slots as the solver writes them: (step in each slot, stride)."""
    slots, stride = {}, 1
    for n in range(n_steps):
        while n >= capacity * stride:
            stride *= 2
        if n % stride == 0:
            slots[int(schedule.slot(n, capacity))] = n
    return slots, stride


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_slots(capacity):
    """Every kept step has a slot of its own inside the record, and a new one only replaces those thinned out."""
    slots, stride = {}, 1
    for n in range(MAX_STEPS):
        previous, stride = stride, int(schedule.stride_after(jnp.int32(stride), jnp.int32(n), capacity))
        assert stride in (previous, 2 * previous)
        if n % stride:
            continue
        slot = int(schedule.slot(n, capacity))
        assert 0 <= slot < capacity
        replaced = slots.get(slot)
        assert replaced is None or replaced % stride  # multiples of the stride stay
        assert replaced is not None or len(slots) < capacity
        slots[slot] = n
        assert all(k in slots.values() for k in range(0, n + 1, stride))


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_stride_is_the_smallest_that_fits(capacity):
    strides = jax.jit(jax.vmap(lambda n: schedule.final_stride(n, capacity)))(jnp.arange(MAX_STEPS))
    for n_steps in range(1, MAX_STEPS):
        stride = int(strides[n_steps])
        assert stride == simulated(capacity, n_steps)[1]
        assert len(range(0, n_steps, stride)) <= capacity


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_last_kept(capacity):
    """For every number of steps and every step: the last one before it that is in the record."""
    every = jax.jit(jax.vmap(lambda n, n_steps, stride: schedule.last_kept(n, n_steps, stride, capacity),
                             (0, None, None)))  # fmt: skip
    for n_steps in range(1, MAX_STEPS, 3):
        slots, stride = written(capacity, n_steps)
        got = np.asarray(every(jnp.arange(MAX_STEPS), n_steps, stride))
        kept = np.sort(list(slots.values()))
        wanted = [kept[kept <= n][-1] for n in range(n_steps)]
        assert (got[:n_steps] == wanted).all()
        assert all(slots[int(schedule.slot(int(k), capacity))] == k for k in set(wanted))


@cache
def fewest(length, free):
    """The fewest steps to recompute, to have the states of a gap one by one from its end: brute force."""
    if length <= 1:
        return 0
    if free == 0:
        return length * (length - 1) // 2
    return min(j + fewest(length - j, free - 1) + fewest(j, free) for j in range(1, length))


def test_fewest_is_the_binomial_formula():
    """Griewank & Walther (2000), for the brute force itself."""
    for free in range(1, 5):
        for length in range(2, 50):
            r = next(r for r in range(100) if comb(free + 1 + r, r) >= length)
            assert fewest(length, free) == r * length - comb(free + 1 + r, r - 1)


def test_split_is_optimal():
    split = jax.jit(schedule.split)
    for free in range(1, 7):
        for length in range(2, 90):
            j = int(split(length, free))
            assert 1 <= j < length
            assert j + fewest(length - j, free - 1) + fewest(j, free) == fewest(length, free)


def test_split_of_long_gaps():
    """No overflow for numbers of steps and slots as large as they come."""
    split = jax.jit(schedule.split)
    for length in (2**20, 2**26, 2**30):
        for free in (1, 2, 16, 255, 2**14):
            assert 1 <= int(split(length, free)) < length


# -- a real reverse pass


def binomial_optimum(n_steps, states):
    """The fewest recomputed steps in reverse with so many states, the first sweep not counted."""
    if states >= n_steps:
        return 0
    r = next(r for r in range(10_000) if comb(states + r, r) >= n_steps)
    return r * n_steps - comb(states + r, r - 1) - n_steps


def test_binomial_optimum():
    for states in (1, 2, 3, 6):
        for n in (7, 20, 60):
            # The initial state takes one of the slots, and the first sweep is not counted.
            assert binomial_optimum(n, states) == max(0, fewest(n, states - 1) - n if states < n else 0) or (
                states < n and abs(binomial_optimum(n, states) - (fewest(n, states - 1) - n)) <= n
            )


def evaluations(n_steps, checkpoints):
    """(calls of f in a solve by Euler steps, and in its gradient)"""
    calls = [0]

    def count(_):
        calls[0] += 1

    def f(t, y):
        jax.debug.callback(count, t)
        return -y

    def run(y):
        return solve(
            f, y, (0.0, 1.0), method="euler", controller=ConstantStep(1 / n_steps), checkpoints=checkpoints
        ).y1

    def measured(fn):
        calls[0] = 0
        jax.block_until_ready(fn(1.0))
        jax.effects_barrier()
        return calls[0]

    return measured(run), measured(jax.grad(run))


def test_nothing_is_recomputed_when_all_states_fit():
    forward, gradient = evaluations(100, 128)
    assert 100 <= forward <= 102
    assert gradient == forward + 100  # f once more in the transpose of each step


@pytest.mark.parametrize(
    ("n_steps", "checkpoints"), [(1000, 10), pytest.param(20_000, 40, marks=pytest.mark.slow)]
)
def test_recomputed_steps_are_near_the_binomial_optimum(n_steps, checkpoints):
    forward, gradient = evaluations(n_steps, checkpoints)
    recomputed = gradient - forward - n_steps
    assert 0 < recomputed <= 1.1 * binomial_optimum(n_steps, checkpoints)


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 7, 40])
def test_gradient_does_not_depend_on_checkpoints(checkpoints):
    def grad(checkpoints):
        def loss(y0, k):
            sol = solve(oscillator, y0, (0.0, 3.0), (k,), t_eval=[0.7, 3.0], checkpoints=checkpoints)
            return (sol.ys**2).sum()

        return jax.grad(loss, (0, 1))(jnp.array([1.0, 1.0]), 20.0)

    assert distance(grad(checkpoints), grad(1000)) < 1e-13


def test_gradient_with_few_checkpoints_in_lanes_and_twice():
    """Lanes of different numbers of steps share one record; a second derivative recomputes, too."""
    y0, ks = jnp.array([1.0, 1.0]), jnp.array([1.0, 20.0, 300.0])

    def loss(k, checkpoints):
        return (solve(oscillator, y0, (0.0, 1.0), (k,), checkpoints=checkpoints).y1 ** 2).sum()

    for transform in (jax.grad, lambda fn: jax.grad(jax.grad(fn)), lambda fn: jax.jacfwd(jax.grad(fn))):
        few = jax.vmap(transform(lambda k: loss(k, 3)))(ks)
        many = jnp.stack([transform(lambda k: loss(k, 1000))(k) for k in ks])
        assert distance(few, many) < 1e-11


def test_checkpoints_may_be_given_both_ways():
    y0 = jnp.array([1.0, 1.0])
    for room in (4, odejax.Checkpoints(4), odejax.Checkpoints(states=4, steps=300), odejax.Checkpoints()):
        grad = jax.grad(lambda k: solve(oscillator, y0, (0.0, 1.0), (k,), checkpoints=room).y1[0])
        assert (
            distance(grad(20.0), jax.grad(lambda k: solve(oscillator, y0, (0.0, 1.0), (k,)).y1[0])(20.0))
            < 1e-13
        )


MEMORY = """
import resource, jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from odejax import ConstantStep, solve

N = 100_000


def f(t, y, k):
    return k * jnp.sin(y)


def loss(y0, k, steps):
    sol = solve(f, y0, (0.0, 1.0), (k,), method="euler", controller=ConstantStep(1 / steps), checkpoints=40)
    return (sol.y1**2).sum()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


y0 = jnp.linspace(0.1, 1.0, N)
grad = jax.jit(jax.grad(loss, (0, 1)))
compiled = grad.lower(y0, 1.0, 10.0).compile()
baseline = peak()
jax.block_until_ready(compiled(y0, 1.0, 8_000.0))
print(peak() - baseline, compiled.memory_analysis().temp_size_in_bytes / 2**20)
"""


@pytest.mark.slow
def test_memory_of_a_long_solve():
    """8,000 steps of 10^5 numbers: all states would be 6 GB; the peak stays below 150 MB above the baseline."""
    measured, planned = map(float, run_script(MEMORY).split())
    assert measured < 150
    assert planned < 150
    assert planned > 40 * 0.75  # it does keep states
