"""Orbax checkpoints of a run: saved without waiting, the last ones kept, restored to any device."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from hsd_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one work folder, a context manager that waits for saves on exit."""

    def __init__(self, folder: Path, keep: int = 2):
        """Opens `folder` (made if absent); the `keep` newest checkpoints stay."""
        # Orbax types its own policies as misfits of its own protocol (0.12.8).
        training: Any = ocp.training
        self._checkpointer = training.Checkpointer(
            str(folder.absolute()),
            # The loop decides when; Orbax's own interval would skip the last step.
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=training.preservation_policies.LatestN(keep),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The newest saved step, None when there is none."""
        metadata = self._checkpointer.latest
        return None if metadata is None else metadata.step

    def save(self, state: TrainState) -> None:
        """Starts writing; a save of a step that is there already does nothing."""
        step = int(state.step)
        if step != self.latest:
            self._checkpointer.save_checkpointables_async(step, {"state": state})

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, laid out as `like`.

        Raises:
          ValueError: it has other parameters or another optimizer than `like`.
        """
        abstract: Any = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            loaded = self._checkpointer.load_checkpointables(
                abstract_checkpointables={"state": abstract}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint of step {self.latest} in {self._checkpointer.directory} was made "
                "by another config: give another --workdir, or that config"
            ) from error
        return loaded["state"]
