"""M y' = f: closed forms, scipy on what is left after elimination, and a naive twin for every derivative."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import odejax
from odejax import METHODS, ConstantStep, SolveError, Status, solve
from odejax.linalg.mass import decompose, is_regular
from odejax.tableaus import RosenbrockTableau
from problems import distance

ROSENBROCK = [name for name, method in METHODS.items() if isinstance(method, RosenbrockTableau)]
TIGHT = {"method": "rodas5p", "rtol": 1e-10, "atol": 1e-12}
RATES = jnp.array([0.04, 3e7, 1e4])
ROBERTSON_T1 = 1e4


def robertson(t, y, k, is_dae):
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b * b, k[2] * b * c
    return jnp.stack([back - slow, slow - back - fast, a + b + c - 1.0 if is_dae else fast])


def product(t, y):
    """y = exp(sin t), z = cos t; neither linear nor autonomous."""
    y, z = y
    return jnp.stack([y * z, z * y + z - jnp.cos(t) * (jnp.exp(jnp.sin(t)) + 1)])


def product_exact(t):
    return np.stack([np.exp(np.sin(t)), np.cos(t)], axis=-1)


def cubic(t, y, a):
    """y' = z - y^2 with z^3 + z = a y."""
    y, z = y
    return jnp.stack([z - y * y, z**3 + z - a * y])


def cubic_root(c):
    return 2 / jnp.sqrt(3.0) * jnp.sinh(jnp.arcsinh(1.5 * jnp.sqrt(3.0) * c) / 3)


def index_two(t, y):
    """y' = z with y = sin t."""
    return jnp.stack([y[1], y[0] - jnp.sin(t)])


def of_blocks(f, n):
    """n copies of a system of two equations: states of shape (n, 2)."""
    return lambda t, y: jax.vmap(lambda y: f(t, y))(y)


def mixed(mix, f, n):
    """n copies, multiplied by a matrix."""
    return lambda t, y: (mix @ of_blocks(f, n)(t, y).ravel()).reshape(n, 2)


# -- the solution


def test_robertson_as_dae():
    """The conservation law in place of an equation: the same solution, and the same sensitivities."""

    def final(k, is_dae):
        y0, mass = jnp.array([1.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0]) if is_dae else None
        options = {"method": "rodas5p", "rtol": 1e-9, "atol": 1e-14}
        return solve(
            lambda t, y, k: robertson(t, y, k, is_dae), y0, (0.0, ROBERTSON_T1), (k,), mass=mass, **options
        ).y1

    dae, ode = (jax.jit(jax.value_and_grad(lambda k: final(k, flag)[1])) for flag in (True, False))
    assert distance(dae(RATES), ode(RATES)) < 1e-8


@pytest.mark.parametrize("method", ROSENBROCK)
def test_order_of_index_one(method):
    """All components, the algebraic ones too, have the order of the method."""

    def error(n):
        y0, mass = jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0])
        sol = solve(product, y0, (0.0, 2.0), mass=mass, method=method, controller=ConstantStep(2.0 / n))
        return np.abs(sol.y1 - product_exact(2.0))

    slope = np.log2(error(40) / error(80))
    assert (slope > METHODS[method].order - 0.4).all()


@pytest.mark.parametrize("method", ROSENBROCK)
def test_tolerance_is_met_at_output_times(method):
    """Both ways: the start of the way back is where the way there ended."""
    t0, t1 = (0.0, 2.0) if method == "rodas5p" else (2.0, 0.0)
    rtol = 1e-4 if method == "rosenbrock23" else 1e-7
    times, y0 = np.linspace(t0, t1, 9), product_exact(t0) * np.array([1.0, 1.1])
    sol = solve(
        product, y0, (t0, t1), t_eval=times, mass=jnp.array([1.0, 0.0]), method=method, rtol=rtol, atol=rtol
    )
    assert distance(sol.ys, product_exact(times)) < 100 * rtol


def test_pendulum_against_scipy():
    """In Cartesian coordinates with the force of the rod: differentiated twice, index 1."""
    gravity, y0 = 9.81, [np.sin(1.0), -np.cos(1.0), 0.0, 0.0]

    def pendulum(t, y):
        x, z, u, v, force = y
        constraint = u * u + v * v - force * (x * x + z * z) - gravity * z
        return jnp.stack([u, v, -force * x, -force * z - gravity, constraint])

    def reduced(t, y):
        return [y[1], -gravity * np.sin(y[0])]

    sol = solve(pendulum, jnp.array([*y0, 0.0]), (0.0, 3.0), mass=jnp.array([1.0, 1, 1, 1, 0]), **TIGHT)
    angle, rate = solve_ivp(reduced, (0.0, 3.0), [1.0, 0.0], "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    force = rate**2 + gravity * np.cos(angle)
    wanted = [np.sin(angle), -np.cos(angle), rate * np.cos(angle), rate * np.sin(angle), force]
    assert distance(sol.y1, jnp.asarray(wanted)) < 1e-8


def test_circuit_with_whole_mass():
    """A capacitor between two nodes that are not grounded: M has rank one and no zero row."""
    resistance, capacity = 2.0, 0.5
    mass = capacity * np.array([[1.0, -1.0], [-1.0, 1.0]])

    def currents(t, v):
        return jnp.stack([(1.0 - v[0]) / resistance, -v[1] / resistance])

    sol = solve(currents, jnp.array([0.9, 0.6]), (0.0, 3.0), mass=mass, t_eval=[0.0, 3.0], **TIGHT)
    charge = 1 + (0.3 - 1) * np.exp(-np.array([0.0, 3.0]) / (2 * resistance * capacity))
    assert distance(sol.ys, np.stack([(1 + charge) / 2, (1 - charge) / 2], -1)) < 1e-9


def test_forms_of_the_diagonal():
    """An array, a pytree like y0 with numbers for arrays, a whole matrix: the same numbers."""
    y0 = {"z": jnp.array(0.9), "y": jnp.array(1.0)}

    def f(t, y):
        y, z = product(t, (y["y"], y["z"]))
        return {"y": y, "z": z}

    masses = {"y": 1.0, "z": 0}, np.diag([1.0, 0.0])
    ends = [solve(f, y0, (0.0, 1.0), mass=mass, method="rodas5p").y1 for mass in masses]
    assert distance(ends[0], {"y": product_exact(1.0)[0], "z": product_exact(1.0)[1]}) < 1e-5
    assert ends[0] == ends[1]
    many = solve(lambda t, y: -y, jnp.ones((3, 2)), (0.0, 1.0), mass=2.0 * jnp.ones((3, 2)), **TIGHT)
    assert distance(many.y1, np.full((3, 2), np.exp(-0.5))) < 1e-9


def test_order_of_the_numbers():
    """Leaf after leaf, keys sorted, rows first: M = 2 where it multiplies `b`."""
    mass = np.diag([1.0, 1, 1, 1, 2]) + 1e-3 * np.eye(5, k=1)
    y0 = {"b": jnp.ones(1), "a": jnp.arange(1.0, 5.0).reshape(2, 2)}
    sol = solve(lambda t, y: jax.tree.map(jnp.negative, y), y0, (0.0, 1.0), mass=mass, **TIGHT)
    wanted = expm(-np.linalg.inv(mass)) @ np.array([1.0, 2, 3, 4, 1])
    assert distance(jnp.concatenate([sol.y1["a"].ravel(), sol.y1["b"]]), wanted) < 1e-9


@pytest.mark.parametrize(("n", "components"), [(2, 32), (10, 0)], ids=["elimination", "LAPACK"])
def test_larger_systems(n, components):
    """Blocks of two equations, mixed by a matrix on the left: 4 and 20 numbers."""
    mix = np.random.default_rng(1).normal(size=(2 * n, 2 * n))
    f, y0, mass = mixed(mix, product, n), jnp.full((n, 2), 1.0), mix @ np.diag([1.0, 0.0] * n)
    sol = solve(f, y0, (0.0, 1.0), mass=mass, components=components, method="rodas4")
    assert distance(sol.y1, np.tile(product_exact(1.0), (n, 1))) < 1e-4


# -- a naive twin: steps and corrections in plain JAX


def twin(f, y0, left, right, is_algebraic, span, args, n_steps, tableau):
    """The end of steps of one size, but for the last, for M = left diag(not algebraic) right.

    With as many Newton iterations for the start as bring it to rounding.
    """
    t0, t1 = span
    mass = left @ jnp.diag(jnp.where(is_algebraic, 0.0, 1.0)) @ right
    size = lax.stop_gradient(t1 - t0) / n_steps

    def start(y):
        rows = jnp.linalg.solve(left, f(t0, y, *args))
        return jnp.where(is_algebraic, rows, right @ (y - y0))

    y, _ = lax.scan(lambda y, _: (y - jnp.linalg.solve(jax.jacfwd(start)(y), start(y)), None), y0, length=12)

    def step(y, i):
        t = t0 + i * size
        h = jnp.where(i == n_steps - 1, t1 - t, size)
        inverse = jnp.linalg.inv(mass / tableau.GAMMA - h * jax.jacfwd(lambda y: f(t, y, *args))(y))
        f_t = jax.jacfwd(lambda t: f(t, y, *args))(t)
        us = []
        for c, a, g, k in zip(tableau.C, tableau.A, tableau.G, tableau.K, strict=True):
            stage = y + sum(w * u for w, u in zip(a, us, strict=True))
            b = h * f(t + c * h, stage, *args) + g * h * h * f_t
            us.append(inverse @ (b + mass @ sum((w * u for w, u in zip(k, us, strict=True)), 0 * y)))
        return y + sum(w * u for w, u in zip(tableau.B, us, strict=True)), None

    return lax.scan(step, y, jnp.arange(n_steps))[0]


N_STEPS = 3
POINT = jnp.asarray([0.8, 0.4, 1.3, 0.3, 1.9, 1.2, 0.4, -0.3, 0.9, 0.8, 0.2, 0.5, 1.1])  # as in `cubic_of`


def cubic_of(v):
    """(f, y0, span, args, left, right): M = left diag(1, 0) right, and all of it depends on v."""

    def f(t, y, a, left, right):
        return left @ (cubic(t, right @ y, a) + jnp.stack([0.0 * t, 0.3 * t]))

    left, right = v[5:9].reshape(2, 2), v[9:].reshape(2, 2)
    return f, v[:2], (v[3], v[4]), (v[2], left, right), left, right


def ours(v, method="rosenbrock23", **options):
    f, y0, (t0, t1), args, left, right = cubic_of(v)
    mass = left @ jnp.diag(jnp.array([1.0, 0.0])) @ right
    h = lax.stop_gradient((t1 - t0) / N_STEPS)
    options = {"method": method, "controller": ConstantStep(h), **options}
    return solve(f, y0, (t0, t1), args, mass=mass, **options).y1


def theirs(v, method="rosenbrock23"):
    f, y0, span, args, left, right = cubic_of(v)
    is_algebraic = jnp.array([False, True])
    return twin(f, y0, left, right, is_algebraic, span, args, N_STEPS, METHODS[method])


@pytest.mark.parametrize(
    ("jacobian", "components"), [(jax.jacfwd, 32), (jax.jacrev, 0)], ids=["jacfwd", "jacrev"]
)
def test_jacobians_of_twin(jacobian, components):
    """With respect to y0, a parameter, both ends of the span, and M at constant rank."""
    got = jax.jit(jacobian(lambda v: ours(v, components=components)))(POINT)
    assert distance(got, jax.jit(jax.jacfwd(theirs))(POINT)) < 1e-10


@pytest.mark.slow
def test_vmap_of_jvp_of_grad_of_twin():
    """Lanes with a different M each; first and second derivatives."""
    rng = np.random.default_rng(2)
    points = POINT * (1 + 0.1 * rng.uniform(size=(3, 13)))
    direction = jnp.asarray(rng.normal(size=13))

    @partial(jax.jit, static_argnums=0)
    def product(fn, points):
        gradient = jax.grad(lambda v: jnp.sum(fn(v) ** 2))
        return jax.vmap(lambda v: jax.jvp(gradient, (v,), (direction,)))(points)

    assert distance(product(ours, points), product(theirs, points)) < 1e-10


def test_grad_of_vmap_with_shared_mass():
    """Lanes that take different numbers of steps: idle ones are no NaN."""
    y0s = jnp.array([[0.5, 0.1], [40.0, 0.3]])
    options = {"method": "rosenbrock23", "rtol": 1e-2, "atol": 1e-2}

    def final(d, y0):
        return solve(cubic, y0, (0.0, 1.0), (1.3,), mass=d, **options).y1.sum()

    d = jnp.array([1.5, 0.0])
    got = jax.jit(jax.grad(lambda d, y0s: jax.vmap(final, in_axes=(None, 0))(d, y0s).sum(), argnums=(0, 1)))
    alone = jax.jit(jax.grad(final, argnums=(0, 1)))
    (first, first_y), (second, second_y) = alone(d, y0s[0]), alone(d, y0s[1])
    assert distance(got(d, y0s), (first + second, jnp.stack([first_y, second_y]))) < 1e-12


# -- regular matrices


@pytest.mark.slow
def test_regular_mass_is_division():
    """M y' = f and y' = M^-1 f take the same steps to the same end, with the same derivatives."""
    y0, mass = jnp.array([0.3, 0.8]), jnp.array([[1.3, 0.4], [-0.2, 0.7]])

    def f(t, y, k):
        return jnp.stack([jnp.sin(t) - k * y[0] * y[1], k * y[0] ** 2 - 20.0 * y[1]])

    def with_mass(mass, y0, k, t1):
        return solve(f, y0, (0.1, t1), (k,), mass=mass, method="rosenbrock23", dt0=0.01, rtol=1e-3).y1

    def divided(mass, y0, k, t1):
        def slope(t, y, k, mass):
            return jnp.linalg.inv(mass) @ f(t, y, k)

        return solve(slope, y0, (0.1, t1), (k, mass), method="rosenbrock23", dt0=0.01, rtol=1e-3).y1

    @partial(jax.jit, static_argnums=0)
    def derivatives(fn, *at):
        gradient = jax.grad(lambda *at: jnp.sum(fn(*at) ** 2), argnums=(0, 1, 2, 3))
        return jax.jvp(gradient, at, at)

    at = mass, y0, 1.5, 2.0
    assert distance(with_mass(*at), divided(*at)) < 1e-12
    assert distance(derivatives(with_mass, *at), derivatives(divided, *at)) < 1e-10


def test_hessian_of_closed_form():
    def final(m):
        return solve(lambda t, y: -y, 1.0, (0.0, 1.0), mass=m, **TIGHT).y1

    hessian = jax.jit(jax.hessian(final))(2.0)
    assert distance(hessian, jax.hessian(lambda m: jnp.exp(-1 / m))(2.0)) < 1e-8


def test_regular_mass_corrects_nothing():
    """To the last bit, known or traced, and the first step is that of y' = M^-1 f."""
    y0, mass = jnp.array([0.3, 0.7]), jnp.array([[2.0, 1.0], [0.5, 1e-7]])

    def first(mass):
        sol = solve(cubic, y0, (0.0, 1.0), (1.0,), mass=mass, t_eval=[0.0, 1.0], method="rodas4")
        return sol.ys[0], sol.stats.min_step

    def slope(t, y, a):
        return jnp.linalg.solve(mass, cubic(t, y, a))

    divided = solve(slope, y0, (0.0, 1.0), (1.0,), method="rodas4").stats.min_step
    for start, step in (first(mass), jax.jit(first)(mass)):
        assert (start == y0).all()
        assert abs(step / divided - 1) < 1e-6
    assert is_regular(np.asarray(mass))


def test_units_do_not_decide_the_rank():
    """Entries from 1e-12 to 1e9, as farads and kilograms may be: scaled first."""
    rng = np.random.default_rng(4)
    scales = 10.0 ** np.array([-12, 0, 9, -6])
    core = rng.normal(size=(4, 4))
    assert is_regular(scales[:, None] * core * scales[::-1])
    singular = scales[:, None] * (core @ np.diag([1.0, 1, 1, 0]) @ rng.normal(size=(4, 4)))
    assert not is_regular(singular)
    left, right, is_null = decompose(jnp.asarray(singular))
    assert is_null.sum() == 1
    assert np.abs(left @ singular @ right)[:, is_null].max() < 1e-12


# -- the consistent start


@pytest.mark.parametrize("guess", [0.0, -3.0, 50.0])
def test_start_is_corrected(guess):
    """The algebraic component is solved for, the other one kept to the last bit."""
    sol = solve(
        cubic,
        jnp.array([0.7, guess]),
        (0.0, 1.0),
        (2.0,),
        mass=jnp.array([1.0, 0.0]),
        t_eval=[0.0, 1.0],
        **TIGHT,
    )
    assert sol.ys[0, 0] == 0.7
    assert abs(sol.ys[0, 1] - cubic_root(2.0 * 0.7)) < 1e-15
    at_once = solve(cubic, jnp.array([0.7, guess]), (1.0, 1.0), (2.0,), mass=jnp.array([1.0, 0.0]), **TIGHT)
    assert distance(at_once.y1, sol.ys[0]) < 1e-15


def test_gradient_through_the_correction():
    """Against elimination by hand, and central differences."""

    def dae(y0, a, guess=3.0):
        y0 = jnp.stack([y0, guess])
        options = {"mass": jnp.array([1.0, 0.0]), "t_eval": [0.0, 2.0], **TIGHT}
        return solve(cubic, y0, (0.0, 2.0), (a,), **options).ys[:, 1]

    def eliminated(y0, a):
        y1 = solve(lambda t, y, a: cubic_root(a * y) - y * y, y0, (0.0, 2.0), (a,), **TIGHT).y1
        return cubic_root(a * jnp.stack([y0, y1]))

    *got, of_guess = jax.jacrev(dae, argnums=(0, 1, 2))(0.7, 1.5, 3.0)
    assert (of_guess == 0).all()
    assert distance(tuple(got), jax.jacfwd(eliminated, argnums=(0, 1))(0.7, 1.5)) < 1e-8
    d = 1e-4
    differences = [
        (dae(0.7 + d, 1.5) - dae(0.7 - d, 1.5)) / (2 * d),
        (dae(0.7, 1.5 + d) - dae(0.7, 1.5 - d)) / (2 * d),
    ]
    assert distance(got, differences) < 1e-6


def test_derivative_of_a_zero_entry():
    """M may become regular: d/dM is that of the slow solution, as differences show."""

    def f(t, y):  # the algebraic equation with the sign by which it attracts
        return cubic(t, y, 1.5) * jnp.array([1.0, -1.0])

    @jax.jit
    @jax.value_and_grad
    def final(m):
        y0 = jnp.stack([0.7, cubic_root(1.5 * 0.7)])
        return solve(f, y0, (0.0, 1.0), mass=jnp.stack([1.0, m]), **TIGHT).y1[1]

    (at_0, got), (first, _), (second, _) = map(final, (0.0, 1e-3, 2e-3))
    assert abs(got / (2e3 * (first - at_0) - 0.5e3 * (second - at_0)) - 1) < 1e-3


def test_float32():
    """The algebraic equation is the difference of the two."""
    y0, mass = jnp.array([0.7, 3.0], jnp.float32), np.array([[1.0, 0.0], [1.0, 0.0]])

    def f(t, y):
        a, b = cubic(t, y, jnp.asarray(1.5, y.dtype))
        return jnp.stack([a, a + b])

    @jax.jit
    @partial(jax.jacrev, has_aux=True)
    def final(y0, mass):
        y1 = solve(f, y0, (0.0, 1.0), mass=mass, method="rosenbrock23").y1
        return y1, y1

    jacobian, y1 = final(y0, mass)
    assert y1.dtype == jacobian.dtype == jnp.float32
    wanted, y1_wanted = final(y0.astype(float), mass)
    assert distance(y1, y1_wanted) < 1e-3
    assert distance(jacobian, wanted) < 1e-2


# -- failures


def no_root(t, y):
    """z^2 = -y has no real solution for y > 0."""
    return jnp.stack([-y[0], y[0] + y[1] ** 2])


def solve_no_root(y0, **options):
    return solve(no_root, y0, (0.0, 1.0), mass=jnp.array([1.0, 0.0]), method="rosenbrock23", **options)


def test_inconsistent_start():
    y0 = jnp.array([1.0, 0.5])
    sol = solve_no_root(y0, throw=False)
    assert sol.status == Status.INCONSISTENT_START
    assert np.isnan(sol.y1).all()
    assert sol.t1 == 0.0
    assert (sol.y_reached == y0).all()
    with pytest.raises(SolveError, match=r"(?s)algebraic equations.*index 1") as error:
        odejax.check(sol)
    assert error.value.status == Status.INCONSISTENT_START


def test_inconsistent_lane():
    """It has its own status and NaN for derivatives, and its neighbour none of it."""
    y0s = jnp.array([[1.0, 0.5], [-1.0, 0.5]])

    def final(y0):
        sol = solve_no_root(y0, throw=False)
        return sol.y1[1], sol.status

    gradients, status = jax.jit(jax.vmap(jax.grad(final, has_aux=True)))(y0s)
    assert status.tolist() == [Status.INCONSISTENT_START, Status.SUCCESS]
    assert np.isnan(gradients[0]).all()
    assert distance(gradients[1], np.array([-0.5 * np.exp(-0.5), 0.0])) < 1e-4


@pytest.mark.parametrize(("n", "is_mixed"), [(1, False), (1, True), (10, True)])
def test_index_two_fails(n, is_mixed):
    """Though y0 satisfies the equation: the matrix is singular. In a basis where no zero shows, too."""
    y0, d = jnp.tile(jnp.array([0.0, 1.0]), (n, 1)), np.tile([1.0, 0.0], n)
    mix = np.random.default_rng(5).normal(size=(2 * n, 2 * n))
    f, mass = of_blocks(index_two, n), d.reshape(n, 2)
    if is_mixed:
        f, mass = mixed(mix, index_two, n), mix @ np.diag(d)
    options = {"method": "rosenbrock23", "components": 0 if n == 10 else 32, "throw": False}
    assert solve(f, y0, (0.0, 1.0), mass=mass, **options).status == Status.INCONSISTENT_START


def test_singular_pencil_fails():
    """0 = 0 determines nothing."""
    sol = solve(
        lambda t, y: jnp.stack([-y[0], 0 * y[1]]),
        jnp.ones(2),
        (0.0, 1.0),
        mass=jnp.array([1.0, 0]),
        method="rodas4",
        throw=False,
    )
    assert sol.status == Status.INCONSISTENT_START


def test_start_that_is_not_finite():
    def f(t, y):
        return jnp.stack([jnp.sqrt(y[0]), y[1] - y[0]])

    for y0 in (jnp.array([jnp.nan, 1.0]), jnp.array([-1.0, 1.0])):
        sol = solve(f, y0, (0.0, 1.0), mass=np.diag([1.0, 0.0]), method="rosenbrock23", throw=False)
        assert sol.status == Status.NON_FINITE_START
        with pytest.raises(SolveError, match=r"y\[0\], which is not finite"):
            odejax.check(sol)


def test_index_that_is_lost_fails():
    """z^2 = 1 - t has no solution after t = 1, and no index 1 there."""
    sol = solve(
        lambda t, y: jnp.stack([y[1], y[1] ** 2 - 1 + t]), jnp.array([0.0, 1.0]), (0.0, 2.0),
        mass=jnp.array([1.0, 0.0]), method="rodas5p", throw=False,
    )  # fmt: skip
    assert not sol.success
    assert abs(sol.t1 - 1) < 1e-3


REFUSED = {
    "explicit": (ValueError, r"`mass` needs a Rosenbrock method.*'tsit5'.*method=\"rodas5p\"", jnp.ones(2), {"method": "tsit5"}),
    "dirk": (ValueError, r"`mass` needs a Rosenbrock method.*'kvaerno5'", jnp.ones(2), {"method": "kvaerno5"}),
    "shape": (ValueError, r"`mass` must be an array of shape \(2, 2\), or have leaves.*\(3,\) for \(2,\)", jnp.ones(3), {}),
    "matrix": (ValueError, r"`mass` must be an array of shape \(2, 2\), or have leaves", jnp.ones((3, 3)), {}),
    "tree": (ValueError, r"`mass` must be .*a diagonal like `y0`.*got PyTreeDef", {"a": 1.0}, {}),
    "complex": (TypeError, r"`mass` must be real", jnp.ones(2) * 1j, {}),
    "text": (TypeError, r"`mass` must be real, got 'one'", "one", {}),
    "infinite": (ValueError, r"`mass` must be finite", jnp.array([1.0, jnp.inf]), {}),
    "half": (TypeError, r"`mass` as a whole matrix needs single precision.*float16", jnp.ones((2, 2)), {"y0": jnp.ones(2, jnp.float16)}),
    "auto": (ValueError, r"`mass` needs a Rosenbrock method, got `method` 'auto'", jnp.ones(2), {"method": "auto"}),
    "complex state": (TypeError, r"`mass` needs a real `y0`", jnp.ones(2), {"y0": jnp.ones(2) * 1j}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    error, words, mass, options = REFUSED[case]
    options = {"y0": jnp.ones(2), "method": "rodas5p", **options}
    with pytest.raises(error, match=words):
        solve(lambda t, y: -y, t_span=(0.0, 1.0), mass=mass, **options)
