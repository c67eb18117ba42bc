"""Orbax checkpoints of a run: saved without waiting, the last and the best ones kept, restored to
any devices and any number of processes."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from hsd_jax.training.state import Params, TrainState

_RATING = "best"


class Checkpoints:
    """The checkpoints of one work folder, a context manager that waits for saves on exit.

    A checkpoint appears by a rename when it is whole: a kill at any moment leaves those before it.
    Every process must call every method.
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
        self._best = best
        self._checkpointer = training.Checkpointer(
            str(folder.absolute()),
            # The loop decides when; Orbax's own interval would skip the last step.
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,  # what a killed run was writing
        )
        self._newest = self.latest

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
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
        """
        if step == self._newest:
            return
        metrics = None if rating is None else {_RATING: rating}
        self._checkpointer.save_checkpointables_async(step, {"state": state}, metrics=metrics)
        self._newest = step

    def wait(self) -> None:
        """Until every checkpoint is whole."""
        self._checkpointer.wait()

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state of `step` (default the newest).

        Args:
          like: arrays, or `jax.ShapeDtypeStruct`s with shardings; the state is laid out likewise,
            whatever devices and processes wrote it.

        Raises:
          ValueError: it has other parameters or another optimizer than `like`.
        """
        return self._load(jax.tree.map(_abstract, like), step)

    def restore_ema(self, like: TrainState, step: int | None = None) -> Params:
        """The EMA parameters alone, without reading the rest. Arguments as for `restore`."""
        nothing = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        return self._load(nothing.replace(ema=jax.tree.map(_abstract, like.ema)), step).ema

    def _load(self, abstract: Any, step: int | None) -> TrainState:
        try:
            loaded = self._checkpointer.load_checkpointables(
                step, abstract_checkpointables={"state": abstract}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint of step {step or self.latest} in {self._checkpointer.directory} "
                "was made by another config: give another --workdir, or that config"
            ) from error
        return loaded["state"]


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
