"""All tests run in double precision; those of single precision say so by their arrays."""

import jax

jax.config.update("jax_enable_x64", True)
