"""The Beam transform, by Beam's local runner: what it makes is what `hsd batch` makes."""

import csv
import shutil
from pathlib import Path

import pytest
from tiny import write_weights

from hsd_jax import cli, weights
from hsd_jax.batch import Batch, Settings, read_jobs
from hsd_jax.imaging.demo import find_photos

beam = pytest.importorskip("apache_beam", reason="the extra beam is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_a_pipeline_swaps_as_the_command_does(tmp_path: Path):
    from apache_beam.testing.util import assert_that, equal_to  # type: ignore

    from hsd_jax.beam import Swap

    folder = write_weights(tmp_path / "weights", 128)
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    for name, photo in zip(("head.jpg", "body.png"), find_photos(), strict=True):
        shutil.copyfile(photo, tmp_path / name)
    rows = ["head.jpg,body.png,a.png", "body.png,body.png,b.png", "gone.jpg,body.png,c.png"]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join(["head,body,output", *rows]) + "\n")

    def run() -> None:
        with beam.Pipeline() as pipeline:
            made = (
                pipeline
                | beam.Create(read_jobs(pairs))
                | Swap(str(tmp_path / "out"), str(tmp_path), str(folder), size=2)
                | beam.Map(lambda row: (row["output"], "no such file" in str(row["error"])))
            )
            assert_that(made, equal_to([("a.png", False), ("b.png", False), ("c.png", True)]))

    run()
    command = ["batch", str(pairs), "-o", str(tmp_path / "command"), "--weights", str(folder)]
    assert cli.main([*command, "--batch", "2"]) == 1
    for name in ("a.png", "b.png"):
        ours, theirs = (tmp_path / out / name for out in ("out", "command"))
        assert ours.read_bytes() == theirs.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    run()  # resumed: nothing is made again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    settings = Settings(weights.fingerprint(folder))
    batch = Batch(read_jobs(pairs), tmp_path / "out", tmp_path, settings)
    assert [job.output for job in batch.todo] == ["c.png"] and batch.skipped == 2
    for path in (tmp_path / "out").glob("errors-*.csv"):  # one of each run
        assert [row["output"] for row in csv.DictReader(path.read_text().splitlines())] == ["c.png"]
