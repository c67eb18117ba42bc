"""What every test runs under: its share of cores, eight CPU devices, strict ranks, checked types.

All of it is set before JAX and hsd_jax are imported. The fixtures here are made once a session and
are not to be changed by a test.
"""

import atexit
import os
import shutil
import socket
import tempfile

# Two workers on two cores: each keeps to one, and XLA and BLAS make no more threads than that.
_worker, _workers = os.environ.get("PYTEST_XDIST_WORKER"), "PYTEST_XDIST_WORKER_COUNT"
if _worker and hasattr(os, "sched_setaffinity"):
    _cores, _count = sorted(os.sched_getaffinity(0)), int(os.environ[_workers])
    _number = int(_worker.removeprefix("gw"))
    os.sched_setaffinity(0, set(_cores[_number::_count]) or {_cores[_number % len(_cores)]})

# What one test compiled serves the others, in all workers; this session's cache, not the user's.
_CACHE = "HSD_JAX_TEST_CACHE"
if _CACHE not in os.environ:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="hsd_jax_tests_")
    atexit.register(shutil.rmtree, os.environ[_CACHE], ignore_errors=True)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Everyday the same examples; `--hypothesis-profile search` (make fuzz) looks for others.
_COMMON = dict(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("everyday", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("search", max_examples=5000, derandomize=False, **_COMMON)
settings.load_profile("everyday")

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The shapes and types of what hsd_jax passes are checked in every call.
jaxtyping.install_import_hook("hsd_jax", "typed.typed")

# The longest start first. What test_swap compiles, test_cli and test_window find in the cache.
_FIRST = ("swap", "sizes", "conv", "unet", "autoencoder", "fusion", "reconstruction", "resume")


def _connect_within(connect):
    def only_this_machine(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test asks the network for {address}")
        return connect(self, address)

    return only_this_machine


# No test, and so no swap, training step or conversion, reaches beyond this machine.
socket.socket.connect = _connect_within(socket.socket.connect)
socket.socket.connect_ex = _connect_within(socket.socket.connect_ex)

# These hold networks against PyTorch's with parameters and inputs that are host arrays.
_HOST_ARRAYS = ("test_convert", "test_perceptual.py", "test_inception.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith(_HOST_ARRAYS):
            item.add_marker(pytest.mark.untyped)
    names = [f"test_{name}.py" for name in _FIRST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else 99)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Annotations are checked, but in tests marked `untyped`."""
    jaxtyping.config.update("jaxtyping_disable", "untyped" in item.keywords)
    return (yield)


@pytest.fixture(scope="module")
def quick_compiles():
    """For tests that run what they compile a few times: to compile it well would take longest."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """The demo's photos: head, body; uint8 [H, W, 3]."""
    from hsd_jax.imaging import demo, files

    head, body = (files.open_photo(path) for path in demo.find_photos())
    return head, body


@pytest.fixture(scope="session")
def swapper():
    """A swapper with the embedded weights; its programs are compiled when first called."""
    from hsd_jax import HeadSwapper

    return HeadSwapper.from_pretrained("embedded")
