"""Several processes as one run: how they find each other, agree, stop together, and notice that
one of them is gone."""

import ctypes
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from glob import glob
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hsd_jax.runtime.console import one_line

# A process that has given no sign of life for so many seconds is gone.
_SILENCE, _PULSE = 30.0, 2.0
# JAX's own limit, after ours: it ends a process by an abort with a stack of C++ calls.
_JAX_SILENCE = 60
_LIST, _FAILED = "hsd/", "failed"
_LOST = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED")
_leaving = threading.Event()
_heard: dict[str, tuple[str, float]] = {}  # by process: its last beat, and when that came
_LONGEST = 2000  # bytes of what `first_says`


def join() -> None:
    """Joins the other processes of this run; does nothing where there is only one.

    Must come before anything that starts JAX. Who starts the processes tells them of each other by
    `JAX_COORDINATOR_ADDRESS` (host:port of the first), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, or
    is Slurm, Open MPI or a Cloud TPU, which JAX knows by itself.

    Raises:
      ValueError: one of the three variables without the others.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if os.environ.get(name)]
    if len(given) == len(names):
        count, number = int(os.environ[names[1]]), int(os.environ[names[2]])
        if count > 1:
            _initialize(os.environ[names[0]], count, number)
    elif given:
        missing = sorted(set(names) - set(given))
        raise ValueError(f"{', '.join(given)} without {', '.join(missing)}: set all three or none")
    elif _cluster():
        _initialize()
    try:
        jax.devices()
    except RuntimeError as error:  # of a platform that is not here
        asked = os.environ.get("JAX_PLATFORMS", "")
        remedy = f"JAX_PLATFORMS is {asked!r}: unset it, or use cpu, cuda or tpu as installed"
        raise ValueError(f"{str(error).split(' (set ')[0]}; {remedy}") from error


def _initialize(*arguments: Any) -> None:
    # JAX's service keeps SIGTERM from Python, and Orbax' questions to it pass for those of `Stop`.
    jax.config.update("jax_enable_preemption_service", False)
    _answer_the_loss_of_others()
    jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=_JAX_SILENCE)
    threading.Thread(target=_watch, daemon=True).start()


def _answer_the_loss_of_others() -> None:
    """One line, where C++ would abort this process with its stack: another process is lost.

    JAX notices at once when the first is, which keeps the list. It takes a callback for that, but
    cannot make a Python object of its argument (jaxlib 0.12: std::bad_cast); and Gloo throws when
    what comes of several devices no longer fits together. Nobody catches these, so C++ asks its
    handler of last resort, which may be ours.
    """
    # JAX's own `initialize` does not pass a callback on.
    from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

    make = _jax.get_distributed_runtime_client
    if isinstance(make, partial):
        return
    _jax.get_distributed_runtime_client = partial(make, missed_heartbeat_callback=_first_is_lost)
    with suppress(OSError, AttributeError):  # another C++ library
        exchange = getattr(ctypes.CDLL("libstdc++.so.6"), _SET_TERMINATE)
        exchange.argtypes, exchange.restype = [_HANDLER], _HANDLER
        _before.append(exchange(_on_terminate))


_HANDLER = ctypes.CFUNCTYPE(None)
_SET_TERMINATE = "_ZSt13set_terminatePFvvE"  # std::set_terminate, as compilers name it
_before: list[Any] = []


@_HANDLER
def _on_terminate() -> None:
    _first_is_lost()
    time.sleep(_SILENCE + 3 * _PULSE)  # `_watch` ends it, if another is gone
    for handler in _before:
        handler()


def _first_is_lost(*_: Any) -> None:
    """Ends this process with one line, unless the first does answer."""
    from jax._src.distributed import global_state

    address = str(global_state.coordinator_address)
    host, port = address.rsplit(":", 1)
    time.sleep(_PULSE)  # its last socket may be closed after its first
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), _PULSE):
        return
    names = [key.removeprefix(_LIST) for key in _heard if key.startswith(f"{_LIST}process 0 ")]
    _tell_end(f"{names[0] if names else f'process 0 ({address})'} is gone: killed, or unreachable")
    os._exit(1)


def _watch() -> None:
    """Ends this process, with one line, when another has failed or fallen silent.

    This one may be waiting for it in the middle of a step, where no exception comes.
    """
    client = _client()
    for beat in range(sys.maxsize):
        try:
            client.key_value_set(f"{_LIST}{_me()}", str(beat), allow_overwrite=True)
            others = client.key_value_dir_get(_LIST)
        except jax.errors.JaxRuntimeError:
            return
        now = time.monotonic()
        for key, value in others:
            if _leaving.is_set():
                return
            if value != _heard.get(key, ("", 0.0))[0]:
                _heard[key] = value, now
            if value == _FAILED or now - _heard[key][1] > _SILENCE:
                why = "failed" if value == _FAILED else "is gone: killed, or unreachable"
                _end(f"{key.removeprefix(_LIST)} {why}")
        time.sleep(_PULSE)


@contextmanager
def together() -> Iterator[None]:
    """For what several processes do as one: they leave it together.

    A collective fails or waits for ever when another process has died; then this one says which.
    """
    try:
        yield
        first_says(lambda: "")  # none goes before all are ready
        _leaving.set()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # An array whose collective failed raises either, with one of XLA's statuses.
        status = str(error).partition(":")[0]
        if not jax.distributed.is_initialized() or status not in _LOST:
            raise
        _print(f"{_me()}: {one_line(error)[:200]}: looking for the process that failed")
        time.sleep(_SILENCE + 3 * _PULSE)  # `_watch` ends it
        _end("another process failed, but all give signs of life")


def leave(status: int) -> None:
    """Ends this process with `status` if it is one of several, and has the others end too.

    An orderly exit would wait for them, and they for this one.
    """
    if not jax.distributed.is_initialized():
        return
    _leaving.set()
    with suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(f"{_LIST}{_me()}", _FAILED, allow_overwrite=True)
        time.sleep(2 * _PULSE)  # they must read it before the first process, which keeps it, ends
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def _end(message: str) -> None:
    _tell_end(message)
    leave(1)


def _tell_end(message: str) -> None:
    _print(f"hsd_jax.train: {message}; started again with the same --workdir, the run goes on")


def _client() -> Any:
    from jax._src.distributed import global_state  # JAX has no public name for its list of keys

    return global_state.client


def _me() -> str:
    from jax._src.distributed import global_state

    return f"process {global_state.process_id} ({socket.gethostname()}, pid {os.getpid()})"


def first_says(ask: Callable[[], str]) -> str:
    """What `ask` returns on the first process, which alone calls it, on every process."""
    if jax.process_count() == 1:
        return ask()
    from jax.experimental import multihost_utils

    said = np.zeros(_LONGEST, np.uint8)
    if jax.process_index() == 0:
        text = ask().encode()[:_LONGEST]
        said[: len(text)] = np.frombuffer(text, np.uint8)
    said = multihost_utils.broadcast_one_to_all(said)
    return bytes(np.asarray(said)).rstrip(b"\0").decode(errors="replace")


def say(line: str) -> None:
    """A line on stderr, by the first process."""
    if jax.process_index() == 0:
        _print(line)


def _print(line: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):  # it may be a file on a full disk
            print(line, file=sys.stderr, flush=True)


def _cluster() -> bool:
    """Whether a launcher that JAX knows has started more than one process, or this is a TPU."""
    sizes = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    if any(size.isdigit() and int(size) > 1 for size in sizes) and (
        "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    ):
        return True
    # libtpu alone says nothing: `--plan` needs it where there is no TPU.
    devices = glob("/dev/accel[0-9]*") + glob("/dev/vfio/[0-9]*")
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


class Stop:
    """Whether the machine is to be given back: SIGTERM asks the run to save and end."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._previous: Any = None
        self._answers: list[jax.Array] = []

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def asked(self, now: bool = False) -> bool:
        """Whether any process was asked to stop; every process must ask in the same places.

        With several processes the answer is that of two questions ago, which is there already,
        unless it must be `now`: a step would have to end before the next could be started.
        """
        if jax.process_count() == 1:
            return self._asked.is_set()
        self._answers.append(_any_of_all(self._asked.is_set()))
        waiting = 1 if now else 3
        answers = self._answers[: 1 - waiting or None]
        del self._answers[: len(answers)]
        return any(map(bool, answers))


def _any_of_all(flag: bool) -> jax.Array:
    """Whether the flag of any process is set; returns before that is known."""
    devices = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    split = NamedSharding(devices, PartitionSpec("all"))
    flags = np.full(jax.local_device_count(), flag)
    given = jax.make_array_from_process_local_data(split, flags)
    return jax.jit(jnp.any, out_shardings=NamedSharding(devices, PartitionSpec()))(given)
