from odejax.ivp import solve
