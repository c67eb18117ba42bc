"""The shhq builder on a drawn SHHQ-1.0: crop, backdrop, layouts, refusals, resuming, Beam."""

import csv
import shutil
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data import build, measure, shhq, shhq_labels
from data.crop import CHIN, EYES, Box, Landmarks, crop_matrix, cut, face_box, whiten
from hsd_jax.labels import CIHP20, SHHQ17
from hsd_jax.training import input as input_lib

COUNT = 12
NAME = "shhq/bg_white_256"
SKIN = CIHP20.index("skin")


def draw(index: int) -> dict[str, np.ndarray]:
    """A person whose colours are 10 times the class, in a place that depends on `index`."""
    layout = np.zeros((1024, 512), np.uint8)
    x, y = 200 + 9 * index, 140 + 4 * index
    parts = (
        ("upper_clothes", (x, y + 260), (100, 190)),
        ("skin", (x, y + 60), (18, 40)),
        ("hair", (x, y - 10), (44, 64)),
        ("face", (x, y), (30, 40)),
    )
    for name, center, axes in parts:
        cv2.ellipse(layout, center, axes, 0, 0, 360, CIHP20.index(name), -1)
    photo = np.repeat(layout[..., None] * 10, 3, -1)
    photo[layout == 0] = (90, 20 * index, 120)
    return {"no_segment": photo, "segments": (layout > 0).astype(np.uint8) * 255, "parsing": layout}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shhq") / "SHHQ-1.0"
    for i in range(COUNT):
        for folder, pixels in draw(i).items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"p{i:02}.png", compress_level=1)
    return root


@pytest.fixture(scope="module")
def built(drawn: Path) -> str:
    out = str(drawn.parent / "out")
    assert build.main(["shhq", "--source", str(drawn), "--out", out]) == 0
    return out


@pytest.fixture
def copied(drawn: Path, tmp_path: Path) -> Path:
    """Four of the photos, to be spoilt."""
    for folder in ("no_segment", "segments", "parsing"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for i in range(4):
            shutil.copy(drawn / folder / f"p{i:02}.png", tmp_path / "in" / folder)
    return tmp_path / "in"


def run(source: Path, *options: str) -> int:
    out = str(source.parent / "out")
    return build.main(["shhq", "--source", str(source), "--out", out, *options])


def put(matrix: np.ndarray, point) -> np.ndarray:
    return matrix @ [*point, 1.0]


def test_landmarks_give_the_papers_places():
    upright = Landmarks((100.0, 200.0), (130.0, 200.0), (115.0, 233.0))
    matrix = crop_matrix(upright, 256)
    np.testing.assert_allclose(put(matrix, (115, 200)), np.array(EYES) * 256 - 0.5)
    left, right = put(matrix, upright.left_eye), put(matrix, upright.right_eye)
    # Measured on the paper's figure: 0.107 and 0.117 of the side.
    assert left[1] == pytest.approx(right[1]) and 0.10 < (right[0] - left[0]) / 256 < 0.12
    c, s = np.cos(0.3), np.sin(0.3)
    turned = Landmarks(*((c * x - s * y, s * x + c * y) for x, y in upright))
    rotated = crop_matrix(turned, 256)
    for a, b in zip(upright, turned, strict=True):
        np.testing.assert_allclose(put(rotated, b), put(matrix, a), atol=1e-9)
    with pytest.raises(ValueError, match="the left one first"):
        crop_matrix(Landmarks((130, 200), (100, 200), (115, 233)), 256)


def test_a_box_gives_about_the_same_crop():
    """A face of the proportions of the paper's figures, by its landmarks and by its box."""
    side, corner = 280.0, np.array([90.0, 60.0])

    def place(x: float, y: float) -> tuple[float, float]:
        return tuple(corner + side * np.array([x, y]))

    marks = Landmarks(place(0.445, 0.29), place(0.555, 0.29), place(0.5, 0.41))
    box = Box(*place(0.37, 0.165), *place(0.63, 0.495))
    a, b = crop_matrix(marks, 256), crop_matrix(box, 256)
    assert b[0, 0] == pytest.approx(a[0, 0], rel=0.06) and b[0, 1] == 0
    np.testing.assert_allclose(put(b, place(0.5, 0.29)), put(a, place(0.5, 0.29)), atol=5)
    np.testing.assert_allclose(put(b, place(0.5, 0.495)), (127.5, CHIN * 256 - 0.5), atol=0.5)
    with pytest.raises(ValueError, match="is empty"):
        crop_matrix(Box(5, 5, 5, 9), 256)


def test_cut_moves_pixels_as_the_matrix_says():
    image = np.zeros((40, 60), np.uint8)
    image[10, 20] = 7
    moved = cut(image, np.array([[1.0, 0, -15], [0, 1, -8]]), 8, 3, nearest=True)
    assert moved[2, 5] == 7 and moved.sum() == 7
    outside = cut(image, np.array([[1.0, 0, 4], [0, 1, 0]]), 8, 3, nearest=True)
    assert outside[:, :4].tolist() == [[3] * 4] * 8 and not outside[:, 4:].any()
    repeated = cut(image + 9, np.array([[1.0, 0, 4], [0, 1, 0]]), 8, None, nearest=False)
    assert (repeated == 9).all()


def test_face_box_is_that_of_the_largest_part():
    face = np.zeros((50, 50), bool)
    face[5:8, 5:9] = face[20:35, 10:22] = True
    assert face_box(face) == Box(10, 20, 21, 34)
    assert face_box(face[:15]) is None


def test_whiten_is_the_script_of_shhq():
    """Against its formula written out, 8-bit overflow included (StyleGAN-Human, bg_white.py)."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 160, 3), np.uint8)
    person = np.zeros((200, 160), np.uint8)
    cv2.circle(person, (80, 100), 40, 255, -1)
    soft = cv2.blur(person, (3, 3))
    wrapped = ((1 - soft.astype(int)) * 255 % 256).astype(np.uint8)
    shade = cv2.GaussianBlur(wrapped, (81, 81), 0)[..., None] / 255
    share = soft[..., None] / 255
    expected = (shade * (1 - share) + image / 255 * share) * 255
    got = whiten(image, person)
    assert np.abs(got - expected).max() < 1.01
    assert (got[0, 0] == 255).all() and (got[100, 80] == image[100, 80]).all()
    assert got[100, 30, 0] < 254  # the halo


def test_split_is_the_papers_size_and_hardly_moves():
    names = [f"image_{i:06}" for i in range(shhq.PICTURES)]
    split = shhq.split_names(names)
    assert sum(part == "test" for part in split.values()) == 4000
    fewer = shhq.split_names(names[100:])
    assert sum(split[name] != fewer[name] for name in fewer) <= 20


def test_shhqs_own_layouts():
    layout = np.zeros((40, 60), np.uint8)
    layout[5:15, 25:35] = SHHQ17.face
    layout[17:20, 27:33] = layout[30:35, 5:10] = layout[30:35, 50:55] = SHHQ17.index("skin")
    layout[20:30, 10:50] = SHHQ17.index("tops")
    got = shhq_labels.to_cihp(layout)
    at = {"face": (8, 30), "skin": (18, 30), "upper_clothes": (25, 30), "right_arm": (32, 7),
          "left_arm": (32, 52), "background": (0, 0)}  # fmt: skip
    assert {name: CIHP20.classes[got[place]] for name, place in at.items()} == {n: n for n in at}


def test_stores_what_the_paper_trains_on(built: str):
    sources = {split: input_lib.load_source(built, split, name=NAME) for split in ("train", "test")}
    assert {split: len(source) for split, source in sources.items()} == {"train": 11, "test": 1}
    for example in sources["train"]:
        image, layout = example["image"], example["layout"]
        assert image.shape == (256, 256, 3) and layout.shape == (256, 256)
        assert example["source"] == "shhq"
        face = face_box(layout == CIHP20.face)
        assert face is not None and abs(face.bottom - CHIN * 256) < 2
        assert abs((face.left + face.right) / 2 - 127.5) < 1.5
        assert set(np.unique(layout)) == {0, 2, 5, SKIN, 13}
        # Photo and layout went through one transform: inside each class is its colour.
        for index in (2, 5, 13):
            inside = cv2.erode((layout == index).astype(np.uint8), np.ones((7, 7))) > 0
            assert (image[inside] == index * 10).all()
        assert image[layout == 0].mean() > 235


def test_variants_and_sizes_are_data_sets_of_their_own(drawn: Path, tmp_path: Path):
    options = ["--out", str(tmp_path), "--variant", "no_segment", "--size", "512"]
    options += ["--split", "test"]
    assert build.main(["shhq", "--source", str(drawn), *options]) == 0
    source = input_lib.load_source(str(tmp_path), "test", name="shhq/no_segment_512")
    image, layout = source[0]["image"], source[0]["layout"]
    assert image.shape == (512, 512, 3) and layout.shape == (512, 512)
    assert (image[layout == 0][:, 0] == 90).mean() > 0.95  # the photo's own backdrop


def test_crops_can_be_parsed_before_the_build(copied: Path):
    """Landmarks alone, squares out, layouts of the squares in: the paper's order."""
    rows = []
    for i in range(4):
        x, y = 200 + 9 * i, 140 + 4 * i
        rows.append([f"p{i:02}.png", x - 15, y - 10, x + 15, y - 10, x, y + 23])
    with (copied / "faces.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", *shhq._LANDMARKS], *rows])
    parsing = copied / "parsing"
    shutil.move(parsing, copied / "whole")
    assert run(copied) == 2
    squares = copied.parent / "squares"
    options = ["shhq", "--source", str(copied), "--out", str(squares), "--crops"]
    assert build.main(options) == 0
    assert sorted(p.name for p in squares.iterdir()) == [f"p{i:02}.png" for i in range(4)]
    parsing.mkdir()
    for path in squares.iterdir():
        pixels = np.asarray(Image.open(path))[..., 0]
        Image.fromarray(np.where(pixels % 10 == 0, pixels // 10, 0).astype(np.uint8) % 20).save(
            parsing / path.name
        )
    assert run(copied) == 0
    source = input_lib.load_source(str(copied.parent / "out"), "train", name=NAME)
    assert {source[i]["image"].tobytes() for i in range(len(source))} == {
        np.asarray(Image.open(path)).tobytes() for path in squares.iterdir()
    }


def test_coloured_layouts_are_shhqs(copied: Path):
    table = np.array(shhq_labels.COLOURS, np.uint8)
    for path in (copied / "parsing").iterdir():
        layout = np.asarray(Image.open(path))
        Image.fromarray(table[layout]).save(path)  # 2, 5, 10 and 13 mean the same in both sets
    assert run(copied) == 0
    source = input_lib.load_source(str(copied.parent / "out"), "train", name=NAME)
    assert set(np.unique(source[0]["layout"])) == {0, 2, 5, SKIN, 13}
    Image.new("RGB", (512, 1024), (1, 2, 3)).save(copied / "parsing" / "p01.png")
    with pytest.raises(ValueError, match=r"p01: layout has the colour \(1, 2, 3\)"):
        shhq.read_layout(copied, "p01", 256, "cihp20")


def no_layout(folder: Path) -> None:
    (folder / "parsing" / "p01.png").unlink()


def no_mask(folder: Path) -> None:
    (folder / "segments" / "p01.png").unlink()


def empty_mask(folder: Path) -> None:
    Image.new("L", (512, 1024)).save(folder / "segments" / "p01.png")


def small_photo(folder: Path) -> None:
    Image.new("RGB", (256, 512)).save(folder / "no_segment" / "p01.png")


def small_layout(folder: Path) -> None:
    Image.new("L", (100, 200)).save(folder / "parsing" / "p01.png")


def unknown_class(folder: Path) -> None:
    Image.new("L", (512, 1024), 20).save(folder / "parsing" / "p01.png")


def nobody(folder: Path) -> None:
    Image.new("L", (512, 1024)).save(folder / "parsing" / "p01.png")


def cut_photo(folder: Path) -> None:
    path = folder / "no_segment" / "p01.png"
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_layout, "parsing/p01.png does not exist"),
        (no_mask, "segments/p01.png does not exist"),
        (empty_mask, "mask shows nobody"),
        (small_photo, "photo is 256x512; SHHQ-1.0 has 512x1024"),
        (small_layout, "make it 512x1024, or 256x256"),
        (unknown_class, "layout holds class 20; cihp20 has 0 to 19"),
        (nobody, "layout shows no face"),
        (cut_photo, "cannot read"),
    ],
)
def test_bad_photo_is_named(
    spoil, says: str, copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    spoil(copied)
    assert run(copied, "--check") == 2
    listed = capsys.readouterr().out
    assert listed.startswith("p01: ") and listed.count("\n") == 1 and says in listed
    assert not list(tmp_path.glob("out/**/*.array_record*"))
    if spoil is no_layout:
        assert run(copied) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not list(tmp_path.glob("out/**/1.0.0*"))
        (tmp_path / "skip.txt").write_text(listed)
        assert run(copied, "--skip", str(tmp_path / "skip.txt")) == 0
        assert len(input_lib.load_source(str(tmp_path / "out"), "train", name=NAME)) == 3


@pytest.mark.parametrize(
    ("faces", "says"),
    [
        ("name,x\np00,1\n", "the first line must name name and either left, top"),
        ("name,left,top,right,bottom\np00,1,2,3,x\n", "line 2: left, top, right, bottom must be"),
        ("name,left,top,right,bottom\np00,170,100,230,180\n", "no row for p01 and 2 more"),
    ],
)
def test_bad_faces(faces: str, says: str, copied: Path, capsys: pytest.CaptureFixture[str]):
    (copied / "faces.csv").write_text(faces)
    assert run(copied) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_says_how_to_obtain_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path / "absent") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no_segment: no such folder" in error and "Dataset.md" in error
    builder = shhq.Shhq(config=shhq.CONFIGS["bg_white", 256], data_dir=tmp_path)
    with pytest.raises(AssertionError, match="signed agreement"):
        builder.download_and_prepare(download_dir=tmp_path / "downloads")


def test_a_cut_off_build_is_started_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = copied.parent / "out" / NAME
    real, calls = shhq.read_record, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(shhq, "read_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(copied)
    assert not list(folder.glob("*"))
    # What kill -9 leaves, at the worst moment: everything written, not renamed yet.
    killed = folder / "incomplete.ABC123_1.0.0"
    killed.mkdir(parents=True)
    (killed / "dataset_info.json").write_text("{}")
    monkeypatch.setattr(shhq, "read_record", real)
    assert run(copied) == 0
    assert f"removed {killed}" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]
    assert run(copied) == 0
    assert "already built" in capsys.readouterr().out


@pytest.mark.parametrize("count", [2, 4])
def test_batch_k_is_the_same_for_any_number_of_processes(built: str, count: int):
    source = input_lib.load_source(built, "train", name=NAME)

    def digest(example: input_lib.Example, rng: np.random.Generator) -> input_lib.Batch:
        sums = [int(example[key].astype(np.int64).sum()) for key in ("image", "layout", "partner")]
        return {"sums": np.array(sums), "noise": np.array(rng.random())}

    def batches(**process) -> list[input_lib.Batch]:
        stream = input_lib.make_dataset(
            source, seed=3, batch_size=4, transform=digest, partner=True, start_step=2, **process
        )
        taken = list(islice(stream, 3))
        stream.close()  # type: ignore[attr-defined]
        return taken

    parts = [batches(process_index=p, process_count=count) for p in range(count)]
    for k, whole in enumerate(batches()):
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[k][key] for part in parts]))


def test_measures_the_input(built: str, capsys: pytest.CaptureFixture[str]):
    options = ["--data", built, "--batch", "2", "--batches", "2"]
    assert measure.main(["configs/shhq256.py:layout", *options]) == 0
    told = capsys.readouterr().out
    assert "batches/s of 2" in told and "a batch of 2 takes" in told
    rate = measure.Rate(examples=80, seconds=1.0, processor_seconds=0.8, batch_size=4)
    assert "20.0 batches/s of 4" in rate.told(50) and "a step of 50 ms never waits" in rate.told(50)
    assert "a step of 40 ms waits 10.0 ms for each" in rate.told(40)
    assert measure.main(["configs/absent.py:layout"]) == 2
    assert "write FILE.py:ARG" in capsys.readouterr().err


def test_options_of_beam_need_beam(drawn: Path, tmp_path: Path):
    with pytest.raises(SystemExit):
        build.main(["shhq", "--source", str(drawn), "--out", str(tmp_path), "--", "--runner=X"])


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_builds_the_same(
    drawn: Path, built: str, copied: Path, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("apache_beam")
    out = drawn.parent / "beam"
    options = ["--out", str(out), "--beam", "--", "--runner=DirectRunner"]
    assert build.main(["shhq", "--source", str(drawn), *options]) == 0
    for split in ("train", "test"):
        ours, theirs = (
            input_lib.load_source(str(folder), split, name=NAME) for folder in (built, out)
        )
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["layout"], b["layout"])
    no_layout(copied)
    capfd.readouterr()
    assert run(copied, "--beam") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("data.build: error: p01: ") and "while running" not in last
