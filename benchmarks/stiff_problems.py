"""Stiff problems of the literature with their solutions at t1, which no method of ours computed.

Every right-hand side is written once, as users of JAX write it; numpy and casadi read the same lines by `xp`.
The solutions are those of `stiff_reference.py`, right to 16 digits. What the CWI/Bari test set of initial
value problems has published (HIRES, van der Pol, Oregonator, Pollution) agrees in all its 13 to 16 digits.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

BRUSSELATOR_POINTS = 500  # of the inside of the line
BRUSSELATOR_FILE = pathlib.Path(__file__).with_name("stiff_brusselator.npy")  # its state at t1


class Problem(NamedTuple):
    """An initial value problem y' = f(t, y, args), and what a solver of it is measured by."""

    name: str
    f: Callable  # (t, y, args) -> y', with the keyword `xp`
    args: np.ndarray  # all parameters, a vector
    y0: np.ndarray
    t_span: tuple[float, float]
    floor: float  # atol / rtol: the size below which errors are absolute
    y1: np.ndarray | None  # the state at t1; None: in a file
    gradient: np.ndarray  # of one component of y1 by args
    widths: tuple[int, int] | None = None  # of the band of the Jacobian, below and above, where it has one
    component: int = 0  # of y1, whose gradient it is


def reference(problem):
    """The state at t1 to the last digits of float64."""
    return np.load(BRUSSELATOR_FILE) if problem.y1 is None else problem.y1


def error(problem, y1):
    """The largest of |y1 - reference| / (|reference| + floor): relative in the norm that solvers control."""
    exact = reference(problem)
    difference = np.abs(np.asarray(y1, float) - exact)
    return float(np.max(difference / (np.abs(exact) + problem.floor)))


def gradient_error(problem, gradient):
    """The largest of |k_i (g_i - exact_i)| over the largest of |k_i exact_i|, k_i the parameters."""
    k, exact = problem.args, problem.gradient
    return float(np.max(np.abs(k * (np.asarray(gradient) - exact))) / np.max(np.abs(k * exact)))


def jacobian(problem):
    """(t, y, args) -> df/dy for solvers outside of JAX: an array, or sparse where it has a band."""
    if problem.widths is None:
        dense = jax.jit(jax.jacfwd(problem.f, 1))
        return lambda t, y, args: np.asarray(dense(t, y, args))
    below, above = problem.widths
    n, n_colors = len(problem.y0), below + above + 1
    colors = np.arange(n) % n_colors
    seeds = (colors == np.arange(n_colors)[:, None]).astype(float)
    offsets = np.arange(-below, above + 1)

    @jax.jit
    def diagonals(t, y, args):
        columns = jax.vmap(lambda seed: jax.jvp(lambda y: problem.f(t, y, args), (y,), (seed,))[1])(seeds)
        rows = np.arange(n) - offsets[:, None]  # of the entry of each diagonal in each column
        return columns[colors, np.clip(rows, 0, n - 1)]

    def banded(t, y, args):
        return scipy.sparse.dia_matrix((np.asarray(diagonals(t, y, args)), offsets), (n, n)).tocsc()

    return banded


def robertson(t, y, k, xp=jnp):
    """Autocatalysis (Robertson 1966): rates from 0.04 to 3e7."""
    r1, r2, r3 = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return xp.stack([r3 - r1, r1 - r2 - r3, r2])


def van_der_pol(t, y, k, xp=jnp):
    """Relaxation oscillations with mu = 1000 in slow time, so that epsilon = 1 / mu^2 stands on the left."""
    mu = k[0]
    return xp.stack([y[1], mu * mu * ((1 - y[0] * y[0]) * y[1] - y[0])])


def hires(t, y, k, xp=jnp):
    """Photomorphogenesis, "high irradiance response" (Schaefer 1975)."""
    k1, k2, k3, k4, k5, k6, binding, release, decay, source = (k[i] for i in range(10))
    bound = binding * y[5] * y[7]
    freed = (release + decay + k2) * y[6]
    return xp.stack(
        [
            -k1 * y[0] + k2 * y[1] + k6 * y[2] + source,
            k1 * y[0] - (k2 + k3) * y[1],
            -(k6 + k1) * y[2] + k2 * y[3] + k5 * y[4],
            k3 * y[1] + k1 * y[2] - (k4 + k2) * y[3],
            -(k1 + k5) * y[4] + k2 * (y[5] + y[6]),
            -bound + k4 * y[3] + k1 * y[4] - k2 * y[5] + release * y[6],
            bound - freed,
            freed - bound,
        ]
    )


def oregonator(t, y, k, xp=jnp):
    """The Belousov-Zhabotinskii reaction (Field, Noyes 1974)."""
    s, q, w = k[0], k[1], k[2]
    return xp.stack(
        [
            s * (y[1] + y[0] * (1 - q * y[0] - y[1])),
            (y[2] - (1 + y[0]) * y[1]) / s,
            w * (y[0] - y[2]),
        ]
    )


def pollution(t, y, k, xp=jnp):
    """The chemistry of air: 25 reactions of 20 species (Verwer 1994)."""
    r = k * xp.stack(
        [
            y[0], y[1] * y[3], y[4] * y[1], y[6], y[6],
            y[6] * y[5], y[8], y[8] * y[5], y[10] * y[1], y[10] * y[0],
            y[12], y[9] * y[1], y[13], y[0] * y[5], y[2],
            y[3], y[3], y[15], y[15], y[16] * y[5],
            y[18], y[18], y[0] * y[3], y[18] * y[0], y[19],
        ]
    )  # fmt: skip
    return xp.stack(
        [
            r[1] + r[2] + r[8] + r[10] + r[11] + r[21] + r[24] - r[0] - r[9] - r[13] - r[22] - r[23],
            r[0] + r[20] - r[1] - r[2] - r[8] - r[11],
            r[0] + r[16] + r[18] + r[21] - r[14],
            r[14] - r[1] - r[15] - r[16] - r[22],
            2 * r[3] + r[5] + r[6] + r[12] + r[19] - r[2],
            2 * r[17] + r[2] - r[5] - r[7] - r[13] - r[19],
            r[12] - r[3] - r[4] - r[5],
            r[3] + r[4] + r[5] + r[6],
            -r[6] - r[7],
            r[6] + r[8] - r[11],
            r[7] + r[10] - r[8] - r[9],
            r[8],
            r[9] - r[10],
            r[11] - r[12],
            r[13],
            r[15] - r[17] - r[18],
            -r[19],
            r[19],
            r[22] + r[24] - r[20] - r[21] - r[23],
            r[23] - r[24],
        ]
    )


def brusselator(t, y, k, xp=jnp):
    """Reaction and diffusion on a line, u and v by turns; at its ends u = a, v = b / a (Hairer, Wanner)."""
    a, b, alpha = k[0], k[1], k[2]
    u, v = y[::2], y[1::2]
    d = alpha * (BRUSSELATOR_POINTS + 1) ** 2
    reaction = u * u * v
    slopes = [
        a + reaction - (b + 1) * u + d * _second_difference(u, a, xp),
        b * u - reaction + d * _second_difference(v, b / a, xp),
    ]
    return xp.ravel(xp.stack(slopes, axis=1))


def _second_difference(u, end, xp):
    wide = xp.pad(u, 1, constant_values=end)
    return wide[:-2] - 2 * u + wide[2:]


def _brusselator_start():
    x = np.arange(1, BRUSSELATOR_POINTS + 1) / (BRUSSELATOR_POINTS + 1)
    return np.stack([1 + np.sin(2 * np.pi * x), np.full_like(x, 3.0)], axis=1).ravel()


def _sparse(size, **values):
    """A vector of zeros but for those given by their place, counted from 1, as `y2`."""
    y = np.zeros(size)
    for place, value in values.items():
        y[int(place[1:]) - 1] = value
    return y


_HIRES_END = [
    7.3713125733256679e-04, 1.4424857263161846e-04, 5.8887297409675748e-05, 1.1756513432831492e-03,
    2.3863561988313296e-03, 6.2389682527427930e-03, 2.8499983951857682e-03, 2.8500016048142320e-03,
]  # fmt: skip
_HIRES_GRADIENT = [
    -5.2519078991742e-04, 9.9036538067469e-04, -4.5390362034756e-06, -3.8676894944761e-04,
    2.3700481717001e-03, 6.2122452386991e-06, -4.6426945386527e-07, 7.1810575699203e-05,
    -4.7726822298945e-03, 1.8175493769211e+00,
]  # fmt: skip
_POLLUTION_RATES = [
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3,
    0.022, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1240.0,
    2.1, 5.78, 0.0474, 1780.0, 3.12,
]  # fmt: skip
_POLLUTION_END = [
    5.6462554800227695e-02, 1.3424841304223386e-01, 4.1397343310994269e-09, 5.5231402074843592e-03,
    2.0189772623021960e-07, 1.4645418634939658e-07, 7.7842491189979646e-02, 3.2450753533960181e-01,
    7.4940133838804057e-03, 1.6222931573015603e-08, 1.1358638332570748e-08, 2.2305059757213599e-03,
    2.0871628827986301e-04, 1.3969210168401578e-05, 8.9648848568982945e-03, 4.3528463693301030e-18,
    6.8992196962634055e-03, 1.0078030373659460e-04, 1.7721465139699842e-06, 5.6829432923163925e-05,
]  # fmt: skip
_POLLUTION_GRADIENT = [
    -1.1414853388893e-02, 1.4728402442314e-04, 1.3072689485598e-10, 1.4551658835315e+01,
    -6.8099056553281e-01, 6.0482072164539e-07, 1.7930403361436e+00, 1.7184833601170e-07,
    4.3779803686803e-08, -8.0257374445033e-08, 1.7739894466872e-02, 4.8558171898827e-12,
    1.5603674210319e-05, -8.1397906907101e-07, 5.5075777472804e-16, 4.1830729118427e-05,
    -7.4202506273612e-10, 1.4637717985410e-16, -3.2967822871540e-20, 5.8809413738433e-08,
    -6.6536177991371e-05, 4.1731008905496e-05, -7.5200064182853e-03, -5.6018648655941e-08,
    3.1847400216336e-05,
]  # fmt: skip


ROBERTSON = Problem(
    name="robertson",
    f=robertson,
    args=np.array([0.04, 3e7, 1e4]),
    y0=np.array([1.0, 0, 0]),
    t_span=(0.0, 1e5),
    floor=1e-6,
    y1=np.array([1.7865921142099464e-02, 7.2747514684363186e-08, 9.8213400611038585e-01]),
    gradient=np.array([-7.93047128117703e-01, -5.28180336216794e-10, 3.16907583411011e-06]),
)
VAN_DER_POL = Problem(
    name="van_der_pol",
    f=van_der_pol,
    args=np.array([1e3]),
    y0=np.array([2.0, 0]),
    t_span=(0.0, 2.0),
    floor=1.0,
    y1=np.array([1.7061677321704650, -8.9280970102481655e-01]),
    gradient=np.array([-8.25778727676759e-07]),
)
OREGONATOR = Problem(
    name="oregonator",
    f=oregonator,
    args=np.array([77.27, 8.375e-6, 0.161]),
    y0=np.array([1.0, 2, 3]),
    t_span=(0.0, 360.0),
    floor=1e-6,
    y1=np.array([1.0008148703185227, 1.2281785215498874e03, 1.3205549428465046e02]),
    gradient=np.array([-6.73865594491368e-05, 1.89146343743402e02, 1.14956863619260e-02]),
)
HIRES = Problem(
    name="hires",
    f=hires,
    args=np.array([1.71, 0.43, 8.32, 0.69, 0.035, 8.32, 280, 0.69, 0.69, 0.0007]),
    y0=_sparse(8, y1=1.0, y8=0.0057),
    t_span=(0.0, 321.8122),
    floor=1e-4,
    y1=np.array(_HIRES_END),
    gradient=np.array(_HIRES_GRADIENT),
)
POLLUTION = Problem(
    name="pollution",
    f=pollution,
    args=np.array(_POLLUTION_RATES),
    y0=_sparse(20, y2=0.2, y4=0.04, y7=0.1, y8=0.3, y9=0.01, y17=0.007),
    t_span=(0.0, 60.0),
    floor=1e-6,
    y1=np.array(_POLLUTION_END),
    gradient=np.array(_POLLUTION_GRADIENT),
)
BRUSSELATOR = Problem(
    name="brusselator",
    f=brusselator,
    args=np.array([1.0, 3.0, 1 / 50]),
    y0=_brusselator_start(),
    t_span=(0.0, 10.0),
    floor=1.0,
    y1=None,
    gradient=np.array([1.18293321376089, -3.03403674858258e-01, 5.47101410042304]),
    widths=(2, 2),
    component=BRUSSELATOR_POINTS,
)
PROBLEMS = {
    problem.name: problem for problem in (ROBERTSON, VAN_DER_POL, OREGONATOR, HIRES, POLLUTION, BRUSSELATOR)
}
