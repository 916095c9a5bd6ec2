"""A first solve and its derivatives: a damped pendulum."""

import jax
import jax.numpy as jnp

import odejax

jax.config.update("jax_enable_x64", True)


def pendulum(t, y, length, friction):
    """y is (angle, angular velocity); a pendulum of this length in metres."""
    angle, velocity = y
    return jnp.stack([velocity, -9.81 / length * jnp.sin(angle) - friction * velocity])


y0 = jnp.array([2.0, 0.0])
times = jnp.linspace(0.0, 10.0, 6)

sol = odejax.solve(pendulum, y0, (0.0, 10.0), (1.0, 0.1), t_eval=times)
print(sol)
for t, (angle, velocity) in zip(sol.ts, sol.ys, strict=True):
    print(f"  t = {t:4.1f}: angle {angle:+.4f}, velocity {velocity:+.4f}")


def final_angle(length, friction, y0):
    return odejax.solve(pendulum, y0, (0.0, 10.0), (length, friction)).y1[0]


by_length, by_friction, by_y0 = jax.grad(final_angle, argnums=(0, 1, 2))(1.0, 0.1, y0)
print(f"\nd angle(10) / d length   = {by_length:+.4f}")
print(f"d angle(10) / d friction = {by_friction:+.4f}")
print(f"d angle(10) / d y0       = ({by_y0[0]:+.4f}, {by_y0[1]:+.4f})")

hessian = jax.hessian(final_angle, argnums=2)(1.0, 0.1, y0)
for name, row in zip(["d2 angle(10) / d y0^2    =", ""], hessian, strict=True):
    print(f"{name:26s} ({row[0]:+.4f}, {row[1]:+.4f})")

lengths = jnp.linspace(0.5, 1.5, 5)
angles = jax.vmap(lambda length: final_angle(length, 0.1, y0))(lengths)
print("\nfive pendulums at once:")
for length, angle in zip(lengths, angles, strict=True):
    print(f"  length {length:.2f}: angle(10) = {angle:+.4f}")
