"""Diagonally implicit methods: implicit Euler, the midpoint rule, TR-BDF2 and Kvaerno's pairs."""

from fractions import Fraction as F
from math import sqrt

from odejax.tableaus.dirk_tableau import DIRKTableau, hermite_of_stages

# fmt: off

# Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, section II.7, table
# 7.1. L-stable. No error estimate.
ImplicitEuler = DIRKTableau(name="implicit_euler", order=1, c=(1,), a=((1,),), b=(1,))

# The same table: Gauss's method of order 2, symplectic. A-stable, not L-stable. No error estimate.
ImplicitMidpoint = DIRKTableau(
    name="implicit_midpoint", order=2, c=(F(1, 2),), a=((F(1, 2),),), b=(1,)
)

# Hosea, Shampine (1996), Analysis and implementation of TR-BDF2, Appl. Numer. Math. 20, 21-37: the
# trapezoidal rule to t0 + (2 - sqrt(2)) h, then the backward difference formula of order 2. On
# y' = lambda y with h lambda -> -infinity the weighted slopes grow like 0.47 h lambda y0; solved for
# with the matrix of the stages, as the paper does, they stay bounded.
_SQRT2 = sqrt(2)
_TRBDF2_GAMMA = 1 - _SQRT2 / 2
_TRBDF2_B = (_SQRT2 / 4, _SQRT2 / 4, _TRBDF2_GAMMA)
TRBDF2 = DIRKTableau(
    name="trbdf2", order=2,
    c=(0, 2 - _SQRT2, 1),
    a=((0,), (_TRBDF2_GAMMA, _TRBDF2_GAMMA), _TRBDF2_B),
    b=_TRBDF2_B,
    b_embedded=((4 - _SQRT2) / 12, (4 + 3 * _SQRT2) / 12, (2 - _SQRT2) / 6), embedded_order=3,
    has_damped_error=True,
)

# Kvaerno (2004), Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT
# 44, 489-502: ESDIRK 3/2 with y1 of order 3. The third stage is the embedded solution. L-stability
# asks for gamma^3 - 3 gamma^2 + 3/2 gamma - 1/6 = 0; the paper has 10 digits of the root.
_G3 = 0.43586652150845899942
_KVAERNO3_A3 = ((-4 * _G3**2 + 6 * _G3 - 1) / (4 * _G3), (1 - 2 * _G3) / (4 * _G3), _G3)
_KVAERNO3_B = (
    (6 * _G3 - 1) / (12 * _G3), -1 / ((24 * _G3 - 12) * _G3),
    (-6 * _G3**2 + 6 * _G3 - 1) / (6 * _G3 - 3), _G3,
)
Kvaerno3 = DIRKTableau(
    name="kvaerno3", order=3,
    c=(0, 2 * _G3, 1, 1),
    a=((0,), (_G3, _G3), _KVAERNO3_A3, _KVAERNO3_B),
    b=_KVAERNO3_B,
    b_embedded=(*_KVAERNO3_A3, 0), embedded_order=2,
)

# The same paper: ESDIRK 5/4 with y1 of order 5. The sixth stage is the embedded solution.
#
# The paper has no dense output; this one, of order 4, is derived here. It is the cubic Hermite
# polynomial plus x^2 (1 - x)^2 h sum_i v_i k_i, which leaves the values and slopes at both ends as
# they are. Stages 3 .. 7 satisfy sum_j a_ij c_j^(q-1) = c_i^q / q for q = 2, 3, stage 2 for q = 2
# only. So v2 = 0, and the conditions of order 4 are
#     sum v = sum v c = sum v c^2 = 0,   sum v c^3 = 1/4 .
# On y' = lambda y with h lambda -> -infinity, sum_i v_i k_i stays bounded when
#     v1 = w^T a_1,   where w^T a_i = v_i for i = 2 .. 7 and a_i is column i of `a` without row 1.
# The one direction left minimises the integral over 0 <= x <= 1 of the sum over the nine trees t
# of order 5 of ((sum b_i(x) Phi_i(t) - x^5 / gamma(t)) / sigma(t))^2. Its root is 3.2e-3; a term
# x^3 (1 - x)^2 more would lower it by 0.05 %, and order 5 would need more stages. On stiff
# components both this and the Hermite polynomial alone are right up to O(h^3), as the slopes are.
_KVAERNO5_V = (
    -0.49343340383472229177, 0.0, 0.9334960709308382357, -0.93191456264921276152,
    1.4293410464174859095, 1.0956055129687508479, -2.0330946638331399398,
)
_KVAERNO5_A6 = (
    0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26,
)
_KVAERNO5_B = (
    0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403,
    0.06962479448202728, 0.26,
)


_KVAERNO5_DENSE = tuple(
    (p1, p2 + v, p3 - 2 * v, v)
    for (p1, p2, p3), v in zip(hermite_of_stages(_KVAERNO5_B), _KVAERNO5_V, strict=True)
)
Kvaerno5 = DIRKTableau(
    name="kvaerno5", order=5,
    a=(
        (0,),
        (0.26, 0.26),
        (0.13, 0.84033320996790809, 0.26),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
        (
            0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998,
            0.26,
        ),
        _KVAERNO5_A6,
        _KVAERNO5_B,
    ),
    b=_KVAERNO5_B,
    b_embedded=(*_KVAERNO5_A6, 0), embedded_order=4,
    dense=_KVAERNO5_DENSE, dense_order=4,
)
