"""`hsd batch`: what a list may hold, and a run that goes on where it was left."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tiny import write_weights

from hsd_jax import HeadSwapper, batch, cli, weights
from hsd_jax.imaging.demo import find_photos
from hsd_jax.imaging.sheets import SIDE


def listed(path: Path, *rows: str, columns: str = "head,body") -> Path:
    path.write_text("\n".join((columns, *rows)) + "\n")
    return path


def test_rows_have_defaults_and_names(tmp_path):
    path = listed(
        tmp_path / "pairs.csv", "a/one.jpg,b/two.png,,,,,,",
        "c.jpg,d.jpg,out.webp,7,2,3,l.png,m.png",
        columns="head,body,output,seed,person,head_person,layout,mask",
    )  # fmt: skip
    first, second = batch.read_jobs(path, seed=4)
    assert first == batch.Job("a/one.jpg", "b/two.png", "one_on_two.png", 4, 1, 1)
    assert second == batch.Job("c.jpg", "d.jpg", "out.webp", 7, 2, 3, "l.png", "m.png")


@pytest.mark.parametrize(
    "columns, rows, message",
    [
        ("head", ["a.jpg"], "has no column body"),
        ("head,body,name", ["a,b,c"], "unknown column 'name'"),
        ("head,body", [], "lists no pairs"),
        ("head,body", ["a.jpg,"], "line 2: head or body is empty"),
        ("head,body,seed", ["a,b,-1"], "line 2: seed is '-1': give a whole number from 0"),
        ("head,body,person", ["a,b,0"], "person is '0': give a whole number from 1"),
        ("head,body,output", ["a,b,../x.png"], "without folders"),
        ("head,body,output", ["a,b,x.gif"], "end the name in one of"),
        ("head,body,output", ["a,b,report.jsonl"], "report.jsonl"),
        ("head,body", ["x/a.jpg,b.jpg", "y/a.jpg,b.png"], "two rows would write a_on_b.png"),
    ],
)
def test_lists_that_make_no_run_are_refused(tmp_path, columns, rows, message):
    with pytest.raises(ValueError, match=message):
        batch.read_jobs(listed(tmp_path / "pairs.csv", *rows, columns=columns))
    with pytest.raises(ValueError, match="no such file"):
        batch.read_jobs(tmp_path / "none.csv")


def _settings() -> batch.Settings:
    """Any: the tests below do not get to the swaps."""
    return batch.Settings("w")


def test_lists_may_hold_names_of_any_bytes(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"head,body\nm\xfcller.jpg,b.jpg\n")
    (job,) = batch.read_jobs(tmp_path / "pairs.csv")
    assert bytes(tmp_path / job.head).endswith(b"/m\xfcller.jpg")
    settings = _settings()
    run = batch.Batch([job], tmp_path / "out", tmp_path, settings)
    run.errors.append((job, "no such file"))
    run._write_errors()
    assert b"m\xfcller.jpg,b.jpg,m\xfcller_on_b.png" in (tmp_path / "out/errors.csv").read_bytes()


def test_what_is_no_list_and_names_too_long_are_refused_before_the_work(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b'head,body\n"' + bytes(200_000) + b'",b.jpg\n')
    with pytest.raises(ValueError, match="pairs.csv is no CSV"):
        batch.read_jobs(tmp_path / "pairs.csv")
    jobs = batch.read_jobs(listed(tmp_path / "pairs.csv", f"{'n' * 200}.jpg,{'m' * 200}.jpg"))
    with pytest.raises(ValueError, match="(?i)name too long: give another name"):
        settings = _settings()
        batch.Batch(jobs, tmp_path / "out", tmp_path, settings)


def test_a_result_never_replaces_a_photo(tmp_path, capsys):
    photo = tmp_path / "a.png"
    Image.new("RGB", (80, 80)).save(photo)
    before = photo.read_bytes()
    (tmp_path / "out").symlink_to(tmp_path)
    pairs = listed(tmp_path / "pairs.csv", "a.png,b.png,c.png", "c.jpg,d.png,a.png",
                   columns="head,body,output")  # fmt: skip
    for folder in (tmp_path, tmp_path / "out"):
        assert cli.main(["batch", str(pairs), "-o", str(folder)]) == 2
        assert "a.png is also an input: give -o another folder" in capsys.readouterr().err
    assert photo.read_bytes() == before


@example(text="a,b,c")
@given(text=st.text(alphabet='ab,"\n\r\t\0 ;é²3-/.\udcff', max_size=60))
def test_any_text_is_a_list_or_a_refusal_in_one_line(tmp_path, text):
    path = tmp_path / "pairs.csv"
    path.write_bytes(f"head,body,output,seed,person\n{text}".encode(errors="surrogateescape"))
    try:
        jobs = batch.read_jobs(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and "Traceback" not in str(error)
    else:
        assert jobs and all(job.head and job.body for job in jobs)
        assert all(0 <= job.seed < 2**32 and Path(job.output).name == job.output for job in jobs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find people and paint noise."""
    folder = write_weights(tmp_path_factory.mktemp("weights"), 128)
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    return folder


def test_a_run_goes_on_and_tells_what_failed(tmp_path, folder, capsys):
    head, body = find_photos()
    shutil.copyfile(body, tmp_path / "body.png")
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (200, 200)).save(tmp_path / "blank.png")
    pairs = listed(
        tmp_path / "pairs.csv", f"{head},body.png", "body.png,body.png", "text.jpg,body.png",
        f"blank.png,{body}", f"{head},gone.png",
    )  # fmt: skip
    out = tmp_path / "out"
    command = ["batch", str(pairs), "-o", str(out), "--weights", str(folder), "--json"]
    command += ["--batch", "2"]
    assert cli.main(command) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["swapped"], told["skipped"], told["failed"]) == (2, 0, 3)
    rows = list(csv.DictReader((out / "errors.csv").read_text().splitlines()))
    assert [row["head"] for row in rows] == ["text.jpg", "blank.png", str(head)]
    assert "not an image" in rows[0]["reason"] and "no face found" in rows[1]["reason"]
    assert "gone.png: no such file" in rows[2]["reason"]
    names = {path.name for path in out.iterdir()}
    made = {f"{head.stem}_on_body.png", "body_on_body.png"}
    assert names == made | {"report.jsonl", "errors.csv"}
    report = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert {row["output"] for row in report} == made

    # The same again: nothing is left to do but what failed; a lost file is made again.
    (tmp_path / "text.jpg").unlink()
    shutil.copyfile(head, tmp_path / "text.jpg")
    first = np.asarray(Image.open(out / "body_on_body.png"))
    (out / "body_on_body.png").unlink()
    assert cli.main(command) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["swapped"], told["skipped"], told["failed"]) == (2, 1, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "body_on_body.png")), first)

    # Another seed is another result; without failures no errors stay.
    listed(tmp_path / "pairs.csv", f"{head},body.png")
    assert cli.main([*command, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["swapped"] == 1
    assert not (out / "errors.csv").exists()
    assert len(jax.devices()) > 1  # the run was split over them


def test_a_result_is_the_one_of_a_swap_alone(tmp_path, folder, capsys):
    head, body = find_photos()
    row, columns = f"{head},{body},both.png,3", "head,body,output,seed"
    pairs = listed(tmp_path / "pairs.csv", row, columns=columns)
    both = ["--weights", str(folder)]
    assert cli.main(["batch", str(pairs), "-o", str(tmp_path / "out"), *both]) == 0
    alone = tmp_path / "alone.png"
    assert cli.main(["swap", str(head), str(body), "-o", str(alone), "--seed", "3", *both]) == 0
    mine, other = (np.asarray(Image.open(path), int) for path in (tmp_path / "out/both.png", alone))
    assert np.abs(mine - other).max() <= 1


@pytest.mark.slow  # test_edits paints by masks and layouts every day
def test_rows_may_have_a_mask_and_a_layout_of_their_own(tmp_path, folder, capsys):
    """Paths are the list's; a row whose drawing is none is an error, and a new drawing new work."""
    _, body = find_photos()
    shutil.copyfile(body, tmp_path / "body.png")
    before = np.asarray(Image.open(body).convert("RGB"))
    size = before.shape[:2]
    allowed = np.zeros(size, np.uint8)
    allowed[60:200, 150:300] = 255
    Image.fromarray(allowed).save(tmp_path / "mask.png")
    Image.fromarray(np.full(size, 4, np.uint8)).save(tmp_path / "layout.png")
    (tmp_path / "text.png").write_text("no image")
    pairs = listed(
        tmp_path / "pairs.csv", "body.png,body.png,plain.png,,",
        "body.png,body.png,masked.png,,mask.png",
        "body.png,body.png,drawn.png,layout.png,mask.png", "body.png,body.png,bad.png,text.png,",
        columns="head,body,output,layout,mask",
    )  # fmt: skip
    command = ["batch", str(pairs), "-o", str(tmp_path / "out"), "--weights", str(folder), "--json"]
    assert cli.main([*command, "--skin-tone", "match"]) == 1
    (error,) = csv.DictReader((tmp_path / "out/errors.csv").read_text().splitlines())
    assert error["output"] == "bad.png" and "text.png is not an image" in error["reason"]
    plain, masked, drawn = (
        np.asarray(Image.open(tmp_path / "out" / name))
        for name in ("plain.png", "masked.png", "drawn.png")
    )
    for image in (masked, drawn):
        np.testing.assert_array_equal(image[allowed == 0], before[allowed == 0])
    assert (plain != masked).any() and (masked != drawn).any()
    capsys.readouterr()
    allowed[100:, :] = 0
    Image.fromarray(allowed).save(tmp_path / "mask.png", compress_level=0)
    assert cli.main([*command, "--skin-tone", "match"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["swapped"], told["skipped"], told["failed"]) == (2, 1, 1)


def test_explain_draws_the_swap_that_it_made(tmp_path, folder, capsys):
    """The command itself: its figure ends with the result, and carries the mark."""
    head, body = map(str, find_photos())
    same = ["--weights", str(folder), "--steps", "3", "--seed", "5", "--json"]
    assert cli.main(["explain", head, body, "-o", str(tmp_path / "figure.png"), *same]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["times"]) == 3 and told["outputs"] == [str(tmp_path / "figure.png")]
    assert cli.main(["verify", str(tmp_path / "figure.png")]) == 0
    figure = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"), int)
    result = HeadSwapper.from_pretrained(folder)(head, body, seed=5, steps=3).stages["result"]
    tile = np.asarray(Image.fromarray(result).resize((SIDE, SIDE), Image.Resampling.LANCZOS), int)
    # The third row: the predictions at the three times, what is decoded, the result.
    left = 16 + 4 * (SIDE + 16)
    shown = figure[-SIDE - 16 : -16, left : left + SIDE]
    assert np.abs(shown - tile).mean() < 12
    assert cli.main(["explain", head, "gone.png", "-o", str(tmp_path / "no.png"), *same]) == 2
    assert "gone.png: no such file" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_folders_and_patterns_are_paired(tmp_path):
    heads, bodies = (
        photos(tmp_path / "heads", "b.png", "a.JPG", "notes.txt"),
        photos(tmp_path / "bodies", "1.webp", "2.png"),
    )
    jobs = batch.pair_photos(str(heads), str(bodies), seed=5)
    assert [(Path(job.head).name, Path(job.body).name) for job in jobs] == [
        ("a.JPG", "1.webp"), ("a.JPG", "2.png"), ("b.png", "1.webp"), ("b.png", "2.png")
    ]  # fmt: skip
    assert jobs[0] == batch.Job(str(heads / "a.JPG"), str(bodies / "1.webp"), "a_on_1.png", 5, 1, 1)
    zipped = batch.pair_photos(str(heads), str(bodies), zipped=True)
    assert [job.output for job in zipped] == ["a_on_1.png", "b_on_2.png"]
    alone = batch.pair_photos(str(heads / "b.png"), str(tmp_path / "bod*" / "*.png"))
    assert [job.output for job in alone] == ["b_on_2.png"]
    own = batch.pair_photos(str(bodies), str(bodies))  # none on itself
    assert [job.output for job in own] == ["1_on_2.png", "2_on_1.png"]


def test_photos_that_make_no_pairs_are_refused(tmp_path, capsys):
    heads = str(photos(tmp_path / "heads", "a.png", "b.png"))
    twins = str(photos(tmp_path / "twins", "a.png", "a.jpg"))
    one = str(photos(tmp_path / "one", "1.png"))
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((heads, str(tmp_path / "empty")), "matches none"),
        ((heads, str(tmp_path / "*.gif")), "matches none"),
        ((heads, one, True), "has 2 photos and .* 1: --zip needs as many"),
        ((twins, one), "two pairs would write a_on_1.png"),
        ((f"{one}/1.png", f"{one}/1.png"), "are one photo"),
    ):
        with pytest.raises(ValueError, match=message):
            batch.pair_photos(*arguments)
    out = ["-o", str(tmp_path / "out")]
    for arguments in (["batch", heads, one, one, *out], ["batch", "pairs.csv", "--zip", *out]):
        assert cli.main(arguments) == 2
        assert "HEADS and BODIES" in capsys.readouterr().err
    assert cli.main(["batch", heads, one, *out, "--process", "3/2"]) == 2
    assert "give I/N such as 1/4" in capsys.readouterr().err


def test_processes_share_a_run_and_change_no_byte(tmp_path, folder, capsys):
    """Three pairs by one process, and by two."""
    head, body = find_photos()
    for name, photo in (("body.png", body), ("head.jpg", head)):
        shutil.copyfile(photo, tmp_path / name)
    rows = ["head.jpg,body.png,a.png", "body.png,body.png,b.png", "body.png,head.jpg,c.png"]
    pairs = listed(tmp_path / "pairs.csv", *rows, columns="head,body,output")

    def run(out: str, *options: str) -> dict:
        command = ["batch", str(pairs), "-o", str(tmp_path / out), "--weights", str(folder)]
        assert cli.main([*command, "--json", "--batch", "2", *options]) == 0
        return json.loads(capsys.readouterr().out)

    assert run("one")["swapped"] == 3
    assert run("two", "--process", "1/2")["swapped"] == 2
    assert run("two", "--process", "2/2")["swapped"] == 1
    assert {path.name for path in (tmp_path / "two").glob("*.jsonl")} == {
        "report-1-of-2.jsonl", "report-2-of-2.jsonl"
    }  # fmt: skip
    assert run("two")["skipped"] == 3  # what several made counts for one
    for name in ("a.png", "b.png", "c.png"):
        one, two = (tmp_path / out / name for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert run("two", "--align", "none")["swapped"] == 3  # other options are another result


def frames_of_two(folder: Path, photo: Path) -> None:
    """Four frames: on the left somebody shrinks, on the right somebody grows and is once gone."""
    folder.mkdir()
    body = Image.open(photo).convert("RGB")
    for number, (left, right) in enumerate(((512, 430), (430, 512), (430, 0), (400, 500))):
        frame = Image.new("RGB", (1024, 512), "white")
        for side, edge in ((left, 0), (right, 1024 - right)):
            if side:
                frame.paste(body.resize((side, side)), (edge, 512 - side))
        frame.save(folder / f"{number}.png")


@pytest.mark.slow  # test_tracking follows drawn faces every day
def test_a_person_is_followed_through_frames_however_the_run_is_stopped(tmp_path, folder, capsys):
    head, body = find_photos()
    frames_of_two(tmp_path / "frames", body)
    command = ["batch", str(head), str(tmp_path / "frames"), "--weights", str(folder), "--json"]
    command += ["--batch", "2", "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--track", "3"]) == 2
    assert "the first frame has no person 3 to follow: 2 found" in capsys.readouterr().err

    assert cli.main([*command, "--track", "2"]) == 1
    rows = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert {row["body"][-5:]: row["person"] for row in rows} == {
        "0.png": 2, "1.png": 1, "3.png": 1
    }  # fmt: skip
    (lost,) = csv.DictReader((tmp_path / "out/errors.csv").read_text().splitlines())
    assert lost["body"].endswith("2.png") and "nobody is where the person" in lost["reason"]
    made = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    for path in made:
        before = Image.open(tmp_path / "frames" / f"{path.stem[-1]}.png")
        changed = np.asarray(before) != np.asarray(Image.open(path).convert("RGB"))
        assert changed[:, 512:].any() and not changed[:, :512].any()

    # Stopped before the last, and started anew.
    max(made).unlink()
    capsys.readouterr()
    assert cli.main([*command, "--track", "2"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["swapped"], told["skipped"], told["failed"]) == (1, 2, 1)
    assert {path: path.read_bytes() for path in made} == made
    pairs = listed(tmp_path / "pairs.csv", "a.png,b.png")
    assert cli.main(["batch", str(pairs), "--track", "1", "-o", str(tmp_path / "out")]) == 2
    assert "--track goes with HEADS and BODIES" in capsys.readouterr().err
