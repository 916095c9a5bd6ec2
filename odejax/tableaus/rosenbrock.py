"""The Rosenbrock methods: ode23s, RODAS and Rodas5P."""

from fractions import Fraction as F
from math import sqrt

from odejax.tableaus.base import Number, Row
from odejax.tableaus.rosenbrock_tableau import RosenbrockTableau

# fmt: off

# Shampine, Reichelt (1997), The MATLAB ODE suite, SIAM J. Sci. Comput. 18, 1-22, section 3.1. With
# d = 1 / (2 + sqrt(2)), e32 = 6 + sqrt(2) and W = I - h d J the paper computes
#     W k1 = f(t0, y0) + d T,   W (k2 - k1) = f(t0 + h / 2, y0 + h k1 / 2) - k1,   y1 = y0 + h k2,
#     W k3 = f(t1, y1) - e32 (k2 - f2) - 2 (k1 - f1) + d T,   error h (k1 - 2 k2 + k3) / 6,
# f1 and f2 being the two slopes before. By the first two lines k1 - f1 = h J d k1 + d T and
# k2 - f2 = h J d (k2 - k1), which leaves f(t1, y1), products with J, and -d T: a third stage. The
# error is subtracted: Simpson's weights are those of the embedded solution. y1 is of order 2 with
# any matrix for J and any vector for T, the estimate of order h^3 as well: a W-method.
_SQRT2 = sqrt(2)
_D = 1 / (2 + _SQRT2)
_E32 = 6 + _SQRT2
Rosenbrock23 = RosenbrockTableau.from_slopes(
    name="rosenbrock23", order=2,
    alpha=((F(1, 2),), (0, 1)),
    gamma=((_D,), (-_D, _D), ((_E32 - 2) * _D, -_E32 * _D, _D)),
    b=(0, 1, 0),
    b_embedded=(F(1, 6), F(2, 3), F(1, 6)), embedded_order=3,
    dense=((1 + _SQRT2, -1 - _SQRT2), (-_SQRT2, 1 + _SQRT2), (0, 0)),
    dense_order=2,
)


def _dense(m: tuple[Number, ...], *h: Row) -> list[list[float]]:
    """As RODAS has it: y0 + x (m U + (1 - x) (h1 U + x h2 U + x^2 h3 U ...)) in powers of x."""
    zeros = (0.0,) * len(m)
    before, after = (zeros, *h), (*h, zeros)
    columns = [[y - x for x, y in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
    columns[0] = [float(x + y) for x, y in zip(m, columns[0], strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


# Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section VI.4, code RODAS,
# coefficients METH = 1 of rodas.f. The last stage is the error: without it y1 is the embedded
# solution, where that stage takes f.
_RODAS4_A5 = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895)
_RODAS4_M = (*_RODAS4_A5, 1, 1)
Rodas4 = RosenbrockTableau(
    name="rodas4", order=4, gamma=F(1, 4),
    alpha=(0, 0.386, 0.21, 0.63, 1, 1),
    gamma_sums=(0.25, -0.1043, 0.1035, -0.0362, 0, 0),
    a=(
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        _RODAS4_A5,
        _RODAS4_M[:5],
    ),
    c=(
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616),
        (
            8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136,
            -6.058818238834054,
        ),
    ),
    m=_RODAS4_M,
    error=(0, 0, 0, 0, 0, 1), embedded_order=3,
    dense=_dense(
        _RODAS4_M,
        (
            10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823,
            1.025137723295662, 0,
        ),
        (
            -0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386,
            -6.594389125716872, 0,
        ),
    ),
    dense_order=3,
)

# Steinebach (2023), Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within
# the Julia Differential Equations package, BIT 63, 27; numbers as in SciML's
# OrdinaryDiffEqRosenbrock. The last stage is the error.
_RODAS5P_A6 = (
    -7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
    0.030198172008377946,
)
_RODAS5P_M = (*_RODAS5P_A6, 1, 1, 1)
Rodas5P = RosenbrockTableau(
    name="rodas5p", order=5, gamma=0.21193756319429014,
    alpha=(
        0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1,
    ),
    gamma_sums=(
        0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734,
        2.325825639765069, 0, 0, 0,
    ),
    a=(
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        _RODAS5P_A6,
        _RODAS5P_M[:6],
        _RODAS5P_M[:7],
    ),
    c=(
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (
            24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125,
            -0.6610691825249471,
        ),
        (
            30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783,
            -19.097331116725623, -28.087943162872662,
        ),
        (
            37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047,
            -40.06618937091002, -54.66780262877968, -9.48861652309627,
        ),
    ),
    m=_RODAS5P_M,
    error=(0, 0, 0, 0, 0, 0, 0, 1), embedded_order=4,
    dense=_dense(
        _RODAS5P_M,
        (
            25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204,
            0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493,
        ),
        (
            -9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796,
            20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372,
        ),
        (
            11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643,
            -52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722,
        ),
    ),
    dense_order=4,
)
