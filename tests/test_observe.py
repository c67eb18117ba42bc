"""What a run says of itself."""

import io
import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from hsd_jax.training import observe
from hsd_jax.training.log import Log
from hsd_jax.training.observe import Pace, Watch, hardware_of, model_flops, overview


def test_hardware_is_known_by_its_name():
    for kind, tera, gib in (
        ("TPU v5 lite", 197, 16), ("TPU v5", 459, 95), ("TPU v6 lite", 918, 32),
        ("NVIDIA H100 80GB HBM3", 989, 80), ("NVIDIA H100 PCIe", 756, 80),
        ("NVIDIA A100-SXM4-40GB", 312, 40), ("NVIDIA A100-SXM4-80GB", 312, 80),
        ("NVIDIA L40S", 362, 48), ("NVIDIA L4", 121, 24), ("Tesla T4", 65, 16),
    ):  # fmt: skip
        found = hardware_of(kind)
        assert found and (found.flops / 1e12, found.memory / 2**30) == (tera, gib), kind
    assert hardware_of("cpu") is None


def test_flops_are_the_model_s():
    shapes = (jnp.zeros((8, 16)), jnp.zeros((16, 32)))
    assert model_flops(jnp.matmul, *shapes) == 2 * 8 * 16 * 32


def test_pace_tells_speed_and_use(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(observe.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(observe, "hardware_of", lambda kind: observe.Hardware(1e12, 1, 1))
    pace = Pace(step=10, steps=50, batch_size=4)
    pace.flops = 1e12 * jax.device_count()
    now[0] += 40
    report = pace.report(20)
    assert report["seconds_per_step"] == 4 and report["images_per_second"] == 1
    assert report["seconds_left"] == 120 and report["mfu"] == pytest.approx(0.25)
    assert report["model_tflops_per_second"] == pytest.approx(jax.device_count() / 4)
    now[0] += 1000  # an evaluation
    pace.restart(20)
    now[0] += 2
    report = pace.report(22)
    assert report["seconds_per_step"] == 1 and report["seconds_left"] == 28


def test_the_first_bad_step_of_a_window_is_named():
    watch = Watch()
    for step in range(1, 6):
        watch.add(step, {"loss": jnp.float32(step), "grad_norm": jnp.float32(1)})
    assert watch.look() == {"loss": 5, "grad_norm": 1}
    for step, norm, loss in ((6, 1, 1), (7, np.inf, 1), (8, np.nan, np.nan)):
        watch.add(step, {"loss": jnp.float32(loss), "grad_norm": jnp.float32(norm)})
    with pytest.raises(FloatingPointError, match=r"^grad_norm is inf at step 7: .*steps 6 to 8"):
        watch.look()


def test_overview_names_every_parameter():
    table = overview({"unet": {"conv_in": {"kernel": jnp.zeros((3, 3, 4, 8))}}})
    assert "unet/conv_in/kernel" in table and "Total: 288" in table


def test_a_trace_is_written_on_request(tmp_path: Path):
    toy.train(tmp_path, steps=6, profile=2)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    toy.train(tmp_path / "other", steps=1)
    assert not (tmp_path / "other" / "profile").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_lines_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    timing = {"seconds_per_step": 0.5, "images_per_second": 8.0, "mfu": 0.4, "seconds_left": 3661.0}
    said = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        log = Log(tmp_path, 40, 100)  # a run that goes on
        for step in (41, 50):
            time.sleep(0.2)  # the bar is drawn ten times a second
            log.progress(step)
        log.write_scalars(60, {"loss": 0.5}, timing)
        log.close()
        said[stream.isatty()] = stream.getvalue()
    line = "step      60  loss 0.5  | 0.5 s/step  8 images/s  MFU 40.0 %  1:01:01 left\n"
    first, *rest = said[False].splitlines(keepends=True)
    assert re.fullmatch(r"step +41 of 100, 0 min \d.\d s after the start\n", first)
    assert rest == [line]
    bar, rest = said[True].split(line)
    assert re.search(r" 50%\|#+ +\| 50/100 \[00:0\d<00:0\d, +[\d.]+step/s\]\r *\r$", bar)
    assert re.search(r"50/100 .*\r *\r$", rest)  # drawn again below the line, and gone at the end


def test_a_log_goes_on_where_the_checkpoint_is(tmp_path: Path):
    log = Log(tmp_path, 0, 100)
    for step in (1, 2, 3):
        log.write_scalars(step, {"loss": 1 / 3}, {"seconds_per_step": 1.0})
    log.write_scalars(2, {"test/iou": 0.5})
    log.close()
    path = tmp_path / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"step": 3' not in line]
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert not Log(tmp_path, 3, 100, active=False).evaluated  # and touches nothing
    assert path.read_text().endswith('"lo')
    log = Log(tmp_path, 2, 100)
    log.close()
    assert log.evaluated and path.read_text().splitlines() == kept
    timing = (tmp_path / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in timing] == [1, 2]
