"""Functions evaluated component by component, beside the same functions as they are; and solves."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from odejax import ConstantStep, solve
from odejax.core import jaxprs
from odejax.core.components import Components, TooLarge
from odejax.core.parts import known_indices, pack, regroup, unpack
from problems import LOTKA_VOLTERRA_P, LOTKA_VOLTERRA_Y0, distance, lorenz, lotka_volterra

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=30)
TOLERANCE = {jnp.dtype("float64"): 1e-13, jnp.dtype("complex128"): 1e-13, jnp.dtype("float32"): 3e-5}


class InComponents:
    """`f(params, y)`, traced as functions of `solve` are: parameters are whole, states taken apart."""

    def __init__(self, f, params, y, largest=64, budget=100_000):
        (self.params, self.params_tree), (state, self.state_tree) = map(jax.tree.flatten, (params, y))
        self.is_apart = []  # which results are given as scalars
        self.like = [np.empty(x.shape, object) for x in state]
        traced, out = jax.make_jaxpr(f, return_shape=True)(params, y)
        self.traced, (self.out_avals, self.out_tree) = traced, jax.tree.flatten(out)

        def apart(params, *scalars):
            constants = [known_indices(c, c) for c in traced.consts]
            values = [*constants, *params, *regroup(scalars, self.like)]
            results = Components(largest, budget).run(traced.jaxpr, values)
            self.is_apart = [isinstance(x, np.ndarray) for x in results]
            return [x for r in results for x in (r.ravel() if isinstance(r, np.ndarray) else [r])]

        self.closed = jax.make_jaxpr(apart)(self.params, *self.scalars(state))

    @staticmethod
    def scalars(state):
        return [x for leaf in state for x in unpack(leaf).ravel()]

    def __call__(self, params, y):
        """What `f` returns."""
        leaves = [*jax.tree.leaves(params), *self.scalars(jax.tree.leaves(y))]
        out = jax.core.eval_jaxpr(self.closed.jaxpr, self.closed.consts, *leaves)
        like = [np.empty(a.shape, object) if p else None
                for a, p in zip(self.out_avals, self.is_apart, strict=True)]  # fmt: skip
        out = [pack(x, a.dtype) for x, a in zip(regroup(out, like), self.out_avals, strict=True)]
        return jax.tree.unflatten(self.out_tree, out)

    def as_it_is(self, params, y):
        """What `f` returns, evaluated operation by operation: many functions share what is compiled."""
        values = [*self.traced.consts, *jax.tree.leaves((params, y))]
        return jax.tree.unflatten(self.out_tree, jaxprs.evaluate_jaxpr(self.traced.jaxpr, values))

    def equations(self):
        """Those that depend on the state."""
        touched, found = set(self.closed.jaxpr.invars[len(self.params) :]), []
        for equation in self.closed.jaxpr.eqns:
            if touched & jaxprs.variables(equation.invars):
                touched.update(equation.outvars)
                found.append(equation)
        return found

    def names(self):
        return {equation.primitive.name for equation in self.equations()}

    def shapes(self):
        return {atom.aval.shape for e in self.equations() for atom in (*e.invars, *e.outvars)}


def assert_close(got, wanted):
    """Equal types, and numbers to rounding, relative to the largest of an array or to 1."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.size:
            difference = np.abs(np.asarray(a) - np.asarray(b)).max()
            assert difference <= TOLERANCE[b.dtype] * max(1.0, np.abs(np.asarray(b)).max())


def check(f, params, y, modes=("jvp", "vjp"), **limits):
    """Values and derivatives of `f(params, y)` in components, beside those of `f` itself."""
    rng = np.random.default_rng(0)

    def random(like):
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), like)

    fn = InComponents(f, params, y, **limits)
    wanted = fn.as_it_is(params, y)
    assert_close(fn(params, y), wanted)
    if "jvp" in modes:
        tangents = random((params, y))
        assert_close(jax.jvp(fn, (params, y), tangents), jax.jvp(fn.as_it_is, (params, y), tangents))
    if "vjp" in modes:
        bars = random(wanted)
        assert_close(jax.vjp(fn, params, y)[1](bars), jax.vjp(fn.as_it_is, params, y)[1](bars))
    return fn


# -- operations: functions of (x, another array z, an integer k); k chooses axes and places

M = jnp.array([[0.3, -0.7, 0.2], [0.5, 0.1, -0.4], [-0.6, 0.8, 0.9]])
PLACES = jnp.array([2, 0, 1, 2])
MASK = jnp.array([True, False, True])


def row(x):
    return x.reshape(-1) if x.ndim == 0 else x


def fit(z, x):
    """The numbers of z, repeated or cut off to the shape of x."""
    return jnp.concatenate([z.ravel()] * -(-x.size // z.size))[: x.size].reshape(x.shape)


def three(x):
    return fit(x, jnp.zeros(3))


def axis(x, k):
    return k % x.ndim


def apart(x):
    """Without ties: rules differ in what the derivative of a maximum of three equal numbers is."""
    return row(x) + jnp.linspace(0.0, 1.7, row(x).size, dtype=x.dtype).reshape(row(x).shape)


@jax.custom_jvp
def marked_jvp(x, z):
    """With a derivative that it does not have."""
    return jnp.sin(x) * z


@marked_jvp.defjvp
def _marked_jvp(primals, tangents):
    (x, z), (dx, dz) = primals, tangents
    return marked_jvp(x, z), 3 * dx * jnp.cos(z) - 2 * dz[..., ::-1]


@jax.custom_vjp
def marked_vjp(x, z):
    return jnp.cos(x) * z


marked_vjp.defvjp(
    lambda x, z: (marked_vjp(x, z), (x, z)), lambda kept, bar: (5 * bar * kept[1], bar * kept[0] - 1)
)


@jax.jit
def jitted(x, z):
    return {"a": x * z, "b": x.sum() + jax.jit(jnp.sin)(z)}


def sliced_where_largest(x, z, k):
    """A dynamic slice at a traced index, and one written there."""
    v = row(x).reshape(-1)
    i = jnp.argmax(apart(v))
    return lax.dynamic_update_slice(v, lax.dynamic_slice(v, (i,), (1,)) * 2, (k - i,))


def energy(x):
    return jnp.prod(jnp.cos(x)) + (row(x)[::2] * row(x)[-1]).sum() + jax.nn.softplus(x).sum()


ELEMENTWISE = {
    "arithmetic": lambda x, z, k: (x - fit(z, x)) * x + k,
    "sin": lambda x, z, k: jnp.sin(x),
    "exp": lambda x, z, k: jnp.exp(jnp.sin(x)),
    "tanh": lambda x, z, k: jnp.tanh(x),
    "abs": lambda x, z, k: jnp.abs(x - 0.1),
    "sqrt, log": lambda x, z, k: jnp.sqrt(1 + x * x) + jnp.log1p(x * x),
    "where": lambda x, z, k: jnp.where(x > 0.123, x, fit(z, x)),
    "select": lambda x, z, k: jnp.select([x > 0.7, x > -0.4], [x, fit(z, x)], 3 * x),
    "maximum": lambda x, z, k: jnp.maximum(x, fit(z, x)) - jnp.minimum(x, 0.3),
    "clip": lambda x, z, k: jnp.clip(x, -0.7, 0.8),
    "integer power": lambda x, z, k: jnp.tanh(x) ** (k % 5) + (2 + jnp.sin(x)) ** -2,
    "real power": lambda x, z, k: (1 + x * x) ** 0.3 + (1.5 + jnp.tanh(x)) ** jnp.tanh(fit(z, x)),
    "division": lambda x, z, k: x / (2 + jnp.sin(fit(z, x))),
    "special": lambda x, z, k: lax.erf(x) + jnp.arctan2(x, 2.0) + jnp.hypot(x, 1.0),
    "integers": lambda x, z, k: x * (jnp.floor(3 * x).astype(int) % 3 + jnp.sign(x).astype(jnp.int8)),
    "truth": lambda x, z, k: x * ((x > 0.1) & ~(x > 0.9) | (x < -0.5)) + (x > 0.2).sum() * x,
    "truth products": lambda x, z, k: x * jnp.dot(row(x) > 0.1, row(x).T < 0.8).any(),
    "overflow": lambda x, z, k: x * ((PLACES.astype(jnp.uint32) - jnp.uint32(7 + k)) >> 29).max(),
    "cast": lambda x, z, k: x.astype(jnp.float32).astype(x.dtype) + x,
    "mask": lambda x, z, k: jnp.where(MASK, three(x), 0.0) + MASK,
    "complex": lambda x, z, k: (jnp.exp(1j * x) * jnp.conj(x + 2j)).imag + jnp.abs(x + 2j),
}
MOVEMENT = {
    "index": lambda x, z, k: row(x)[k % len(row(x))],
    "last": lambda x, z, k: row(x)[-1] * row(x)[0],
    "slice": lambda x, z, k: row(x)[k % len(row(x)) :: 1 + k % 2],
    "reverse": lambda x, z, k: row(x)[::-1, ..., ::-1] if x.ndim > 1 else row(x)[::-1],
    "gather": lambda x, z, k: three(x)[PLACES] + three(z)[PLACES - 3],
    "gather columns": lambda x, z, k: jnp.outer(three(x), three(z))[:, jnp.array([0, -1])][np.array([2, 0])],
    "gather pairs": lambda x, z, k: jnp.outer(three(x), three(z))[PLACES, PLACES[::-1]],
    "gather filled": lambda x, z, k: (
        jnp.isnan(three(x).at[PLACES + 1].get(mode="fill") + z.ravel()[0]) * three(z)[0]
    ),
    "gather value": lambda x, z, k: three(x).at[PLACES + 1].get(mode="fill", fill_value=0.5),
    "gather by traced": lambda x, z, k: row(x)[jnp.argmax(apart(x).ravel()) % len(row(x))],
    "set": lambda x, z, k: row(x).at[k % len(row(x))].set(z.ravel()[0]),
    "set many": lambda x, z, k: three(x).at[PLACES[:2]].set(three(z)[1:]).at[-1].set(0.5),
    "set outside": lambda x, z, k: three(x).at[jnp.array([5, 1])].set(z.ravel()[0]),
    "add at": lambda x, z, k: three(x).at[PLACES].add(z.ravel()[0]).at[::2].add(three(z)[:2]),
    "multiply at": lambda x, z, k: row(x).at[k % len(row(x))].multiply(z.ravel()[0], unique_indices=True),
    "truth set": lambda x, z, k: three(x) * (three(x) > 0.1).at[PLACES[:2]].set(False),
    "unpack, stack": lambda x, z, k: (lambda a, b, c: jnp.stack([b, c * a, jnp.float32(k)]))(*three(x)),
    "stack": lambda x, z, k: jnp.stack([x, fit(z, x)], axis=-1),
    "concatenate": lambda x, z, k: jnp.concatenate([row(x), fit(z, row(x))], axis(row(x), k)),
    "reshape": lambda x, z, k: x.reshape(-1, 1),
    "transpose": lambda x, z, k: jnp.swapaxes(row(x)[None], 0, -1),
    "broadcast": lambda x, z, k: jnp.broadcast_to(x, (2, *x.shape)) * x,
    "pad": lambda x, z, k: jnp.pad(row(x), (1 + k % 2, 1), mode=("edge", "constant", "wrap")[k % 3]),
    "pad inside, cut": lambda x, z, k: lax.pad(three(x), z.ravel()[0], [(k % 4 - 2, k % 3 - 1, k % 3)]),
    "roll": lambda x, z, k: jnp.roll(x, k, None if x.ndim == 0 else axis(x, k)),
    "split": lambda x, z, k: jnp.split(three(x), [1 + k % 2])[k % 2],
    "diff": lambda x, z, k: jnp.diff(row(x), axis=axis(row(x), k)),
    "repeat, tile": lambda x, z, k: jnp.repeat(three(x), 2) * jnp.tile(three(z), 2),
    "empty": lambda x, z, k: jnp.concatenate([three(x)[:0], three(x)]) + three(x)[3:].sum(),
    "triangle": lambda x, z, k: jnp.tril(jnp.outer(three(x), three(z))),
    "dynamic slice": lambda x, z, k: lax.dynamic_slice_in_dim(three(x), k - 2, 2),
    "dynamic update": lambda x, z, k: lax.dynamic_update_slice(three(x), three(z)[:2], (k,)),
    "dynamic traced": sliced_where_largest,
    "searchsorted": lambda x, z, k: x * jnp.searchsorted(jnp.array([-0.3, 0.4]), x),
}
PRODUCTS_AND_SUMS = {
    "matrix": lambda x, z, k: M @ three(x),
    "matrix of z": lambda x, z, k: jnp.outer(three(z), three(x)) @ three(x),
    "einsum": lambda x, z, k: jnp.einsum("ij,kj->ki", M, jnp.stack([three(x), three(z)])),
    "batched": lambda x, z, k: jnp.einsum("bi,bij->bj", three(x)[:, None], M[:, None]),
    "dot": lambda x, z, k: jnp.dot(three(x), three(z)),
    "integer dot": lambda x, z, k: x * jnp.dot(jnp.sign(three(x)).astype(int), PLACES[:3]),
    "sum": lambda x, z, k: row(x).sum(axis(row(x), k), keepdims=k % 2 == 0),
    "mean": lambda x, z, k: x.mean() + row(x).mean(axis(row(x), k)),
    "prod": lambda x, z, k: row(x).prod(axis(row(x), k)),
    "max": lambda x, z, k: apart(x).max(axis(row(x), k)) - apart(x).min(),
    "any": lambda x, z, k: x * jnp.any(x > 0.3) + x * jnp.all(row(x) > 0.1, axis(row(x), k)).sum(),
    "cumsum": lambda x, z, k: lax.cumsum(row(x), axis(row(x), k), reverse=k % 2 == 1),
    "cumprod": lambda x, z, k: lax.cumprod(row(x), axis(row(x), k), reverse=k % 2 == 1),
    "cummax": lambda x, z, k: lax.cummax(apart(x), axis(row(x), k)) - lax.cummin(apart(x), reverse=True),
    "norm": lambda x, z, k: jnp.linalg.norm(row(x) + 2, axis=axis(row(x), k)),
    "variance": lambda x, z, k: jnp.var(x) + jax.nn.logsumexp(x) + jax.nn.softmax(row(x)),
    "convolve": lambda x, z, k: jnp.convolve(three(x), three(z)[:2]),
    "det, solve": lambda x, z, k: (
        jnp.linalg.solve(3 * jnp.eye(3) + jnp.outer(jnp.tanh(three(x)), jnp.sin(three(z))), three(z))
        * jnp.linalg.det(jnp.eye(3) + jnp.diag(jnp.sin(three(x))))
    ),
    "sort": lambda x, z, k: (
        jnp.sort(apart(x)) + row(x)[jnp.argsort(apart(x)[..., 0] if x.ndim > 1 else apart(x))]
    ),
}
CALLS = {
    "cond": lambda x, z, k: lax.cond(
        x.sum() > 0.1, lambda a, b: (a, b + 1), lambda a, b: (b, a * b), x, fit(z, x)
    )[0],
    "cond of known": lambda x, z, k: lax.cond(k % 2 == 0, jnp.sin, lambda x: -x, x),
    "cond of indices": lambda x, z, k: three(x)[
        lax.cond(x.sum() > 0.1, lambda i: i, lambda i: i[::-1], PLACES)
    ],
    "switch": lambda x, z, k: lax.switch(
        jnp.floor(2 + x.sum()).astype(int),
        [jnp.sin, jnp.exp, lambda x: (three(x) @ three(x)) * x],
        jnp.tanh(x),
    ),
    "jit": lambda x, z, k: jitted(x, fit(z, x))["ab"[k % 2]],
    "relu": lambda x, z, k: jax.nn.relu(x - 0.1) + jax.nn.silu(fit(z, x)),
    "softplus": lambda x, z, k: jax.nn.softplus(x) * jax.nn.gelu(x),
    "custom_jvp": lambda x, z, k: marked_jvp(row(x), fit(z, row(x))),
    "custom_jvp of constant": lambda x, z, k: marked_jvp(M[0].astype(x.dtype), three(x)),
    "checkpoint": lambda x, z, k: jax.checkpoint(lambda x: jnp.sin(x) * jnp.cos(x).sum())(x),
    "stop_gradient": lambda x, z, k: x * lax.stop_gradient(jnp.sin(x)),
    "scan": lambda x, z, k: lax.scan(lambda c, w: (c * 0.5 + w, jnp.sin(c)), x, three(z))[k % 2],
    "fori_loop": lambda x, z, k: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i * x, x),
    "grad": lambda x, z, k: jax.grad(energy)(x),
    "jacobians": lambda x, z, k: jax.jacfwd(jax.grad(energy))(three(x)) @ jax.jacrev(jnp.cos)(three(z)),
    "vmap": lambda x, z, k: jax.vmap(lambda a: three(x)[PLACES[:2]] * a)(three(z)),
}
CUSTOM_VJP = {
    "custom_vjp": lambda x, z, k: marked_vjp(x, fit(z, x)),
    "custom_vjp of constant": lambda x, z, k: marked_vjp(M[0].astype(x.dtype), three(x)),
}
OPERATIONS = ELEMENTWISE | MOVEMENT | PRODUCTS_AND_SUMS | CALLS | CUSTOM_VJP
SHAPES = ((), (1,), (2,), (3,), (2, 1), (2, 3))
MOST = 12  # numbers of an array that is used again


def modes_of(names):
    """Functions with a pullback of their own have no tangents."""
    return ("vjp",) if any(name in CUSTOM_VJP for name in names) else ("jvp", "vjp")


OPERANDS = [  # the shape of a first one, what an operation is given, which derivative is looked at
    ((), lambda p, x, z: (x, p), "jvp"),
    ((2, 3), lambda p, x, z: (x, z), "vjp"),
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    """Each alone, of a state and a parameter, and of two states."""
    rng = np.random.default_rng(1)
    for k, (shape, pair, mode) in enumerate(OPERANDS):
        x, z, p = (jnp.asarray(rng.normal(size=size)) for size in (shape, (5,), shape))
        check(lambda p, y: OPERATIONS[name](*pair(p, *y), k), p, (x, z), {mode} & set(modes_of([name])))


INSTRUCTION = st.tuples(st.sampled_from(list(OPERATIONS)), *[st.integers(0, 11)] * 3)


def program(instructions, dtype):
    """The function of instructions (operation, x, z, k): x and z are the last results but so many."""

    def f(params, y):
        found = [*jax.tree.leaves(params), *jax.tree.leaves(y)]
        n_given = len(found)
        for name, x, z, k in instructions:
            x, z = (
                a if a.size <= MOST else a.ravel()[:MOST]
                for a in (found[-1 - i % len(found)] for i in (x, z))
            )
            if x.size and z.size:
                found.append(jnp.asarray(OPERATIONS[name](x, z, k), dtype))
        return found[n_given:]

    return f


def random_arguments(seed, shapes, dtype):
    rng = np.random.default_rng(seed)
    a, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    params = {"scalar": jnp.asarray(rng.normal(), dtype), "row": jnp.asarray(rng.normal(size=3), dtype)}
    return params, {"a": a, "b": b}


@REPRODUCIBLE
@given(
    st.lists(INSTRUCTION, min_size=2, max_size=6),
    st.tuples(st.sampled_from(SHAPES), st.sampled_from(SHAPES)),
    st.integers(0, 1000),
    st.sampled_from([jnp.float64, jnp.float64, jnp.float32]),
    st.sampled_from([0, 4, 64]),
)
def test_random_programs(instructions, shapes, seed, dtype, largest):
    params, y = random_arguments(seed, shapes, dtype)
    f = program(instructions, dtype)
    try:
        check(f, params, y, modes_of([name for name, *_ in instructions]), largest=largest)
    except TooLarge:  # a product of matrices that are
        assert largest < 64


# -- what comes out


def network(params, y):
    """A @ y of a parameter and of a constant, and a reduction."""
    return jnp.tanh(params @ y) + M @ y - y * jnp.sum(y**2)


def written(params, y):
    out = jnp.zeros_like(y).at[0].set(10.0 * (y[1] - y[0]))
    return out.at[1].set(y[0] * (params[0, 0] - y[2]) - y[1]).at[-1].add(y[0] * y[1] - 8 / 3 * y[2])


def written_many(params, y):
    return jnp.zeros(3).at[jnp.array([2, 0])].set(y[:2] * params[0, :2]).at[1:].add(jnp.roll(y, 1)[1:])


def dictionaries(params, y):
    return jax.tree.map(lambda k: k * params[0, 0], lotka_volterra(0.0, y, LOTKA_VOLTERRA_P))


def hamiltonian(params, y):
    """A gradient of the user's own, jitted, with an activation function."""
    dq = jax.jit(jax.grad(lambda y: jax.nn.silu(y[0]) * y[1] ** 2 + jnp.vdot(params @ y, y)))(y)
    return jnp.stack([dq[1], -dq[0], dq[2]])


Y3 = jnp.array([0.4, -0.9, 1.3])
USUAL = {
    "unpacked": (lambda p, y: lorenz(0.0, y, *p[0]), Y3),
    "indexed": (
        lambda p, y: jnp.array([p[0, 0] * (y[1] - y[0]), y[0] * (28 - y[2]) - y[-1], y[0] * y[1]]),
        Y3,
    ),
    "concatenated": (lambda p, y: jnp.concatenate([y[1:], -y[:1] * p[0, :1]]), Y3),
    "pairs": (
        lambda p, y: jnp.concatenate([y[2:], -p[0, 0] * y[:2] / jnp.linalg.norm(y[:2]) ** 3]),
        jnp.ones(4),
    ),
    "rows": (lambda p, y: jnp.stack([y[1], -p[0, 0] * y[0]]), jnp.array([[1.0, 2.0], [3.0, 4.0]])),
    "A @ y": (network, Y3),
    "set": (written, Y3),
    "set many": (written_many, jnp.ones(3)),
    "combined": (
        lambda p, y: (p[0, 0] * y).at[0].max(0.2).at[jnp.array([1, 1])].min(y[:2]).at[2].mul(y[0]),
        Y3,
    ),
    "powers": (lambda p, y: (p[0, 0] * y).at[0].power(3).at[1].divide(y[2]), Y3),
    "dict": (dictionaries, jax.tree.map(jnp.asarray, LOTKA_VOLTERRA_Y0)),
    "scalar": (lambda p, y: jnp.where(y > 0.5, p[0, 0], p[1, 0]) * y, jnp.float64(0.7)),
    "hamiltonian": (hamiltonian, Y3),
    "diffusion": (lambda p, y: p[0, 0] * (jnp.roll(y, 1) - 2 * y + jnp.roll(y, -1)), jnp.arange(5.0)),
    "padded": (
        lambda p, y: jnp.diff(jnp.pad(y, 1, mode="edge"), 2) - jnp.cumsum(y) * p[0, 0],
        jnp.arange(4.0),
    ),
}


@pytest.mark.parametrize("name", USUAL)
def test_only_scalar_arithmetic_is_left(name):
    """No slice, stack, product of matrices or call: what depends on the state is arithmetic of scalars."""
    f, y = USUAL[name]
    fn = check(f, M, y)
    assert fn.equations()
    assert fn.shapes() == {()}
    assert not fn.names() & {"slice", "squeeze", "reshape", "broadcast_in_dim", "jit", "convert_element_type"}


def test_lanes():
    """`vmap` of the scalars, lanes of states and of parameters."""
    for f, y in USUAL.values():
        fn = InComponents(f, M, y)
        ys = jax.tree.map(lambda x: x + 0.1 * jnp.arange(4.0).reshape(4, *[1] * x.ndim), y)
        params = M * jnp.arange(1.0, 5.0)[:, None, None]
        for axes, values in (((0, 0), params), ((None, 0), M)):
            assert_close(jax.vmap(fn, axes)(values, ys), jax.vmap(fn.as_it_is, axes)(values, ys))


def test_numbers_changed_in_place():
    """Values alone: JAX has no derivative of `apply` on arrays. Indices may be made by it, too."""
    table = jnp.array([2, 0, 1])

    def f(params, y):
        return y.at[1].apply(jnp.sin)[table.at[0].apply(lambda i: i - 1)]

    np.testing.assert_array_equal(InComponents(f, M, Y3)(M, Y3), f(M, Y3))


def test_control_flow_and_custom_rules_are_of_scalars():
    def f(params, y):
        y = lax.cond(y[0] > 0, lambda y: jnp.stack([y[1], y[0] * y[1]]), lambda y: y[::-1] * params, y)
        return marked_vjp(marked_jvp(y, y + 1), y)

    fn = check(f, jnp.ones(2), jnp.array([0.5, 2.0]), ["vjp"])
    assert {"cond", "custom_jvp_call", "custom_vjp_call"} <= fn.names()
    assert fn.shapes() <= {(), (2,)}  # the parameter is handed to `cond` as it is
    assert {v.aval.shape for e in fn.equations() for v in e.outvars} == {()}


def test_without_a_rule_the_array_is_put_together():
    fn = check(lambda params, y: lax.sort(jnp.sin(y)) * y, None, Y3)
    assert fn.names() == {"sin", "reshape", "concatenate", "sort", "slice", "squeeze", "mul"}
    assert [e.invars[0].aval.shape for e in fn.equations() if e.primitive.name == "sort"] == [(3,)]


def test_what_depends_on_parameters_alone_is_left_whole():
    def f(params, y):
        return (jnp.exp(params @ params.T)[::-1] + 1).sum(0) * y

    fn = check(f, M, Y3)
    assert fn.names() == {"mul"}
    before = [e for e in fn.closed.jaxpr.eqns if e not in fn.equations()]
    whole = {
        e.primitive.name for e in before for v in (*e.outvars,) if getattr(v.aval, "shape", None) == (3, 3)
    }
    assert {"dot_general", "exp"} <= whole


def test_large_arrays_are_left_whole():
    def f(params, y):
        return jnp.tanh(jnp.outer(y, y)).sum(1)

    y = jnp.arange(5.0)
    assert check(f, None, y, largest=25).shapes() == {()}
    fn = check(f, None, y, largest=24)
    assert [e.outvars[0].aval.shape for e in fn.equations() if e.primitive.name == "tanh"] == [(5, 5)]


@jax.custom_vjp
def folded(y):
    return jnp.tanh(y)


folded.defvjp(lambda y: (folded(y), y), lambda y, bar: (jnp.eye(3) * jnp.cos(y) @ bar,))


def test_large_products():
    """They are not arithmetic of scalars; but within derivative rules it is too late to say so."""
    with pytest.raises(TooLarge):
        InComponents(lambda p, y: M @ y, None, Y3, largest=8)
    check(lambda p, y: folded(y), None, Y3, ["vjp"], largest=8)


def test_large_index_arrays_through_control_flow():
    """Indices are known in larger arrays than those that are taken apart."""
    places = jnp.arange(100) % 3

    def f(params, y):
        chosen = lax.cond(y[0] > 0, lambda i: i[::-1], lambda i: i, places)
        return y[chosen].sum() + y[places].sum()

    check(f, None, Y3, largest=4)


def test_random_keys_and_integers_that_wrap_around():
    key = jax.random.key(0)

    def f(params, y):
        chosen = lax.cond(y[0] > 0, lambda k: jax.random.fold_in(k, 1), lambda k: k, key)
        many = PLACES.astype(jnp.uint32) * jnp.uint32(4_000_000_000) + jnp.int32(2**31 - 1).astype(jnp.uint32)
        return y * jax.random.normal(chosen, (3,)) * (many >> 20)[:3]

    check(f, None, Y3)


def smallest_budget(f, y):
    """The least that does not raise, and what is made with it."""
    for budget in range(1, 1000):
        try:
            return budget, InComponents(f, None, y, budget=budget)
        except TooLarge:
            continue
    raise AssertionError("more than 1000 operations")


def test_budget():
    """What each operation costs: one for each scalar of an elementwise one, two for each of a product."""
    assert smallest_budget(lambda p, y: y * jnp.sin(y), Y3)[0] == 6
    assert smallest_budget(lambda p, y: M @ y, Y3)[0] == 18
    assert smallest_budget(lambda p, y: jax.jit(jnp.sum)(y), Y3)[0] == 3
    assert smallest_budget(lambda p, y: lax.cond(y[0] > 0, jnp.sin, jnp.cos, y), Y3)[0] == 2 + 6
    assert smallest_budget(lambda p, y: jnp.stack([y[0], *y[::-1]]).at[1].set(y[2]), Y3)[0] == 1


def test_derivative_rules_have_no_budget():
    """They run when the function is differentiated, as often as that is done: too late to fall back."""

    def f(params, y):
        return marked_vjp(marked_vjp(jax.nn.relu(jax.nn.softplus(y)), y), y)

    y = jnp.array([0.6])
    _, fn = smallest_budget(f, y)
    for _ in range(3):
        got = jax.jacrev(jax.jacrev(fn, 1), 1)(None, y)
    assert_close(got, jax.jacrev(jax.jacrev(f, 1), 1)(None, y))


def test_custom_rules_under_shard_map():
    """Rules are traced for values that vary over the axes of a mesh as the operands do."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def slopes(fn, y):
        def bar(y):
            out, pullback = jax.vjp(fn, None, y)
            return pullback(2 * out)[1]

        sharded = jax.shard_map(bar, mesh=mesh, in_specs=spec, out_specs=spec)
        return jax.jit(sharded)(y)

    def f(params, y):
        return marked_vjp(2.0 * marked_jvp(y, jax.nn.relu(y) + 1.0), jax.nn.softplus(y))

    def in_components(params, y):
        return InComponents(f, params, y)(params, y)

    assert_close(slopes(in_components, Y3), slopes(f, Y3))


def test_complex_states():
    def f(params, y):
        z = jnp.conj(y[::-1]) * params + 1j * y.real * jnp.abs(y) ** 2
        return jnp.stack([z[0] * z[1].imag, M[0, :2].astype(complex) @ z]) * jnp.exp(1j * jnp.angle(y))

    check(f, jnp.array([1.0 + 0.5j, 2.0]), jnp.array([0.3 - 1.0j, 0.7 + 0.2j]))


# -- solves in components, beside those without


def half_and_double(t, y):
    k = jnp.concatenate([y["x"][1:], -jnp.sin(y["x"][:1])])
    return {"x": k * y["v"].astype(jnp.float32), "v": -y["v"] * (1 + y["x"][0].astype(float))}


def many(t, y):
    return jnp.roll(y, 1) - y * jnp.linalg.norm(y) / 6


def layered(t, y):
    return jax.nn.softplus(M @ y) - jax.nn.silu(y) * jnp.where(y > 0.5, y, t)


def saved(t, y):
    return {"square": y @ y, "slice": y[::2] * t}


ADAPTIVE = {"controller": None, "method": "tsit5", "rtol": 1e-4}
R = jnp.asarray(np.random.default_rng(2).normal(size=(11, 11)) / 4)

SOLVES = {
    "lorenz": (lorenz, jnp.ones(3), {}),
    "adaptive": (lorenz, jnp.ones(3), ADAPTIVE | {"t_eval": [0.1, 0.25]}),
    "lotka_volterra": (
        lambda t, y: lotka_volterra(t, y, LOTKA_VOLTERRA_P), LOTKA_VOLTERRA_Y0, {"t_eval": [0.1, 0.25]}
    ),
    "layered": (layered, Y3, {}),
    "dense": (layered, Y3, {"dense": 8}),
    "save_fn": (lorenz, jnp.ones(3), {"t_eval": [0.1], "save_fn": saved}),
    "33 numbers": (many, jnp.linspace(-1.0, 1.0, 33), {}),
    "too many operations": (lambda t, y: R @ (R @ (R @ y)) - y, jnp.linspace(-1.0, 1.0, 11), {}),
    "constants": (lambda t, y: jnp.zeros(3).at[1].set(2.0), Y3, {}),
    "complex": (lambda t, z: 1j * z[::-1] * jnp.abs(z), jnp.array([1.0 + 0.5j, 0.3j]), {}),
    "float32": (lorenz, jnp.ones(3, jnp.float32), {}),
    "mixed": (half_and_double, {"x": jnp.array([0.3, 0.6], jnp.float32), "v": jnp.asarray(0.7)}, {}),
}  # fmt: skip


def squares(tree):
    return sum((jnp.abs(x) ** 2).sum().astype(float) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SOLVES)
def test_solve(name):
    """Values and gradient are those of the solve without components."""
    f, y0, options = SOLVES[name]
    options = {"method": "euler", "controller": ConstantStep(0.05)} | options

    def solved(**components):
        def loss(y0):
            sol = solve(f, y0, (0.0, 0.3), throw=False, **options | components)
            saved = sol(jnp.array([0.07, 0.21])) if "dense" in options else sol.ys
            return squares(saved), (saved, sol.y1)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, y0))

    got, wanted = solved(), solved(components=0)
    assert distance(got, wanted) < (1e-12 if name not in ("float32", "mixed") else 2e-6)


ONE_STEP = {"t_eval": [0.05], "method": "euler", "controller": ConstantStep(0.1)}


def test_save_fn_of_an_array_larger_than_the_state():
    def saved(**components):
        options = ONE_STEP | components
        y0 = jnp.linspace(0.1, 0.9, 6)
        return solve(many, y0, (0.0, 0.1), save_fn=lambda t, y: jnp.outer(y, y), **options).ys

    assert distance(saved(), saved(components=0)) < 1e-12


def test_save_fn_of_many_operations():
    def save_fn(t, y):
        return sum(jnp.sin(k * y) for k in range(100))

    assert solve(layered, Y3, (0.0, 0.1), save_fn=save_fn, **ONE_STEP).success


def test_save_fn_of_an_array_without_numbers():
    saved = solve(layered, Y3, (0.0, 0.1), save_fn=lambda t, y: (y, y[:0]), **ONE_STEP).ys
    assert [x.shape for x in saved] == [(1, 3), (1, 0)]
