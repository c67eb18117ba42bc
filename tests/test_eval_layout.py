"""The layout generator's metrics, and our own sampler, with stand-ins for the networks."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hsd_jax import cli, weights
from hsd_jax.diffusion.schedule import Schedule
from hsd_jax.evaluation import layouts, sampling
from hsd_jax.evaluation.pairs import LabelledImage
from hsd_jax.evaluation.regions import stage
from hsd_jax.labels import HALFBODY9 as LABELS
from hsd_jax.models.layout_generator import LayoutOutput
from hsd_jax.swapping.mixing import head_cover, mix_layouts, remove_neck
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import PARTS, SwapSpec

SIZE = 64
HAIR, FACE, NECK, CLOTHES = (LABELS.index(x) for x in ("hair", "face", "neck", "clothes"))


def person(size: int = SIZE, left: int = 24, long: int = 0) -> np.ndarray:
    layout = np.zeros((64, 64), np.uint8)
    layout[34:, 12:52] = CLOTHES
    layout[10:28, left - 4 : left + 20] = HAIR
    layout[28 : 28 + long, left - 4 : left] = HAIR
    layout[14:28, left : left + 16] = FACE
    layout[28:34, left + 4 : left + 12] = NECK
    return layout.repeat(size // 64, 0).repeat(size // 64, 1)


class _Generator(nn.Module):
    """Fills every hole with one class, hair (a head's) before the neck."""

    @nn.compact
    def __call__(self, layout):
        order = self.param("order", nn.initializers.zeros, (LABELS.num_classes,))
        hole = layout[..., :1]
        probs = layout * (1 - hole) + hole * order[None, None, None]
        return LayoutOutput(probs, probs, hole)


class _Networks(SwapNetworks):
    """Networks without parameters: the neck is filled in the layout, latents are noisy images."""

    def __init__(self):
        pass

    spec = SwapSpec(
        size=256, labels=LABELS, factor=1, latent_mean=(0.0,) * 3, latent_std=(1.0,) * 3,
        schedule=Schedule("linear"), prediction="eps", known=False, steps=2, layout_size=64,
    )  # fmt: skip
    params = {name: {} for name in PARTS}
    facts = ("noise",)

    def align(self, heads, bodies):
        return jnp.zeros(len(heads), jnp.int32), heads

    def plan(self, params, heads, bodies, region="head"):
        blended, masks = mix_layouts(heads, bodies, LABELS)
        layout = jnp.where((masks.rest > 0) & (bodies == NECK), NECK, blended)
        return Plan(blended, layout, masks.head > 0, masks.body > 0)

    def encode(self, params, images):
        return images.astype(jnp.float32)

    def sample(self, params, z_head, z_body, plan, seeds, numbers, *, sampling):
        def one(seed, number):
            key = jax.random.fold_in(jax.random.key(seed), number)
            return jax.random.randint(key, z_head.shape[1:], 0, 100)

        noise = jax.vmap(one)(seeds, numbers[:, 0])
        return (noise + 100 * (plan.layout == NECK)[..., None])[:, None].astype(jnp.float32), None

    def decode(self, params, z):
        return z.astype(jnp.uint8)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose weights are those of the two above."""
    order = jnp.zeros((LABELS.num_classes,)).at[HAIR].set(0.6).at[NECK].set(0.4)
    loaded = weights.Loaded(
        _Generator(), {"order": order}, {"labels": "halfbody9", "size": 32}
    )
    monkeypatch.setattr(weights, "load_part", lambda *_: loaded)
    monkeypatch.setattr(weights, "read_record", lambda *_: {"extra": {}})
    monkeypatch.setattr(sampling.SwapNetworks, "load", lambda _: _Networks())
    return tmp_path


def test_ious_of_a_confusion():
    true, found = np.array([[0, 0, 1, 3]]), np.array([[0, 1, 1, 3]])
    counts = layouts.confusion(true, found, 9)
    values = layouts.ious(counts)
    np.testing.assert_allclose(values[[0, 1, 3]], [1 / 2, 1 / 2, 1])
    assert np.isnan(values[2])
    found = layouts.generator_metrics(counts, LABELS)
    assert found["mIoU"] == pytest.approx(2 / 3) and found["neck IoU"] == 1
    assert found["IoU hair"] == 0.5 and "IoU face" not in found


def test_a_class_that_is_only_found_counts_against_the_others():
    counts = layouts.confusion(np.zeros(4, int), np.array([0, 0, 3, 3]), 9)
    found = layouts.generator_metrics(counts, LABELS)
    assert found["mIoU"] == 0.5 and found["neck IoU"] == 0


def test_a_person_is_all_that_is_not_background():
    true, found = np.array([0, HAIR, FACE, FACE]), np.array([FACE, HAIR, HAIR, FACE])
    metrics = layouts.parser_metrics(layouts.confusion(true, found, 9), LABELS)
    # Hair taken for face is still the person; background taken for face is not.
    assert metrics == {"background": 0, "hair": 1 / 2, "face": 1 / 3, "person": 3 / 4}


def test_the_interval_over_seeds_is_students():
    found = layouts.over_seeds([1.0, 2.0, 3.0])
    assert (found.mean, found.std) == (2, 1)
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert layouts.over_seeds([2.0]) == (2, 0, 2, 2)


def test_the_views_of_a_batch(folder: Path):
    fill = layouts.Filler(folder)
    true = np.stack([person(), person(left=20)]).astype(np.int32)
    others = np.stack([person(long=20), person(left=34, long=30)]).astype(np.int32)
    found = fill(true, others)
    expected = remove_neck(head_cover(true, others, LABELS), LABELS)
    np.testing.assert_array_equal(found["input"], expected)
    assert (found["input"] != true).any() and found["generator"].shape == true.shape
    rest = ~np.isin(found["input"], (*LABELS.head, *LABELS.body))
    np.testing.assert_array_equal(found["swap"][~rest], found["input"][~rest])
    # The generator prefers hair; a swap takes no head from it.
    assert (found["generator"][rest] == HAIR).any()
    assert not np.isin(found["swap"][rest], LABELS.head).any()


def test_what_the_input_scores_is_known(folder: Path):
    people = [person(left=left) for left in (20, 24, 28)]
    fill = layouts.Filler(folder)
    found = layouts.evaluate(people, fill, [0, 1], fitted=False)
    # Heads without long hair cover no clothes here: only the necks are lost.
    for row in found["input"]:
        assert row["neck IoU"] == 0 and row["IoU clothes"] == row["IoU face"] == 1
    again = layouts.evaluate(people, fill, [0, 1], fitted=False)
    assert found == again
    with pytest.raises(ValueError, match="a head-cover needs two"):
        layouts.evaluate(people[:1], fill, [0], fitted=False)


class _Source:
    names = ["a"] * 4

    def __len__(self) -> int:
        return 4

    def layout(self, index: int) -> np.ndarray:
        return person(left=20 + 2 * index, long=5 * index)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": np.zeros((SIZE, SIZE, 3), np.uint8), "layout": self.layout(index)}


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(layouts, "load_source", lambda *_, **__: _Source())
    command = [
        "eval", "layout", "--data", "unread", "--weights", str(folder), "--seeds", "2", "--cover",
        "fitted", "--json",
    ]  # fmt: skip
    assert cli.main([*command, str(tmp_path / "x.json")]) == 0, capsys.readouterr().err
    assert "0.9319 +- 0.0016" in capsys.readouterr().out
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["seeds"] == [0, 1] and content["layouts"] == 4
    assert set(content["metrics"]) == set(layouts.VIEWS)
    row = content["metrics"]["swap"]["mIoU"]
    assert row["low"] <= row["mean"] <= row["high"] < 1
    assert cli.main([*command, str(tmp_path / "none" / "x.json")]) == 2
    assert cli.main([*command, str(tmp_path / "x.json"), "--sources", "c"]) == 2
    assert "use a" in capsys.readouterr().err


def pictures() -> list[LabelledImage]:
    rng = np.random.default_rng(0)
    return [
        LabelledImage(rng.integers(0, 256, (256, 256, 3), np.uint8), layout.astype(np.int32))
        for layout in (person(256, left) for left in (20, 28))
    ]


@pytest.mark.untyped
def test_a_sample_depends_on_its_pair_alone(folder: Path):
    people = pictures()
    staged = [stage(*pair, LABELS, "face", True) for pair in (people, people[::-1])]
    sampler = sampling.Sampler(folder, seed=1, batch=2)
    together, alone = sampler(["0", "1"], staged, LABELS), sampler(["1"], staged[1:], LABELS)[0]
    for x, y in zip(together[1], alone, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (together[1].latents != sampler(["2"], staged[1:], LABELS)[0].latents).any()
    other = sampling.Sampler(folder, seed=2, batch=2)(["1"], staged[1:], LABELS)[0]
    assert (other.latents != alone.latents).any()
    # Far from head, neck and old head the pixels are the body photo's own, and only there.
    np.testing.assert_array_equal(alone.pixels[220:, 60:200], people[0].image[220:, 60:200])
    assert (alone.latents[220:] != people[0].image[220:]).any()
    small = LabelledImage(people[0].image[:64, :64], person().astype(np.int32))
    with pytest.raises(ValueError, match="built at 256 x 256"):
        sampler(["0"], [stage(small, small, LABELS, "data", True)], LABELS)


@pytest.mark.untyped
def test_the_condition_without_a_layout_generator_has_holes(folder: Path):
    staged = [stage(*pictures(), LABELS, "face", True)]
    inpainted, holed = (
        sampling.Sampler(folder, inpaint=inpaint, batch=1)(["0"], staged, LABELS)[0].latents
        for inpaint in (True, False)
    )
    neck = staged[0].body.layout == NECK
    assert (inpainted[neck] >= 100).any() and (holed < 100).all()


def test_the_fingerprint_of_weights(tmp_path: Path):
    assert len(sampling.fingerprint(weights.find())) == 16
    with pytest.raises(ValueError, match="holds no autoencoder"):
        sampling.fingerprint(tmp_path)
