"""`expm_multiply`: the action of the matrix exponential."""

from functools import partial
from typing import Any

import jax

from odejax import spans
from odejax.core.traced import apart, together
from odejax.derivative.linear_flow import flow
from odejax.linear import problem


def expm_multiply(A: Any, v: Any, t: Any = 1.0, *, tol: Any = None) -> Any:
    r"""exp(t A) v, without the exponential of a matrix, and with every derivative.

    $$w = e^{tA} v$$

    `jax.grad`, `jax.jvp`, `jax.jacfwd`, `jax.jacrev`, `jax.hessian`, `jax.vmap` and `jax.jit` apply to this
    call as it is, nested in any order, with respect to the numbers in `A` (or what a function `A` closes
    over), `v` and `t`.

    Args:
        A: an array (n, n), a `jax.experimental.sparse` matrix (BCOO or BCSR), or a function `A(v)` linear in
            v, which may close over arrays and tracers, or be an equinox module. JAX must be able to
            transpose it.
        v: (n,) or (n, k) for a matrix; for a function any pytree of floating or complex arrays.
        t: a real number, of any sign, in units of 1 / A.
        tol: the result is exp(t A + E) v with |E| <= tol |t (A - mu I)|, mu the mean of the diagonal, up to
            rounding errors. Default: eps / 2 of the precision. Norms are bounded for matrices; they are
            estimated for functions, and where the bound asks for more than 8 steps.

    Returns:
        exp(t A) v, like `v`. It is NaN if A is not finite, or if t A asks for more than 2^20 steps, that is
        if |t (A - mu I)| is above 4e6.

    Raises:
        TypeError, ValueError: an argument is not what it should be.

    Example:
        >>> import jax.numpy as jnp, odejax
        >>> A = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> w = odejax.expm_multiply(A, jnp.array([1.0, 0.0]), 2.0)
        >>> bool(jnp.allclose(w, jnp.array([jnp.cos(2.0), -jnp.sin(2.0)]), atol=1e-6))
        True

    Reference:
        Al-Mohy, Higham (2011), Computing the action of the matrix exponential, with an application to
        exponential integrators, SIAM J. Sci. Comput. 33(2).
    """
    A, v = problem.operands(A, "v", v)
    arrays, static = apart(A)
    return _expm_multiply(arrays, v, spans.time("t", t), problem.largest_steps(tol, v), static)


@partial(jax.jit, static_argnums=4)
def _expm_multiply(arrays, v, t, steps, static):
    A = problem.read(together(arrays, static), "v", v, t, steps)
    leaves, tree = jax.tree.flatten(v)
    w, _ = flow(A, tuple(leaves), t)
    return jax.tree.unflatten(tree, w)
