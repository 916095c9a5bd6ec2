"""y'' = -k y at a tolerance of 1e-12: some 1,600 steps of a tiny state, forward and every derivative."""

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import peers
from common import Row, alternate, compare, header, print_rows, relative_error

import odejax

T_SPAN = 0.0, 2 * np.pi
TOL = 1e-12
BOTH = (0, 1)  # differentiate by y0 and by k
H = 1e-4  # of the finite differences


def oscillator(t, y, k):
    return jnp.stack([y[1], -k * y[0]])


def ours(y0, k):
    return odejax.solve(oscillator, y0, T_SPAN, (k,), rtol=TOL, atol=TOL).y1


def theirs(y0, k, adjoint=None):
    return peers.end(peers.solve(oscillator, y0, T_SPAN, (k,), rtol=TOL, atol=TOL, adjoint=adjoint))


def theirs_forward_mode(y0, k):
    return theirs(y0, k, diffrax.ForwardMode())


def scalar(solve):
    """y . y / 2 at t1, whose second derivatives are no zeros."""
    return lambda y0, k: 0.5 * jnp.sum(solve(y0, k) ** 2)


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    args = jnp.ones(2), jnp.float64(20.0)
    work = (
        ("forward", ours, theirs, 0.6),
        ("grad", jax.grad(scalar(ours), BOTH), jax.grad(scalar(theirs), BOTH), 0.25),
        ("jacrev", jax.jacrev(ours, BOTH), jax.jacrev(theirs, BOTH), 0.25),
        ("jacfwd", jax.jacfwd(ours, BOTH), jax.jacfwd(theirs_forward_mode, BOTH), 0.6),
    )
    rows = [compare(name, pair, args, target) for name, *pair, target in work]
    hessian = jax.jit(jax.hessian(scalar(ours), BOTH))
    rows.append(Row("hessian", alternate(hessian, args=args)[0], their_hessian(args)))
    print_rows(rows)
    print_steps(args)
    print_agreement(hessian, args)


def their_hessian(args):
    """What becomes of it in diffrax."""
    try:
        jax.block_until_ready(jax.hessian(scalar(theirs), BOTH)(*args))
    except Exception as error:  # which one is the question
        return type(error).__name__
    return "works"


def print_steps(args):
    stats = odejax.solve(oscillator, args[0], T_SPAN, (args[1],), rtol=TOL, atol=TOL).stats
    peer = peers.solve(oscillator, args[0], T_SPAN, (args[1],), rtol=TOL, atol=TOL).stats
    print(
        f"\nsteps, accepted + rejected: odejax {stats.num_accepted} + {stats.num_rejected}, "
        f"diffrax {peer['num_accepted_steps']} + {peer['num_rejected_steps']}"
    )


def print_agreement(hessian, args):
    """The gradients of both; our Hessian beside differences of our gradient and the closed form."""
    gradients = [jax.jit(jax.grad(scalar(solve), BOTH))(*args) for solve in (ours, theirs)]
    print(f"gradient, odejax against diffrax: {relative_error(*gradients):.0e} (relative)")
    gradient = jax.jit(jax.grad(scalar(ours), BOTH))
    flat, unflatten = jax.flatten_util.ravel_pytree(args)
    differences = [
        (_flat(gradient(*unflatten(flat + e))) - _flat(gradient(*unflatten(flat - e)))) / (2 * H)
        for e in H * jnp.eye(flat.size)
    ]
    exact = jax.hessian(lambda x: scalar(closed_form)(*unflatten(x)))(flat)
    value = _matrix(hessian(*args))
    print(f"hessian against finite differences: {relative_error(value, jnp.stack(differences)):.0e}")
    print(f"hessian against the closed form: {relative_error(value, exact):.0e}")


def closed_form(y0, k):
    w, t = jnp.sqrt(k), T_SPAN[1]
    c, s = jnp.cos(w * t), jnp.sin(w * t)
    return jnp.stack([c * y0[0] + s / w * y0[1], -w * s * y0[0] + c * y0[1]])


def _flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def _matrix(blocks):
    (aa, ab), (ba, bb) = blocks
    return jnp.block([[aa, ab[:, None]], [ba[None, :], bb[None, None]]])


if __name__ == "__main__":
    main()
