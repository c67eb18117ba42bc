"""A run in pieces: what comes back is what went, damage is told, old checkpoints stay behind."""

import tarfile

import numpy as np
import pytest
import toy
from PIL import Image

from data import pack
from hsd_jax.training.tools import pieces


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    sizes = {
        "checkpoints/5/state/a": 900, "checkpoints/12/state/a": 5000, "checkpoints/12/empty": 0,
        "samples/x.png": 70, "config.json": 33,
    }  # fmt: skip
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(size).bytes(size))
    return folder


def test_a_run_comes_back_from_its_pieces(run, tmp_path):
    written = pieces.cut(run, tmp_path / "out", 2048)
    assert len(written) > 2 and all(path.stat().st_size <= 2048 for path in written)
    pieces.join(tmp_path / "out", tmp_path / "again")
    names = {p.relative_to(tmp_path / "again").as_posix() for p in (tmp_path / "again").rglob("*")}
    assert "checkpoints/12/empty" in names and "config.json" in names
    assert not any(name.startswith(("checkpoints/5", "samples")) for name in names)
    name = "checkpoints/12/state/a"
    assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    pieces.cut(run, tmp_path / "out", 1 << 20)  # fewer pieces: none of the old ones stay
    assert len(list((tmp_path / "out").glob("*.piece"))) == 1


def test_damaged_and_missing_pieces_are_named(run, tmp_path):
    written = pieces.cut(run, tmp_path / "out", 2048)
    written[1].write_bytes(b"x" + written[1].read_bytes()[1:])
    with pytest.raises(ValueError, match=r"0001\.piece is damaged"):
        pieces.join(tmp_path / "out", tmp_path / "again")
    written[0].unlink()
    with pytest.raises(ValueError, match=r"0000\.piece is missing"):
        pieces.join(tmp_path / "out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_no_run_is_refused(run, tmp_path, capsys):
    assert pieces.main(["export", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds other files"):
        pieces.cut(run, run)


def test_packed_images_are_smaller_and_layouts_the_same(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
    layout = rng.integers(0, 9, (64, 64), np.uint8)
    Image.fromarray(picture).save(source / "a.jpg", quality=95)
    Image.fromarray(layout).save(source / "a.png")
    (source / "index.csv").write_text("name\na\n")
    size = pack.pack(source, tmp_path / "out.tar", 50)
    assert size == (tmp_path / "out.tar").stat().st_size
    with tarfile.open(tmp_path / "out.tar") as tar:
        tar.extractall(tmp_path / "got", filter="data")
    got = tmp_path / "got"
    assert (got / "index.csv").read_text() == "name\na\n"
    np.testing.assert_array_equal(np.asarray(Image.open(got / "a.png")), layout)
    assert (got / "a.jpg").stat().st_size < (source / "a.jpg").stat().st_size / 2
    with pytest.raises(ValueError, match="quality 0"):
        pack.pack(source, tmp_path / "out.tar", 0)
    with pytest.raises(ValueError, match="no JPEG"):
        pack.pack(got / "none", tmp_path / "out.tar", 50)


def test_a_run_goes_on_from_its_pieces_byte_for_byte(tmp_path):
    """Two legs, with nothing between them but the pieces, are one run."""
    optimizer = toy.config()["optimizer"] | {"decay": "constant"}
    toy.train(tmp_path / "whole", steps=8, optimizer=optimizer)
    toy.train(tmp_path / "first", steps=5, optimizer=optimizer)
    pieces.cut(tmp_path / "first", tmp_path / "out", 4096)
    pieces.join(tmp_path / "out", tmp_path / "second")
    toy.train(tmp_path / "second", steps=8, optimizer=optimizer)
    wanted, got = (
        (tmp_path / name / "weights" / "condition.safetensors").read_bytes()
        for name in ("whole", "second")
    )
    assert got == wanted
