"""The paper's regions, what is measured in them, and the extractors."""

import sys
import types
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from hsd_jax import convert, weights
from hsd_jax.evaluation import features, identity, metrics, regions
from hsd_jax.evaluation.regions import Choices
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import HALFBODY9 as LABELS
from hsd_jax.models import apply
from hsd_jax.models.parser import Parser
from hsd_jax.models.perceptual import LPIPS

SIZE = 64
HAIR, FACE, NECK, CLOTHES = (LABELS.index(x) for x in ("hair", "face", "neck", "clothes"))


def noise(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def person() -> np.ndarray:
    layout = np.zeros((SIZE, SIZE), np.int32)
    layout[8:28, 20:44] = HAIR
    layout[12:28, 24:40] = FACE
    layout[28:36, 28:36] = NECK
    layout[36:, 10:54] = CLOTHES
    return layout


def kept(seed: int = 0) -> metrics.Reference:
    layouts = person()[None]
    masks = regions.swap_masks(layouts, layouts, LABELS)
    squares = (regions.face_square(layouts[0], LABELS, Choices()),)
    return metrics.Reference(noise(seed), noise(seed + 1), *masks, squares)


def mean_colour(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1, 3).mean(1, dtype=np.float64).astype(np.float32)


def test_regions_are_the_papers():
    layout = person()[None]
    head, body = regions.swap_masks(layout, layout, LABELS)
    assert (head == np.isin(layout, (HAIR, FACE))).all() and (body == (layout == CLOTHES)).all()
    hidden = regions.own_masks(layout, LABELS)
    assert (hidden == (head | body)).all()
    picture = noise(0)
    exposed = regions.exposed(picture, hidden, Choices(fill=7))
    assert (exposed[hidden] == 7).all() and (exposed[~hidden] == picture[~hidden]).all()


def test_the_head_is_in_front_of_the_body():
    long = person()
    long[36:50, 20:24] = HAIR
    head, body = regions.swap_masks(long[None], person()[None], LABELS)
    assert head[0, 40, 22] and not body[0, 40, 22] and not (head & body).any()


@pytest.mark.parametrize(
    ("side", "rounding", "first", "length"),
    [(256, "floor", 64, 128), (512, "ceil", 128, 256), (6, "floor", 1, 3), (6, "ceil", 2, 3)],
)
def test_the_focal_crop_is_the_middle_half(side: int, rounding: str, first: int, length: int):
    rows, columns = np.indices((side, side))
    picture = np.stack([rows % 256, columns % 256, rows // 256], -1).astype(np.uint8)[None]
    crop = regions.focal(picture, Choices(rounding=rounding))
    expected = picture[:, first : first + length, first : first + length]
    np.testing.assert_array_equal(crop, expected)


def test_the_focal_crop_can_be_enlarged():
    flat = np.full((2, 16, 16, 3), 90, np.uint8)
    for name in regions.FILTERS:
        crop = regions.focal(flat, Choices(focal_size=20, focal_filter=name))
        assert crop.shape == (2, 20, 20, 3) and (crop == 90).all()


def test_each_view_reacts_to_its_region_alone():
    picture, layout = noise(0), person()[None]
    hidden = regions.own_masks(layout, LABELS)
    inside, gap, border = picture.copy(), picture.copy(), picture.copy()
    inside[hidden] += 40
    gap[layout == NECK] += 40
    border[:, :16] += 40
    views = {
        "Mask-": lambda x: regions.exposed(x, hidden, Choices()),
        "Focal-": lambda x: regions.focal(x, Choices()),
    }
    changed = {
        name: [bool((view(x) != view(picture)).any()) for x in (inside, gap, border)]
        for name, view in views.items()
    }
    assert changed == {"Mask-": [False, True, True], "Focal-": [True, True, False]}


def test_choices_are_checked():
    for wrong in (
        dict(fill=256), dict(focal=0.0), dict(masks="none"), dict(similarity="mean"),
        dict(focal_size=-1), dict(rounding="up"), dict(focal_filter="box"), dict(frame="x"),
        dict(face_margin=-1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Choices(**wrong)


def test_the_face_square():
    square = regions.face_square(person(), LABELS, Choices(face_margin=0.25))
    assert square == Crop(top=8, left=20, side=24)
    layout = np.zeros((SIZE, SIZE), np.int32)
    layout[:10, :10] = FACE  # the square reaches over the corner
    square = regions.face_square(layout, LABELS, Choices(face_margin=0.5))
    face = regions.take_square(np.full((SIZE, SIZE, 3), 9, np.uint8), square, 112)
    assert face.shape == (112, 112, 3) and (face == 9).all()
    with pytest.raises(ValueError, match="without a face"):
        regions.face_square(np.zeros((4, 4), np.int32), LABELS, Choices())


def test_ssim_is_that_of_scikit_image():
    a, b = noise(0)[0], noise(1)[0]
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": -1}
    mean, expected = structural_similarity(a, b, full=True, **settings)
    found = metrics.ssim_map(a, b)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # scikit-image's mean leaves out five pixels of border.
    assert found[5:-5, 5:-5].mean() == pytest.approx(mean)


@pytest.mark.parametrize("how", ["whole", "inside"])
def test_similarities_react_to_their_own_region(how: str):
    truth = kept()
    layout = person()[None]
    measure = metrics.Ssim(Choices(similarity=how))
    ideal = np.where(truth.head_mask[..., None], truth.head, truth.body)
    perfect = measure(ideal, truth)
    assert perfect["head-SSIM"] == pytest.approx(1) and perfect["body-SSIM"] == pytest.approx(1)
    background = np.where((layout == 0)[..., None], np.uint8(0), ideal)
    assert measure(background, truth) == perfect
    bad_head = np.where(truth.head_mask[..., None], np.uint8(0), ideal)
    found = measure(bad_head, truth)
    assert found["head-SSIM"] < 0.95 and found["body-SSIM"] == perfect["body-SSIM"]


def test_inside_is_stricter_than_whole():
    truth = kept()
    whole, inside = (
        metrics.Ssim(Choices(similarity=how))(noise(9), truth)["head-SSIM"][0]
        for how in ("whole", "inside")
    )
    assert inside < 0.2 < whole


class Colour:
    """An extractor that knows mean colours."""

    name, fingerprint = "colour", "0"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return mean_colour(pictures)


def test_identity_sees_the_face_alone():
    truth = kept()
    measure = identity.Identity(Colour(), 32)
    assert measure.names == ("IDs-colour",)
    assert measure(truth.head, truth)["IDs-colour"] == pytest.approx(1)
    elsewhere = truth.head.copy()
    elsewhere[:, 36:] = 0
    assert measure(elsewhere, truth)["IDs-colour"] == pytest.approx(1)
    red = np.zeros_like(truth.head)
    red[..., 0] = 255
    assert measure(red, truth)["IDs-colour"][0] < 0.8


def test_an_extractor_gives_the_same_in_any_batches_over_all_devices():
    def net(params, x):
        return params["w"][None] * x.astype(jnp.float32).mean((1, 2))

    extractor = features.NetworkExtractor("x", "0", net, {"w": np.arange(3.0)}, batch=5)
    pictures = noise(0, 11)
    found = extractor(pictures)
    assert found.shape == (11, 3)
    np.testing.assert_allclose(found, mean_colour(pictures) * np.arange(3), rtol=1e-5)
    np.testing.assert_allclose(found[3:4], extractor(pictures[3:4]), rtol=1e-6)


def test_names_tell_the_extractor():
    class Inception(Colour):
        name = "inception"

    assert features.distance_names(Inception()) == ("FID", "KID")
    assert features.distance_names(Colour()) == ("FD-colour", "KD-colour")


def test_inception_is_not_found_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def offline(*_: object, **__: object):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.delenv(features.INCEPTION_ENV, raising=False)
    monkeypatch.setenv("HSD_CACHE_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="or use the extractor hsd"):
        features.make("inception")
    with pytest.raises(ValueError, match="no such file"):
        features.make(f"inception={tmp_path / 'none.pth'}")
    with pytest.raises(ValueError, match="no extractor 'vgg'"):
        features.make("vgg")
    monkeypatch.setenv(features.INCEPTION_ENV, str(tmp_path / "mine.pth"))
    assert features.find_inception() == tmp_path / "mine.pth"


def test_a_classifier_is_named_by_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = LPIPS("alexnet")
    x = noise(0, 2)
    zeros = jnp.zeros(x.shape)
    shapes = jax.eval_shape(module.init, jax.random.key(0), zeros, zeros)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), shapes)
    weights.save_part(tmp_path, "perceptual", module, params, {}, np.float32)
    other = features.make(f"alexnet={tmp_path}")
    assert other.name == f"alexnet-{other.fingerprint[:8]}"
    monkeypatch.setitem(features.CLASSIFIERS, "alexnet", other.fingerprint)
    own = features.make(f"alexnet={tmp_path}")
    assert features.distance_names(own) == ("FD-alexnet", "KD-alexnet")
    last = apply(module, params, jnp.asarray(x / 127.5 - 1), method="features")[-1]
    np.testing.assert_allclose(own(x), last.mean((1, 2)), rtol=1e-4, atol=1e-6)
    assert own(x).shape == (2, 256)
    with pytest.raises(ValueError, match="is alexnet, not vgg16"):
        features.make(f"vgg16={tmp_path}")
    with pytest.raises(ValueError, match="or vgg16=FILE or alexnet=FILE"):
        features.make("vgg16")


def test_faces_by_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Session:
        shape: list[object] = ["N", 3, 112, 112]

        def __init__(self, *_: object, **__: object): ...

        def get_inputs(self):
            return [types.SimpleNamespace(name="data", shape=self.shape)]

        def run(self, _: object, feed: dict[str, np.ndarray]):
            x = feed["data"]
            assert x.dtype == np.float32 and x.shape[1:] == (3, 112, 112) and abs(x).max() <= 1
            return [x.mean((2, 3))]

    monkeypatch.setitem(
        sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session)
    )
    path = tmp_path / "buffalo.onnx"
    path.write_bytes(b"x")
    faces = identity.OnnxFaces(path)
    assert faces.name == "buffalo"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    expected = pictures.mean((1, 2)) / 127.5 - 1
    np.testing.assert_allclose(faces(pictures), expected, atol=1e-6)
    Session.shape = [1, 3, 112, 112]
    np.testing.assert_allclose(identity.OnnxFaces(path)(pictures), expected, atol=1e-6)
    Session.shape = [1, 3, 64, 64]
    with pytest.raises(ValueError, match="give a model of"):
        identity.OnnxFaces(path)
    with pytest.raises(ValueError, match="no such file"):
        identity.OnnxFaces(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        identity.OnnxFaces(path)


@pytest.fixture(scope="module")
def parser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose parser is small and random."""
    folder = tmp_path_factory.mktemp("weights")
    module = Parser(widths=(16, 16), depths=(1, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape), shapes["params"])
    weights.save_part(folder, "parser", module, params, {"labels": "halfbody9"})
    return folder


def test_the_embedded_extractor(parser_folder: Path):
    extractor = features.embedded(parser_folder, batch=2)
    assert extractor.name == f"hsd-{extractor.fingerprint[:8]}"  # not the shipped parser
    pictures = noise(0, 3)
    found = extractor(pictures)
    assert found.shape == (3, 2 * (16 + 16)) and found.dtype == np.float32
    cut = pictures[:, :60, :59]  # sides that the network does not take
    filled = np.pad(cut, ((0, 0), (0, 4), (0, 5), (0, 0)), mode="edge")
    np.testing.assert_allclose(extractor(cut), extractor(filled), rtol=1e-4, atol=1e-5)


def test_parser_distance_reacts_to_its_own_region(parser_folder: Path):
    measure = metrics.ParserDistance(parser_folder)
    head, body = measure.names
    assert head.startswith("head-PD-hsd-") and body.startswith("body-PD-hsd-")
    truth = kept()
    ideal = np.where(truth.head_mask[..., None], truth.head, truth.body)
    assert all(value < 1e-6 for value in measure(ideal, truth).values())
    bad_head = np.where(truth.head_mask[..., None], 255 - ideal, ideal)
    found = measure(bad_head, truth)
    assert found[head] > 0.01 and found[body] < 1e-6


@pytest.mark.parametrize("how", ["whole", "inside"])
@pytest.mark.untyped
def test_lpips_reacts_to_its_own_region(how: str, monkeypatch: pytest.MonkeyPatch):
    class Lpips:
        """The mean difference."""

        backbone, calibrated = "alexnet", True

        def apply(self, variables, x, y, spatial=False):
            distance = jnp.abs(x - y).mean(-1) * variables["params"]
            return distance if spatial else distance.mean((1, 2))

    monkeypatch.setattr(convert, "from_torch", lambda *_: (Lpips(), 1.0))
    measure = metrics.Lpips(Path("any"), Choices(similarity=how))
    assert measure.names == ("head-LPIPS-alexnet", "body-LPIPS-alexnet")
    truth = kept()
    ideal = np.where(truth.head_mask[..., None], truth.head, truth.body)
    worse = np.where(truth.head_mask[..., None], ideal // 2, ideal)
    found = measure(worse, truth)
    assert found["body-LPIPS-alexnet"] == 0
    difference = (truth.head / 127.5 - (truth.head // 2) / 127.5).mean(-1)[truth.head_mask]
    share = truth.head_mask.mean() if how == "whole" else 1
    np.testing.assert_allclose(found["head-LPIPS-alexnet"], difference.mean() * share, rtol=1e-4)
