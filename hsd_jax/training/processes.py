"""Several processes as one run: how they find each other, and how they stop together."""

import importlib.util
import os
import signal
import threading
from glob import glob
from typing import Any

import jax


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
            jax.distributed.initialize(os.environ[names[0]], count, number)
    elif given:
        missing = sorted(set(names) - set(given))
        raise ValueError(f"{', '.join(given)} without {', '.join(missing)}: set all three or none")
    elif _cluster():
        jax.distributed.initialize()


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

    def __enter__(self) -> "Stop":
        # With several processes JAX itself listens, and all of them agree on a step.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; every process must ask at every step."""
        if jax.process_count() == 1:
            return self._asked.is_set()
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
