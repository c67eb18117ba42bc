"""Eight CPU devices for every test, and strict ranks; set before any test touches JAX."""

import atexit
import shutil
import tempfile

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A run that is stopped and started again compiles the same step twice; this session's cache, not
# the user's, serves the second.
_cache = tempfile.mkdtemp(prefix="hsd_jax_tests_")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
