"""The self-swap benchmark without weights: its metrics, its holes, its baselines, its errors."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hsd_jax import cli, weights
from hsd_jax.diffusion.schedule import Schedule
from hsd_jax.evaluation import holes, metrics, selfswap
from hsd_jax.evaluation.pairs import LabelledImage
from hsd_jax.labels import HALFBODY9 as LABELS
from hsd_jax.labels import SHHQ17
from hsd_jax.models.parser import Parser
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import Finish, SwapSpec
from hsd_jax.training import augment
from hsd_jax.weights import Loaded

SIZE = 64
BACKGROUND, HAIR, FACE, NECK, CLOTHES = (
    LABELS.index(name) for name in ("background", "hair", "face", "neck", "clothes")
)


def noise(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def noisy(picture: np.ndarray, strength: float, seed: int = 9) -> np.ndarray:
    added = np.random.default_rng(seed).normal(0, strength, picture.shape)
    return np.clip(picture + added, 0, 255).astype(np.uint8)


@pytest.fixture
def smooth() -> np.ndarray:
    """An image with gentle gradients."""
    rows, columns = np.indices((SIZE, SIZE))
    return np.stack([rows * 2 + 40, columns * 2 + 60, rows + columns + 20], -1).astype(np.uint8)


@pytest.fixture
def hole() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:44, 16:40] = True
    return mask


def person(top: int = 12, left: int = 22, side: int = 14) -> np.ndarray:
    """A layout: hair around a square face, a neck below it, clothes to the frame."""
    layout = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    layout[top - 4 : top + side, left - 4 : left + side + 4] = HAIR
    layout[top : top + side, left : left + side] = FACE
    layout[top + side : top + side + 8, left + 4 : left + side - 4] = NECK
    layout[top + side + 8 :, left - 10 : left + side + 10] = CLOTHES
    return layout


@pytest.fixture
def case() -> holes.Case:
    wide = person(top=20, left=30, side=10)
    wide[16:40, 20:26] = HAIR  # long hair beside it
    images = LabelledImage(noise(0), person()), LabelledImage(noise(1), wide)
    return holes.make_case(3, *images, LABELS)


def test_psnr_and_ssim_are_those_of_scikit_image():
    truth = noise(0)
    result, full = noisy(truth, 30), np.ones((SIZE, SIZE), bool)
    expected = peak_signal_noise_ratio(truth, result)
    assert metrics.psnr(result, truth, full) == pytest.approx(expected)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": -1}
    _, similarity = structural_similarity(result, truth, full=True, **settings)
    assert metrics.ssim(result, truth, full) == pytest.approx(similarity.mean())
    half = np.arange(SIZE)[:, None].repeat(SIZE, 1) > 30
    _, similarity = structural_similarity(
        metrics.fill_hole(result, truth, half), truth, full=True, **settings
    )
    assert metrics.ssim(result, truth, half) == pytest.approx(similarity[half].mean())


def test_metrics_of_the_truth_and_of_more_and_more_noise(smooth: np.ndarray, hole: np.ndarray):
    assert metrics.psnr(smooth, smooth, hole) == metrics.MAX_PSNR
    assert metrics.ssim(smooth, smooth, hole) == pytest.approx(1)
    assert metrics.seam(smooth, smooth, hole) == 0
    results = [metrics.fill_hole(noisy(smooth, s), smooth, hole) for s in (4, 16, 64)]
    for metric, sign in ((metrics.psnr, -1), (metrics.ssim, -1), (metrics.seam, 1)):
        values = [sign * metric(result, smooth, hole) for result in results]
        assert values == sorted(set(values))


def test_what_is_outside_the_hole_does_not_count(smooth: np.ndarray, hole: np.ndarray):
    result = noisy(smooth, 20)
    other = metrics.fill_hole(result, noise(2), hole)
    for metric in (metrics.psnr, metrics.ssim):
        assert metric(other, smooth, hole) == metric(result, smooth, hole)
    near = np.zeros_like(hole)
    near[20 - 6 : 44 + 6, 16 - 6 : 40 + 6] = True
    beyond = metrics.fill_hole(result, noise(2), near)
    assert metrics.seam(beyond, smooth, hole) == metrics.seam(result, smooth, hole)
    assert metrics.seam(other, smooth, hole) > metrics.seam(result, smooth, hole)


def test_a_seam_is_its_step_sharp_or_spread():
    truth = np.full((SIZE, SIZE, 3), 100, np.uint8)
    hole = np.zeros((SIZE, SIZE), bool)
    hole[:, :20] = True
    sharp = metrics.fill_hole(np.full_like(truth, 140), truth, hole)
    spread = sharp.copy()
    spread[:, 20:23] = np.array([130, 120, 110], np.uint8)[None, :, None]
    for result in (sharp, spread):
        assert metrics.seam(result, truth, hole) == pytest.approx(40)


def test_bootstrap():
    values = np.random.default_rng(1).normal(5, 2, 100)
    mean, low, high = metrics.bootstrap(values)
    assert mean == pytest.approx(values.mean())
    # The normal interval has half a width of 1.96 s / sqrt(n).
    expected = 1.96 * values.std() / 10
    assert mean - low == pytest.approx(expected, rel=0.15)
    assert high - mean == pytest.approx(expected, rel=0.15)
    assert metrics.bootstrap(np.full(7, 2.0)) == (2, 2, 2)
    with pytest.raises(ValueError, match="at least one image"):
        metrics.bootstrap(np.array([]))


def test_perceptual_distance(smooth: np.ndarray, hole: np.ndarray):
    module = Parser(widths=(16, 16), depths=(1, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes["params"])
    distance = metrics.PerceptualDistance(Loaded(module, params, {}))
    results = [metrics.fill_hole(noisy(smooth, s), smooth, hole) for s in (0, 4, 16, 64)]
    truth = distance.features(np.stack([smooth] * 4))
    values = distance(np.stack(results), truth, np.stack([hole] * 4))
    assert values[0] == 0
    assert values.tolist() == sorted(set(values.tolist()))
    assert values[-1] <= 4


def test_perceptual_distance_weighs_cells_by_their_share_of_the_hole():
    a = np.zeros((1, 2, 2, 2), np.float32)
    a[..., 0] = 3  # any length
    b = a.copy()
    b[0, 0, 0] = [0, 5]  # at right angles to a: a squared distance of 2
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :4, :2] = mask[0, 4:, 4:] = True  # half of that cell, and all of another
    value = metrics.feature_distance([jax.numpy.array(a)], [jax.numpy.array(b)], mask)
    assert value.tolist() == pytest.approx([2 * 0.5 / 1.5])


def test_fit_is_that_of_training():
    partner, layout = person(top=20, left=30, side=10), person()
    matrix = holes.fit(partner, layout, FACE)
    rng = np.random.default_rng(0)
    expected = augment.fit_partner(partner, layout, FACE, rng, jitter=0.0)
    images = LabelledImage(noise(0), layout), LabelledImage(noise(1), partner)
    case = holes.make_case(0, *images, LABELS)
    head = np.isin(expected, LABELS.head)
    np.testing.assert_array_equal(case.body_layout[head], expected[head])
    np.testing.assert_allclose(matrix @ [34.5, 24.5, 1], [28.5, 18.5])  # face upon face
    with pytest.raises(ValueError, match="pixels of face"):
        holes.fit(np.zeros_like(layout), layout, FACE)


def test_hole(case: holes.Case):
    own, neck = (np.isin(case.layout, group) for group in (LABELS.head, LABELS.neck))
    worn = np.isin(case.body_layout, LABELS.head)
    assert not (case.hole & own).any()
    assert (case.hole >= (neck | worn) & ~own).all()
    assert (case.hole <= case.old_head | np.asarray(holes.dilate(neck, 3) > 0)).all()
    assert (worn & ~own).sum() > 50  # the long hair
    assert not (case.body_layout != case.layout)[~worn & ~own].any()
    assert (case.destroyed[case.hole] == holes.GREY).all()
    np.testing.assert_array_equal(case.destroyed[~case.hole], case.truth[~case.hole])


class _Source:
    """Six images; the third shows nobody."""

    names = ["a", "a", "a", "b", "b", "a"]

    def layout(self, index: int) -> np.ndarray:
        return person(side=12 + index) if index != 2 else np.zeros((SIZE, SIZE), np.uint8)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": noise(index), "layout": self.layout(index)}


def test_cases():
    every = list(holes.cases(_Source(), LABELS, seed=4))
    assert [case.index for case in every] == [0, 1, 3, 4, 5]
    some = list(holes.cases(_Source(), LABELS, seed=4, count=2))
    assert len(some) == 2
    for case, same in zip(some, every, strict=False):
        np.testing.assert_array_equal(case.partner, same.partner)
        np.testing.assert_array_equal(case.hole, same.hole)
    others = [list(holes.cases(_Source(), LABELS, seed=seed)) for seed in range(5, 9)]
    assert any(
        (a.partner != b.partner).any()
        for other in others
        for a, b in zip(every, other, strict=True)
    )
    assert [case.index for case in holes.cases(_Source(), LABELS, sources=["b"])] == [3, 4]
    with pytest.raises(ValueError, match="no images from c: use a, b"):
        holes.cases(_Source(), LABELS, sources=["c"])


def test_cases_in_another_label_set():
    mine, theirs = (next(holes.cases(_Source(), labels)) for labels in (LABELS, SHHQ17))
    np.testing.assert_array_equal(mine.hole, theirs.hole)
    assert SHHQ17.index("face") in theirs.body_layout


@pytest.mark.parametrize("navier_stokes", [False, True])
def test_inpainting_goes_on_smoothly(smooth: np.ndarray, case: holes.Case, navier_stokes: bool):
    case = replace(case, truth=smooth)
    result = selfswap.inpainted(case, navier_stokes)
    np.testing.assert_array_equal(result[~case.hole], smooth[~case.hole])
    assert metrics.psnr(result, smooth, case.hole) > metrics.psnr(case.destroyed, smooth, case.hole)


def test_old_head_kept_shows_the_old_head_and_the_true_neck(case: holes.Case):
    result = selfswap.old_head_kept(case)
    old = case.hole & case.old_head
    neck = np.isin(case.layout, LABELS.neck) & ~case.old_head
    np.testing.assert_array_equal(result[old], case.partner[old])
    np.testing.assert_array_equal(result[neck | ~case.hole], case.truth[neck | ~case.hole])


def test_blending_the_painted_truth_gives_the_truth(case: holes.Case):
    own = np.isin(case.layout, LABELS.head)
    # With a hat in the hole: background, clothes and skin are more than what is painted.
    person = np.where(own, case.layout, LABELS.index("hat"))
    plan = Plan(person, person, head=own, body=~own & ~case.hole)
    finish = weights.read_record(weights.find(), "unet")["extra"]["finish"]
    spec = SwapSpec(
        size=SIZE, labels=LABELS, factor=1, latent_mean=(0.0,), latent_std=(1.0,),
        schedule=Schedule("linear"), prediction="eps", known=False, steps=2, layout_size=SIZE,
        finish=Finish.read(finish),
    )  # fmt: skip
    np.testing.assert_array_equal(selfswap._blended(case, plan, case.truth, spec), case.truth)
    with pytest.raises(ValueError, match="keeps pixels that are destroyed"):
        selfswap._blended(case, plan._replace(body=~own), case.truth, spec)


def test_class_colour(case: holes.Case):
    colours = np.arange(LABELS.num_classes, dtype=np.uint8)[:, None].repeat(3, 1) * 20
    case = replace(case, truth=colours[case.layout])
    result = selfswap.class_colour(case, case.layout, LABELS)
    assert (case.layout[case.hole] == NECK).any() and (case.layout[case.hole] == CLOTHES).any()
    expected = case.truth.copy()
    expected[case.layout == NECK] = colours[FACE]  # no neck is seen outside the hole
    np.testing.assert_array_equal(result, expected)


def test_table_marks_the_best():
    good, bad = metrics.Interval(2, 1, 3), metrics.Interval(1, 0.5, 2)
    rows = {
        "first": {"psnr": good, "ssim": good, "pd_hsd": bad, "seam": good},
        "second": {"psnr": bad, "ssim": bad, "pd_hsd": good, "seam": bad},
    }
    header, _, first, second = selfswap.table(rows).splitlines()
    assert all(name in header for name in selfswap.METRICS.values())
    assert first.count("*") == 3 and second.count("*") == 1
    assert second.endswith("1.00* [0.50, 2.00]")


def test_command_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def error(*arguments: str) -> str:
        assert cli.main(["eval", "selfswap", "--data", str(tmp_path / "none"), *arguments]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return err

    assert "no data set 'halfbody'" in error()
    assert "folder that exists" in error("--json", str(tmp_path / "none" / "x.json"))
    assert "folder that exists" in error("--sheet", str(tmp_path / "none" / "x.png"))
    monkeypatch.delitem(sys.modules, "hsd_jax.training.input", raising=False)
    monkeypatch.setitem(sys.modules, "grain", None)
    assert "grain is missing: pip install 'hsd-jax[eval,train]'" in error()
