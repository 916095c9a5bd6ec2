"""All tests run in double precision; those of single precision say so by their arrays. There are two devices."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
