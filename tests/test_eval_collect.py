"""Results gathered from reports and runs, and votes from a blind sheet."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, window

from hsd_jax import cli
from hsd_jax.evaluation import collect
from hsd_jax.evaluation.blind import arrange
from hsd_jax.imaging import files


def report(folder: Path) -> Path:
    """A report of an ablation: two solvers with three numbers of calls, and another row."""
    rows = {f"{s} {n}": dict(solver=s, steps=n) for s in ("ddim", "dpmpp") for n in (5, 10, 20)}
    rows["margin"] = dict(solver="ddim", steps=5)
    content = {
        "solver": "dpmpp", "steps": None, "seed": 0,
        "rows": {name: row | {"margin": 3 * (name == "margin")} for name, row in rows.items()},
        "methods": {
            name: {"metrics": {
                "FD-hsd": dict(value=100 / row["steps"], low=1.0, high=30.0),
                "KD-hsd": dict(value=2.0, low=None, high=None),
            }}
            for name, row in rows.items()
        },
        "differences": {"from": "ddim 5", "methods": {
            "ddim 10": {"FD-hsd": dict(value=-10.0, low=-20.0, high=-1.0)},
        }},
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def training(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"seed": seed, "data": {"cover": 1.0}}))
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "validation/loss": 0.5 + seed}, {"step": 3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def test_reports_and_runs_become_one_csv_and_a_plot(tmp_path: Path, capsys):
    runs = [training(tmp_path / str(seed), seed) for seed in (0, 1)]
    sources = [str(x) for x in (report(tmp_path), *runs)]
    out = tmp_path / "out"
    assert cli.main(["eval", "collect", *sources, "-o", str(out), "--y", "FD-hsd"]) == 0
    rows = table(out / "results.csv")
    assert len(rows) == 9 and files.open_photo(out / "results.png").shape == (600, 960, 3)
    assert rows[0] | {"source": ""} == rows[0] | {
        "source": "", "name": "ddim 5", "solver": "ddim", "steps": "5", "FD-hsd": "20.0",
        "FD-hsd:low": "1.0", "KD-hsd": "2.0", "data.cover": "",
    }  # fmt: skip
    apart = [rows[1][f"FD-hsd:difference{end}"] for end in ("", ":low", ":high")]
    assert apart == ["-10.0", "-20.0", "-1.0"] and rows[0]["FD-hsd:difference"] == ""
    assert [row["validation/loss"] for row in rows[-2:]] == ["0.5", "1.5"]
    assert [row["step"] for row in rows[-2:]] == ["2", "2"]


def test_a_line_is_what_differs_in_x_alone(tmp_path: Path):
    (axes,) = collect.draw(collect.read(report(tmp_path)), "steps", "FD-hsd").axes
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        name: [[5, 20], [10, 10], [20, 5]] for name in ("ddim", "dpmpp")
    }


def test_what_cannot_be_collected_is_told(tmp_path: Path, capsys):
    command = ["eval", "collect", "-o", str(tmp_path / "out")]
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{}")
    for arguments, what in (
        ([str(tmp_path / "none")], "give a report.json"),
        ([str(damaged)], "is no report or training run"),
        ([str(report(tmp_path)), "--y", "FID"], "no result has numbers for 'steps' and 'FID'"),
    ):
        assert cli.main([*command, *arguments]) == 2
        assert what in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two methods' results of five pairs, and one result that the second lacks."""
    both = [tmp_path / "ours", tmp_path / "theirs"]
    for level, folder in enumerate(both):
        folder.mkdir()
        for i in range(6 - level):
            image = np.full((64, 64, 3), 40 * i + 9 * level, np.uint8)
            files.save_image(image, folder / f"{i}.png")
    return both


def test_a_blind_sheet_is_seeded_and_says_not_whose_is_whose(folders, tmp_path, capsys):
    shown = arrange(*folders, count=24, seed=0)
    assert shown == arrange(*folders, count=24, seed=0) != arrange(*folders, count=24, seed=1)
    assert sorted(pair.id for pair in shown) == list("01234")
    assert {pair.left.parent for pair in shown} == set(folders)
    page = tmp_path / "page.html"
    blind = ["--blind", *map(str, folders)]
    assert cli.main(["eval", "sheet", *blind, "-o", str(page)]) == 0
    text = page.read_text()
    assert text.count("data:image/jpeg") == 10 and "Every image here is synthetic" in text
    assert "ours" not in text and "theirs" not in text and not re.search("https?:", text)
    # Votes for the first folder wherever it is, but for one.
    key = table(page.with_suffix(".key.csv"))
    side = ["left" if row["left"] == str(folders[0]) else "right" for row in key]
    votes = tmp_path / "choices.csv"
    sheet = key[0]["sheet"]
    assert sheet in text
    lines = [f"{sheet},{i + 1},{name}" for i, name in enumerate(["same", *side[1:]])]
    votes.write_text("\n".join(["sheet,pair,choice", *lines]))
    capsys.readouterr()
    count = ["eval", "votes", str(votes), str(page.with_suffix(".key.csv"))]
    assert cli.main(count) == 0
    said = capsys.readouterr().out
    # 4 of 4: the exact interval's lower end is .025 ** (1 / 4).
    assert "5 choices: 1 same, 4 prefer one" in said
    assert f"{folders[0]}: 4, 1.00 [0.40, 1.00]" in said
    assert f"{folders[1]}: 0, 0.00 [0.00, 0.60]" in said
    for line, what in ((f"other,1,{side[0]}", "give its own key"), (f"{sheet},1,up", "use left")):
        votes.write_text(f"sheet,pair,choice\n{line}\n")
        assert cli.main(count) == 2
        assert what in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_choices_in_a_browser_become_votes(folders, tmp_path, capsys, width, height):
    page_path = tmp_path / "page.html"
    blind = ["--blind", *map(str, folders)]
    assert cli.main(["eval", "sheet", *blind, "-o", str(page_path)]) == 0
    with chromium() as browser:
        page = window(browser, width, height)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_path.as_uri())

        def place() -> str:
            page.wait_for_timeout(300)  # a second choice at once is taken for a double click
            return page.locator("#place").inner_text()

        assert place() == "pair 1 of 5; 0 chosen" and page.locator("#save").is_disabled()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert place() == "pair 2 of 5; 1 chosen"
        page.locator("#choose-right").click()
        assert place() == "pair 3 of 5; 2 chosen"
        page.keyboard.press("ArrowDown")
        assert place() == "pair 4 of 5; 3 chosen"
        page.keyboard.press("Backspace")
        assert place() == "pair 3 of 5; 3 chosen"
        assert page.locator("#choose-same").get_attribute("aria-pressed") == "true"
        page.locator("#left").click()  # an image, instead of the choice before
        page.reload()
        assert place() == "pair 4 of 5; 3 chosen"
        page.keyboard.press("Alt+ArrowLeft")  # the browser's
        for _ in range(2):
            place()
            page.keyboard.press("ArrowRight")
        assert place() == "pair 5 of 5; 5 chosen: please save them"
        # The images and all buttons fit the window.
        box = page.locator("#save").bounding_box()
        assert box["y"] + box["height"] <= height
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        with page.expect_download() as download:
            page.locator("#save").click()
        assert download.value.suggested_filename == "choices.csv"
        download.value.save_as(tmp_path / "choices.csv")
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#clear").click()
        assert place() == "pair 1 of 5; 0 chosen"
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    made = [row["choice"] for row in table(tmp_path / "choices.csv")]
    assert made == ["left", "right", "left", "right", "right"]
    count = ["eval", "votes", str(tmp_path / "choices.csv"), str(page_path.with_suffix(".key.csv"))]
    assert cli.main(count) == 0
    assert "5 choices: 0 same, 5 prefer one" in capsys.readouterr().out


def test_a_sheet_needs_data_or_two_folders(folders, tmp_path, capsys):
    for arguments, what in (
        ([], "give --data DIR"),
        (["--blind", str(folders[0]), str(folders[0])], "given twice"),
        (["--blind", str(folders[0]), str(tmp_path)], "share no results"),
    ):
        assert cli.main(["eval", "sheet", *arguments]) == 2
        assert what in capsys.readouterr().err
