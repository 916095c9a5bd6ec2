"""Nothing wrong looks right: every status, every refused argument, and what NaN must and must not reach."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odejax
from odejax import Checkpoints, ConstantStep, ExplicitTableau, PIController, SolveError, Status, solve
from problems import bits, decay, distance, lorenz, oscillator

Y0 = jnp.array([1.0, 1.0])


def explosion(t, y, a=1.0):
    """y = 1 / (1 / y0 - a t): infinite at t = 1 for y0 = a = 1."""
    return a * y * y


def stiff(t, y):
    return jnp.stack([-y[0], -1e7 * (y[1] - jnp.cos(t))])


def not_finite(t, y):
    return jnp.stack([y[0], jnp.sqrt(y[1] - 2.0)])


def wall(t, y):
    """Has no value from t = 0.5 on."""
    return jnp.where(t < 0.5, 1.0, jnp.nan) * y


# -- every status

FAILURES = {
    Status.MAX_STEPS: lambda **o: solve(stiff, Y0, (0.0, 10.0), max_steps=50, **o),
    Status.STEP_UNDERFLOW: lambda **o: solve(explosion, jnp.ones(1), (0.0, 2.0), **o),
    Status.NON_FINITE_START: lambda **o: solve(not_finite, Y0, (0.25, 1.0), **o),
    Status.NON_FINITE: lambda **o: solve(wall, Y0, (0.0, 1.0), **o),
    Status.DENSE_FULL: lambda **o: solve(oscillator, Y0, (0.0, 5.0), dense=10, **o),
}
WORDS = {  # (what, component, advice)
    Status.MAX_STEPS: ("`max_steps`", r"look at y\[1\], which changes fastest", "raise `max_steps`"),
    Status.STEP_UNDERFLOW: ("step size became too small", r"look at y\[0\]", "blow up"),
    Status.NON_FINITE_START: ("not finite", r"look at y\[1\], which is not finite", "root or logarithm"),
    Status.NON_FINITE: (
        "non-finite",
        r"up to there all was finite, y\[[01]\] changing fastest",
        "domain",
    ),
    Status.DENSE_FULL: ("dense output is full", "", "`dense=`"),
}


@pytest.mark.parametrize("status", FAILURES, ids=lambda s: s.name)
def test_failure_is_data_without_throw(status):
    sol = FAILURES[status](throw=False)
    assert sol.status == status
    assert not sol.success
    assert np.isnan(sol.y1).all()
    assert np.isnan(sol.ys).all()
    assert np.isfinite(sol.t1)
    assert status.sentence in repr(sol)
    assert sol.stats.num_saved == 0


@pytest.mark.parametrize("status", FAILURES, ids=lambda s: s.name)
def test_failure_raises_one_plain_sentence(status):
    """What, at which t, which component, what to try."""
    what, component, advice = WORDS[status]
    sol = FAILURES[status](throw=False)
    for fails in (FAILURES[status], lambda: FAILURES[status](throw=True), lambda: odejax.check(sol)):
        with pytest.raises(SolveError, match=rf"(?s){what}.*{component}.*{advice}") as error:
            fails()
        message = str(error.value)
        assert f"at t = {float(sol.t1):.9g}" in message
        assert f"after {int(sol.stats.num_steps)} steps" in message
        assert error.value.status == status
        assert error.value.t == sol.t1
        assert "\n" not in message


@pytest.mark.parametrize("status", FAILURES, ids=lambda s: s.name)
def test_failure_under_jit(status):
    """Data by default, which `check` refuses; an exception of equinox with throw=True or `check` inside."""
    sol = jax.jit(FAILURES[status])()
    assert sol.status == status
    with pytest.raises(SolveError):
        odejax.check(sol)
    for run in (lambda: FAILURES[status](throw=True).y1, lambda: odejax.check(FAILURES[status]()).y1):
        with pytest.raises(RuntimeError, match=f"odejax.*{WORDS[status][0]}"):
            jax.block_until_ready(jax.jit(run)())
    with pytest.raises(eqx.EquinoxRuntimeError, match=WORDS[status][0]):
        eqx.filter_jit(lambda: FAILURES[status](throw=True).y1)()


def test_success_passes_the_checks():
    sol = solve(oscillator, Y0, (0.0, 1.0))
    assert odejax.check(sol) is sol
    run = jax.jit(lambda: odejax.check(solve(oscillator, Y0, (0.0, 1.0), throw=True)).y1)
    assert distance(run(), sol.y1) < 1e-12


def test_where_it_failed():
    assert FAILURES[Status.NON_FINITE_START](throw=False).t1 == 0.25
    assert abs(FAILURES[Status.NON_FINITE](throw=False).t1 - 0.5) < 1e-6
    assert abs(FAILURES[Status.STEP_UNDERFLOW](throw=False).t1 - 1.0) < 1e-4
    assert FAILURES[Status.MAX_STEPS](throw=False).stats.num_steps == 50
    assert FAILURES[Status.DENSE_FULL](throw=False).stats.num_accepted == 10


def test_component_in_a_pytree():
    y0 = {"calm": jnp.ones(3), "wild": {"x": jnp.ones((2, 2))}}

    def f(t, y):
        x = y["wild"]["x"]
        return {"calm": -y["calm"], "wild": {"x": x**2 * jnp.array([[0.0, 0.0], [1.0, 0.5]])}}

    with pytest.raises(SolveError, match=r"look at y\['wild'\]\['x'\]\[1\]\[0\]"):
        solve(f, y0, (0.0, 2.0))


def test_no_component_is_blamed_that_is_finite():
    def f(t, y):
        return {"fast": -10 * y["fast"], "bad": jnp.where(t > 0.5, jnp.nan, -y["bad"])}

    with pytest.raises(SolveError, match=r"up to there all was finite, y\['fast'\] changing fastest"):
        solve(f, {"fast": 1.0, "bad": 1.0}, (0.0, 1.0))


def test_failed_lanes_in_words():
    sol = jax.vmap(lambda y: solve(explosion, y, (0.0, 2.0)))(jnp.array([0.1, 1.0, 3.0]))
    assert sol.success.tolist() == [True, False, False]
    with pytest.raises(SolveError, match=r"in 2 of 3 lanes, first in lane 1, at t = "):
        odejax.check(sol)
    assert repr(sol).startswith("Solution of 3 lanes: 1 SUCCESS, 2 STEP_UNDERFLOW\n")
    dense = jax.vmap(lambda y: solve(explosion, y, (0.0, 0.5), dense=True))(jnp.array([0.1, 1.0, 3.0]))
    with pytest.raises(ValueError, match="many lanes"):
        dense(0.2)


def test_record_full():
    """Only where a derivative is asked for, and it says so by NaN and by its status."""
    few = Checkpoints(steps=5)
    assert solve(oscillator, Y0, (0.0, 2.0), checkpoints=few).success

    def run(k):
        sol = solve(oscillator, Y0, (0.0, 2.0), (k,), checkpoints=few, throw=False)
        return sol.y1.sum(), sol.status

    gradient, status = jax.grad(run, has_aux=True)(20.0)
    assert status == Status.RECORD_FULL
    assert np.isnan(gradient)
    with pytest.raises(SolveError, match=r"record of step sizes.*Checkpoints\(steps="):
        jax.grad(lambda k: solve(oscillator, Y0, (0.0, 2.0), (k,), checkpoints=few).y1.sum())(20.0)
    enough = jax.grad(
        lambda k: solve(oscillator, Y0, (0.0, 2.0), (k,), checkpoints=Checkpoints(steps=300)).y1.sum()
    )(20.0)
    assert np.isfinite(enough)


@pytest.mark.parametrize(
    "times", [[0.5, 0.4], [-0.1, 0.4], [0.5, 1.1], [0.5, np.nan], [np.nan, 0.5]], ids=str
)
def test_bad_output_times_that_are_traced(times):
    run = jax.jit(lambda times: solve(oscillator, Y0, (0.0, 1.0), t_eval=times))
    sol = run(jnp.array(times))
    assert sol.status == Status.BAD_TIMES
    assert np.isnan(sol.ys).all()
    assert np.isnan(sol.y1).all()
    with pytest.raises(SolveError, match=r"`t_eval` is not .*sort `t_eval`"):
        odejax.check(sol)
    assert run(jnp.array([0.4, 0.5])).success


def test_bad_spans_that_are_traced():
    run = jax.jit(lambda t1: solve(oscillator, Y0, (0.0, t1)))
    for t1 in (np.nan, np.inf, -np.inf):
        assert run(t1).status == Status.BAD_TIMES
    assert run(1.0).success


BAD_NUMBERS = [
    (lambda x: {"rtol": x}, [-1e-6, np.nan], 1e-6),
    (lambda x: {"atol": x * np.ones(2)}, [-1e-6, np.nan], 1e-6),
    (lambda x: {"dt0": x}, [0.0, np.nan], 0.1),
    (lambda x: {"max_steps": x}, [0, -5], 1000),
    (lambda x: {"controller": ConstantStep(x)}, [-0.1, 0.0, np.nan], 0.1),
    (lambda x: {"controller": PIController(safety=x)}, [0.0, 2.0, np.nan], 0.9),
    (lambda x: {"controller": PIController(max_step=x)}, [0.0, np.nan], 0.5),
]


@pytest.mark.parametrize(("options", "bad", "good"), BAD_NUMBERS)
def test_bad_numbers_that_are_traced(options, bad, good):
    """They cannot be refused at the door, but must not look right."""
    run = jax.jit(jax.vmap(lambda x: solve(oscillator, Y0, (0.0, 1.0), **options(x))))
    sol = run(jnp.array([*bad, good]))
    assert sol.status.tolist() == [Status.BAD_NUMBERS] * len(bad) + [Status.SUCCESS]
    assert np.isnan(sol.y1[:-1]).all()
    with pytest.raises(SolveError, match="out of bounds or NaN"):
        odejax.check(sol)


def test_infinite_state_at_the_start():
    for y0 in (jnp.array([1.0, jnp.inf]), jnp.array([jnp.nan, 1.0])):
        assert solve(oscillator, y0, (0.0, 1.0), throw=False).status == Status.NON_FINITE_START


def test_constant_steps_into_nan():
    sol = solve(wall, Y0, (0.0, 1.0), controller=ConstantStep(0.1), method="rk4", throw=False)
    assert sol.status == Status.NON_FINITE
    assert 0.3 < sol.t1 < 0.6


def test_overflow_of_the_state():
    """Steps of given size across the explosion: infinity is no success."""
    sol = solve(explosion, 1.0, (0.0, 10.0), controller=ConstantStep(0.5), method="euler", throw=False)
    assert not sol.success
    assert np.isnan(sol.y1)


# -- a trial step into a forbidden region


def emptying(t, h, a):
    """Torricelli: h' = -2 a sqrt(h), h = (sqrt(h0) - a t)^2, empty at t = sqrt(h0) / a."""
    return -2 * a * jnp.sqrt(h)


def test_trial_steps_outside_of_the_domain_are_rejected():
    """The first step asked for leads to negative h; the gradient is finite and right."""
    options = {"dt0": 5.0, "rtol": 1e-8, "atol": 1e-8}

    def run(h0, a):
        return solve(emptying, h0, (0.0, 0.9), (a,), **options).y1

    sol = solve(emptying, 1.0, (0.0, 0.9), (1.0,), **options)
    assert sol.stats.num_rejected > 0
    assert abs(sol.y1 - 0.01) < 1e-7
    exact = jax.jacfwd(lambda h0, a: (jnp.sqrt(h0) - 0.9 * a) ** 2, (0, 1))(1.0, 1.0)
    for jac in (jax.jacfwd, jax.jacrev):
        assert distance(jac(run, (0, 1))(1.0, 1.0), exact) < 1e-5
    lanes = jax.vmap(jax.grad(run, (0, 1)), (0, None))(jnp.array([1.0, 4.0]), 1.0)
    assert all(np.isfinite(x).all() for x in lanes)


# -- NaN goes where it must, and nowhere else


def test_outputs_that_were_not_reached():
    sol = solve(explosion, 1.0, (0.0, 2.0), t_eval=[0.0, 0.5, 0.9, 1.5, 2.0], throw=False, dense=4000)
    assert np.isfinite(sol.ys[:3]).all()
    assert np.isnan(sol.ys[3:]).all()
    assert distance(sol.ys[:3], 1 / (1 - np.array([0.0, 0.5, 0.9]))) < 1e-4
    assert sol.stats.num_saved == 3
    assert np.isfinite(sol(0.9))
    assert np.isnan(sol(1.5))
    steps = solve(explosion, 1.0, (0.0, 2.0), save_steps=3000, throw=False)
    n = int(steps.stats.num_saved)
    assert n == steps.stats.num_accepted
    assert np.isfinite(steps.ys[:n]).all()
    assert np.isnan(steps.ys[n:]).all()


def failing(y0, a):
    """What there is of a failed solve: a row that was reached, one that was not, y1."""
    sol = solve(explosion, y0, (0.0, 2.0), (a,), t_eval=[0.5, 1.5], throw=False)
    return {"reached": sol.ys[0], "missed": sol.ys[1], "y1": sol.y1}


@pytest.mark.parametrize("jac", [jax.jacfwd, jax.jacrev, jax.hessian], ids=["jacfwd", "jacrev", "hessian"])
def test_derivatives_of_what_was_not_reached_are_nan(jac):
    got = jac(failing, (0, 1))(1.0, 1.0)
    assert all(np.isnan(x) for x in jax.tree.leaves((got["missed"], got["y1"])))
    wanted = jac(lambda y0, a: 1 / (1 / y0 - 0.5 * a), (0, 1))(1.0, 1.0)
    assert distance(got["reached"], wanted) < 1e-3


@pytest.mark.parametrize("jac", [jax.jacfwd, jax.jacrev, jax.hessian], ids=["jacfwd", "jacrev", "hessian"])
def test_what_was_made_of_nan_is_nan(jac):
    """`save_fn` at the end may make a number of it, dense output has none there."""

    def saved(y0, a):
        def save_fn(t, y, a):
            return jnp.nan_to_num(y) + a**2

        return solve(explosion, y0, (0.0, 2.0), (a,), throw=False, save_fn=save_fn).ys[0]

    def between(y0, a):
        sol = solve(explosion, y0, (0.0, 2.0), (a,), throw=False, dense=400)
        return sol(1.5), sol.derivative(1.5)

    lanes = jax.vmap(saved, (0, None))(jnp.array([1.0, 0.2]), 1.0)
    np.testing.assert_allclose(lanes, [np.nan, 0.2 / 0.6 + 1], rtol=1e-3)
    for fn in (saved, between):
        assert np.isnan(jax.tree.leaves(fn(1.0, 1.0))).all()
        assert np.isnan(jax.tree.leaves(jac(fn, (0, 1))(1.0, 1.0))).all()


def test_derivatives_are_nan_where_the_primal_is_unused():
    """Reverse mode never looks at a value that multiplies by a constant, such as that of a sum."""

    def total(y0, a):
        return jnp.sum(solve(explosion, y0, (0.0, 2.0), (a,), throw=False).y1)

    y0 = jnp.array([1.0, 0.2])
    by_y0, by_a = jax.grad(total, (0, 1))(y0, 1.0)
    assert np.isnan(by_y0).all()
    assert np.isnan(by_a)
    _, tangent = jax.jvp(total, (y0, 1.0), (jnp.array([0.0, 1.0]), 0.0))
    assert np.isnan(tangent)
    assert np.isnan(jax.grad(lambda t1: solve(explosion, y0, (0.0, t1), throw=False).y1[0])(2.0))
    assert np.isnan(jax.grad(lambda t0: solve(explosion, y0, (t0, 2.0), throw=False).y1[0])(0.0))
    assert np.isnan(
        jax.vjp(lambda a: solve(explosion, y0, (0.0, 2.0), (a,), throw=False).y1, 1.0)[1](jnp.ones(2))[0]
    )


@pytest.mark.parametrize("status", FAILURES, ids=lambda s: s.name)
def test_derivatives_of_every_failure_are_nan(status):
    """Also of one that never took a step, by the state it started from."""

    fails = {
        Status.MAX_STEPS: partial(solve, stiff, t_span=(0.0, 10.0), max_steps=50),
        Status.STEP_UNDERFLOW: partial(solve, explosion, t_span=(0.0, 2.0)),
        Status.NON_FINITE_START: partial(solve, not_finite, t_span=(0.25, 1.0)),
        Status.NON_FINITE: partial(solve, wall, t_span=(0.0, 1.0)),
        Status.DENSE_FULL: partial(solve, oscillator, t_span=(0.0, 5.0), dense=10),
    }
    run = jax.jit(lambda y: fails[status](y0=y).y1)
    assert np.isnan(jax.jacfwd(run)(Y0)).all()
    assert np.isnan(jax.jacrev(run)(Y0)).all()
    assert np.isnan(jax.hessian(run)(Y0)).all()
    with pytest.raises(SolveError):  # outside of jit
        jax.jacrev(lambda y: fails[status](y0=y).y1)(Y0)


def lanes_of(y0, shared, own):
    def one(y0, own):
        sol = solve(lambda t, y: shared * own * y * y, y0, (0.0, 1.0), t_eval=[0.3, 1.0])
        return {"ys": sol.ys, "y1": sol.y1, "steps": sol.stats.num_steps}

    return jax.vmap(one)(y0, own)


GOOD, BAD = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([0.1, 5.0, 0.3, jnp.nan])
OWN = jnp.array([1.0, 1.1, 1.2, 1.3])


def test_other_lanes_are_the_same_to_the_last_bit():
    run = jax.jit(lambda y0: lanes_of(y0, 1.0, OWN))
    good, bad = run(GOOD), run(BAD)
    for i in (0, 2):
        assert bits(jax.tree.map(lambda x: x[i], good)) == bits(jax.tree.map(lambda x: x[i], bad))
    assert np.isnan(bad["y1"][jnp.array([1, 3])]).all()
    assert np.isfinite(good["y1"]).all()


@pytest.mark.parametrize("transform", [jax.jacrev, jax.jacfwd], ids=["jacrev", "jacfwd"])
def test_derivatives_of_other_lanes_are_the_same_to_the_last_bit(transform):
    def run(y0, own):
        out = lanes_of(y0, 1.0, own)
        return out["y1"], out["ys"]

    jac = jax.jit(transform(run, (0, 1)))
    good, bad = jac(GOOD, OWN), jac(BAD, OWN)
    for g, b in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        for i in (0, 2):
            assert bits(g[i][..., i]) == bits(b[i][..., i])
        assert np.isnan(b[3][..., 3]).all()
    assert np.isnan(bad[0][0][1, 1])


def test_gradients_of_other_lanes_are_the_same_to_the_last_bit():
    """A gradient of the sum over lanes, in which failed lanes take part."""
    grad = jax.jit(jax.grad(lambda y0, own: lanes_of(y0, 1.0, own)["y1"].sum(), (0, 1)))
    good, bad = grad(GOOD, OWN), grad(BAD, OWN)
    for g, b in zip(good, bad, strict=True):
        assert bits(g[::2]) == bits(b[::2])
        assert np.isnan(b[1::2]).all()


def test_shared_gradient_of_failed_lanes():
    """NaN if a failed lane is used; finite, and that of the other lanes, if its cotangent is zero."""

    def loss(shared, y0, uses):
        y1 = lanes_of(y0, shared, OWN)["y1"]
        return jnp.where(uses, y1, 0.0).sum()

    grad = jax.jit(jax.grad(loss))
    assert np.isnan(grad(1.0, BAD, jnp.ones(4, bool)))
    uses = jnp.array([True, False, True, False])
    got, wanted = grad(1.0, BAD, uses), grad(1.0, GOOD, uses)
    assert np.isfinite(got)
    assert distance(got, wanted) < 1e-14
    by_y0 = jax.jit(jax.grad(loss, 1))(1.0, BAD, uses)
    assert np.isfinite(by_y0).all()
    assert (by_y0[1::2] == 0).all()
    second = jax.jit(jax.grad(jax.grad(loss)))
    assert np.isfinite(second(1.0, BAD, uses))
    assert distance(second(1.0, BAD, uses), second(1.0, GOOD, uses)) < 1e-13
    assert np.isnan(second(1.0, BAD, jnp.ones(4, bool)))


def test_reached_rows_of_failed_lanes_have_finite_shared_gradients():
    def loss(shared):
        return lanes_of(jnp.array([0.1, 2.0]), shared, jnp.ones(2))["ys"][:, 0].sum()

    exact = jax.grad(lambda a: (1 / (1 / jnp.array([0.1, 2.0]) - 0.3 * a)).sum())(1.0)
    assert distance(jax.grad(loss)(1.0), exact) < 1e-4
    assert distance(jax.jacfwd(loss)(1.0), exact) < 1e-4


def test_what_was_reached_has_no_derivative():
    sol_of = partial(solve, explosion, t_span=(0.0, 2.0), throw=False)
    assert np.isfinite(sol_of(1.0).y_reached)
    assert jax.grad(lambda y: sol_of(y).y_reached)(1.0) == 0


# -- bad arguments: each message of arguments.py

GOOD_CALL = {"f": decay, "y0": 1.0, "t_span": (0.0, 1.0), "args": (1.0,)}
F32 = jnp.ones(2, jnp.float32)

REFUSED = {
    "no arrays": ({"y0": {}}, ValueError, "`y0` has no arrays in it"),
    "None as y0": ({"y0": None}, ValueError, "`y0` has no arrays in it"),
    "text in y0": ({"y0": {"a": 1.0, "b": "x"}}, TypeError, r"`y0\['b'\]` must be an array or a number, got str"),
    "empty y0": ({"y0": (1.0, jnp.ones((0, 2)))}, ValueError, r"`y0\[1\]` is empty \(shape \(0, 2\)\)"),
    "t_span of one": ({"t_span": 1.0}, ValueError, r"`t_span` must be a pair \(t0, t1\), got 1.0"),
    "t_span of three": ({"t_span": (0, 1, 2)}, ValueError, "`t_span` must be a pair"),
    "complex t_span": ({"t_span": (0.0, 1j)}, TypeError, r"`t_span\[1\]` must be a real number, got 1j"),
    "text in t_span": ({"t_span": ("a", 1.0)}, TypeError, r"`t_span\[0\]` must be a real number"),
    "vector in t_span": ({"t_span": (0.0, jnp.ones(2))}, ValueError, r"`t_span\[1\]` must be a scalar, .*jax.vmap"),
    "infinite t_span": ({"t_span": (0.0, np.inf)}, ValueError, r"`t_span\[1\]` must be finite in float64, got inf"),
    "nan in t_span": ({"t_span": (np.nan, 1.0)}, ValueError, r"`t_span\[0\]` must be finite in float64, got nan"),
    "complex t_eval": ({"t_eval": [0.5 + 1j]}, TypeError, "`t_eval` must be real numbers"),
    "scalar t_eval": ({"t_eval": 0.5}, ValueError, r"`t_eval` must be a vector of times, got shape \(\)"),
    "matrix t_eval": ({"t_eval": np.ones((2, 2))}, ValueError, r"`t_eval` must be a vector .*\(2, 2\).*jax.vmap"),
    "empty t_eval": ({"t_eval": []}, ValueError, "`t_eval` is empty. Pass None"),
    "nan in t_eval": ({"t_eval": [0.1, np.nan]}, ValueError, "`t_eval` must be finite, got nan"),
    "falling t_eval": (
        {"t_eval": [0.1, 0.5, 0.4]}, ValueError,
        r"`t_eval` must be increasing: t_eval\[1\] = 0.5 is followed by 0.4. Sort it",
    ),
    "rising t_eval backwards": (
        {"t_eval": [0.4, 0.5], "t_span": (1.0, 0.0)}, ValueError, "`t_eval` must be decreasing, as t1 < t0",
    ),
    "early t_eval": ({"t_eval": [-0.1, 0.5]}, ValueError, r"`t_eval` must lie inside `t_span` = \(0.0, 1.0\), got -0.1"),
    "late t_eval": ({"t_eval": [0.1, 1.5]}, ValueError, "`t_eval` must lie inside `t_span` .* got 1.5"),
    "both outputs": ({"t_eval": [0.5], "save_steps": 3}, ValueError, "`t_eval` and `save_steps` exclude each other"),
    "method with a typo": ({"method": "dorpi5"}, ValueError, "`method` 'dorpi5' is not known. Did you mean \"dopri5\""),
    "unknown method": ({"method": "xyzxyz"}, ValueError, "`method` 'xyzxyz' is not known. Known are: euler, "),
    "number as method": ({"method": 5}, TypeError, "`method` must be a name or a tableau like odejax.ExplicitTableau, got 5"),
    "text as controller": ({"controller": "pid"}, TypeError, "`controller` must be an odejax.PIController, .*'pid'"),
    "no error estimate": (
        {"method": "euler"}, ValueError, r"`method` 'euler' has no error estimate.*ConstantStep\(h\)",
    ),
    "vector in controller": (
        {"controller": PIController(max_step=np.ones(2))}, ValueError, r"`controller.max_step` must be a scalar",
    ),
    "vector as step": ({"controller": ConstantStep(np.ones(2))}, ValueError, "`controller.h` must be a scalar"),
    "negative step": ({"controller": ConstantStep(-0.1)}, ValueError, "`controller.h` must be positive and finite, got -0.1"),
    "infinite step": ({"controller": ConstantStep(np.inf)}, ValueError, "`controller.h` must be positive and finite"),
    "no safety": ({"controller": PIController(safety=2.0)}, ValueError, r"`controller.safety` must be in \(0, 1\], got 2"),
    "never larger": ({"controller": PIController(max_factor=0.5)}, ValueError, "`controller.max_factor` must be above 1"),
    "never smaller": ({"controller": PIController(min_factor=2.0)}, ValueError, "`controller.min_factor` must be in"),
    "max_step 0": ({"controller": PIController(max_step=0.0)}, ValueError, "`controller.max_step` must be positive"),
    "max_step nan": ({"controller": PIController(max_step=np.nan)}, ValueError, "`controller.max_step` must be positive"),
    "no step between": (
        {"controller": PIController(min_step=1.0, max_step=0.1)}, ValueError, "`controller.max_step` .* not below",
    ),
    "min_step negative": ({"controller": PIController(min_step=-1.0)}, ValueError, "`controller.min_step` must be at"),
    "name elsewhere": ({"method": "RK45CK"}, ValueError, 'Did you mean "cash_karp"'),
    "no step": ({"controller": ConstantStep(0.0)}, ValueError, "`controller.h` must be positive"),
    "nan as step": ({"controller": ConstantStep(np.nan)}, ValueError, "`controller.h` must be positive"),
    "negative rtol": ({"rtol": -1e-3}, ValueError, "`rtol` must not be negative or NaN, got -0.001"),
    "negative atol": ({"atol": -1e-3}, ValueError, "`atol` must not be negative or NaN"),
    "nan as rtol": ({"rtol": np.nan}, ValueError, "`rtol` must not be negative or NaN"),
    "complex rtol": ({"rtol": 1j}, TypeError, "`rtol` must be real, got 1j"),
    "text as atol": ({"atol": "small"}, TypeError, "`atol` must be real, got 'small'"),
    "rtol of another structure": ({"rtol": (1e-3, 1e-3)}, ValueError, "`rtol` must be a number, .* pytree like `y0`"),
    "atol of another shape": (
        {"y0": jnp.ones(2), "atol": np.ones(3)}, ValueError, r"`atol` of shape \(3,\) does not fit .* \(2,\)",
    ),
    "both tolerances 0": ({"rtol": 0.0, "atol": 0.0}, ValueError, "`rtol` and `atol` must not both be 0"),
    "rtol too small": ({"rtol": 1e-17}, ValueError, "`rtol` = 1e-17 is below what float64 can resolve. Use at least"),
    "rtol too small for float32": (
        {"y0": F32, "rtol": 1e-8}, ValueError, "`rtol` = 1e-08 is below what float32 can resolve",
    ),
    "dt0 of 0": ({"dt0": 0.0}, ValueError, "`dt0` must not be 0. Pass None"),
    "dt0 nan": ({"dt0": np.nan}, ValueError, "`dt0` must be finite"),
    "dt0 vector": ({"dt0": np.ones(2)}, ValueError, "`dt0` must be a scalar"),
    "max_steps not whole": ({"max_steps": 1e3}, TypeError, "`max_steps` must be an integer, got 1000.0"),
    "max_steps None": ({"max_steps": None}, TypeError, "`max_steps` must be an integer"),
    "max_steps 0": ({"max_steps": 0}, ValueError, r"`max_steps` must be positive and below 2\*\*31, got 0"),
    "max_steps too large": ({"max_steps": 2**31}, ValueError, r"`max_steps` must be positive and below 2\*\*31"),
    "save_steps 0": ({"save_steps": 0}, ValueError, "`save_steps` must be an integer of at least 1, got 0"),
    "save_steps not whole": ({"save_steps": 2.5}, ValueError, "`save_steps` must be an integer"),
    "save_steps True": ({"save_steps": True}, ValueError, "`save_steps` must be an integer"),
    "dense 0": ({"dense": 0}, ValueError, "`dense` must be an integer of at least 1"),
    "dense text": ({"dense": "yes"}, ValueError, "`dense` must be an integer of at least 1, got 'yes'"),
    "checkpoints 0": ({"checkpoints": 0}, ValueError, "`checkpoints` must be an integer of at least 1"),
    "checkpoints.states": ({"checkpoints": Checkpoints(states=-1)}, ValueError, "`checkpoints.states` must be"),
    "checkpoints.steps": ({"checkpoints": Checkpoints(steps=0.5)}, ValueError, "`checkpoints.steps` must be"),
    "args not a tuple": ({"args": 1.0}, TypeError, r"`args` must be a tuple, got float. .*args=\(p,\)"),
    "args an array": ({"args": jnp.ones(2)}, TypeError, "`args` must be a tuple"),
    "text in args": ({"args": ({"a": "x"},)}, TypeError, r"`args\[0\]\['a'\]` must be an array or a number, got str"),
    "f not a function": ({"f": 3.0}, TypeError, r"`f` must be a function f\(t, y, \*args\), got 3.0"),
    "save_fn not a function": ({"save_fn": 3.0}, TypeError, "`save_fn` must be a function"),
    "progress not a function": ({"progress": 3.0}, TypeError, "`progress` must be True, False or a function"),
    "f of another structure": (
        {"f": lambda t, y, k: (y, y)}, TypeError, "`f` must return dy/dt with the structure of `y0`.* it returned",
    ),
    "f returns None": ({"f": lambda t, y, k: None}, TypeError, "`f` must return dy/dt with the structure of `y0`"),
    "f of another shape": (
        {"f": lambda t, y, k: {"a": jnp.ones(3)}, "y0": {"a": jnp.ones(2)}}, ValueError,
        r"`f` must return arrays of the shapes of `y0`: dy\['a'\] is \(3,\), not \(2,\)",
    ),
    "f of integers": ({"f": lambda t, y, k: 1}, TypeError, "`f` must return floating point numbers: dy is int"),
    "f of complex numbers": ({"f": lambda t, y, k: 1j * y}, TypeError, r"`f` returned complex numbers \(dy\) for a real"),
    "save_fn of nothing": ({"save_fn": lambda t, y, k: None, "t_eval": [0.5]}, TypeError, "`save_fn` must return an array"),
    "save_fn of integers": (
        {"save_fn": lambda t, y, k: {"n": 1}, "t_eval": [0.5]}, TypeError,
        r"`save_fn` must return floating point numbers: save_fn\(...\)\['n'\] is int",
    ),
    "save_fn of nothing at the end": ({"save_fn": lambda t, y, k: None}, TypeError, "`save_fn` must return an array"),
    "save_fn of integers at the end": ({"save_fn": lambda t, y, k: 1}, TypeError, "`save_fn` must return floating"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case):
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=f"(?s){message}"):
        solve(**{**GOOD_CALL, **changes})


UNDER_JIT = [
    "negative rtol", "falling t_eval", "unknown method", "f of another shape", "empty y0", "rtol too small for float32",
]  # fmt: skip


@pytest.mark.parametrize("case", UNDER_JIT)
def test_bad_arguments_are_refused_under_jit(case):
    """What is known is checked there, too."""
    changes, error, message = REFUSED[case]
    call = {**GOOD_CALL, **changes}
    traced = {} if "y0" in changes else {"y0": call.pop("y0")}
    with pytest.raises(error, match=message):
        jax.jit(lambda traced: solve(**call, **traced).y1)(traced)


@pytest.mark.parametrize(
    ("span", "t_eval", "message"),
    [
        ((1e9, 1e9 + 1), None, "`t_span` does not survive rounding to float32"),
        ((1e8, 1e8 + 8), np.linspace(1e8, 1e8 + 8, 5), "`t_eval` does not survive rounding to float32"),
        ((0.0, 1e39), None, r"`t_span\[1\]` must be finite in float32"),
    ],
)
def test_times_that_float32_cannot_tell_apart(span, t_eval, message):
    with jax.enable_x64(False), pytest.raises(ValueError, match=message):
        solve(decay, 1.0, span, (1.0,), t_eval=t_eval)


def test_the_good_call_is_good():
    assert solve(**GOOD_CALL).success


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 0}, "`order` must be at least 1"),
        ({"b": [0.5, 0.4]}, "sum of b"),
        ({"a": [[1], [1, 1]]}, "`a` has 2 rows and `b` has 2 weights"),
        ({"c": [0, 0.5]}, "row 2 of `a` sums to 1.0, but `c` says 0.5"),
    ],
)
def test_bad_tableaus_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ExplicitTableau(**{"name": "mine", "order": 2, "a": [[1]], "b": [0.5, 0.5], **changes})


def test_errors_of_f_are_its_own():
    """An exception in f reaches the user as it is."""

    def f(t, y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        solve(f, 1.0, (0.0, 1.0))
    with pytest.raises(TypeError, match="positional argument"):
        solve(decay, 1.0, (0.0, 1.0))


def test_chaos_is_no_failure():
    assert solve(lorenz, jnp.ones(3), (0.0, 20.0)).success
