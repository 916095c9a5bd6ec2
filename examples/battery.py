"""A battery as a differential-algebraic system, and its parameters from a measured voltage.

Charge and temperature are differential, the overpotentials of both electrodes and the voltage algebraic:
the law of Butler and Volmer gives the current, and the voltages add up.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

import odejax

jax.config.update("jax_enable_x64", True)

NAMES = [
    "capacity [Ah]",
    "exchange current, negative [A]",
    "exchange current, positive [A]",
    "resistance [ohm]",
]
TRUTH = jnp.array([2.5, 1.2, 0.6, 0.03])
GUESS = jnp.array([2.0, 2.0, 0.4, 0.05])
TIMES = jnp.linspace(0.0, 1.0, 41)  # hours
NOISE = 2e-3  # volts
GAS = 8.314 / 96485  # k T / e per kelvin, in volts
AMBIENT = 298.0  # kelvin
HEAT_CAPACITY, COOLING = 12.0, 25.0  # Wh / K x 1e3, W / K x 1e3

STATE = {"charge": 0.95, "temperature": AMBIENT, "negative": 0.0, "positive": 0.0, "voltage": 3.7}
MASS = {"charge": 1.0, "temperature": 1.0, "negative": 0.0, "positive": 0.0, "voltage": 0.0}


def current(t):
    """Amperes: a drive that pauses and recuperates."""
    return 1.5 + 1.5 * jnp.sin(12 * t) + jnp.cos(31 * t)


def open_circuit(charge):
    """Volts of a cell at rest."""
    return 3.4 + 0.6 * charge - 0.25 * jnp.exp(-20 * charge) + 0.12 * jnp.tanh(8 * (charge - 0.6))


def cell(t, y, p):
    capacity, negative, positive, resistance = p
    i, thermal = current(t), 2 * GAS * y["temperature"]
    lost = open_circuit(y["charge"]) - y["voltage"]
    return {
        "charge": -i / capacity,
        "temperature": 1e3 * (i * lost - 1e-3 * COOLING * (y["temperature"] - AMBIENT)) / HEAT_CAPACITY,
        "negative": 2 * negative * jnp.sinh(y["negative"] / thermal) - i,  # Butler-Volmer
        "positive": 2 * positive * jnp.sinh(y["positive"] / thermal) - i,
        "voltage": lost - y["negative"] - y["positive"] - resistance * i,
    }


def simulate(x):
    """The states over time; `x` has the logarithms of the parameters."""
    options = {"mass": MASS, "method": "rodas5p", "t_eval": TIMES, "rtol": 1e-7, "atol": 1e-9}
    return odejax.solve(cell, STATE, (0.0, 1.0), (jnp.exp(x),), **options).ys


def residuals(x, data):
    return (simulate(x)["voltage"] - data) / NOISE


def loss(x, data):
    return 0.5 * jnp.mean(residuals(x, data) ** 2)


@jax.jit
def fit(x, data, n_steps=12):
    """The most likely parameters by the method of Gauss and Newton, and the loss on the way."""

    def step(x, _):
        r, jacobian = residuals(x, data), jax.jacfwd(residuals)(x, data)
        change = jnp.linalg.lstsq(jacobian, -r)[0]
        return x + change / jnp.maximum(1.0, jnp.abs(change).max()), 0.5 * jnp.mean(r**2)

    return jax.lax.scan(step, x, length=n_steps)


def main():
    sol = odejax.solve(cell, STATE, (0.0, 1.0), (TRUTH,), mass=MASS, method="rodas5p", t_eval=TIMES)
    print(sol)
    start = {name: f"{float(y[0]):.4f}" for name, y in sol.ys.items()}
    print(f"\nguess of the voltage at t = 0: {STATE['voltage']}; corrected: {start['voltage']}")

    data = simulate(jnp.log(TRUTH))["voltage"] + NOISE * jr.normal(jr.key(0), TIMES.shape)
    gradient = jax.grad(loss)(jnp.log(GUESS), data)
    d = 1e-5 * jnp.eye(4)[3]
    difference = (loss(jnp.log(GUESS) + d, data) - loss(jnp.log(GUESS) - d, data)) / 2e-5
    print(f"d loss / d log resistance: {gradient[3]:.6g}, by differences {difference:.6g}")

    x, losses = fit(jnp.log(GUESS), data)
    print(f"\nloss: {losses[0]:.1f} -> {losses[-1]:.3f} in {len(losses)} steps")
    print(f"{'':34s} {'truth':>8s} {'estimate':>9s}")
    for name, truth, value in zip(NAMES, TRUTH, jnp.exp(x), strict=True):
        print(f"{name:34s} {truth:8.3f} {value:9.3f}")
    plot(x, data)


def plot(x, data):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    ys = simulate(x)
    left.plot(TIMES, data, ".", label="data")
    left.plot(TIMES, simulate(jnp.log(GUESS))["voltage"], "--", label="guess")
    left.plot(TIMES, ys["voltage"], label="fit")
    left.set(xlabel="hours", ylabel="volts", title="voltage under a varying load")
    left.legend()
    right.plot(TIMES, 1e3 * ys["negative"], label="negative electrode")
    right.plot(TIMES, 1e3 * ys["positive"], label="positive electrode")
    right.set(xlabel="hours", ylabel="millivolts", title="overpotentials: algebraic")
    right.legend()
    save(figure, "battery.png")


def save(figure, name):
    path = Path("figures") / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nsaved {path}")


if __name__ == "__main__":
    main()
