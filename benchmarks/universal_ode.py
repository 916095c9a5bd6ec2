"""u_i' = sum_j p_ij (u_j - u_i): 100 states, 10,000 parameters, 4 saves; gradient of a sum of squares."""

import jax
import jax.numpy as jnp
import numpy as np
import peers
from common import compare, header, print_rows, print_table, relative_error, verdict

import odejax

N = 100
T_SPAN = 1.0, 4.0
SAVES = 1.0, 2.0, 3.0, 4.0
RTOL, ATOL = 1e-6, 1e-9  # odejax's defaults for float64
ERROR = 1e-2  # of the gradient, at most


def diffusion(t, u, p):
    return p @ u - p.sum(axis=1) * u


def loss_of(solve):
    def loss(p, u0):
        solution = solve(diffusion, u0, T_SPAN, (p,), t_eval=jnp.asarray(SAVES), rtol=RTOL, atol=ATOL)
        return jnp.sum(solution.ys**2)

    return loss


def exact_loss(p, u0):
    generator = p - jnp.diag(p.sum(axis=1))
    us = [jax.scipy.linalg.expm(generator * (t - T_SPAN[0])) @ u0 for t in SAVES]
    return jnp.sum(jnp.stack(us) ** 2)


def main():
    jax.config.update("jax_enable_x64", True)
    header(__doc__, "diffrax")
    rng = np.random.default_rng(0)
    rates, u0 = jnp.asarray(rng.uniform(size=(N, N))), jnp.asarray(rng.uniform(size=N))
    rows, errors = [], []
    for name, p in (("p in (0, 1)", rates), ("p in (0, 0.01)", rates / N)):
        losses = [loss_of(solve) for solve in (odejax.solve, peers.solve)]
        rows.append(compare(f"{name}, forward", losses, (p, u0)))
        gradients = [jax.grad(loss) for loss in losses]
        rows.append(compare(f"{name}, grad", gradients, (p, u0), target=0.55))
        exact = jax.grad(exact_loss)(p, u0)
        error, their_error = (relative_error(jax.jit(gradient)(p, u0), exact) for gradient in gradients)
        steps = [str(n) for n in count_steps(p, u0)]
        errors.append([name, *steps, f"{error:.1e}", verdict(error, ERROR), f"{their_error:.1e}"])
    print_rows(rows)
    print("\nsteps accepted, and the error of the gradient against the matrix exponential's (relative, norm)")
    columns = "data", "odejax steps", "diffrax steps", "odejax error", "target", "diffrax error"
    print_table(columns, errors)


def count_steps(p, u0):
    options = {"t_eval": jnp.asarray(SAVES), "rtol": RTOL, "atol": ATOL}
    ours = odejax.solve(diffusion, u0, T_SPAN, (p,), **options).stats.num_accepted
    theirs = peers.solve(diffusion, u0, T_SPAN, (p,), **options).stats["num_accepted_steps"]
    return ours, theirs


if __name__ == "__main__":
    main()
