"""The halfbody builder: what it stores, what it refuses, and that TensorFlow is not needed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data import build, halfbody
from hsd_jax.training.input import load_source

SIZE = 32
ROOT = Path(__file__).resolve().parent.parent
_WITHOUT_TENSORFLOW = """
import sys
class Without:  # finds what `finder` finds, but no tensorflow
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] == "tensorflow" else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Without, sys.meta_path)
from data.build import main
from hsd_jax.training.input import load_source, make_dataset
source, out = sys.argv[1:]
assert main(["halfbody", "--source", source, "--out", out]) == 0
examples = load_source(out, "train")
batches = make_dataset(examples, seed=0, batch_size=2, transform=lambda x, rng: {"y": x["layout"]})
assert next(batches)["y"].shape == (2, 32, 32)
assert "tensorflow" not in sys.modules
"""


def write_pair(folder: Path, source: str, name: str, layout: np.ndarray) -> None:
    for kind in ("image", "layout"):
        (folder / source / kind).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(int(layout.sum())).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(noise).save(folder / source / "image" / f"{name}.jpg")
    Image.fromarray(layout).save(folder / source / "layout" / f"{name}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pairs; the layout of pair i is class i everywhere."""
    rows = ["source,name,split,share", "a,0,train,.5", "a,1,train,.5", "b,1,test,.5"]
    for source, name in (("a", "0"), ("a", "1"), ("b", "1")):
        write_pair(tmp_path / "in", source, name, np.full((SIZE, SIZE), int(name), np.uint8))
    (tmp_path / "in" / "index.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "in"


def run(folder: Path) -> int:
    return build.main(["halfbody", "--source", str(folder), "--out", str(folder.parent / "out")])


def test_stores_the_files_bytes(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(folder) == 0
    out = folder.parent / "out"
    assert capsys.readouterr().out == f"{out}/halfbody/2.0.0: 2 train, 1 test\n"
    assert [path.name for path in out.iterdir()] == ["halfbody"]
    builder: Any = tfds.builder_from_directory(out / "halfbody" / "2.0.0")
    skip = {"image": tfds.decode.SkipDecoding()}
    records = {r["name"].decode(): r for r in builder.as_data_source("train", decoders=skip)}
    assert sorted(records) == ["0", "1"]
    for name, record in records.items():
        assert record["source"] == b"a"
        assert record["image"] == (folder / "a" / "image" / f"{name}.jpg").read_bytes()
        np.testing.assert_array_equal(record["layout"], np.full((SIZE, SIZE, 1), int(name)))


def test_palette_layout_is_stored_as_indices(folder: Path):
    indices = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 9
    picture = Image.fromarray(indices)
    picture.putpalette(list(range(255, -1, -1)) * 3)
    assert picture.mode == "P"
    picture.save(folder / "b" / "layout" / "1.png")
    assert run(folder) == 0
    built: Any = tfds.builder_from_directory(folder.parent / "out" / "halfbody" / "2.0.0")
    np.testing.assert_array_equal(built.as_data_source("test")[0]["layout"][..., 0], indices)


def test_validation_is_cut_from_train_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of a/0 to a/41 the CRC-32 of three is a multiple of 20; test rows stay test rows."""
    rows = ["source,name,split"]
    for i in range(42):
        write_pair(tmp_path / "in", "a", str(i), np.full((SIZE, SIZE), i % 9, np.uint8))
        rows.append(f"a,{i},{'test' if i in (3, 37) else 'train'}")
    (tmp_path / "in" / "index.csv").write_text("\n".join(rows) + "\n")
    assert run(tmp_path / "in") == 0
    assert capsys.readouterr().out.endswith("/halfbody/2.0.0: 38 train, 2 validation, 2 test\n")
    out = str(tmp_path / "out")
    found = [x["layout"][0, 0] for x in load_source(out, "validation")]
    assert sorted(found) == [40 % 9, 14 % 9]
    assert {r.split for r in halfbody.read_index(tmp_path / "in")} == {"train", "test"}


def test_data_built_before_there_was_a_validation_split_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(halfbody.Halfbody, "VERSION", tfds.core.Version("1.0.0"))
    assert run(folder) == 0
    out = str(folder.parent / "out")
    with pytest.raises(
        ValueError, match=r"no split 'validation' in .*/1\.0\.0; .*build it again.*data\.build half"
    ):
        load_source(out, "validation")


def test_second_build_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(folder) == 0
    files = sorted((folder.parent / "out").rglob("*"))
    before = [(path, path.stat().st_mtime_ns) for path in files]
    (folder / "index.csv").unlink()
    capsys.readouterr()
    assert run(folder) == 0
    assert "already built" in capsys.readouterr().out
    files = sorted((folder.parent / "out").rglob("*"))
    assert [(path, path.stat().st_mtime_ns) for path in files] == before


def remove_image(image: Path, layout: Path) -> None:
    image.unlink()


def remove_layout(image: Path, layout: Path) -> None:
    layout.unlink()


def other_size(image: Path, layout: Path) -> None:
    Image.new("L", (SIZE, SIZE * 2)).save(layout)


def not_square(image: Path, layout: Path) -> None:
    Image.new("L", (SIZE, SIZE * 2)).save(layout)
    Image.new("RGB", (SIZE, SIZE * 2)).save(image)


def unknown_class(image: Path, layout: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 9, np.uint8)).save(layout)


def colour_layout(image: Path, layout: Path) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(layout)


def grey_image(image: Path, layout: Path) -> None:
    Image.new("L", (SIZE, SIZE)).save(image)


def turned_image(image: Path, layout: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (SIZE, SIZE)).save(image, exif=exif)


def cut_image(image: Path, layout: Path) -> None:
    image.write_bytes(image.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_image, "1.jpg does not exist"),
        (remove_layout, "1.png does not exist"),
        (other_size, "image is 32x32, layout is 32x64"),
        (not_square, "one square size"),
        (unknown_class, "layout holds class 9"),
        (colour_layout, "layout is PNG RGB"),
        (grey_image, "image is JPEG L"),
        (turned_image, "EXIF"),
        (cut_image, "cannot read"),
    ],
)
def test_bad_pair_is_named_and_nothing_is_left(
    spoil, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    spoil(folder / "a" / "image" / "1.jpg", folder / "a" / "layout" / "1.png")
    assert run(folder) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert "a/1: " in captured.err and says in captured.err
    assert not list((folder.parent / "out").rglob("*.*"))
    write_pair(folder, "a", "1", np.ones((SIZE, SIZE), np.uint8))
    assert run(folder) == 0


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (None, "needs an index.csv"),
        ("source,name\na,0\n", "no column split"),
        ("source,name,split\na,0,val\n", "line 2: split 'val'"),
        ("source,name,split\na,0,train\na,0,test\n", "line 3: a/0 is listed twice"),
        ("source,name,split\na,,train\n", "line 2: source or name is empty"),
        ("source,name,split\n", "no rows"),
    ],
)
def test_bad_index(index: str | None, says: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "index.csv").unlink()
    if index is not None:
        (folder / "index.csv").write_text(index)
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_builds_and_reads_without_tensorflow(folder: Path):
    command = [sys.executable, "-W", "error", "-c", _WITHOUT_TENSORFLOW]
    arguments = [str(folder), str(folder.parent / "out")]
    done = subprocess.run(command + arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_command_runs_from_the_repository_root(folder: Path):
    command = [sys.executable, "-m", "data.build", "halfbody"]
    arguments = ["--source", str(folder / "absent"), "--out", str(folder.parent / "out")]
    done = subprocess.run(command + arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("data.build: error: ") and done.stderr.count("\n") == 1


def test_a_layout_gets_the_mattes_outline():
    from data.outline import outlined

    layout = np.zeros((64, 64), np.uint8)
    layout[20:60, 20:44], layout[10:20, 20:44] = 4, 1  # clothes, and hair above them
    matte = np.zeros((64, 64))
    matte[10:60, 22:48] = 1  # the person lies 2 to 4 pixels further right
    image = np.full((64, 64, 3), 200, np.uint8)
    image[10:24, 20:48] = 30  # hair hangs down to row 24
    new = outlined(image, layout, matte)
    assert new is not None
    assert not new[:, :22].any() and not new[matte == 0].any()
    assert set(new[10:23, 45].tolist()) == {1}  # by its colour also beside the clothes
    assert set(new[26:60, 45].tolist()) == {4}
    assert outlined(image, layout, 1 - matte) is None
