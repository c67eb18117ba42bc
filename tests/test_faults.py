"""What goes wrong around a training: it is told, nothing is lost, and the run goes on the same."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
from test_resume import lines, same

from hsd_jax import train as command
from hsd_jax.training import checkpoint, loop
from hsd_jax.training.checkpoint import Checkpoints
from hsd_jax.training.log import Log
from hsd_jax.training.optimizer import learning_rate

pytestmark = pytest.mark.usefixtures("quick_compiles")
STEPS = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    toy.train(folder, steps=STEPS)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run when it has ended in step 5, with the checkpoints of 2 and 4."""
    folder, batches = tmp_path_factory.mktemp("killed"), loop.make_dataset

    def four(*args, **options):
        yield from islice(batches(*args, **options), 4)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_dataset", four)
        with pytest.raises(InterruptedError):
            toy.train(folder, steps=STEPS)
    assert steps_of(folder) == [2, 4]
    return folder


@pytest.fixture
def stopped(killed: Path, tmp_path: Path) -> Path:
    """A copy of it to go on with."""
    return Path(shutil.copytree(killed, tmp_path / "run"))


def steps_of(folder: Path) -> list[int]:
    names = (path.name for path in (folder / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def assert_goes_on_as(whole: Path, folder: Path):
    toy.train(folder, steps=STEPS)
    for name in ("metrics.jsonl", "weights/condition.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in (step / "state").rglob("*") if path.is_file())


def invert(path: Path):
    data = np.fromfile(path, np.uint8)
    middle = slice(len(data) // 2, len(data) // 2 + 16)
    data[middle] = ~data[middle]
    path.write_bytes(data.tobytes())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "inverted": invert,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_any_damage_to_any_file_is_noticed(kind: str, whole: Path, tmp_path: Path):
    step = whole / "checkpoints" / str(STEPS)
    assert checkpoint.damage(step) == ""
    for number, path in enumerate(files_of(step)):
        copy = Path(shutil.copytree(step, tmp_path / str(number)))
        name = path.relative_to(step)
        DAMAGES[kind](copy / name)
        assert checkpoint.damage(copy).startswith(str(name))
    sums = Path(shutil.copytree(step, tmp_path / "sums")) / "SHA256SUMS"
    sums.write_text("\n".join(sums.read_text().splitlines()[:-1]))
    assert checkpoint.damage(sums.parent) == "SHA256SUMS is cut"


def test_the_newest_whole_checkpoint_is_gone_on_from(
    whole: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
):
    invert(max(files_of(stopped / "checkpoints" / "4"), key=lambda path: path.stat().st_size))
    capsys.readouterr()
    assert_goes_on_as(whole, stopped)
    said = capsys.readouterr().err
    assert "step 4 is damaged (state/" in said and "from step 2" in said
    assert (stopped / "checkpoints" / "damaged-4").is_dir() and steps_of(stopped) == [4, 6]


def test_unsigned_checkpoints_and_foreign_folders(
    whole: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
):
    folder = stopped / "checkpoints"
    (folder / "4" / "SHA256SUMS").unlink()  # of an earlier version
    shutil.copytree(folder / "4", folder / "6")  # a step that will be saved is there, but another's
    capsys.readouterr()
    assert_goes_on_as(whole, stopped)
    said = capsys.readouterr().err
    assert "step 6 is damaged (it holds step 4)" in said and "from step 4" in said


def test_without_a_whole_checkpoint_nothing_is_touched(stopped: Path):
    for step in ("2", "4"):
        (stopped / "checkpoints" / step / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no whole checkpoint .*step 4: .*step 2: .*put back"):
        toy.train(stopped, steps=STEPS)
    assert steps_of(stopped) == [2, 4]


def test_another_config_is_told_key_by_key(stopped: Path, capsys: pytest.CaptureFixture[str]):
    before = (stopped / "config.json").read_bytes()
    optimizer = toy.config()["optimizer"] | dict(clip=0.0)
    wanted = r"made by another config: .*is absent there.*\(optimizer.clip was 1.0, is 0.0\)"
    with pytest.raises(ValueError, match=wanted):
        toy.train(stopped, steps=STEPS, optimizer=optimizer)
    assert (stopped / "config.json").read_bytes() == before and steps_of(stopped) == [2, 4]
    with pytest.raises(ValueError, match="step 4, beyond steps 3"):
        toy.train(stopped, steps=3)
    assert (stopped / "config.json").read_bytes() == before
    toy.train(stopped, steps=STEPS, batch_size=16)
    assert "changed config: batch_size was 8, is 16" in capsys.readouterr().err
    assert json.loads((stopped / "config.json").read_text())["batch_size"] == 16


def test_everything_saved_comes_back(stopped: Path):
    """Optimizer and EMA too, which a partial restore would leave as they are at step 0."""
    like = toy.train(stopped, steps=STEPS)
    assert like is not None
    with Checkpoints(stopped / "checkpoints") as checkpoints:
        state = checkpoints.restore(like)
    same(state, like)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(moments) == 2 and all(np.any(x) for x in moments)
    for ema, parameters in zip(
        jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True
    ):
        assert np.any(ema != parameters)


def test_a_second_start_is_refused(stopped: Path, whole: Path):
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*") if path.is_file()}
    lock = stopped / ".lock"
    with lock.open("r+") as other:  # a lock is a file's that is open, whoever opened it
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 12 on elsewhere")
        other.flush()
        with pytest.raises(ValueError, match="in use by process 12 on elsewhere: wait for its end"):
            toy.train(stopped, steps=STEPS)
    before.pop(lock)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert lock.read_text()  # left by one that was killed
    assert_goes_on_as(whole, stopped)
    assert not lock.read_text()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to .*file/run .*: give --workdir a folder"):
        toy.train(tmp_path / "file" / "run")


def test_a_checkpoint_that_cannot_be_written(stopped: Path):
    like = toy.train(stopped, steps=4)
    assert like is not None
    large = like.replace(params=jax.random.normal(jax.random.key(0), (1 << 20,)))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"step 5 could not be written .*that of step 4 is whole"):
        with Checkpoints(stopped / "checkpoints") as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
            try:
                checkpoints.save(large, 5)
                checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with Checkpoints(stopped / "checkpoints") as checkpoints:
        assert checkpoints.latest == 4
        same(checkpoints.restore(like), like)


def onto_full_disk(name: str):
    """The open file of that name becomes one that has no room."""
    full = os.open("/dev/full", os.O_WRONLY)
    for handle in Path("/proc/self/fd").iterdir():
        if handle.exists() and name in str(handle.readlink()):
            os.dup2(full, int(handle.name))
    os.close(full)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
def test_a_log_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(tmp_path, 0, 9)
    onto_full_disk("tfevents")
    for step in range(1, 30):  # more than a queue would hold
        log.write_scalars(step, {"loss": 1.0})
    (tmp_path / "samples").touch()  # no folder can be made there
    log.write_images(2, {"image": np.zeros((4, 4, 3), np.uint8)})
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert [line.split(": ")[-1] for line in said] == ["training goes on without"] * 2
    assert "tensorboard (No space left on device)" in said[0]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"metrics.jsonl \(No space left on device\); the last"):
        log.write_scalars(30, {"loss": 1.0})
    log.close()


@pytest.mark.slow  # tests/faults.py does it too
def test_told_to_stop_in_an_evaluation_it_saves_first(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, seen = toy.ToyTask.eval_transform, []

    def signalled(self, example, rng):
        seen.append(example)
        if len(seen) in (9, 9 + 8):  # in the second batch; then at once, in the next start
            signal.raise_signal(signal.SIGTERM)
        return plain(self, example, rng)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyTask, "eval_transform", signalled)
        for _ in range(2):
            toy.train(tmp_path, steps=STEPS)
            assert steps_of(tmp_path) == [2, 3] and lines(tmp_path)[-1]["step"] == 3
            assert not any("test/size" in line for line in lines(tmp_path))
    assert_goes_on_as(whole, tmp_path)


def test_an_exception_of_the_data_leaves_no_threads_and_no_gap(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Grain reads ahead in threads: the next start begins with the batch that was not used."""
    plain, calls, before = toy.ToyTask.transform, [], set(threading.enumerate())

    def failing(self, example, rng):
        calls.append(example)
        if len(calls) > 4 * 8:  # in the fifth batch
            raise ValueError("cannot read example 7 of F")
        return plain(self, example, rng)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyTask, "transform", failing)
        with pytest.raises(ValueError, match="cannot read example 7 of F"):
            toy.train(tmp_path, steps=STEPS)
    assert_goes_on_as(whole, tmp_path)
    for _ in range(100):
        left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
        if not left:
            break
        left[0].join(0.1)
    assert not left


@pytest.mark.slow  # everything is compiled twice
def test_a_damaged_compilation_cache_is_compiled_again(whole: Path, tmp_path: Path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        jax.clear_caches()
        toy.train(tmp_path / "first", steps=2)
        entries = [path for path in (tmp_path / "cache").rglob("*-cache") if path.is_file()]
        assert entries
        for path in entries:  # another process is just writing them
            path.write_bytes(path.read_bytes()[:99])
        jax.clear_caches()
        with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
            toy.train(tmp_path / "run", steps=STEPS)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    assert_goes_on_as(whole, tmp_path / "run")


def test_progress_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [100.0]
    monkeypatch.setattr("hsd_jax.training.log.time.monotonic", lambda: now[0])
    log = Log(tmp_path, 10, 900)
    for step in range(11, 200):
        now[0] += 1
        if step == 12:
            log.write_scalars(step, {"loss": 0.5})
        log.progress(step)
    now[0] += 61
    log.remark("evaluating")
    log.close()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "step      11 of 900, 0 min 1.0 s after the start"
    assert told[1].startswith("step      12  loss")
    steps = [int(line.split()[1]) for line in told[:-1]]
    assert steps == [11, 12, 13, 74, 135, 196]
    assert told[-1].startswith("evaluating, 4 min")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (dict(save_every=0), "save_every is 0: it must be 1 or more"),
        (dict(eval_every=0), "eval_every is 0"),
        (dict(log_every=-1), "log_every is -1"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(steps=-1), "steps is -1: it must be 0 or more"),
        (dict(ema=1.0), r"ema is 1.0: it must be at least 0 and below 1 \(--config.ema"),
        (dict(labels="foo"), "labels is 'foo': it must be one of cihp20, "),
        (dict(model=dict(widths=(1, 2, 3), depths=(1, 1))), "model.depths is .1, 1.: .* 3"),
    ],
)
def test_values_that_cannot_be(changes: dict, told: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"^{told}"):
        toy.train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_warm_up_leaves_the_cosine_steps():
    config = dict(learning_rate=1e-3, warmup=200, decay="cosine")
    with pytest.raises(ValueError, match="optimizer.warmup is 200 of 30 steps: give fewer"):
        learning_rate(config, 30)
    learning_rate(config, 201)


# ml_collections loads the config's file by what Python 3.12 has no more; it has another way there.
@pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--config.stepz=3",), 'Did you mean "steps" instead of "stepz"? The config has no key'),
        (("--config.steps=many",), "flag --config.steps=many: invalid literal"),
        (("--wrokdir=x",), "Unknown command line flag 'wrokdir'. Did you mean: workdir ?"),
        ((":nope",), "ValueError: no embedded config 'nope': use one of parser, "),
    ],
)
def test_a_mistyped_argument_is_one_line(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    part = arguments[0] if arguments[0][0] == ":" else ":parser"
    rest = [x for x in arguments if x[0] != ":"]
    argv = ["train", f"--config=configs/embedded.py{part}", *rest]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for the config's keys
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(SystemExit) as ended:
        command._parse(argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


@pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
def test_outside_a_checkout_one_line_says_where_configs_are(monkeypatch, capsys, tmp_path):
    argv = ["train", "--config=configs/embedded.py:parser"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command._parse(argv)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "there is no configs/embedded.py: run this in a checkout" in said


def test_a_disk_that_fails_is_no_damage(stopped: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint that cannot be read for a moment is not set aside."""

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "file_fingerprint", fails)
    with pytest.raises(OSError, match="Input/output error"):
        toy.train(stopped, steps=STEPS)
    assert steps_of(stopped) == [2, 4]


@pytest.mark.slow  # some minutes
def test_after_every_fault_the_run_goes_on_the_same():
    script = Path(__file__).with_name("faults.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
