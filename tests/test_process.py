"""The process is not ours alone: streams, names, signals, and the environment it is started in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hsd_jax.imaging.demo import find_photos

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams and signals")

# The console script, with a command that does what `body` says in the place of all others.
_HSD = """
import sys
from hsd_jax import cli, commands
def info(args):
    {body}
commands.info = info
sys.orig_argv = [sys.executable, "-c", "", *sys.argv[1:]]
sys.exit(cli.main())
"""


def _hsd(body: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs it by a shell, for streams that only a shell can give."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_", "XLA_"))}
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" info {redirect}', sys.executable, _HSD.format(body=body)],
        env={**inherited, "HSD_ALLOCATOR": "kept", **environment}, capture_output=True, timeout=60,
    )  # fmt: skip


STREAMS = {
    "closed stdout": (">&-", b"", b"warned\n"),
    "closed stderr": ("2>&-", b"done\n", b""),
    "all closed": ("<&- >&- 2>&-", b"", b""),
    "full stderr": ("2>/dev/full", b"done\n", b""),
    "a reader that is gone": ('| true; exit "${PIPESTATUS[0]}"', b"", b"warned\n"),
}
_SAYS = "from hsd_jax.runtime.console import tell; tell('warned'); print('done')"


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_that_are_closed_or_full_do_not_spoil_the_work(kind):
    redirect, out, err = STREAMS[kind]
    done = _hsd(_SAYS, redirect)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


def test_what_is_said_never_goes_into_a_file(tmp_path):
    path = tmp_path / "a.bin"
    body = f"file = open({str(path)!r}, 'wb', 0); import os; os.write(2, b'said'); file.write(b'x')"
    assert _hsd(body, "<&- >&- 2>&-").returncode == 0
    assert path.read_bytes() == b"x"


def test_a_report_that_cannot_be_printed_fails_where_nothing_else_was_asked_for():
    done = _hsd("print('report')", ">/dev/full")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"hsd info: its report cannot be printed: No space left on device\n"
    assert _hsd("args.output = 'a file'; print('report')", ">/dev/full").returncode == 0


def test_names_of_any_bytes_are_printed_in_any_encoding():
    body = r"print('m\udcfcller \xf6'); raise ValueError('m\udcfcller \xf6')"
    for encoding, umlaut in (("utf-8:strict", "ö"), ("ascii:strict", "\\xf6")):
        done = _hsd(body, PYTHONIOENCODING=encoding)
        assert done.stdout.decode() == f"m\\udcfcller {umlaut}\n"
        assert done.stderr.decode() == f"hsd info: m\\udcfcller {umlaut}\n" and done.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_one_line_and_leaves_no_half_file(tmp_path, number):
    path = tmp_path / "out.png"
    body = "\n    ".join(
        [
            "import time, pathlib, signal; from hsd_jax.runtime.files import atomic",
            "signal.signal(signal.SIGINT, signal.default_int_handler)",  # where the tests ignore it
            f"with atomic(pathlib.Path({str(path)!r})) as part:",
            "    part.write_bytes(b'half'); print('half', flush=True); time.sleep(60)",
        ]
    )
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it stays ignored
    command = [sys.executable, "-c", _HSD.format(body=body), "info"]
    running = subprocess.Popen(
        command, stdout=-1, stderr=-1, text=True, env={**os.environ, "HSD_ALLOCATOR": "kept"}
    )
    signal.signal(signal.SIGHUP, inherited)
    with running:
        assert running.stdout is not None and running.stdout.readline() == "half\n"
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert err == "hsd info: stopped, nothing is left half-written\n"
    assert not list(tmp_path.iterdir())


# Where an exception gets lost: what a module raises as it is imported may be caught there or crash
# compiled code, and what a collection's callback raises, Python drops.
_LOSES = {
    "an import": "import sys; sys.path.insert(0, {folder!r}); import slow",
    "a collection": "import gc, slow_gc as s; gc.callbacks.append(s.slow); gc.collect()",
    "an import of the command": "",
}
_SLOW = "import time\nprint('here', flush=True)\ntry: time.sleep(1)\nexcept BaseException: pass\n"
_SLOW_GC = "import time\ndef slow(*_):\n    print('here', flush=True); time.sleep(1)\n"
_ENTRY = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "hsd_jax.cli":
            import slow
sys.meta_path.insert(0, Finder())
from hsd_jax.__main__ import main
main()
"""


@pytest.mark.parametrize("kind", _LOSES)
def test_a_signal_is_not_lost(tmp_path, kind):
    (tmp_path / "slow.py").write_text(_SLOW)
    (tmp_path / "slow_gc.py").write_text(_SLOW_GC)
    body = "import signal, time; " + _LOSES[kind].format(folder=str(tmp_path)) + "; time.sleep(60)"
    script = _HSD.format(body=body) if _LOSES[kind] else _ENTRY
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, "-c", script, "info"], stdout=-1, stderr=-1, text=True,
        env={**os.environ, "HSD_ALLOCATOR": "kept", "PYTHONPATH": path},
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdout.readline() == "here\n"
        running.send_signal(signal.SIGTERM)  # SIGINT is ignored where the tests run in background
        _, err = running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGTERM
    assert err in [
        f"{name}: stopped, nothing is left half-written\n" for name in ("hsd info", "hsd")
    ]


@pytest.mark.slow  # most of the moments are in a compilation
def test_ctrl_c_at_any_moment_is_one_line_and_no_file(tmp_path):
    photo, ended = find_photos()[0], []
    starts_ours = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{starts_ours}; import sys; from hsd_jax.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "parse", str(photo), "-o", str(tmp_path / "out.png")]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_", "XLA_"))}
    for number, after in enumerate((0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 7, 9)):
        cache = {"HSD_CACHE_DIR": str(tmp_path / f"cache{number}"), "JAX_PLATFORMS": "cpu"}
        with subprocess.Popen(command, stderr=-1, text=True, env={**inherited, **cache}) as running:
            time.sleep(after)
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=60)
        if running.returncode == 0:  # a fast machine was done
            break
        ended.append(running.returncode)
        assert err.count("\n") == 1 and "stopped, nothing is left half-written" in err
        assert not [path for path in tmp_path.iterdir() if path.is_file()]
    assert set(ended) == {130}


_DEVICES = "import jax; jax.devices(); jax.numpy.zeros(3)"
SETTINGS = {
    "a missing platform": ("JAX_PLATFORMS", "cuda,nonsense"),
    "an unknown flag": ("XLA_FLAGS", "--xla_nonesuch=1"),
    "a value of no setting": ("JAX_NUMPY_DTYPE_PROMOTION", "garbage"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_stop_jax_are_named_and_no_bug(kind):
    name, value = SETTINGS[kind]
    done = _hsd(_DEVICES, **{name: value})
    said = done.stderr.decode()
    assert done.returncode == 2 and said.count("\n") == 1 and "a bug" not in said
    assert value.split(",")[-1] in said and name.lower() in said.lower()


def test_a_bug_is_still_called_one():
    done = _hsd("import jax; jax.devices(); {}['key']")
    assert done.returncode == 2 and b"KeyError: 'key': a bug, please report" in done.stderr


def test_switches_to_debug_other_programs_do_not_count():
    body = "import jax; jax.jit(lambda x: x + 1)([__import__('numpy').ones(3)][0]); print('done')"
    switches = {"JAX_DISABLE_JIT": "1", "JAX_ENABLE_X64": "1", "JAX_TRANSFER_GUARD": "disallow"}
    done = _hsd(body, **switches)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
