"""A run that was stopped, killed or moved to other devices is the same run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from hsd_jax.training import loop, parallel
from hsd_jax.training.checkpoint import Checkpoints
from hsd_jax.training.processes import join

ROOT = Path(__file__).parents[1]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> np.ndarray:
    return np.array([line["loss"] for line in lines(workdir) if "loss" in line])


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_stopped_run_says_what_a_whole_one_says_byte_for_byte(tmp_path: Path):
    whole = toy.train(tmp_path / "whole", steps=9)
    batches = loop.make_dataset

    def stop_before_batch(k: int):
        def make(*args, start_step: int, **options):
            for i, batch in enumerate(batches(*args, start_step=start_step, **options)):
                if start_step + i == k - 1:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

        return make

    for k in (3, 4, 7):  # 3: due for evaluation, which waits for the next start; 4: for a save
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "make_dataset", stop_before_batch(k))
            state = toy.train(tmp_path / "parts", steps=9)
        assert int(state.step) == k and not (tmp_path / "parts" / "weights").exists()
        # The step was finished and saved, and the signal means again what it meant.
        assert (tmp_path / "parts" / "checkpoints" / str(k)).is_dir()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    same(whole, toy.train(tmp_path / "parts", steps=9))
    names = ("metrics.jsonl", "parameters.txt", "weights/condition.safetensors")
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    # A finished run, started again, changes nothing.
    before = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    same(whole, toy.train(tmp_path / "whole", steps=9))
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == before


def test_lines_of_time_are_apart(tmp_path: Path):
    toy.train(tmp_path, steps=3)
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == [1, 2, 3]
    assert set(timing[0]) == {"step", "seconds_per_step", "images_per_second", "seconds_left"}
    assert set(lines(tmp_path)[0]) == {"step", "loss", "error", "grad_norm", "param_norm"}
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_state_moves_to_other_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """8 -> 4 -> 1 devices, fsdp and pmap in between: one run."""
    monkeypatch.setattr(parallel, "MIN_SHARD_SIZE", 1)
    toy.train(tmp_path / "whole", steps=8, mesh=dict(data=1, fsdp=1))
    for steps, data, fsdp, mode in (
        (2, 2, 4, "sharded"), (4, 8, 1, "pmap"), (6, 4, 1, "sharded"), (8, 1, 1, "sharded")
    ):  # fmt: skip
        toy.train(tmp_path / "moved", steps=steps, mesh=dict(data=data, fsdp=fsdp), parallel=mode)
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "whole"), rtol=1e-5)


def test_the_best_checkpoint_stays_and_is_released(tmp_path: Path):
    changes = dict(best="test/size", best_mode="max", eval_every=2, save_every=1, keep=1)
    toy.train(tmp_path, steps=6, **changes)
    sizes = {x["step"]: x["test/size"] for x in lines(tmp_path) if "test/size" in x}
    wanted = max(sizes, key=lambda step: sizes[step])
    assert wanted != 6, "the figure must not be best at the end, or nothing is tested"
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {wanted, 6}
    with Checkpoints(tmp_path / "checkpoints", 1, "max") as checkpoints:
        assert (checkpoints.best, checkpoints.latest) == (wanted, 6)
    newest, best = (
        (tmp_path / name / "condition.safetensors").read_bytes()
        for name in ("weights", "weights_best")
    )
    assert newest != best
    with pytest.raises(ValueError, match="best is 'test/taste': use one of test/size"):
        toy.train(tmp_path / "other", steps=2, best="test/taste")


def test_the_ema_alone_is_read(tmp_path: Path):
    state = toy.train(tmp_path, steps=2)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        same(checkpoints.restore_ema(state), state.ema)
        other = state.replace(ema={"condition": {"other": state.step}})
        with pytest.raises(ValueError, match="made by another config"):
            checkpoints.restore_ema(other)


def test_what_one_process_needs_to_know_of_others(monkeypatch: pytest.MonkeyPatch):
    join()  # alone: nothing to join
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    with pytest.raises(ValueError, match="without JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        join()


def start(workdir: Path, devices: int, *pairs: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tests" / "toy.py"), str(workdir), str(devices), *pairs]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=log
        )


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_said(tmp_path: Path):
    pairs = ("steps=300", "save_every=7", "eval_every=50")
    assert start(tmp_path / "whole", 1, *pairs).wait() == 0
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for at in (60, 150, 200):
        process = start(tmp_path / "killed", 1, *pairs)
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= at:
                process.kill()
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL
        lost = lines(tmp_path / "killed")[-1]["step"] - newest(tmp_path / "killed")
        assert lost <= 14  # of one interval, and of a save that was not finished yet
    assert start(tmp_path / "killed", 1, *pairs).wait() == 0
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def newest(workdir: Path) -> int:
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return max((int(name) for name in names if name.isdigit()), default=0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(workdir: Path, *pairs: str) -> list[subprocess.Popen]:
    address = f"localhost:{free_port()}"
    return [
        start(
            workdir, 4, *pairs, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]  # fmt: skip


def wait_for_lines(workdir: Path, count: int, *processes: subprocess.Popen) -> None:
    """Until so many metrics are written; the processes live as long."""
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sharded", "pmap"])
def test_two_processes_are_one_run(tmp_path: Path, mode: str):
    pairs = ("steps=6", f'parallel="{mode}"')
    assert start(tmp_path / "one", 8, *pairs).wait() == 0
    both = start_two(tmp_path / "two", *pairs)
    assert [process.wait(300) for process in both] == [0, 0]
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [set(line) for line in one] == [set(line) for line in two]
    for a, b in zip(one, two, strict=True):
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-7)
    assert (tmp_path / "two" / "weights" / "condition.safetensors").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step(tmp_path: Path):
    both = start_two(tmp_path / "two", "steps=100000000", "save_every=100000000")
    wait_for_lines(tmp_path / "two", 6, *both)
    both[1].terminate()
    assert [process.wait(300) for process in both] == [0, 0]
    assert newest(tmp_path / "two") == lines(tmp_path / "two")[-1]["step"]


# A toy that trains for ever, a line every hundred steps.
ENDLESS = ("steps=100000000", "save_every=1000", "eval_every=100000", "log_every=100")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_which_names_it(tmp_path: Path, victim: int):
    both = start_two(tmp_path / "two", *ENDLESS)
    wait_for_lines(tmp_path / "two", 2, *both)
    both[victim].kill()
    assert both[1 - victim].wait(60) == 1
    said = (tmp_path / "two.log").read_text().splitlines()
    named = f"hsd_jax.train: process {victim} ({socket.gethostname()}, pid {both[victim].pid})"
    assert said[-1].startswith(f"{named} is gone: killed, or unreachable; started again")
    assert both[victim].wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_launcher_ends_when_one_of_its_processes_is_killed(tmp_path: Path, victim: int):
    python = tmp_path / "python"
    toy_of = [sys.executable, str(ROOT / "tests" / "toy.py"), str(tmp_path / "run"), "1", *ENDLESS]
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/$JAX_PROCESS_ID\nexec {' '.join(toy_of)}\n")
    python.chmod(0o755)
    environment = dict(PYTHON=str(python), PROCESSES="2", PORT=str(free_port()), DEVICES="1")
    with subprocess.Popen(
        [str(ROOT / "launch" / "local.sh"), "a config", str(tmp_path / "run")], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.PIPE,
    ) as launcher:  # fmt: skip
        wait_for_lines(tmp_path / "run", 2, launcher)
        pids = [int((tmp_path / number).read_text()) for number in "01"]
        os.kill(pids[victim], signal.SIGKILL)
        _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    last = said.splitlines()[-1]
    assert f"process {victim} (pid {pids[victim]}) ended by signal KILL" in last
    with pytest.raises(ProcessLookupError):
        os.kill(pids[1 - victim], 0)
