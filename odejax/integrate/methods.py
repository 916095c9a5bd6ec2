"""From a method to how its steps are tried, and how they are made again."""

from odejax.derivative.implicit import DIRKStep, RosenbrockStep
from odejax.derivative.program import Slope
from odejax.derivative.scheme import AtOnce, StageByStage
from odejax.derivative.switched import SwitchedStep
from odejax.integrate.attempt import Explicit, Iterated, Replayed
from odejax.integrate.newton import First, TriedStep
from odejax.integrate.switched import Switched
from odejax.linalg.inverse import LARGEST_CLOSED
from odejax.linalg.system import system_for
from odejax.tableaus import DIRKTableau, ExplicitTableau, RosenbrockTableau, Switching, Tableau


def most_components(method: Tableau, wished):
    """How many numbers may a state have that is carried as scalars?

    Larger systems of equations are solved with whole arrays.
    """
    return wished if isinstance(method, ExplicitTableau) else min(wished, LARGEST_CLOSED)


def scheme_and_attempt(method: Tableau, f, y0, n_lanes, is_adaptive, mass=None):
    """The scheme of a method for dy/dt = f of a state with the leaves `y0`, and the attempt at a step.

    With a `mass`, which only Rosenbrock methods have, for M dy/dt = f.

    Steps of given size have no tolerance: their equations are solved to the last digits.
    """
    if isinstance(method, ExplicitTableau):
        return StageByStage(method, Slope(f)), Explicit()
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
