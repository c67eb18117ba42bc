"""The folder of a run: one run at a time works in it, by the config that it keeps."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from hsd_jax.runtime import files
from hsd_jax.training import processes

_CONFIG, _LOCK = "config.json", ".lock"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it as long as the block lasts.

    The lock is the system's (flock), which a process loses when it ends, however it ends: there are
    no stale ones. Between machines it holds where their common disk passes it on, as NFS and Lustre
    do and Cloud Storage FUSE does not.

    Raises:
      ValueError: another process holds it; names that.
      OSError: the folder cannot be written to.
    """
    held: list[TextIO] = []
    refusal = processes.first_says(lambda: _lock(workdir, held))
    if refusal:
        raise ValueError(refusal)
    try:
        yield
    finally:
        for file in held:
            file.truncate(0)
            file.close()


def _lock(workdir: Path, held: list[TextIO]) -> str:
    """Adds the open lock to `held`, or says who has it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / _LOCK).open("a+")
    except OSError as error:
        error.filename = None
        raise OSError(
            f"cannot write to {workdir} ({error.strerror}): give --workdir a folder that you may "
            "write to"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        return (
            f"{workdir} is in use by {holder}: wait for its end, stop it, or give another --workdir"
        )
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        processes.say(f"the disk of {workdir} has no locks: start no second run there")
    with suppress(OSError):  # on a full disk: it is only for the message
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}\n"
        )
        file.flush()
    held.append(file)
    return ""


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Keeps the config of a run that was accepted, as config.json."""
    files.write_text(workdir / _CONFIG, json.dumps(config, indent=2) + "\n")


def changed(workdir: Path, config: Mapping[str, Any]) -> str:
    """What differs from the config that is kept, key by key: "batch_size was 8, is 4"; or ""."""
    try:
        before = _flat(json.loads((workdir / _CONFIG).read_text()))
    except (OSError, ValueError):
        return ""  # nothing to compare with
    now = _flat(json.loads(json.dumps(config)))  # tuples are lists in JSON
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return ", ".join(f"{key} was {_shown(before, key)}, is {_shown(now, key)}" for key in keys)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
