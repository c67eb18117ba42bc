"""Orbax checkpoints of a run: saved without waiting, the last and the best ones kept, restored to
any devices and any number of processes, never from damaged files."""

import errno
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from hsd_jax.runtime import files
from hsd_jax.runtime.cache import file_fingerprint
from hsd_jax.runtime.console import one_line
from hsd_jax.training import processes
from hsd_jax.training.state import Params, TrainState

_RATING = "best"
_SUMS = "SHA256SUMS"  # in the folder of a step, as `sha256sum -c` reads it


class OtherConfig(ValueError):
    """A whole checkpoint holds other parameters or another optimizer than asked for."""


class Checkpoints:
    """The checkpoints of one work folder, a context manager that waits for saves on exit.

    A checkpoint appears by a rename when it is whole: a kill at any moment leaves those before it.
    With it appear the checksums of its files; what does not fit them is not restored. Every process
    must call every method.
    """

    def __init__(self, folder: Path, keep: int = 2, best: str = ""):
        """Opens `folder` (made if absent).

        Args:
          folder: on a disk that every process sees.
          keep: so many of the newest checkpoints stay.
          best: "max" or "min" keeps also the one of the highest or lowest rating given to `save`.

        Raises:
          ValueError: any other `best`.
        """
        if best not in ("", "max", "min"):
            raise ValueError(f"best_mode is {best!r}: use 'max' or 'min'")
        # Orbax types its own policies as misfits of its own protocol (0.12.8).
        training: Any = ocp.training
        policies = training.preservation_policies
        kept = [policies.LatestN(keep)]
        if best:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[_RATING],
                    n=1,
                    reverse=best == "min",
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._best, self._folder = best, folder.absolute()
        context: Any = ocp.Context()
        # Orbax copies its options deeply, a method with its object: this is a function.
        context.async_options.post_finalization_callback = lambda: self._sign()
        self._checkpointer = training.Checkpointer(
            str(self._folder),
            context=context,
            # The loop decides when; Orbax's own interval would skip the last step.
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,  # what a killed run was writing
        )
        self._newest = self.latest
        self._saving: Any = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:  # else what is being raised is what went wrong first
                raise
        finally:
            with suppress(Exception):  # again what `wait` has raised
                self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The newest saved step, None when there is none."""
        metadata = self._checkpointer.latest
        return None if metadata is None else metadata.step

    @property
    def best(self) -> int | None:
        """The step of the best rating, None when no checkpoint has one."""
        rated = {c.step: c.metrics[_RATING] for c in self._checkpointer.checkpoints if c.metrics}
        if not rated or not self._best:
            return None
        return (max if self._best == "max" else min)(rated, key=lambda step: rated[step])

    def save(self, state: TrainState, step: int, rating: float | None = None) -> None:
        """Starts writing the state of `step`; one that is there already is not written again.

        `rating`: by which `best` compares.

        Raises:
          OSError: this one or the one before could not be written, on a full disk say.
        """
        if step == self._newest:
            return
        self.wait()
        self._newest = step
        metrics = None if rating is None else {_RATING: rating}
        try:
            self._saving = self._checkpointer.save_checkpointables_async(
                step, {"state": state}, metrics=metrics
            )
        except Exception as error:
            raise self._unsaved(error) from error

    def wait(self) -> None:
        """Until every checkpoint is whole; OSError as for `save`."""
        saving, self._saving = self._saving, None
        try:
            if saving is not None:
                saving.result()  # unless it is asked for, its thread and event loop stay for ever
        except Exception as error:
            raise self._unsaved(error) from error

    def restore(self, like: TrainState) -> TrainState:
        """The newest state that is whole; newer ones are set aside, and that is said.

        Args:
          like: arrays, or `jax.ShapeDtypeStruct`s with shardings; the state is laid out likewise,
            whatever devices and processes wrote it.

        Raises:
          OtherConfig: it has other parameters or another optimizer than `like`.
          ValueError: no checkpoint is whole.
        """
        return self._load_whole(like, jax.tree.map(_abstract, like), None)

    def restore_ema(self, like: TrainState, step: int | None = None) -> Params:
        """The EMA parameters alone, without reading the rest. Arguments as for `restore`.

        `step`: this one and no other; ValueError where it is damaged.
        """
        nothing = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        asked = nothing.replace(ema=jax.tree.map(_abstract, like.ema))
        return self._load_whole(like, asked, step).ema

    def _load_whole(self, like: TrainState, asked: Any, step: int | None) -> TrainState:
        """What is `asked` of `step`, or of the newest checkpoint that is whole."""
        saved = [c.step for c in self._checkpointer.checkpoints]
        damaged: dict[int, str] = {}
        for candidate in [step] if step is not None else sorted(saved, reverse=True):
            folder = self._folder / str(candidate)
            why = processes.first_says(lambda folder=folder: damage(folder))
            if not why:
                state, why = self._load(like, asked, candidate)
                if state is not None:
                    self._set_aside(damaged)
                    return state
            damaged[candidate] = why
        told = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
        raise ValueError(
            f"no whole checkpoint in {self._folder} ({told or 'there is none'}): put back a copy, "
            "or give another --workdir to begin anew"
        )

    def _load(self, like: TrainState, asked: Any, step: int) -> tuple[TrainState | None, str]:
        """The state; or None, and why its files cannot be read."""
        try:
            saved = self._checkpointer.checkpointables_metadata(step).metadata["state"]
            if saved is None:  # Orbax says why in a warning
                return None, "its list of arrays cannot be read"
            if differing := _difference(saved, like):
                raise OtherConfig(
                    f"the checkpoint of step {step} in {self._folder} was made by another config: "
                    f"{differing}"
                )
            loaded = self._checkpointer.load_checkpointables(
                step, abstract_checkpointables={"state": asked}
            )
        except OtherConfig:
            raise
        except Exception as error:  # of TensorStore, protocol buffers, JSON, files
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the disk, and perhaps not for long
            return None, f"it cannot be read: {one_line(error)[:200]}"
        state = loaded["state"]
        if state.step is not ocp.PLACEHOLDER and int(state.step) != step:
            return None, f"it holds step {int(state.step)}"
        return state, ""

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Moves checkpoints out of the way of those that will be written for the same steps."""
        if not damaged:
            return
        for step, why in damaged.items():
            processes.first_says(lambda step=step: _move_aside(self._folder, step))
            processes.say(
                f"the checkpoint of step {step} is damaged ({why}) and was set aside as "
                f"{self._folder}/damaged-{step}"
            )
        self._checkpointer.reload()
        self._newest = self.latest

    def _sign(self) -> None:
        """Called on the first process, in Orbax' thread, before the folder takes its last name."""
        (folder,) = self._folder.glob(f"{self._newest}.orbax-checkpoint-tmp*")
        lines = (f"{file_fingerprint(folder / name)}  {name}\n" for name in _files(folder))
        files.write_text(folder / _SUMS, "".join(lines))

    def _unsaved(self, error: Exception) -> OSError:
        whole = [c.step for c in self._checkpointer.checkpoints if c.step != self._newest]
        before = f"that of step {whole[-1]} is whole" if whole else "there is none before it"
        return OSError(
            f"the checkpoint of step {self._newest} could not be written to {self._folder}: "
            f"{one_line(error)[:300]}; {before}: make room and start again, the run goes on"
        )


def damage(folder: Path) -> str:
    """How the files of a checkpoint differ from the checksums beside them, "" where they do not.

    Where there are none, because it was written before there were any, that is "" too.
    """
    if not (folder / _SUMS).exists():
        return ""
    lines = (folder / _SUMS).read_text(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = set(_files(folder))
    if present - sums.keys():
        return f"{_SUMS} is cut"
    if missing := sums.keys() - present:
        return f"{min(missing)} is missing"
    wrong = (name for name in sums if file_fingerprint(folder / name) != sums[name])
    return next((f"{name} does not fit its checksum" for name in wrong), "")


def _files(folder: Path) -> list[str]:
    """The files of the state. Orbax changes those beside it until the folder has its name."""
    paths = (path for path in (folder / "state").rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _move_aside(folder: Path, step: int) -> str:
    """Renames to damaged-STEP; one of that name from before goes."""
    aside = folder / f"damaged-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    (folder / str(step)).rename(aside)
    return ""


def _difference(saved: Any, like: Any) -> str:
    """The first array that only one of the two states has, or that has another shape or type."""
    there, here = _shapes(saved), _shapes(like)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} now"
    return ""


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _shape(leaf.shape, leaf.dtype)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _shape(shape: Sequence[int], dtype: Any) -> str:
    return f"{dtype}{list(shape)}"


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
