"""DESolver's part of `desolver_jacobian.py`: the oscillator's Jacobian by RK45CK on PyTorch, as JSON.

DESolver records every operation of its loop on PyTorch's tape; the Jacobian is one backward pass a row.
"""

import importlib.metadata
import json
import math
import platform
import sys
import time

# Neither is in odejax's own environment.
import desolver  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]

DT0 = 1e-3  # it wants a first step


def jacobian(k, tol):
    """(Jacobian, steps), as DESolver's own test of gradients takes it."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    system = desolver.OdeSystem(
        lambda t, y: torch.stack([y[1], -k * y[0]]), y0=y0, t=(0.0, 2 * math.pi), dt=DT0, rtol=tol, atol=tol
    )
    system.method = "RK45CK"
    system.integrate()
    rows = [torch.autograd.grad(y, y0, retain_graph=True)[0] for y in system.y[-1]]
    return torch.stack(rows).tolist(), len(system.t) - 1


def main(k, tol):
    torch.set_num_threads(1)  # more are slower on two numbers
    jacobian(k, 1e-4)  # what is paid once
    start = time.perf_counter()
    value, steps = jacobian(k, tol)
    seconds = time.perf_counter() - start
    versions = {name: importlib.metadata.version(name) for name in ("desolver", "torch")}
    versions["Python"] = platform.python_version()
    print(json.dumps({"jacobian": value, "steps": steps, "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
