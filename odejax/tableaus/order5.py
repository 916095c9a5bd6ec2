"""The pairs of order 5(4): Cash-Karp, Dormand-Prince and Tsitouras."""

from fractions import Fraction as F

from odejax.tableaus.tableau import ExplicitTableau

# fmt: off

# Cash, Karp (1990), A variable order Runge-Kutta method for initial value problems with rapidly
# varying right-hand sides, ACM TOMS 16, p. 206.
#
# The paper has no dense output of order 4; this one is derived here. Stages 3 .. 6 and f(t1, y1)
# satisfy sum_j a_ij c_j = c_i^2 / 2, so b2(x) = 0 leaves six conditions for order 4 at every x:
#     sum b c^(q-1) = x^q / q  (q = 1..4),   sum b_i a_ij c_j^2 = x^4 / 12,   sum b_i a_i2 = 0.
# For the six remaining weights they have rank 5, and b6(x) is free. A continuous derivative leaves
# b6(x) = b6 (3 x^2 - 2 x^3) + k x^2 (1 - x)^2 in degree 4, and k = -381440 / 108031 minimises the
# integral over 0 <= x <= 1 of the sum over the nine trees t of order 5 of
#     ((sum b_i(x) Phi_i(t) - x^5 / gamma(t)) / sigma(t))^2
# (degree 5 would lower it by 0.03 %). Its root is 9.5e-4; Dopri5 has 5.4e-4 and Tsit5 4.9e-4.
CashKarp = ExplicitTableau(
    name="cash_karp",
    order=5,
    c=(0, F(1, 5), F(3, 10), F(3, 5), 1, F(7, 8)),
    a=(
        (F(1, 5),),
        (F(3, 40), F(9, 40)),
        (F(3, 10), F(-9, 10), F(6, 5)),
        (F(-11, 54), F(5, 2), F(-70, 27), F(35, 27)),
        (F(1631, 55296), F(175, 512), F(575, 13824), F(44275, 110592), F(253, 4096)),
    ),
    b=(F(37, 378), 0, F(250, 621), F(125, 594), 0, F(512, 1771)),
    b_embedded=(F(2825, 27648), 0, F(18575, 48384), F(13525, 55296), F(277, 14336), F(1, 4)),
    embedded_order=4,
    dense=(
        (1, F(-10405, 3843), F(32357, 11529), F(-855, 854)),
        (0, 0, 0, 0),
        (0, F(308500, 88389), F(-1424000, 265167), F(67250, 29463)),
        (0, F(5875, 24156), F(12875, 36234), F(-3125, 8052)),
        (0, F(235, 1708), F(-235, 854), F(235, 1708)),
        (0, F(-287744, 108031), F(700416, 108031), F(-381440, 108031)),
        (0, F(3, 2), -4, F(5, 2)),
    ),
    dense_order=4,
)

# Dormand, Prince (1980), A family of embedded Runge-Kutta formulae, J. Comp. Appl. Math. 6, 19-26.
# Dense output: Shampine (1986), Some practical Runge-Kutta formulas, Math. Comp. 46, 135-150, the
# member of least error, as in scipy's RK45.P.
Dopri5 = ExplicitTableau(
    name="dopri5",
    order=5,
    c=(0, F(1, 5), F(3, 10), F(4, 5), F(8, 9), 1, 1),
    a=(
        (F(1, 5),),
        (F(3, 40), F(9, 40)),
        (F(44, 45), F(-56, 15), F(32, 9)),
        (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
        (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
        (F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)),
    ),
    b=(F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), 0),
    b_embedded=(
        F(5179, 57600), 0, F(7571, 16695), F(393, 640), F(-92097, 339200), F(187, 2100), F(1, 40),
    ),
    embedded_order=4,
    dense=(
        (1, F(-8048581381, 2820520608), F(8663915743, 2820520608), F(-12715105075, 11282082432)),
        (0, 0, 0, 0),
        (
            0, F(131558114200, 32700410799), F(-68118460800, 10900136933),
            F(87487479700, 32700410799),
        ),
        (0, F(-1754552775, 470086768), F(14199869525, 1410260304), F(-10690763975, 1880347072)),
        (
            0, F(127303824393, 49829197408), F(-318862633887, 49829197408),
            F(701980252875, 199316789632),
        ),
        (0, F(-282668133, 205662961), F(2019193451, 616988883), F(-1453857185, 822651844)),
        (0, F(40617522, 29380423), F(-110615467, 29380423), F(69997945, 29380423)),
    ),
    dense_order=4,
)

# Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption, Comput. Math. Appl. 62, 770-775, with its dense output of order 4; more digits
# from SciML's tsit_tableaus.jl.
_TSIT5_B = (
    0.096460766818065229518, 0.01, 0.47988965041449957478, 1.3790085741037418932,
    -3.2900695154360806799, 2.3247105240997739824,
)
Tsit5 = ExplicitTableau(
    name="tsit5",
    order=5,
    c=(0, 0.161, 0.327, 0.9, 0.98002554090450968573, 1, 1),
    a=(
        (0.161,),
        (-0.0084806554923569885444, 0.33548065549235698854),
        (2.8971530571054934321, -6.3594484899750748431, 4.3622954328695814110),
        (
            5.3258648284392566044, -11.748883564062827877, 7.4955393428898362083,
            -0.092495066361755249257,
        ),
        (
            5.8614554429464200287, -12.920969317847109292, 8.1593678985761586432,
            -0.071584973281400997225, -0.028269050394068382909,
        ),
        _TSIT5_B,
    ),
    b=(*_TSIT5_B, 0),
    error=(
        (
            0.0017800110522257714434, 0.00081643445965674690322, -0.0078808780102619960103,
            0.14471100717326290754, -0.58235716545255522502, 0.45808210592918694666, F(-1, 66),
        ),
    ),
    embedded_order=4,
    dense=(
        (1, -2.7637061972748259113, 2.9132554618219127437, -1.0530884977290216),
        (0, 0.1317, -0.2234, 0.1017),
        (0, 3.9302962368947515285, -5.9410338721315047347, 2.4906272856512527930),
        (0, -12.411077166933676984, 30.338188630282321598, -16.548102889244902720),
        (0, 37.509313416511039195, -88.178904894766401101, 47.379521962819281220),
        (0, -27.896526289197287806, 65.091894674793671526, -34.870657861496609740),
        (0, F(3, 2), -4, F(5, 2)),
    ),
    dense_order=4,
)
