"""What can go wrong with a training, done to one, and whether it goes on as if it had not been.

    python tests/faults.py        # some minutes; prints a table in Markdown

Each fault happens to a run of `toy.py` of 24 steps, which saves every four and evaluates every
eight. Then the run is started again, and `metrics.jsonl` and the weights that it ends with are
compared, byte for byte, with those of a run that nothing happened to. The status is 1 if any
differs.
"""

import contextlib
import fcntl
import io
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import jax  # noqa: E402
import numpy as np  # noqa: E402

if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)

import toy  # noqa: E402

from hsd_jax.runtime.console import one_line, table  # noqa: E402
from hsd_jax.training import checkpoint, loop  # noqa: E402

STEPS, AT = 24, 14  # AT: the step in which it happens; that of 12 is then the newest checkpoint
ARGUMENTS = {"steps": STEPS, "save_every": 4, "eval_every": 8}


# What happens inside of a run: done by a process of its own, see `_child`.


def _in_step(act: Callable[[], object]) -> None:
    batches = loop.make_dataset

    def make(*args, start_step: int, **options):
        for number, batch in enumerate(
            batches(*args, start_step=start_step, **options), start_step
        ):
            if number == AT - 1:
                act()
            yield batch

    loop.make_dataset = make


def _in_save(act: Callable[[], object]) -> None:
    """When its files are just being written."""
    save = checkpoint.Checkpoints.save

    def saving(self, state, step, rating=None):
        if step == AT + 2:
            act()
        save(self, state, step, rating)
        if step == AT + 2:
            act()

    checkpoint.Checkpoints.save = saving


def _in_signing(act: Callable[[], object]) -> None:
    sign = checkpoint.Checkpoints._sign

    def signing(self):
        if self._newest == AT + 2:
            act()
        sign(self)

    checkpoint.Checkpoints._sign = signing


def _in_evaluation(act: Callable[[], object]) -> None:
    transform, seen = toy.ToyTask.eval_transform, []

    def transforming(self, example, rng):
        seen.append(example)
        if len(seen) == 20:  # of the second evaluation: 16 examples each
            act()
        return transform(self, example, rng)

    toy.ToyTask.eval_transform = transforming


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _unreadable() -> None:
    raise ValueError("cannot read example 7 of train-00000-of-00001")


def _not_a_number() -> None:
    batches = loop.make_dataset

    def make(*args, start_step: int, **options):
        for number, batch in enumerate(
            batches(*args, start_step=start_step, **options), start_step
        ):
            yield batch | {"x": batch["x"] * np.float32(np.nan)} if number == AT - 1 else batch

    loop.make_dataset = make


def _send(number: int, times: int = 1) -> Callable[[], object]:
    return lambda: [os.kill(os.getpid(), number) for _ in range(times)]


KILL, TERM = _send(signal.SIGKILL), _send(signal.SIGTERM)
INSIDE: dict[str, Callable[[], None]] = {
    "kill -9 in a step": lambda: _in_step(KILL),
    "kill -9 as a checkpoint is written": lambda: _in_save(KILL),
    "kill -9 as its checksums are written": lambda: _in_signing(KILL),
    "kill -9 in an evaluation": lambda: _in_evaluation(KILL),
    "SIGTERM in a step": lambda: _in_step(TERM),
    "SIGTERM twice": lambda: _in_step(_send(signal.SIGTERM, 2)),
    "SIGTERM as a checkpoint is written": lambda: _in_save(TERM),
    "SIGTERM in an evaluation": lambda: _in_evaluation(TERM),
    "the disk is full at a checkpoint": lambda: _in_save(_no_room),
    "the disk is full at a line of metrics": lambda: _in_step(_no_room),
    "an example cannot be read": lambda: _in_step(_unreadable),
    "a loss that is no number": _not_a_number,
}

# What happens to the folder of a run that is not running: the newest checkpoint is that of 12.


def _newest(folder: Path, file: str = "") -> Path:
    step = folder / "checkpoints" / "12"
    files = [path for path in (step / "state").rglob("*") if path.is_file()]
    return step / file if file else max(files, key=lambda path: path.stat().st_size)


def _change(data: bytes, at: float, bits: int, count: int = 1) -> bytes:
    start = int(len(data) * at)
    changed = bytes(x ^ bits for x in data[start : start + count])
    return data[:start] + changed + data[start + count :]


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints" / "12")
    (folder / "checkpoints" / "12").mkdir()


def _half_saved(folder: Path) -> None:
    step = folder / "checkpoints" / "12"
    shutil.copytree(step, step.with_name("16.orbax-checkpoint-tmp"))


TO_FILES: dict[str, Callable[[Path], object]] = {
    "a file of the newest checkpoint is cut": lambda run: _rewrite(_newest(run), lambda x: x[:-9]),
    "one is emptied": lambda run: _newest(run).write_bytes(b""),
    "one is deleted": lambda run: _newest(run).unlink(),
    "a bit of one is flipped": lambda run: _rewrite(_newest(run), lambda x: _change(x, 0.7, 1)),
    "16 bytes of one are inverted": lambda run: _rewrite(
        _newest(run), lambda x: _change(x, 0.5, 255, 16)
    ),
    "its checksums are cut": lambda run: _rewrite(
        _newest(run, "SHA256SUMS"), lambda x: x[: len(x) // 2]
    ),
    "its folder is emptied": _empty_folder,
    "another's is there for a later step": lambda run: shutil.copytree(
        run / "checkpoints" / "12", run / "checkpoints" / "16"
    ),
    "half of a save is left": _half_saved,
    "the last line of metrics is cut": lambda run: _rewrite(
        run / "metrics.jsonl", lambda x: x[:-20]
    ),
}


def train(folder: Path, **changes: object) -> str:
    """Trains in this process to the end; the last line that it says."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            toy.train(folder, **(ARGUMENTS | changes))
        except (ValueError, OSError, FloatingPointError) as error:
            return one_line(error)
    lines = [line for line in said.getvalue().splitlines() if "damaged" in line]
    return lines[-1] if lines else ""


def _start(folder: Path, fault: str = "", **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, fault, str(folder)]
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        command, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )  # fmt: skip


def _ended(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=300)
    code = process.returncode
    how = f"status {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    lines = [line for line in said.splitlines() if "Gloo" not in line]
    telling = lines and lines[-1].startswith(("hsd_jax.train", "told"))
    return f"{how}: {lines[-1]}" if telling else how


def _child(fault: str, folder: str) -> None:
    from hsd_jax import train as command

    if fault:
        INSIDE[fault]()
    sys.argv[1:] = [folder, "1", *(f"{key}={value}" for key, value in ARGUMENTS.items())]
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.exit(command._ended(toy.main))


def second_start(folder: Path) -> str:
    """While another process holds the lock of the run."""
    with (folder / ".lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 12 on elsewhere")
        other.flush()
        return train(folder)


def other_network(folder: Path) -> str:
    """A start with a config that does not fit the checkpoint."""
    before = (folder / "config.json").read_bytes()
    told = train(folder, optimizer=toy.config()["optimizer"] | {"clip": 0.0})
    kept = (folder / "config.json").read_bytes() == before
    return told if kept else "CONFIG.JSON WAS OVERWRITTEN"


def nothing_whole(folder: Path) -> str:
    """All checkpoints are damaged; then one is put back."""
    copy = Path(shutil.copytree(folder / "checkpoints", folder / "copy"))
    for step in (folder / "checkpoints").iterdir():
        (step / "SHA256SUMS").write_text("")
    told = train(folder)
    shutil.rmtree(folder / "checkpoints")
    copy.rename(folder / "checkpoints")
    return told


REFUSED: dict[str, Callable[[Path], str]] = {
    "a second start on the same folder": second_start,
    "a start with another optimizer": other_network,
    "no checkpoint is whole; then one is put back": nothing_whole,
}


def two(folder: Path, victim: int | None = None) -> str:
    """Two processes, of which one is killed; what the other says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    fault = "kill -9 in a step"
    both = [
        _start(folder, fault if i == victim else "", JAX_PROCESS_ID=str(i), **shared)
        for i in range(2)
    ]
    told = [_ended(process) for process in both]
    return told[0] if victim is None else told[1 - victim]


def result(folder: Path) -> list[bytes]:
    """What two runs are compared by."""
    names = ("metrics.jsonl", "weights/condition.safetensors")
    return [(folder / name).read_bytes() for name in names]


def rows(work: Path) -> list[list[str]]:
    """A row for each fault: its name, what was told, whether the run went on the same."""
    found = []

    def add(name: str, folder: Path, told: str, wanted: list[bytes]) -> None:
        same = "yes" if result(folder) == wanted else "NO"
        found.append([name, told.replace(str(folder), "RUN") or "nothing", same])
        print(f"{same:>4}  {name}", file=sys.stderr, flush=True)

    train(work / "whole")
    wanted = result(work / "whole")
    for number, fault in enumerate(INSIDE):
        folder = work / f"inside{number}"
        told = _ended(_start(folder, fault))
        train(folder)
        add(fault, folder, told, wanted)
    stopped = work / "stopped"
    _ended(_start(stopped, "an example cannot be read"))  # it waits for the checkpoint of 12
    for number, (fault, change) in enumerate((TO_FILES | REFUSED).items()):
        folder = Path(shutil.copytree(stopped, work / f"files{number}"))
        told = change(folder)
        again = train(folder)
        add(fault, folder, told if isinstance(told, str) else again, wanted)
    two(work / "two")
    for victim in (0, 1):
        folder = work / f"two{victim}"
        told = two(folder, victim)
        two(folder)
        add(f"of two processes, number {victim} is killed", folder, told, result(work / "two"))
    return found


def main() -> int:
    """Prints the table; 1 if a run did not go on the same."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        found = rows(Path(work))
    print(table(("fault", "what is told", "goes on the same"), found, "github"))
    same = sum(row[2] == "yes" for row in found)
    print(f"\n{len(found)} faults, {same} times the same, in {time.monotonic() - start:.0f} s")
    return 0 if same == len(found) else 1


if __name__ == "__main__":
    sys.exit(_child(*sys.argv[1:]) if len(sys.argv) > 1 else main())
