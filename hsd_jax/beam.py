"""Many swaps as an Apache Beam transform (the extra `beam`), for clusters that run Beam."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import apache_beam as beam  # type: ignore  # an extra that is in no lock

from hsd_jax import weights
from hsd_jax.batch import Batch, Job, Settings
from hsd_jax.runtime.console import Progress
from hsd_jax.swap import HeadSwapper
from hsd_jax.swapping.spec import Sampling


class Swap(beam.PTransform):
    """Swaps the pairs of a collection of `batch.Job`s into a folder that all workers reach.

    It does what `hsd batch` does: done results are left as they are, a pair that fails does not end
    the run. The collection that it returns has a dict for each pair: its job's fields and "error",
    the reason or None. Each worker writes a report of its own beside the results.
    """

    def __init__(
        self,
        folder: str,
        base: str = "",
        name: str = weights.DEFAULT,
        size: int = 8,
        **settings: Any,
    ):
        """Takes what each worker is to use.

        Args:
          folder: where results go.
          base: the folder that the photos' paths start from.
          name: shipped weights, or a folder of them that all workers reach.
          size: pairs per device batch.
          settings: fields of `batch.Settings` that differ from the defaults of `hsd batch`.
        """
        super().__init__()
        self._options = folder, base, name, size, settings

    def expand(self, jobs: Any) -> Any:
        """The collection of what became of each job."""
        size = self._options[3]
        grouped = beam.BatchElements(min_batch_size=size, max_batch_size=16 * size)
        return jobs | grouped | beam.ParDo(_Worker(*self._options))


class _Worker(beam.DoFn):
    def __init__(self, folder: str, base: str, name: str, size: int, settings: dict[str, Any]):
        super().__init__()
        self._folder, self._base, self._size = Path(folder), Path(base), size
        self._name, self._changes = name, settings

    def setup(self) -> None:
        import jax

        found = weights.find(self._name)
        self._settings = Settings(weights.fingerprint(found), **self._changes)
        self._swapper = HeadSwapper(found, self._size, jax.local_devices())
        self._part = f"-{uuid4().hex[:8]}"

    def process(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        run = Batch(jobs, self._folder, self._base, self._settings, part=self._part)
        sampling = Sampling(self._settings.solver, self._settings.steps)
        with Progress() as progress:
            run.run(self._swapper, sampling, self._size, progress)
        errors = {job.output: reason for job, reason in run.errors}
        for job in jobs:
            yield asdict(job) | {"error": errors.get(job.output)}
