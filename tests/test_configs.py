"""The paper's configs: they make tasks, and their networks have the sizes of the published ones."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import ablations, embedded, shhq256, shhq512
from hsd_jax.labels import LABEL_SETS
from hsd_jax.swapping import mixing
from hsd_jax.training.loop import DEFAULTS
from hsd_jax.training.optimizer import make_optimizer
from hsd_jax.training.tasks import layout, make_task

CIHP = LABEL_SETS["cihp20"]
CONFIGS = {"shhq256": shhq256, "shhq512": shhq512}
EVERY = [(name, part) for name in CONFIGS for part in shhq256.PARTS]
# vq-f4 and semantic_synthesis256 as CompVis publishes them (the latter with 6 input channels, and
# a 1 x 1 convolution of 20 classes to 3); U2-Net with 20 classes and the focus map; our parser.
SIZES = {
    "autoencoder": {"autoencoder": 55_322_782, "discriminator": 2_767_425},
    "diffusion": {"unet": 215_229_315, "condition": 60},
    "layout": {"layout_generator": 44_327_721, "discriminator": 2_784_833},
    "parser": {"parser": 5_130_000},
}


def plain(name: str, part: str, folder: Path) -> dict:
    """The config as the loop gets it, with statistics of three latent channels."""
    config = CONFIGS[name].get_config(part)
    if "latents" in config.data:
        (folder / "stats.json").write_text(json.dumps({"mean": [0.0] * 3, "std": [1.0] * 3}))
        config.data.latents = str(folder)
    return config.to_dict()


@pytest.mark.parametrize("part", shhq256.PARTS)
def test_sizes_are_the_published_networks(part: str, tmp_path: Path):
    # One network serves both resolutions: the shapes that init is given do not depend on them.
    task = make_task(plain("shhq256", part, tmp_path))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(net)) for name, net in shapes.items()
    }
    assert {name: count[name] for name in SIZES[part]} == SIZES[part]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    assert set(task.parts(shapes)) <= set(shapes)


@pytest.mark.parametrize("part", shhq256.PARTS)
def test_both_resolutions_have_the_same_networks(part: str):
    small, large = shhq256.get_config(part), shhq512.get_config(part)
    for key in ("model", "condition", "schedule", "discriminator", "loss", "labels", "ema"):
        assert small.get(key) == large.get(key)


def example_of(size: int) -> dict:
    """A face over a neck over clothes, and a partner who stands aside."""
    layout = np.zeros((size, size), np.uint8)
    layout[size // 6 : size // 2, size // 3 : -size // 3] = CIHP.face
    layout[size // 2 : size * 5 // 8, size // 3 : -size // 3] = CIHP.index("skin")
    layout[size * 5 // 8 :, size // 4 : -size // 4] = CIHP.index("upper_clothes")
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    partner = np.roll(layout, (size // 6, size // 8), (0, 1))
    latents = np.zeros((size // 4, size // 4, 3), np.float16)
    return dict(image=image, layout=layout, partner=partner, latents=latents, source="shhq")


@pytest.mark.parametrize(("name", "part"), EVERY)
def test_transforms_make_one_shape(name: str, part: str, tmp_path: Path):
    """Training and test examples of the data set's size, as the step is given them."""
    config = plain(name, part, tmp_path)
    task, rng = make_task(config), np.random.default_rng(0)
    size = int(name.removeprefix("shhq"))
    example = example_of(size)
    view = size if part in ("autoencoder", "diffusion") else 256
    made = task.transform(dict(example), rng)
    for key, factor in (("image", 1), ("layout", 1), ("latents", 4)):
        if key in made:
            assert made[key].shape[:2] == (view // factor,) * 2
    assert set(task.eval_transform(dict(example), rng)) == set(made)
    if part == "diffusion":
        assert made["corner"].tolist() == [0, 0]  # the whole latents


def test_the_papers_examples_are_the_data_but_for_the_head_cover(tmp_path: Path):
    """HS-Diffusion, section 3.2: no other augmentation; necks go in the layout generator alone."""
    example, rng = example_of(256), np.random.default_rng(0)
    made = {
        part: make_task(plain("shhq256", part, tmp_path)).transform(dict(example), rng)
        for part in ("autoencoder", "layout", "diffusion")
    }
    np.testing.assert_array_equal(made["autoencoder"]["image"], example["image"])
    for name in ("layout", "partner"):
        np.testing.assert_array_equal(made["layout"][name], example[name])
    covered = np.asarray(mixing.head_cover(example["layout"], example["partner"], CIHP))
    assert (covered != example["layout"]).any()
    np.testing.assert_array_equal(made["diffusion"]["layout"], covered)
    without = np.asarray(mixing.remove_neck(covered, CIHP))
    assert (without != covered).any()
    batch = {name: made["layout"][name][None] for name in ("layout", "partner")}
    np.testing.assert_array_equal(layout.holes(batch, CIHP)[0], without)
    config = plain("shhq256", "diffusion", tmp_path)
    config["data"]["remove_neck"] = True
    made = make_task(config).transform(dict(example), rng)
    np.testing.assert_array_equal(made["layout"], without)


def test_ablations_differ_in_what_their_ldm_sees():
    facts = {
        name: ablations.get_config(name).data.to_dict() for name in ablations.NEEDS
    }
    seen = {name: (data["cover"], data["remove_neck"]) for name, data in facts.items()}
    assert seen == {"plain": (0, False), "cover": (1, False), "cover_no_neck": (1, True)}


@pytest.mark.parametrize(("name", "part"), EVERY)
def test_every_option_of_the_loop_can_be_set(name: str, part: str):
    config = CONFIGS[name].get_config(part)
    for key, value in DEFAULTS.items():
        given = config[key].to_dict() if isinstance(value, dict) else config[key]
        assert type(given) is type(value), key  # a flag takes values of the config's type
    assert set(embedded.get_config(part)) <= set(config)
    make_optimizer(config.optimizer.to_dict(), config.steps)
    assert config.batch_size % 8 == config.eval_batch_size % 8 == 0  # eight GPUs, as the paper's
    if part == "parser":
        assert set(config.loss.class_weights) == set(LABEL_SETS[config.labels].classes)


@pytest.mark.parametrize(
    ("name", "part", "millions"),
    [
        ("shhq256", "autoencoder", 14.7),
        ("shhq256", "diffusion", 10.1),
        ("shhq256", "layout", 1.4),
        ("shhq512", "autoencoder", 7.2),
        ("shhq512", "diffusion", 5.5),
        ("shhq512", "layout", 1.4),
    ],
)
def test_images_and_optimiser_are_the_papers(name: str, part: str, millions: float):
    config = CONFIGS[name].get_config(part)
    assert abs(config.steps * config.batch_size - millions * 1e6) < config.batch_size
    assert (config.optimizer.b1, config.optimizer.b2) == (0.5, 0.999)
    assert config.optimizer.weight_decay == 0


def test_unknown_part():
    with pytest.raises(ValueError, match="no SHHQ config 'unet': use one of autoencoder"):
        shhq512.get_config("unet")
