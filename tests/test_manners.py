"""The package as a library: quick to import, safe in threads, quiet, and stopped when asked."""

import logging
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny import write_weights

from hsd_jax import HeadSwapper, cli, weights
from hsd_jax.runtime.programs import Program


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> HeadSwapper:
    folder = write_weights(tmp_path_factory.mktemp("weights"), 128)
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    return HeadSwapper.from_pretrained(folder)


def test_the_import_is_quick_and_touches_no_device():
    script = """
import sys, time
start = time.process_time()
import hsd_jax
print(time.process_time() - start)
assert hsd_jax.__version__ and not {"jax", "numpy", "flax", "PIL"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.2


def test_the_swapper_starts_no_device_until_it_is_made():
    script = """
from hsd_jax import HeadSwapper, LabelSet
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_share_a_swapper(tiny, pair):
    pairs = [pair, pair[::-1]] * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda photos: tiny(*photos).image, pairs))
    for photos, image in zip(pairs, together, strict=True):
        np.testing.assert_array_equal(tiny(*photos).image, image)


def test_threads_compile_a_program_once_and_a_failure_is_no_end():
    calls, gate = [], threading.Barrier(4)

    def traced(x):
        calls.append(x)
        if len(calls) == 1:
            raise RuntimeError("not yet")
        return x + 1

    program = Program("once", traced)

    def call(_):
        gate.wait()
        return float(program(np.float32(1)))

    with pytest.raises(RuntimeError, match="not yet"):
        program(np.float32(1))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [2.0] * 4
    assert len(calls) == 2


def test_a_swap_tells_its_stages_and_stops_when_asked(tiny, pair, capsys, caplog):
    stages: list[str] = []
    with caplog.at_level(logging.DEBUG, "hsd_jax"):
        tiny(*pair, progress=stages.append)
    assert stages == ["parsing", "painting", "finishing"]
    assert [x.message for x in caplog.records if x.name == "hsd_jax.swap"] == stages

    class Stopped(Exception):
        pass

    def stop(stage: str) -> None:
        if stage == "painting":
            raise Stopped

    with pytest.raises(Stopped):
        tiny(*pair, progress=stop)
    assert capsys.readouterr() == ("", "")  # a library prints nothing


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_options_and_choices(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    for word in ("swap", "batch", "verify", "skin-tone", "dpmpp"):
        assert word in script


def test_completion_without_its_extra_names_the_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--completion", "bash"]) == 2
    assert "pip install 'hsd-jax[completion]'" in capsys.readouterr().err
