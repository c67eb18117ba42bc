"""Settings of the process that JAX reads when it starts; only the console script applies them.

Variables that the user has set in the environment are kept, except JAX's switches for debugging.
"""

import atexit
import ctypes
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
import zlib
from functools import partial
from types import FrameType
from typing import Any

from hsd_jax.runtime import cache
from hsd_jax.runtime.console import one_line, settle_stdout

# glibc maps every large buffer anew and unmaps it when freed, so each call of a network pays for
# page faults again: 4.9 instead of 0.9 ms for a transform that writes 8 MB (AMD Zen 5). With these
# it keeps its memory, in huge pages. glibc reads them only when a process starts.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "2",  # with one, two threads that compile wait for each other
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_CACHE = "JAX_COMPILATION_CACHE_DIR"
# Switches for debugging other programs: here they would stop the work or change what a seed gives.
_FOR_DEVELOPERS = {
    "JAX_DISABLE_JIT",
    "JAX_ENABLE_X64",
    "JAX_TRANSFER_GUARD",
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE",
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE",
}
_STOPS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP")
          if name in signal.Signals.__members__]  # fmt: skip
_IMPORTED = time.perf_counter()
_PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES")


def take_streams() -> None:
    """Makes the standard streams safe to print to, however the process was started.

    A closed stream becomes the null device: otherwise the next file to be opened would get its
    number, and messages would be written into it. Characters that the encoding of a stream lacks
    are escaped, since file names may be any bytes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if number:
            # stdout buffered also under PYTHONUNBUFFERED: a full disk shows when all is done.
            stream = open(
                number, "w", 1 if number == 2 else -1, closefd=False,
                encoding=getattr(getattr(sys, name), "encoding", None), errors="backslashreplace",
            )  # fmt: skip
            setattr(sys, name, stream)
    atexit.register(settle_stdout)


def _stop(command: FrameType, number: int, frame: FrameType | None) -> None:
    """Ends what the command does, by an exception, as soon as that cannot get lost."""
    if _imports(frame, command):
        _once_more(number)
    else:
        raise KeyboardInterrupt(number)


def _imports(frame: FrameType | None, command: FrameType) -> bool:
    """Whether it just imports a module; compiled ones may crash of an exception."""
    while frame is not None and frame is not command:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _once_more(number: int) -> None:
    again = threading.Timer(0.02, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def prepare() -> None:
    """Sets JAX's cache and log level, then restarts the process with the allocator's settings.

    The restarted process finds `HSD_ALLOCATOR` in its environment and continues. Setting it
    beforehand keeps glibc's own settings. Ctrl-C, SIGTERM and SIGHUP (the terminal is closed) end
    the process by an exception, so that unfinished files are removed.

    Raises:
      ValueError: if XLA would abort the process because of XLA_FLAGS.
    """
    _take_signals(sys._getframe(1))
    gc.set_threshold(100_000, 50, 50)  # imports alone would trigger 100 collections
    folder = None if _CACHE in os.environ else _cache_folder()
    if folder:
        os.environ[_CACHE] = folder
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in _FOR_DEVELOPERS & os.environ.keys():
        del os.environ[name]
    if "JAX_LOGGING_LEVEL" not in os.environ:
        # Hides "An NVIDIA GPU may be present", which is no concern of someone who swaps on a CPU.
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    if platform.libc_ver()[0] == "glibc" and sys.executable and "HSD_ALLOCATOR" not in os.environ:
        environment = {**_ALLOCATOR, **os.environ, "HSD_ALLOCATOR": "tuned"}
        # One that comes while Python starts anew waits until there is somebody to answer it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
        except OSError:  # the process runs on, only slower
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    _check_flags()


def _take_signals(command: FrameType) -> None:
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, partial(_stop, command))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    sys.unraisablehook = _unraisable


def _unraisable(lost: Any) -> None:
    """A stop that came in a destructor or in the garbage collection's callback comes once more."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        number = lost.exc_value.args[0] if lost.exc_value.args else signal.SIGINT
        _once_more(number)
    else:
        sys.__unraisablehook__(lost)


def _check_flags() -> None:
    flags = os.environ.get("XLA_FLAGS")
    if not flags:
        return
    import subprocess  # here: most processes need none, and start-up counts

    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(trial, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True)
    if done.returncode:
        raise ValueError(f"XLA does not take XLA_FLAGS={flags}: correct or unset it")


def age() -> float:
    """Seconds since this process was started; where /proc does not tell, since Python was."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.perf_counter() - _IMPORTED


def trim() -> None:
    """Gives freed memory back to the system, where glibc knows how."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def leave(status: int) -> None:
    """Ends the process, unless it has children to end first.

    Python would wait for what threads still compile, and take apart JAX and all modules for 0.3 s.
    """
    children = sys.modules.get("multiprocessing")
    if sys.flags.inspect or (children and children.active_children()):
        return
    settle_stdout()
    os._exit(status)


def backend_fault() -> str | None:
    """Returns why JAX finds no device, or None if it does: a wrong setting is not a bug."""
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    try:
        jax.devices()
        return None
    except Exception as error:
        reason = one_line(error) if str(error) else "no such platform is installed"
    named = [f"{name}={os.environ[name]}" for name in _PLATFORMS if name in os.environ]
    return f"JAX does not start with {' '.join(named) or 'this environment'} ({reason}): unset it"


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
