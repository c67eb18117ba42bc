"""The command `hsd`: what it refuses and how, what it writes, what it says."""

import contextlib
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

import hsd_jax
from hsd_jax import cli
from hsd_jax.imaging import demo, files, modes
from hsd_jax.labels import HALFBODY9
from hsd_jax.swapping.edits import Edit

_EMBEDDED = Path(hsd_jax.__file__).parent / "weights/embedded/unet.json"
needs_weights = pytest.mark.skipif(not _EMBEDDED.exists(), reason="no embedded weights to run")


def _noise(path: Path, width: int = 80, height: int = 64) -> Path:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [str(_noise(tmp_path / "head.png")), str(_noise(tmp_path / "body.png", 100))]


def _run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "HSD_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# Help and mistakes


def test_help_and_usage_errors_import_neither_jax_nor_numpy():
    script = """
import sys
from hsd_jax import cli
try:
    status = cli.main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
assert not {"jax", "numpy", "flax", "PIL"} & set(sys.modules), "imported too early"
sys.exit(status)
"""
    done = _run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("swap", "demo", "parse"))
    assert _run(script, "swap", "a.jpg").returncode == 2


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which `hsd` refuses these arguments."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


USAGE = {
    "a command": ([], "required: COMMAND"),
    "a known command": (["paint"], "invalid choice: 'paint'"),
    "both photos": (["swap", "a.png", "-o", "c.png"], "required: BODY"),
    "an output": (["swap", "a.png", "b.png"], "required: -o"),
    "known options": (["swap", "a.png", "b.png", "-o", "c.png", "--fast"], "--fast"),
    "a known solver": (["swap", "a", "b", "-o", "c.png", "--solver", "euler"], "'euler'"),
    "one sample": (["swap", "a", "b", "-o", "c.png", "--samples", "0"], "'0': give a whole"),
    "two steps": (["swap", "a", "b", "-o", "c.png", "--steps", "1"], "number from 2"),
    "whole seeds": (["swap", "a", "b", "-o", "c.png", "--seed", "x"], "from 0 to 4294967295"),
    "a person": (["swap", "a", "b", "-o", "c.png", "--head-person", "-1"], "--head-person"),
    "a photo": (["parse", "-o", "c.png"], "required: PHOTO"),
}


@pytest.mark.parametrize("needs", USAGE)
def test_usage_errors_are_one_line_that_names_the_help(capsys, needs):
    arguments, message = USAGE[needs]
    line = _refused(capsys, *arguments)
    assert message in line and "--help)" in line


def test_swap_refuses_bad_files_before_any_work(capsys, tmp_path, pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "hsd_jax.swap", None)  # an import of it would fail
    head, body = pair
    out = tmp_path / "out.png"
    assert "nobody.jpg: no such file" in _refused(
        capsys, "swap", tmp_path / "nobody.jpg", body, "-o", out
    )
    (tmp_path / "text.jpg").write_text("not an image")
    assert "text.jpg is not an image" in _refused(
        capsys, "swap", head, tmp_path / "text.jpg", "-o", out
    )
    assert "end the name in one of" in _refused(
        capsys, "swap", head, body, "-o", tmp_path / "out.gif"
    )
    assert "a folder that exists" in _refused(
        capsys, "swap", head, body, "-o", tmp_path / "nowhere" / "out.png"
    )
    assert "give --save-steps a folder" in _refused(
        capsys, "swap", head, body, "-o", out, "--save-steps", head
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["body.png", "head.png", "text.jpg"]


@pytest.mark.parametrize("beside", [["--sheet", "o.png"], ["--save-layout", "./o.png"],
                                    ["--samples", "2", "--sheet", "o-2.png"]])  # fmt: skip
def test_swap_writes_no_file_twice(capsys, tmp_path, pair, monkeypatch, beside):
    monkeypatch.chdir(tmp_path)
    said = _refused(capsys, "swap", *pair, "-o", "o.png", *beside)
    assert "would be written twice: give another name" in said
    said = _refused(capsys, "swap", *pair, "-o", "step-01.png", "--save-steps", tmp_path)
    assert "step-01.png lies among the steps" in said
    assert "1 to 100" in _refused(capsys, "swap", *pair, "-o", "o.png", "--samples", "101")


@pytest.mark.parametrize("which", [0, 1])
def test_swap_never_writes_over_its_photos(capsys, tmp_path, pair, which):
    before = Path(pair[which]).read_bytes()
    (tmp_path / "link.png").symlink_to(pair[which])
    for out in (pair[which], tmp_path / "." / Path(pair[which]).name, tmp_path / "link.png"):
        assert "give another name" in _refused(capsys, "swap", *pair, "-o", out)
    # Nor by the names of further samples.
    (tmp_path / "out-2.png").symlink_to(pair[which])
    out = tmp_path / "out.png"
    assert "give another name" in _refused(capsys, "swap", *pair, "-o", out, "--samples", 2)
    assert Path(pair[which]).read_bytes() == before


def test_parse_refuses_what_it_cannot_place(capsys, tmp_path, pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "hsd_jax.parsing.photo_parser", None)
    head, body = pair
    for output in ("out.png", "out.jpg"):
        assert "give a folder" in _refused(capsys, "parse", head, body, "-o", tmp_path / output)
    assert ".png, or a folder" in _refused(capsys, "parse", head, "-o", tmp_path / "out.jpg")
    assert "no such file" in _refused(capsys, "parse", head, "nobody.png", "-o", tmp_path / "out")
    assert "give another name" in _refused(capsys, "parse", head, "-o", head)
    assert "give another name" in _refused(capsys, "parse", head, "-o", tmp_path)
    (tmp_path / "twin").mkdir()
    twin = _noise(tmp_path / "twin" / "head.jpg")
    assert "rename one" in _refused(capsys, "parse", head, twin, "-o", tmp_path / "out")
    out = tmp_path / "out.png"
    assert "give --overlay another name" in _refused(
        capsys, "parse", head, "-o", out, "--overlay", out
    )
    assert not out.exists() and not (tmp_path / "out").exists()


def test_unknown_weights_are_refused(capsys, tmp_path, pair):
    for command in (["swap", *pair], ["parse", pair[0]]):
        line = _refused(capsys, *command, "-o", tmp_path / "out.png", "--weights", "nonesuch")
        assert "nonesuch" in line
    assert not (tmp_path / "out.png").exists()


def test_the_demo_without_its_extra_names_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_BODY", ("a_package_that_is_absent", "data/astronaut.png"))
    line = _refused(capsys, "demo", "-o", tmp_path / "out.png")
    assert "pip install 'hsd-jax[demo]'" in line


# What swap writes and says, with a swapper that only looks like one


class _FakeSwapper:
    """Paints the body's photo red at one corner, and remembers what it was asked."""

    asked: dict
    edit: Any
    failure: BaseException | None = None

    spec = types.SimpleNamespace(labels=HALFBODY9)

    def __call__(self, head, body, *, samples, keep_steps, edit, progress, **options):
        from hsd_jax.swap import SwapResult

        if self.failure:
            raise self.failure
        progress("painting")
        type(self).asked, type(self).edit = options, edit
        image = body.pixels.copy()
        image[:16, :25] = [255, 0, 0]
        steps = tuple(np.full((256, 256, 3), n, np.uint8) for n in range(3 if keep_steps else 0))
        layout = np.zeros((256, 256), np.int32)
        result = SwapResult(
            image=image,
            layout=layout,
            mask=np.zeros(image.shape[:2], np.float32),
            warnings=("the head is enlarged 3.0 times and will look soft",),
            shift=-4,
            faces=(1, 2),
            steps=steps,
            stages={},
            srgb=body.srgb,
        )
        return result if samples == 1 else [result] * samples


@pytest.fixture
def swapper(monkeypatch: pytest.MonkeyPatch) -> type[_FakeSwapper]:
    from hsd_jax.swap import HeadSwapper

    monkeypatch.setattr(HeadSwapper, "from_pretrained", lambda name: _FakeSwapper())
    monkeypatch.setattr(_FakeSwapper, "failure", None)
    return _FakeSwapper


def test_swap_passes_its_options_on(tmp_path, pair, swapper):
    out = str(tmp_path / "out.png")
    assert cli.main(["swap", *pair, "-o", out]) == 0
    assert swapper.asked == {
        "seed": 0, "steps": None, "solver": "dpmpp", "person": 1, "head_person": 1,
        "preserve": "photo", "skin_tone": "auto", "light": "match", "align": "shift",
    }  # fmt: skip
    options = (
        "--seed 7 --steps 9 --solver ddim --person 2 --head-person 3 --preserve latents "
        "--skin-tone keep --light keep --align none --region hair --generate clothes"
    ).split()
    assert cli.main(["swap", *pair, "-o", out, *options]) == 0
    assert swapper.asked == {
        "seed": 7, "steps": 9, "solver": "ddim", "person": 2, "head_person": 3,
        "preserve": "latents", "skin_tone": "keep", "light": "keep", "align": "none",
    }  # fmt: skip
    assert swapper.edit == [Edit("hair", "clothes")]
    assert cli.main(["swap", *pair, "-o", out, "--region", "clothes", "--region", "head"]) == 0
    assert swapper.edit == [Edit("clothes"), Edit()]


def test_swap_says_where_it_wrote_and_what_to_know(capsys, tmp_path, pair, swapper):
    assert cli.main(["swap", *pair, "-o", str(tmp_path / "out.png")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"wrote {tmp_path / 'out.png'} in ")
    assert err == "warning: the head is enlarged 3.0 times and will look soft\n"


def test_a_terminal_sees_the_stages_and_is_left_clean(capsys, tmp_path, pair, swapper, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["swap", *pair, "-o", str(tmp_path / "out.png"), "--json"]) == 0
    shown = capsys.readouterr().err
    assert "\rreading the photos" in shown and "painting" in shown
    assert "\n" not in shown and shown.split("\r")[-1] == ""


def test_swap_writes_samples_steps_and_one_json_object(capsys, tmp_path, pair, swapper):
    out, steps = tmp_path / "out.jpg", tmp_path / "made" / "steps"
    options = ["--samples", "3", "--save-steps", str(steps), "--json", "--seed", "5"]
    assert cli.main(["swap", *pair, "-o", str(out), *options]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    report = json.loads(printed)
    outputs = [tmp_path / name for name in ("out.jpg", "out-2.jpg", "out-3.jpg")]
    assert report.pop("seconds") >= 0
    timings = report.pop("timings")
    assert {"starting", "reading", "painting"} <= set(timings)
    assert all(seconds >= 0 for seconds in timings.values())
    assert report == {
        "output": str(out),
        "outputs": [str(path) for path in outputs],
        "shift": -4,
        "faces": {"head": 1, "body": 2},
        "warnings": ["the head is enlarged 3.0 times and will look soft"],
        "changed_fraction": 0.0625,  # 16 x 25 of 64 x 100
        "seed": 5,
    }
    assert all(files.open_photo(path).shape == (64, 100, 3) for path in outputs)
    names = sorted(path.name for path in steps.iterdir())
    assert names == ["step-01.png", "step-02.png", "step-03.png", "steps.webp"]
    with Image.open(steps / "steps.webp") as film:
        assert film.size == (256, 256)
    assert (files.open_photo(steps / "step-03.png") == 2).all()


def test_the_result_of_a_photo_with_a_profile_has_one(tmp_path, pair, swapper):
    out = tmp_path / "out.png"
    for profile in (None, modes.srgb_profile()):
        with Image.open(pair[1]) as image:
            image.save(pair[1], icc_profile=profile)
        assert cli.main(["swap", *pair, "-o", str(out)]) == 0
        with Image.open(out) as image:
            assert image.info.get("icc_profile") == profile


FAILURES = {
    "bad input": (ValueError("head.png: no face found:\nlook up"), 2, "no face found: look up"),
    "a bug": (KeyError("unet"), 2, "KeyError: 'unet': a bug, please report"),
    "no memory": (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 2, "fewer --samples"),
    "a full disk": (OSError(28, "No space left on device"), 2, "No space left"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "hsd swap: stopped"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_says_one_line_and_touches_nothing(capsys, tmp_path, pair, swapper, kind):
    swapper.failure, status, message = FAILURES[kind]
    (tmp_path / "out.png").write_bytes(b"older")
    assert cli.main(["swap", *pair, "-o", str(tmp_path / "out.png"), "--json"]) == status
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
    assert err.count("\n") == 1
    assert (tmp_path / "out.png").read_bytes() == b"older"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["body.png", "head.png", "out.png"]


def test_the_traceback_shows_when_asked(capsys, tmp_path, pair, swapper, monkeypatch):
    monkeypatch.setenv("HSD_DEBUG", "1")
    swapper.failure = KeyError("unet")
    assert cli.main(["swap", *pair, "-o", str(tmp_path / "out.png")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_out_is_not_written_when_another_sample_cannot_be(capsys, tmp_path, pair, swapper):
    (tmp_path / "out-2.png").mkdir()  # the second sample cannot be written
    assert "out-2.png" in _refused(
        capsys, "swap", *pair, "-o", tmp_path / "out.png", "--samples", 2
    )
    assert not (tmp_path / "out.png").exists()


# The process that runs it

_PREPARE = """
import json, os
from hsd_jax.runtime import process
process.prepare()
print(json.dumps(dict(os.environ)))
"""


def _prepared(**environment: str) -> dict[str, str]:
    """The environment that `process.prepare` leaves."""
    done = _run(_PREPARE, **environment)
    assert done.returncode == 0 and done.stderr == ""
    return json.loads(done.stdout)


def test_prepare_sets_the_allocator_and_the_cache(tmp_path):
    environment = _prepared(HSD_CACHE_DIR=str(tmp_path))
    cache = Path(environment["JAX_COMPILATION_CACHE_DIR"])
    assert cache.is_dir() and cache.is_relative_to(tmp_path / "jax")
    names = {name.lower() for name in environment if name.startswith("JAX_")}
    assert len(names) == 3 and names <= set(jax.config.values)  # JAX reads these
    if sys.platform == "linux":
        assert environment["MALLOC_ARENA_MAX"] == "2" and environment["HSD_ALLOCATOR"] == "tuned"


def test_prepare_keeps_what_the_user_set(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)  # the tests themselves may run under a tuned allocator
    (tmp_path / "file").touch()
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "HSD_ALLOCATOR": "glibc"}
    environment = _prepared(**kept)
    assert environment.items() >= kept.items() and "MALLOC_TOP_PAD_" not in environment
    # A cache that cannot be written is none, silently.
    environment = _prepared(HSD_CACHE_DIR=str(tmp_path / "file"), MALLOC_ARENA_MAX="3")
    assert "JAX_COMPILATION_CACHE_DIR" not in environment
    assert environment["MALLOC_ARENA_MAX"] == "3"


# The real thing: one swap, which the tests below look at


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The demo as the user runs it, from an empty folder: its JSON, and the folder."""
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["demo", "--json", "--save-steps", "steps"]) == 0
    return json.loads(printed.getvalue()), folder


@needs_weights
def test_the_demo_writes_an_image_of_the_bodys_size(demo_run):
    report, folder = demo_run
    assert report["output"] == "demo/result.png" and report["outputs"] == ["demo/result.png"]
    with Image.open(folder / "demo/result.png") as image:
        assert image.size == (512, 512)
        assert "Synthetic image" in image.getexif()[ExifTags.Base.ImageDescription]


@needs_weights
def test_the_demos_report(demo_run):
    report, _ = demo_run
    keys = "output outputs seconds timings shift faces warnings changed_fraction seed strip"
    assert set(report) == set(keys.split())
    assert report["faces"] == {"head": 1, "body": 1} and report["seed"] == 0
    assert isinstance(report["shift"], int) and isinstance(report["warnings"], list)
    assert report["seconds"] > 0


@needs_weights
def test_the_demo_changes_the_head_and_leaves_the_rest(demo_run):
    report, folder = demo_run
    body = files.open_photo(demo.find_photos()[1])
    changed = (files.open_photo(folder / "demo/result.png") != body).any(-1)
    assert changed.mean() == pytest.approx(report["changed_fraction"], abs=1e-5)
    assert 0.03 < changed.mean() < 0.6
    assert changed[60:170, 180:270].mean() > 0.95  # where her face was
    assert not changed[-40:].any()  # her suit and hands, below
    assert not changed[:, -40:].any()  # the shuttle's side


@needs_weights
def test_the_demos_strip_shows_every_stage(demo_run):
    report, folder = demo_run
    assert report["strip"] == "demo/result-strip.png"
    strip = files.open_photo(folder / report["strip"])
    assert strip.shape[0] > 256 and strip.shape[1] > 7 * 256
    tiles = [strip[32:288, 16 + 272 * n : 272 * (n + 1)] for n in range(7)]
    assert all(tile.std() > 10 for tile in tiles)
    palette = {tuple(colour) for colour in HALFBODY9.palette}
    for tile in tiles[2:6]:  # the layouts
        assert set(map(tuple, np.unique(tile.reshape(-1, 3), axis=0).tolist())) <= palette
    assert (strip[:, :16] == 255).all() and (strip[-16:] == 255).all()
    assert (strip[:32] < 128).any()  # the captions


@needs_weights
def test_the_demo_saves_its_steps(demo_run):
    _, folder = demo_run
    steps = sorted((folder / "steps").iterdir())
    assert len(steps) >= 2 and steps[0].name == "step-01.png"
    assert all(files.open_photo(path).shape == (256, 256, 3) for path in steps)
    assert steps[-1].name == "steps.webp"


@needs_weights
def test_a_photo_without_a_face_is_refused(capsys, tmp_path):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (100, 80), (128, 128, 128)).save(grey)
    body = demo.find_photos()[1]
    line = _refused(capsys, "swap", grey, body, "-o", tmp_path / "out.png")
    assert "grey.png: no face found" in line
    assert not (tmp_path / "out.png").exists()


@needs_weights
def test_parse_writes_layouts_of_the_photos_sizes(capsys, tmp_path):
    photos = demo.find_photos()
    layouts, overlays = tmp_path / "layouts", tmp_path / "overlays"
    arguments = ["parse", *photos, "-o", layouts, "--overlay", overlays, "--json"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["labels"] == "halfbody9" and len(report["photos"]) == 2
    for path, row in zip(photos, report["photos"], strict=True):
        assert row["output"] == str(layouts / f"{path.stem}.png")
        with Image.open(row["output"]) as image:
            assert image.mode == "P" and list(image.size) == row["size"]
            layout = np.asarray(image)
        assert [layout.shape[1], layout.shape[0]] == row["size"] and layout.max() <= 8
        share = np.bincount(layout.ravel(), minlength=9) / layout.size
        np.testing.assert_allclose(list(row["share"].values()), share, atol=1e-6)
        assert min(row["share"][name] for name in ("face", "clothes")) > 0.01
        assert row["share"]["hair"] + row["share"]["hat"] > 0.01
        (face,) = row["faces"]
        assert layout[int(face["y"]), int(face["x"])] in HALFBODY9.head
        original, overlay = files.open_photo(path), files.open_photo(row["overlay"])
        np.testing.assert_array_equal(overlay[layout == 0], original[layout == 0])
        assert (overlay[layout == HALFBODY9.face] != original[layout == HALFBODY9.face]).any()


@needs_weights
@pytest.mark.slow
def test_the_seed_decides(demo_run, tmp_path):
    _, folder = demo_run
    for seed in (0, 1):
        assert cli.main(["demo", "-o", str(tmp_path / f"{seed}.png"), "--seed", str(seed)]) == 0
    first = files.open_photo(folder / "demo/result.png")
    np.testing.assert_array_equal(files.open_photo(tmp_path / "0.png"), first)
    assert (files.open_photo(tmp_path / "1.png") != first).any()
