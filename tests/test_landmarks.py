"""Landmarks: places from heatmaps, views and their labels, a batch learnt, faces in photos."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faces import FACE, draw_face, write_faces

from configs.embedded import get_config
from data import label_landmarks
from hsd_jax import cli
from hsd_jax.evaluation.landmarks import area_under_curve, metrics
from hsd_jax.models.landmarks import MIRRORED, POINTS, SIZE, Found, LandmarkNet, soft_argmax
from hsd_jax.parsing.landmarks import Landmarks, crop_of, locate
from hsd_jax.training.optimizer import make_optimizer
from hsd_jax.training.state import create_state
from hsd_jax.training.step import TrainStep
from hsd_jax.training.tasks import landmarks as task
from hsd_jax.training.tasks import make_task

SMALL = LandmarkNet(widths=(16, 32, 32), depths=(1, 1, 1), hidden=16)


pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def params():
    blank = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.jit(SMALL.init)(jax.random.key(0), blank)["params"]


def example_of(seed: int) -> dict:
    image, box, points = draw_face(seed)
    angles = np.radians([20.0, -5.0]).astype(np.float32)
    box = np.array(box, np.float32)
    return dict(image=image, box=box, points=points, angles=angles, found=True, source="drawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled")
    write_faces(path)
    return path


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.31, 0.64), (0.75, 0.22)])
def test_soft_argmax_finds_the_middle_of_a_gaussian(place: tuple[float, float]):
    points = jnp.array([[place]])
    heatmaps = jnp.log(task.target_heatmaps(points, 32))
    np.testing.assert_allclose(soft_argmax(heatmaps), points, atol=1e-4)


def test_soft_argmax_of_one_cell_is_its_middle():
    heatmaps = np.full((1, 8, 4, 2), -1e4, np.float32)
    heatmaps[0, 3, 1, 0] = heatmaps[0, 7, 3, 1] = 0
    np.testing.assert_allclose(
        soft_argmax(jnp.asarray(heatmaps))[0], [(1.5 / 4, 3.5 / 8), (3.5 / 4, 7.5 / 8)], atol=1e-6
    )


def test_the_mirror_swaps_left_and_right():
    rng = np.random.default_rng(0)
    heatmaps = jnp.asarray(rng.standard_normal((2, 16, 16, 9)).astype(np.float32))
    points = soft_argmax(heatmaps)
    mirrored = soft_argmax(heatmaps[:, :, ::-1, jnp.array(MIRRORED)])
    wanted = np.asarray(points)[:, list(MIRRORED)] * (-1, 1) + (1, 0)
    np.testing.assert_allclose(mirrored, wanted, atol=1e-6)
    for index, name in enumerate(POINTS):
        other = name.replace("left", "right") if "left" in name else name.replace("right", "left")
        assert POINTS[MIRRORED[index]] == other


def test_the_teachers_places_are_the_networks():
    assert tuple(label_landmarks.PLACES) == POINTS


@pytest.mark.parametrize(
    "how",
    [{}, dict(mirror=True), dict(zoom=1.4), dict(angle=25.0), dict(shift=(0.1, -0.15)),
     dict(zoom=0.7, angle=-30.0, shift=(0.1, 0.1), mirror=True)],
)  # fmt: skip
def test_labels_move_with_the_view(how: dict):
    """The eyes are black: they are found again where the label says."""
    made = task.view(example_of(3), **how)
    dark = made["image"].astype(int).sum(-1) < 120
    rows, columns = np.nonzero(dark)
    eyes = made["points"][:2] * SIZE - 0.5
    assert eyes[0, 0] < eyes[1, 0] or abs(how.get("angle", 0)) > 45
    for x, y in eyes:
        near = np.hypot(columns - x, rows - y) < 0.3 * np.linalg.norm(eyes[1] - eyes[0])
        assert abs(columns[near].mean() - x) < 0.6 and abs(rows[near].mean() - y) < 0.6


def test_the_look_turns_with_the_image():
    example = example_of(0)
    # Upside down what looked right and down looks left and up.
    views = {(20, -5): {}, (-20, -5): dict(mirror=True), (-20, 5): dict(angle=180.0)}
    for wanted, how in views.items():
        angles = np.degrees(task.view(example, **how)["angles"])
        np.testing.assert_allclose(angles, wanted, atol=1e-3)


def test_a_covered_face_is_changed_where_it_is_covered():
    example = example_of(1)
    for seed in range(6):
        covered = task.cover(example["image"], example["box"], np.random.default_rng(seed), 1.6)
        x, y, size = example["box"]
        rows, columns = np.indices(covered.shape[:2])
        away = np.hypot(columns - x, rows - y) > 1.1 * size
        np.testing.assert_allclose(covered[away], example["image"][away], atol=1)
        eyes = np.round(example["points"][:2]).astype(int)
        assert any((covered[r, c].astype(int) != example["image"][r, c]).any() for c, r in eyes)


def test_losses_do_not_ask_where_a_face_is_that_is_not_there():
    rng = np.random.default_rng(0)
    heatmaps = jnp.asarray(rng.standard_normal((2, 8, 8, 9)).astype(np.float32))
    found = Found(soft_argmax(heatmaps), jnp.zeros((2, 2)), jnp.array([-1.0, 2.0]), heatmaps)
    batch = {
        "points": jnp.full((2, 9, 2), 0.4), "angles": jnp.full((2, 2), 0.3),
        "found": jnp.array([True, False]),
    }  # fmt: skip
    parts = task.losses(found, batch)
    for name in ("heatmap", "points", "angles"):
        assert parts[name][0] > 0 and parts[name][1] == 0, name
    np.testing.assert_allclose(parts["face"], np.log1p(np.exp([1.0, 2.0])), rtol=1e-5)


@pytest.mark.slow
def test_one_batch_is_learnt(folder: Path):
    config, steps = get_config("landmarks").to_dict(), 60
    config["model"] = dict(widths=SMALL.widths, depths=SMALL.depths, hidden=SMALL.hidden)
    config["optimizer"] |= dict(learning_rate=6e-3, warmup=5, decay="constant")
    made, source = make_task(config), task.LandmarkSource(str(folder), "train")
    examples = [task.view(source[i]) for i in range(len(source))]
    batch = {name: np.stack([x[name] for x in examples]) for name in examples[0]}
    optimizer = make_optimizer(config["optimizer"], steps)
    state = create_state(jax.jit(made.init)(jax.random.key(0)), optimizer)
    step = jax.jit(TrainStep(made.loss, optimizer, ema=0.9, seed=0))
    for _ in range(steps):
        state, _ = step(state, batch)
    weight = batch | {"mask": np.ones(len(examples), np.float32)}
    found = jax.jit(made.evaluate)(state.params, weight, jax.random.key(0))
    values = {name: float(a / b) for name, (a, b) in found.items()}
    assert values["eyes"] < 0.05 and values["points"] < 0.08 and values["face"] == 1
    assert values["yaw"] < 3 and values["pitch"] < 3


def test_locate_moves_with_the_photo(params):
    """Pixels, not shares: an image put into a larger one has its landmarks there."""
    image, (x, y, size), _ = draw_face(2, side=192)
    large = np.pad(image, ((40, 0), (24, 0), (0, 0)), mode="edge")
    here = locate(SMALL, params, image, (x, y, size))
    there = locate(SMALL, params, large, (x + 24, y + 40, size))
    np.testing.assert_allclose(there.points - here.points, [(24, 40)] * 9, atol=0.05)
    assert abs(there.confidence - here.confidence) < 1e-3


def test_locate_in_the_mirror(params):
    image, _, _ = draw_face(4)
    size = 128 / 2.2  # a crop of an even side in the image's middle mirrors onto itself
    a = locate(SMALL, params, image, (80.0, 80.0, size))
    b = locate(SMALL, params, image[:, ::-1], (80.0, 80.0, size))
    np.testing.assert_allclose(b.points[list(MIRRORED)] * (-1, 1) + (160, 0), a.points, atol=0.05)
    assert abs(a.yaw + b.yaw) < 0.1 and abs(a.pitch - b.pitch) < 0.1


def test_a_box_is_read_from_the_points():
    points = (FACE * 50 + (100, 80)).astype(np.float32)
    x, y, size = Landmarks(points, 0.0, 0.0, 1.0).box
    assert abs(x - 100) < 3 and abs(y - 80) < 3 and abs(size - 50) < 5
    assert Landmarks(points, 0.0, 0.0, 1.0).eye_distance == pytest.approx(22)


def test_metrics_of_a_perfect_net_and_of_a_blind_one():
    example = example_of(0)
    perfect = Landmarks(example["points"], 20.0, -5.0, 0.9)
    other = ({**example, "found": False}, Landmarks(example["points"], 0.0, 0.0, 0.1))
    values = metrics([(example, perfect), other])
    assert values["eyes"] == values["points"] == 0 and values["yaw"] < 1e-4
    assert values["auc"] == values["kept"] == values["refused"] == 1
    assert area_under_curve(np.full(4, 0.3), np.array([True, False, True, False])) == 0.5
    assert np.isnan(area_under_curve(np.ones(2), np.array([True, True])))


def test_the_command_tells_each_source(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["eval", "landmarks", "--data", str(folder), "--split", "train"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["source", "faces", "others", "eyes"]
    assert [row.split()[:3] for row in rows] == [[n, "4.000", "2.000"] for n in ("all", "drawn")]
    assert cli.main(["eval", "landmarks", "--data", str(folder)]) == 2
    assert "no row of split 'test'" in capsys.readouterr().err


def test_errors(tmp_path: Path, folder: Path):
    with pytest.raises(ValueError, match="make it with data/label_landmarks.py"):
        task.LandmarkSource(str(tmp_path), "train")
    with pytest.raises(ValueError, match="no row of split 'test'"):
        task.LandmarkSource(str(folder), "test")
    (tmp_path / "landmarks.csv").write_text("image,source,split\n")
    with pytest.raises(ValueError, match="lacks the column chin_x: see data/README.md"):
        task.LandmarkSource(str(tmp_path), "train")
    with pytest.raises(ValueError, match="takes crops of 128 x 128 pixels, not 64 x 64"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match=r"\(column, row, size > 0\), not \(1.0, 2.0, 0.0\)"):
        crop_of((1.0, 2.0, 0.0))
