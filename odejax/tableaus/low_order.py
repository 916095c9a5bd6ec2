"""The classical methods of order 1 to 4."""

from fractions import Fraction as F

from odejax.tableaus.tableau import ExplicitTableau

# fmt: off

# Euler (1768), Institutiones calculi integralis I, section 650. No error estimate.
Euler = ExplicitTableau(name="euler", order=1, a=(), b=(1,))

# Heun (1900), Neue Methoden zur approximativen Integration der Differentialgleichungen einer
# unabhaengigen Veraenderlichen, Z. Math. Phys. 45. Embedded: Euler.
Heun = ExplicitTableau(
    name="heun", order=2,
    c=(0, 1),
    a=((1,),),
    b=(F(1, 2), F(1, 2)),
    b_embedded=(1, 0), embedded_order=1,
)

# Runge (1895), Ueber die numerische Aufloesung von Differentialgleichungen, Math. Ann. 46.
# Embedded: Euler.
Midpoint = ExplicitTableau(
    name="midpoint", order=2,
    c=(0, F(1, 2)),
    a=((F(1, 2),),),
    b=(0, 1),
    b_embedded=(1, 0), embedded_order=1,
)

# Ralston (1962), Runge-Kutta methods with minimum error bounds, Math. Comp. 16, section 3.
# Embedded: Euler.
Ralston = ExplicitTableau(
    name="ralston", order=2,
    c=(0, F(2, 3)),
    a=((F(2, 3),),),
    b=(F(1, 4), F(3, 4)),
    b_embedded=(1, 0), embedded_order=1,
)

# Shu, Osher (1988), Efficient implementation of essentially non-oscillatory shock-capturing
# schemes, J. Comput. Phys. 77: strong stability preserving with coefficient 1. Embedded: its first
# two stages are Heun's method, the strong stability preserving method of order 2.
SSPRK3 = ExplicitTableau(
    name="ssprk3", order=3,
    c=(0, 1, F(1, 2)),
    a=((1,), (F(1, 4), F(1, 4))),
    b=(F(1, 6), F(1, 6), F(2, 3)),
    b_embedded=(F(1, 2), F(1, 2), 0), embedded_order=2,
)

# Bogacki, Shampine (1989), A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2.
Bosh3 = ExplicitTableau(
    name="bosh3", order=3,
    c=(0, F(1, 2), F(3, 4), 1),
    a=((F(1, 2),), (0, F(3, 4)), (F(2, 9), F(1, 3), F(4, 9))),
    b=(F(2, 9), F(1, 3), F(4, 9), 0),
    b_embedded=(F(7, 24), F(1, 4), F(1, 3), F(1, 8)), embedded_order=2,
)

# Kutta (1901), Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, Z. Math.
# Phys. 46. Embedded, with f(t1, y1) as the fifth stage: Balac, Mahe (2013), Embedded Runge-Kutta
# scheme for step-size control in the interaction picture method, Comput. Phys. Commun. 184.
RK4 = ExplicitTableau(
    name="rk4", order=4,
    c=(0, F(1, 2), F(1, 2), 1),
    a=((F(1, 2),), (0, F(1, 2)), (0, 0, 1)),
    b=(F(1, 6), F(1, 3), F(1, 3), F(1, 6)),
    b_embedded=(F(1, 6), F(1, 3), F(1, 3), F(1, 15), F(1, 10)), embedded_order=3,
)
