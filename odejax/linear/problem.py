"""What A may be: an array, a sparse matrix or a function, checked and brought into one form."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odejax import arguments, spans
from odejax.core.traced import is_array_or_number, is_known
from odejax.derivative.linear_flow import Problem
from odejax.derivative.program import JaxprFunction
from odejax.integrate import build
from odejax.integrate.forms import Form
from odejax.linalg import sizes, taylor
from odejax.linalg.operators import Dense, Sparse


class Coordinates(NamedTuple):
    """A sparse matrix: entries of equal place are added, those with places outside are not there."""

    values: jax.Array
    rows: jax.Array
    columns: jax.Array


@dataclass(frozen=True)
class Field:
    """A user's function, traced, as an operator."""

    function: JaxprFunction

    def __call__(self, params, state):
        return self.function(jnp.zeros((), self.function.time_dtype), params, state)


def _is_sparse(A, kind):
    """Is it a matrix of `jax.experimental.sparse`? That takes long to import: who has one has imported it."""
    module = sys.modules.get("jax.experimental.sparse")
    return module is not None and isinstance(A, getattr(module, kind))


def operands(A, name, v):
    """(A, v) checked, in their common precision; `name` is that of v."""
    v = arguments.state(v, name)
    if _is_sparse(A, "BCSR"):
        A = A.to_bcoo()
    if _is_sparse(A, "BCOO"):
        if A.n_batch or A.n_dense:
            raise ValueError(
                "`A` must have neither batch nor dense dimensions. Use jax.vmap for many matrices."
            )
        values, dtype = _common(A.data, v, A.shape, name)
        rows, columns = A.indices.T
        return Coordinates(values, rows, columns), v.astype(dtype)
    if isinstance(A, (np.ndarray, jax.Array)):
        A, dtype = _common(A, v, A.shape, name)
        return A, v.astype(dtype)
    if not callable(A):
        raise TypeError(
            "`A` must be an array (n, n), a BCOO or BCSR matrix, or a function A(v), "
            f"got {type(A).__name__}. From scipy: jax.experimental.sparse.BCOO.from_scipy_sparse(A)."
        )
    return A, v


def constant(A, y0, b):
    """(A, y0, b) with `b` checked, None or like `y0`, in a common precision."""
    if b is None:
        return A, y0, None
    b = arguments.state(b, "b")
    wanted, got = (jax.tree.map(lambda x: x.shape, x) for x in (y0, b))
    if wanted != got:
        raise ValueError(f"`b` must have the structure and shapes of `y0`, {wanted}, got {got}.")
    dtypes = jax.tree.map(jnp.result_type, y0, b)
    y0, b = (jax.tree.map(lambda x, d: x.astype(d), x, dtypes) for x in (y0, b))
    if isinstance(A, Coordinates):
        A = A._replace(values=A.values.astype(y0.dtype))
    elif isinstance(A, jax.Array):
        A = A.astype(y0.dtype)
    return A, y0, b


def _common(values, v, shape, name):
    """The matrix's numbers in the precision of A v, and that precision."""
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"`A` must be square, got shape {shape}.")
    if not isinstance(v, jax.Array) or v.ndim not in (1, 2) or v.shape[0] != shape[0]:
        got = f"shape {v.shape}" if isinstance(v, jax.Array) else f"a {type(v).__name__}"
        raise ValueError(
            f"`{name}` must have shape ({shape[0]},) or ({shape[0]}, k), as `A` has shape {shape}, got {got}."
        )
    dtype = jnp.result_type(values, v)
    return jnp.asarray(values, dtype), dtype


def largest_steps(tol, v):
    """`taylor.largest_steps` for `tol`, checked, in the precision of `v`."""
    dtype = arguments.real_dtype(v)
    rounding = float(jnp.finfo(dtype).eps) / 2
    most = taylor.most_degree(str(dtype))
    if tol is None:
        return taylor.known_steps(rounding, most)
    if not is_array_or_number(tol) or np.shape(tol) != ():
        raise TypeError(f"`tol` must be a number, got {tol!r}.")
    if not is_known(tol):
        return taylor.largest_steps(jnp.maximum(tol, rounding), most)
    if not rounding <= tol < 1:
        raise ValueError(f"`tol` must be at least {rounding:.2g} for {dtype} and below 1, got {tol}.")
    return taylor.known_steps(float(tol), most)


def read(A, name, v, t, steps):
    """The `Problem` of A; the size of A is refined for steps of length t."""
    like = jax.tree.leaves(v)
    if isinstance(A, Coordinates):
        op, params = Sparse(), (A.values, A.rows, A.columns)
        size = sizes.of_sparse(lax.stop_gradient(A.values), A.rows, A.columns, v.shape[0])
    elif isinstance(A, jax.Array):
        op, params = Dense(), (A,)
        size = sizes.of_dense(lax.stop_gradient(A))
    else:
        op, params = _field(A, name, v)
        size = sizes.of_operator(op, lax.stop_gradient(params), like)
    is_exact = not isinstance(op, Field)
    size = sizes.refined(op, lax.stop_gradient(params), size, lax.stop_gradient(t), steps, like, is_exact)
    return Problem(op, params, size, steps)


def _field(A: Callable[[Any], Any], name, v):
    """A function as an operator, and its parameters: what it closes over, and computes from that alone."""
    params: list[jax.Array] = []
    leaves = jax.tree.leaves(v)
    time = jnp.zeros((), spans.time_dtype())

    def check_out(out):
        _check_result(out, name, v)

    traced = build.trace(lambda t, v: A(v), time, v, (), params, check_out, v, Form.of(leaves, 0))
    return Field(traced.function), tuple(params)


def _check_result(out, name, v):
    """Does A return what looks like its argument?"""
    wanted, got = jax.tree.structure(v), jax.tree.structure(out)
    if wanted != got:
        raise TypeError(f"`A` must return the structure of `{name}`, {wanted}; it returned {got}.")
    for (path, w), x in zip(jax.tree.flatten_with_path(out)[0], jax.tree.leaves(v), strict=True):
        at = jax.tree_util.keystr(path)
        if w.shape != x.shape:
            raise ValueError(
                f"`A` must return the shapes of `{name}`: A({name}){at} is {w.shape}, not {x.shape}."
            )
        if jnp.iscomplexobj(w) and not jnp.iscomplexobj(x):
            raise TypeError(f"`A` returned complex numbers for a real `{name}{at}`. Make `{name}` complex.")
