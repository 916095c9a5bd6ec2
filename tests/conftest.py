"""All tests run in double precision; those of single precision say so by their arrays. There are two devices.

They spend their time compiling, so LLVM does not optimise, but in the processes that examples and tests start.
"""

import gc
import os

import jax

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
gc.set_threshold(50_000)  # tracing makes many objects and little garbage
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
