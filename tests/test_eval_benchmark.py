"""Pairs, methods, and the way from a list of pairs to a report; no nets."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hsd_jax import cli
from hsd_jax.evaluation import (
    baselines,
    benchmark,
    features,
    identity,
    methods,
    metrics,
    pairs,
    regions,
    report,
    sampling,
    severity,
)
from hsd_jax.evaluation.pairs import LabelledImage, Pairing, People
from hsd_jax.imaging import files
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import CIHP20
from hsd_jax.labels import HALFBODY9 as LABELS
from hsd_jax.swapping.mixing import shift_columns

SIZE = 64
BACKGROUND, HAIR, FACE, NECK, CLOTHES = (
    LABELS.index(name) for name in ("background", "hair", "face", "neck", "clothes")
)


def person(top: int = 14, left: int = 24, side: int = 14) -> np.ndarray:
    layout = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    layout[top - 4 : top + side, left - 4 : left + side + 4] = HAIR
    layout[top : top + side, left : left + side] = FACE
    layout[top + side : top + side + 8, left + 4 : left + side - 4] = NECK
    layout[top + side + 8 :, left - 10 : left + side + 10] = CLOTHES
    return layout


class _Source:
    """Ten people in flat colours; the fourth image shows nobody."""

    names = ["a"] * 8 + ["b"] * 2

    def __len__(self) -> int:
        return len(self.names)

    def layout(self, index: int) -> np.ndarray:
        if index == 3:
            return np.zeros((SIZE, SIZE), np.uint8)
        return person(left=22 + index % 4, side=12 + index % 3)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        colours = np.random.default_rng(index).integers(0, 256, (9, 3), np.uint8)
        noise = np.random.default_rng(index).integers(0, 12, (SIZE, SIZE, 3), np.uint8)
        return {"image": colours[self.layout(index)] // 2 + noise, "layout": self.layout(index)}


class _Extractor:
    """Mean and deviation of each colour."""

    name, fingerprint = "colour", "1234567890"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        x = pictures.astype(np.float32)
        return np.concatenate([x.mean((1, 2)), x.std((1, 2))], -1)


def _named(name: str) -> _Extractor:
    found = _Extractor()
    found.name = name
    return found


class _Sampler:
    """Paints pairs white (pixels) or black (latents), and counts."""

    batch = 3

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, ids, staged, labels):
        self.seen += ids
        return [
            sampling.Swapped(np.full_like(x.body.image, 255), np.zeros_like(x.body.image))
            for x in staged
        ]


@pytest.fixture
def listed() -> list[Pairing]:
    return pairs.make_pairs(pairs.usable(_Source(), LABELS), 6, 0)


def test_pairs_are_halves_that_do_not_repeat():
    indices = pairs.usable(_Source(), LABELS)
    assert indices == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    every = pairs.make_pairs(indices, 16, 5)
    assert len({(p.head, p.body) for p in every}) == 16
    heads, bodies = {p.head for p in every}, {p.body for p in every}
    assert len(heads) == len(bodies) == 4 and not heads & bodies
    first = every[:4]
    assert len({p.head for p in first}) == len({p.body for p in first}) == 4  # one-to-one
    assert every == pairs.make_pairs(indices, 16, 5) != pairs.make_pairs(indices, 16, 6)
    shorter = pairs.make_pairs(indices, 7, 5)
    assert [p[1:] for p in shorter] == [p[1:] for p in every[:7]]
    assert pairs.usable(_Source(), LABELS, ["b"]) == [8, 9]
    for wrong, what in ((17, "ask for 1 to 16"), (0, "ask for 1 to 16")):
        with pytest.raises(ValueError, match=what):
            pairs.make_pairs(indices, wrong, 0)
    with pytest.raises(ValueError, match="a pair needs two"):
        pairs.make_pairs([1], 1, 0)
    with pytest.raises(ValueError, match="no images from c: use a, b"):
        pairs.usable(_Source(), LABELS, ["c"])


def test_lists_come_back_and_mistakes_are_told(tmp_path: Path, listed: list[Pairing]):
    path = tmp_path / "pairs.csv"
    pairs.write_pairs(listed, path, "abc")
    assert pairs.read_pairs(path, 10, "abc") == listed
    with pytest.raises(ValueError, match="made for data abc"):
        pairs.read_pairs(path, 10, "other")
    for text, what in (
        ("id,head\n0,1\n", "no column body"),
        ("id,head,body\n", "lists no pairs"),
        ("id,head,body\n0,1,10\n", "pair 1: body is '10'.*0 to 9"),
        ("id,head,body\n0,-1,2\n", "head is '-1'"),
        ("id,head,body\n../x,1,2\n", "names no file"),
        ("id,head,body\nx,1,2\nx,1,3\n", "'x' comes twice"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=what):
            pairs.read_pairs(path, 10)
    path.write_text("id,head,body,note\nx,1,2,none\n")
    assert pairs.read_pairs(path, 10, "abc") == [Pairing("x", 1, 2)]


def test_layouts_are_of_the_data_sets_labels():
    assert pairs.labels_of("halfbody") is LABELS
    assert pairs.labels_of("shhq/bg_white_256") is CIHP20
    coat, head = CIHP20.index("coat"), CIHP20.index("sunglasses")
    layout = np.array([[coat, head, CIHP20.index("skin")]])
    found = pairs.in_labels(LabelledImage(np.zeros((1, 3, 3), np.uint8), layout), CIHP20, LABELS)
    assert found.layout.tolist() == [[CLOTHES, LABELS.index("glasses"), NECK]]
    body = np.zeros((SIZE, SIZE), np.int32)
    body[:20], body[20:] = CIHP20.index("face"), coat
    assert pairs._shows_someone(body, CIHP20) and not pairs._shows_someone(body * 0, CIHP20)


def test_staging_brings_the_face_to_the_bodys():
    big = LabelledImage(np.zeros((128, 128, 3), np.uint8), person().repeat(2, 0).repeat(2, 1))
    body = LabelledImage(np.zeros((SIZE, SIZE, 3), np.uint8), person(top=18, left=27))
    staged = regions.stage(big, body, LABELS, "face", aligned=False)
    assert staged.crop == Crop(-6, -8, 128) and staged.shift == 0
    face, wanted = (x.layout == FACE for x in (staged.head, body))
    assert (face & wanted).sum() > 0.9 * (face | wanted).sum()
    with pytest.raises(ValueError, match="use frame face"):
        regions.stage(big, body, LABELS, "data", aligned=True)
    nobody = LabelledImage(body.image, np.zeros_like(body.layout))
    with pytest.raises(ValueError, match="without a face"):
        regions.stage(nobody, body, LABELS, "face", aligned=True)


def test_staging_aligns_image_and_layout_alike():
    head = LabelledImage(np.zeros((SIZE, SIZE, 3), np.uint8), person(left=20))
    body = person(left=30)
    head.image[..., 0] = head.layout * 20
    staged = regions.stage(head, LabelledImage(head.image, body), LABELS, "data", aligned=True)
    assert staged.shift == 10
    np.testing.assert_array_equal(staged.head.layout, shift_columns(head.layout, 10, BACKGROUND))
    np.testing.assert_array_equal(staged.head.image[..., 0], staged.head.layout * 20)


def pasted(shift: int = 3) -> tuple[baselines.Pasted, np.ndarray, np.ndarray, np.ndarray]:
    head, body = np.full((SIZE, SIZE, 3), 200, np.uint8), np.full((SIZE, SIZE, 3), 50, np.uint8)
    old = person(side=16, top=14)
    return (
        baselines.paste(head, body, person(left=24 + shift), old, LABELS),
        head, body, old,
    )  # fmt: skip


def test_cut_and_paste_keeps_the_neck_and_shows_the_canvas():
    where, _, _, old = pasted()
    result = baselines.cut_and_paste(where, old, LABELS, canvas=9)
    bare = np.isin(old, LABELS.head) & ~where.head
    assert bare.any() and (result[bare] == 9).all()
    assert (result[where.head] == 200).all()
    assert (result[~bare & ~where.head] == 50).all()


def test_inpainting_changes_the_gap_alone():
    where, _, _, old = pasted()
    assert (where.gap & np.isin(old, LABELS.neck)).any() and not (where.gap & where.head).any()
    for navier_stokes in (False, True):
        result = baselines.inpaint(where, navier_stokes)
        np.testing.assert_array_equal(result[~where.gap], where.image[~where.gap])


def test_poisson_takes_the_heads_gradients_and_the_bodys_colours():
    where, head, body, _ = pasted()
    head = head.copy()
    head[:, 31] = 220
    cloned = baselines.poisson(where, head, body).astype(int)
    rows = np.flatnonzero(where.head[:, 31])[4:-4]
    assert abs(cloned[~where.head] - 50).max() <= 5  # it rounds
    np.testing.assert_allclose(cloned[rows, 31] - cloned[rows, 27], 20, atol=6)
    assert abs(cloned[rows, 27] - 50).max() < 20


def produce(folder: Path, listed: list[Pairing], names: list[str], sampler: _Sampler) -> int:
    entries = methods.results_in(folder, names)
    people = People(_Source(), LABELS)
    return methods.produce(listed, people, entries, "face", lambda: sampler, methods.Progress())


def test_results_that_are_there_are_not_made_again(tmp_path: Path, listed: list[Pairing]):
    sampler = _Sampler()
    names = ["hsd", "hsd-latents", "telea"]
    assert produce(tmp_path, listed, names, sampler) == 6
    assert sampler.seen == [p.id for p in listed]
    one, two = (tmp_path / "results" / "hsd" / f"{listed[i].id}.png" for i in (1, 2))
    one.unlink()
    Image.fromarray(np.full((SIZE, SIZE, 3), 7, np.uint8)).save(two)
    assert produce(tmp_path, listed, names, sampler) == 1
    assert sampler.seen[6:] == [listed[1].id] and one.is_file()
    assert (files.open_photo(two) == 7).all()

    def never() -> None:
        raise AssertionError("nothing is missing")

    entries = methods.results_in(tmp_path, names)
    quiet = methods.Progress()
    assert methods.produce(listed, People(_Source(), LABELS), entries, "face", never, quiet) == 0
    with pytest.raises(ValueError, match="no method 'x'"):
        methods.results_in(tmp_path, ["x"])


def test_a_folder_keeps_its_settings(tmp_path: Path):
    methods.check_settings(tmp_path / "out", {"seed": 1})
    methods.check_settings(tmp_path / "out", {"seed": 1})
    with pytest.raises(ValueError, match=r"results of another seed \(1, not 2\)"):
        methods.check_settings(tmp_path / "out", {"seed": 2})


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[k] for k in ("src", "href") if k in values]
        self.images += tag == "img"
        if tag not in ("meta", "img", "line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "polyline"):
            assert self.open.pop() == tag


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: list[Pairing]) -> Path:
    """A list of pairs in a folder, and a benchmark that sees the data and extractor above."""
    source = _Source()
    monkeypatch.setattr(benchmark, "load_source", lambda *_, **__: source)
    monkeypatch.setattr(features, "make", lambda spec: _Extractor())
    monkeypatch.setattr(features, "embedded", lambda *_: _Extractor())
    simple = [metrics.Ssim(benchmark.Choices()), identity.Identity(_Extractor(), 32)]
    monkeypatch.setattr(benchmark, "make_metrics", lambda *_: simple)
    monkeypatch.setenv("HSD_CACHE_DIR", str(tmp_path / "cache"))
    pairs.write_pairs(listed, tmp_path / "pairs.csv", pairs.source_fingerprint(source))
    return tmp_path


def swap(folder: Path, *extra: str) -> int:
    names = ("telea", "cut-and-paste", "body-photo")
    return cli.main([
        "eval", "swap", "--data", "unread", "--pairs", str(folder / "pairs.csv"), "-o",
        str(folder / "out"), "--methods", *names, *extra,
    ])  # fmt: skip


def test_from_pairs_to_report(
    prepared: Path, capsys: pytest.CaptureFixture[str], listed: list[Pairing]
):
    given = prepared / "theirs"
    given.mkdir()
    for pair in listed:
        Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(given / f"{pair.id}.png")
    assert swap(prepared, "--results", str(given)) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "Mask-FD-colour" in shown and "*" in shown
    out = prepared / "out"
    content = json.loads((out / "report.json").read_text())
    assert list(content["methods"]) == ["telea", "cut-and-paste", "body-photo", "theirs"]
    found = content["methods"]["telea"]["metrics"]
    regions = ("", "Mask-", "Focal-")
    assert list(found) == [
        *(f"{region}{kind}-colour" for region in regions for kind in ("FD", "KD")),
        "head-SSIM", "body-SSIM", "IDs-colour",
    ]  # fmt: skip
    distance = {m: row["metrics"]["FD-colour"]["value"] for m, row in content["methods"].items()}
    assert max(distance, key=lambda m: distance[m]) == "theirs" and min(distance.values()) > 0
    kept = content["methods"]["body-photo"]["metrics"]
    assert kept["body-SSIM"]["value"] > 0.99 > kept["head-SSIM"]["value"]
    assert content["per_pair"]["id"] == [p.id for p in listed]
    apart = content["differences"]
    assert apart["from"] == "telea" and list(apart["methods"]) == list(content["methods"])[1:]
    for name in ("FD-colour", "body-SSIM"):
        row = apart["methods"]["theirs"][name]
        other = content["methods"]["theirs"]["metrics"][name]["value"]
        assert row["value"] == pytest.approx(other - found[name]["value"])
        assert row["low"] <= row["value"] <= row["high"]
    numbers = content["per_pair"]["theirs"]
    assert set(map(len, numbers.values())) == {len(listed)}
    assert found["head-SSIM"]["low"] <= found["head-SSIM"]["value"]
    assert content["choices"]["frame"] == "face" and content["extractors"] == {
        "colour": "1234567890"
    }
    markdown = (out / "report.md").read_text()
    assert "| HS-Diffusion, aligned | 0.9812" in markdown and "**" in markdown
    assert {len(line.split("|")) for line in markdown.splitlines() if "telea |" in line} == {6, 9}
    assert "| Distances to the real images: difference from telea | FD-colour" in markdown
    black = next(x for x in markdown.splitlines() if x.startswith("| theirs | **+"))
    assert re.match(r"\| theirs \| \*\*\+[\d.]+ \[\+[\d.]+, \+[\d.]+\]\*\*", black)


def test_the_page_stands_alone(prepared: Path):
    assert swap(prepared) == 0
    text = (prepared / "out" / "report.html").read_text()
    tags = _Tags()
    tags.feed(text)
    assert not tags.open and tags.images == 2 * 3 * (2 + 3)  # best and worst; photos and methods
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert "<script" not in text and text.count("<svg") == 6
    assert swap(prepared, "--no-pictures") == 0
    assert "<img" not in (prepared / "out" / "report.html").read_text()


def test_a_second_run_reads_what_is_there(prepared: Path, capsys: pytest.CaptureFixture[str]):
    assert swap(prepared) == 0
    first = (prepared / "out" / "report.json").read_text()
    written = {p: p.stat().st_mtime_ns for p in (prepared / "out" / "results").rglob("*.png")}
    cached = sorted((prepared / "cache" / "eval").iterdir())
    assert len(written) == 18 and len(cached) == 3  # a set of real features a region
    assert swap(prepared) == 0
    assert (prepared / "out" / "report.json").read_text() == first
    assert {p: p.stat().st_mtime_ns for p in written} == written
    capsys.readouterr()
    assert swap(prepared, "--seed", "4") == 2
    assert "holds results of another seed (0, not 4)" in capsys.readouterr().err
    assert swap(prepared, "--fill", "128", "--no-cache") == 0
    assert json.loads((prepared / "out" / "report.json").read_text())["choices"]["fill"] == 128
    assert sorted((prepared / "cache" / "eval").iterdir()) == cached


def test_swap_errors(prepared: Path, capsys: pytest.CaptureFixture[str]):
    for extra, what in (
        (("--results", str(prepared / "none")), "no such folder of results"),
        (("--results", str(prepared)), "lacks 6 results, the first 0.png"),
        (("--fill", "300"), "0 to 255"),
        (("--weights", "none"), "no weights 'none'"),
        (("--extractors", "hsd", "hsd"), "give each once"),
    ):
        assert swap(prepared, *extra) == 2
        err = capsys.readouterr().err
        assert what in err and err.count("\n") == 1
    (prepared / "out" / "results" / "telea").mkdir(parents=True, exist_ok=True)
    small = prepared / "small"
    small.mkdir()
    for name in range(6):
        Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(small / f"{name}.png")
    assert swap(prepared, "--results", str(small)) == 2
    assert "is 80 x 80, its body's image 64 x 64" in capsys.readouterr().err


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]):
    for command in ([], ["paint"], ["swap"], ["pairs", "--data", "x"], ["layout", "--seeds", "0"]):
        assert cli.main(["eval", *command]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and "--help)" in err


def test_selfswap_is_wired(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["eval", "selfswap", "--data", str(tmp_path)]) == 2
    assert "no data set 'halfbody'" in capsys.readouterr().err


def test_the_command_that_lists_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from hsd_jax.training import input as training_input

    monkeypatch.setattr(training_input, "load_source", lambda *_, **__: _Source())
    command = ["eval", "pairs", "--data", "unread", "--count", "5", "-o"]
    for name in ("one.csv", "two.csv"):
        assert cli.main([*command, str(tmp_path / name)]) == 0
    assert "5 pairs of 9 images" in capsys.readouterr().out
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with open(tmp_path / "one.csv") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["0", "1", "2", "3", "4"]
    assert cli.main([*command, str(tmp_path / "none" / "x.csv")]) == 2
    assert "folder that exists" in capsys.readouterr().err


def test_rows_of_the_paper_and_what_they_need():
    config = Path(__file__).parents[1] / "configs" / "ablations.py"
    rows = benchmark.load_rows(config)
    assert [row.folder for row in rows] == [
        "ldm", "head-cover", "g_layout", "head-cover-g_layout"
    ]  # fmt: skip
    assert [row.inpaint for row in rows] == [False, False, True, True]
    assert rows[-1].paper == (11.24, 18.57, 11.80) and rows[0].weights == rows[2].weights
    assert all(row.needs for row in rows)


def test_rows_are_settings(tmp_path: Path):
    config = Path(__file__).parents[1] / "configs" / "inference_ablations.py"
    rows = {row.name: row for row in benchmark.load_rows(config)}
    assert len(rows) == 22 and {row.weights for row in rows.values()} == {"ldm"}
    default = rows["baseline"].settings({"solver": "ddim", "steps": None})
    assert default["solver"] == "dpmpp" and default["steps"] == 10
    differing = {
        name: [key for key, value in row.settings({}).items() if value != default[key]]
        for name, row in rows.items()
        if row.solver == "dpmpp" and row.steps == 10
    }
    assert differing == {
        "baseline": [], "mixing first only": ["mixing"], "mixing last only": ["mixing"],
        "no mixing": ["mixing"], "one noise": ["draws"],
        "only x0 mixed": ["mixed"], "unaligned": ["aligned"], "necks aligned": ["aligned"],
        "margin 3": ["margin"], "margin 8": ["margin"], "photo kept": ["preserve"],
    }  # fmt: skip
    path = tmp_path / "rows.py"
    for row, what in (
        ("dict(name='a', weights='w', mixing='often')", "row 'a': mixing is 'often'"),
        ("dict(name='a', weights='w', margin=-1)", "row 'a': margin is -1"),
        ("dict(name='a', weights='w', steps=1)", "row 'a': steps is 1"),
        ("dict(name='a', weights='w', blur=1)", "has no rows of name, weights"),
        ("dict(name='a', weights='w'), dict(name='A', weights='w')", "two rows"),
    ):
        path.write_text(
            "from ml_collections import ConfigDict\n"
            f"def get_config():\n    return ConfigDict(dict(rows=[{row}]))\n"
        )
        with pytest.raises(ValueError, match=what):
            benchmark.load_rows(path)


def test_the_ablations_trainings_differ_in_head_cover_alone():
    from configs import ablations

    plain, cover = (ablations.get_config(name).to_dict() for name in ("plain", "cover"))
    assert (plain["data"].pop("cover"), cover["data"].pop("cover")) == (0.0, 1.0)
    assert plain == cover and plain["task"] == "diffusion"
    with pytest.raises(ValueError, match="use one of plain, cover"):
        ablations.get_config("other")
    small = ablations.get_config("small_cover").to_dict()
    assert small["data"] == cover["data"] | {"cover": 1.0}
    loss = small["loss"]
    assert (loss["prediction"], loss["known"], loss["adversarial"], loss["perceptual"]) == (
        "eps", False, 0, ""
    )  # fmt: skip


def test_ablation(prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    made = []

    class Sampler(_Sampler):
        def __init__(self, folder, *, inpaint, **_: object) -> None:
            super().__init__()
            made.append(inpaint)

    monkeypatch.setattr(sampling, "Sampler", Sampler)
    config = Path(__file__).parents[1] / "configs" / "ablations.py"
    command = [
        "eval", "ablation", "--data", "unread", "--pairs", str(prepared / "pairs.csv"), "-o",
        str(prepared / "out"), "--config", str(config),
    ]  # fmt: skip
    assert cli.main([*command, "--weights", "plain=embedded"]) == 0, capsys.readouterr().err
    assert made == [False, True]
    content = json.loads((prepared / "out" / "report.json").read_text())
    assert list(content["methods"]) == ["LDM", "+ G_layout"]
    assert "Mask-FID 57.85" in content["methods"]["LDM"]["note"]
    assert len(content["remarks"]) == 2 and "Not measured: + Head-cover" in content["remarks"][0]
    assert (files.open_photo(prepared / "out" / "rows" / "ldm" / "results" / "0.png") == 0).all()
    capsys.readouterr()
    for weights, what in (
        ([], "no row has its weights: plain is"),
        (["--weights", "other=embedded"], "no row needs weights 'other'"),
        (["--weights", "embedded"], "give NAME=DIR"),
    ):
        assert cli.main([*command, *weights]) == 2
        assert what in capsys.readouterr().err


def test_severity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(severity, "load_source", lambda *_, **__: _Source())
    monkeypatch.setattr(features, "make", lambda spec: _Extractor())
    assert cli.main(["eval", "severity", "--data", "unread"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "9 test images, FD-colour"
    assert [line.split()[0] for line in lines[1:]] == ["blur", "noise", "jpeg", "cut-and-paste"]
    assert lines[4].endswith(" (1.000)   grows")  # of all cut and pasted, the ratio's scale
    # Colours and their deviation tell noise; heads on a white canvas have other colours.
    assert lines[2].endswith("   grows") and lines[4].endswith("   grows")
    monkeypatch.setattr(features, "make", lambda spec: _named(spec))
    both = ["eval", "severity", "--data", "unread", "--extractors", "one", "two"]
    assert cli.main(both) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "rank correlation over the 16 sets: one and two 1.00"
    assert severity.grows([1, 2, 3]) and not severity.grows([1, 1, 3])


def test_extractors_are_compared_by_their_ranks():
    def row(*values: float) -> dict:
        names = ("FD-a", "FID", "Mask-FD-a")
        return {"metrics": {name: {"value": v} for name, v in zip(names, values, strict=True)}}

    content = {"methods": {"x": row(1, 9, 0), "y": row(2, 8, 0), "z": row(3, 7, 0)}}
    content["methods"]["body-photo"] = row(9, 9, 0)
    lines = report.agreement(content)
    assert lines == ["Rank correlation over the methods: FD-a and FID -1.00."]
    del content["methods"]["z"]  # the ranks of two say nothing
    assert report.agreement(content) == []


def test_best_leaves_out_what_swaps_nothing():
    def row(value: float) -> dict:
        figure = {"value": value, "low": None, "high": None, "higher_is_better": False}
        return {"metrics": {"FD-hsd": figure}}

    content = {"methods": {"body-photo": row(1), "hsd": row(2), "telea": row(3)}}
    assert report.best(content, "FD-hsd") == 2
    lines = report.table(content).splitlines()
    assert lines[1].split() == ["FD-hsd", "1.00", "2.00*", "3.00"]
