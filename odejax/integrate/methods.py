"""From a method to how its steps are tried, and how they are made again."""

import jax
import jax.numpy as jnp
from jax import lax

from odejax.core.flow import vary_alike
from odejax.core.status import Status
from odejax.derivative.implicit import DIRKStep, RosenbrockStep
from odejax.derivative.program import Slope
from odejax.derivative.scheme import AtOnce, StageByStage
from odejax.derivative.switched import SwitchedStep
from odejax.integrate.attempt import Explicit, Iterated, Replayed
from odejax.integrate.newton import First, TriedStep
from odejax.integrate.switched import Switched
from odejax.linalg.banded import Banded
from odejax.linalg.inverse import LARGEST_CLOSED
from odejax.linalg.sparse import Sparse
from odejax.linalg.system import Dense, system_for
from odejax.tableaus import DIRKTableau, ExplicitTableau, RosenbrockTableau, Switching, Tableau


def most_components(method: Tableau, structure, wished):
    """How many numbers may a state have that is carried as scalars?

    Larger systems of equations are solved with whole arrays, and so are those of known structure.
    """
    if isinstance(method, ExplicitTableau):
        return wished
    return min(wished, LARGEST_CLOSED) if structure is None else 0


def scheme_and_attempt(method: Tableau, f, y0, structure, n_lanes, is_adaptive, mass=None):
    """The scheme of a method for dy/dt = f of a state with the leaves `y0`, and the attempt at a step.

    `structure` is what is known of the Jacobian of f, `Banded` or `Sparse`, or None. With a `mass`, which
    only Rosenbrock methods have, for M dy/dt = f.

    Steps of given size have no tolerance: their equations are solved to the last digits.
    """
    if isinstance(method, ExplicitTableau):
        return StageByStage(method, Slope(f)), Explicit()
    if structure is not None:
        system = structure.system(y0)
    else:
        is_scalar = all(y.ndim == 0 for y in y0)
        pattern = f.pattern if is_scalar else None
        if is_scalar and mass is not None and not mass.is_diagonal:
            pattern = ((True,) * len(y0),) * len(y0)
        system = system_for(y0, pattern, n_lanes)
    if isinstance(method, RosenbrockTableau):
        return AtOnce(RosenbrockStep(method, f, system, mass)), Replayed()
    if isinstance(method, DIRKTableau):
        step = DIRKStep(method, f, system)
        return AtOnce(step), Iterated(First(step), TriedStep(step)) if is_adaptive else Replayed()
    if isinstance(method, Switching):
        step = SwitchedStep(method, f, system)
        return AtOnce(step), Switched.of(step)
    raise TypeError(f"`method` {method!r} is of an unknown kind.")


def check_structure(jac, method: Tableau, y0):
    """`jac`, what is known of the Jacobian, if it fits the method and the state."""
    if jac is None:
        return None
    if not isinstance(jac, (Banded, Sparse)):
        raise TypeError(
            f"`jac` must be an odejax.Banded(lower, upper) or an odejax.Sparse(pattern), got {jac!r}."
        )
    if isinstance(method, ExplicitTableau):
        raise ValueError(
            f"`jac` is of no use to the explicit `method` {method.name!r}, which takes no Jacobian. "
            'Leave it out, or pass an implicit method, for instance method="rodas5p".'
        )
    n = Dense(tuple(jax.tree.leaves(y0))).size
    if isinstance(jac, Sparse) and jac.size != n:
        raise ValueError(
            f"`jac` must have a row and a column for each real number in `y0`, {n}, got {jac.size}."
        )
    return jac


def first_status(structure, f, t0, theta, y0):
    """RUNNING, or WRONG_JAC if the Jacobian of f at the start is not what it is said to be."""
    running = jnp.int32(Status.RUNNING)
    if structure is None:
        return running
    system = structure.system(y0)
    t0, theta, y0 = vary_alike(lax.stop_gradient((t0, theta, y0)))
    is_right = system.is_right(lambda y: system.pack(f(t0, theta, system.unpack(y))), system.pack(y0))
    return jnp.where(is_right, running, jnp.int32(Status.WRONG_JAC))
