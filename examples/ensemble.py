"""An epidemic of uncertain parameters: 10,000 lanes on all cores, and a gradient through all of them."""

import os
import time

import jax

jax.config.update(
    "jax_num_cpu_devices", os.cpu_count() or 1
)  # before JAX starts: it sees a CPU as one device
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402

import odejax  # noqa: E402

LANES = 10_000
TIMES = jnp.linspace(0.0, 120.0, 61)  # days


def epidemic(t, y, infection, recovery, distancing):
    """Shares of the susceptible, infected and recovered; from day 30 on people keep their distance."""
    susceptible, infected, _ = y
    contact = 1.0 - distancing * jax.nn.sigmoid(t - 30.0)
    new = infection * contact * susceptible * infected
    return jnp.stack([-new, new - recovery * infected, recovery * infected])


keys = jax.random.split(jax.random.key(0), 2)
infection = 0.35 * jnp.exp(0.2 * jax.random.normal(keys[0], (LANES,)))  # per day
recovery = 0.10 * jnp.exp(0.1 * jax.random.normal(keys[1], (LANES,)))
y0 = jnp.array([0.999, 0.001, 0.0])


@jax.jit
def infected(distancing):
    """The share of the infected, for each lane and time."""
    args, in_axes = (infection, recovery, distancing), (None, (0, 0, None))
    return odejax.ensemble(epidemic, y0, (0.0, 120.0), args, in_axes=in_axes, t_eval=TIMES).ys[..., 1]


@jax.jit
def mean_peak(distancing):
    return infected(distancing).max(axis=1).mean()


curves = infected(0.3).block_until_ready()
start = time.perf_counter()
curves = infected(0.3).block_until_ready()
print(f"{LANES} epidemics on {jax.local_device_count()} devices: {time.perf_counter() - start:.2f} s")
low, middle, high = jnp.quantile(curves, jnp.array([0.05, 0.5, 0.95]), axis=0)
for day in (20, 40, 60, 80):
    i = int(jnp.searchsorted(TIMES, day))
    between = f"{100 * low[i]:5.2f} .. {100 * high[i]:5.2f} %"
    print(f"  day {day:2d}: {100 * middle[i]:5.2f} % infected, 90 % of lanes in {between}")

value, slope = jax.value_and_grad(mean_peak)(0.3)
print(f"mean peak {100 * value:.2f} %; keeping 1 % more distance changes it by {slope:.3f} %")

try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    print("install matplotlib to see the figure")
else:
    os.makedirs("figures", exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.fill_between(TIMES, 100 * low, 100 * high, alpha=0.25, label="90 % of lanes")
    axes.plot(TIMES, 100 * middle, label="median")
    axes.axvline(30, color="gray", linestyle=":", label="distance")
    axes.set(xlabel="day", ylabel="infected, %", title=f"{LANES} epidemics")
    axes.legend()
    figure.savefig("figures/ensemble.png", dpi=150)
    print("saved figures/ensemble.png")
