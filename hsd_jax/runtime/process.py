"""Settings of the process that JAX reads when it starts; only the console script applies them.

Variables that the user has set in the environment are kept.
"""

import gc
import logging
import os
import platform
import sys
import zlib

from hsd_jax.runtime import cache

# glibc maps every large buffer anew and unmaps it when freed, so each call of a network pays for
# page faults again: 4.9 instead of 0.9 ms for a transform that writes 8 MB (AMD Zen 5). With these
# it keeps its memory, in huge pages. glibc reads them only when a process starts.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_CACHE = "JAX_COMPILATION_CACHE_DIR"


def prepare() -> None:
    """Sets JAX's cache and log level, then restarts the process with the allocator's settings.

    The restarted process finds `HSD_ALLOCATOR` in its environment and continues. Setting it
    beforehand keeps glibc's own settings.
    """
    gc.set_threshold(100_000, 50, 50)  # imports alone would trigger 100 collections
    folder = None if _CACHE in os.environ else _cache_folder()
    if folder:
        os.environ[_CACHE] = folder
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "JAX_LOGGING_LEVEL" not in os.environ:
        # Hides "An NVIDIA GPU may be present", which is no concern of someone who swaps on a CPU.
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    if platform.libc_ver()[0] == "glibc" and sys.executable and "HSD_ALLOCATOR" not in os.environ:
        environment = {**_ALLOCATOR, **os.environ, "HSD_ALLOCATOR": "tuned"}
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
        except OSError:
            pass  # the process runs on, only slower


def has_compiled() -> bool:
    """Whether an earlier run on this machine left compiled programs."""
    try:
        return bool(os.listdir(os.environ.get(_CACHE, "")))
    except OSError:
        return False


def _cache_folder() -> str | None:
    """The folder of compiled programs; None if it cannot be written."""
    base = cache.folder()
    if base is None:
        return None
    folder = os.path.join(base, "jax", _processor())
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    """A name for the CPU's features: XLA compiles for them, and machines may share a home."""
    features = ""
    try:
        with open("/proc/cpuinfo") as file:
            features = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
