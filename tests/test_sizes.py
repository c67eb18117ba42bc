"""The size, the labels and the finish of a swap belong to its weights."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import write_weights

from hsd_jax import HeadSwapper, cli, weights
from hsd_jax.imaging.demo import find_photos
from hsd_jax.imaging.files import open_photo
from hsd_jax.labels import CIHP20, HALFBODY9, LabelSet, remap
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import Finish, Sampling, SwapSpec


def with_trained_parser(folder: Path) -> Path:
    """The folder with the embedded parser, which finds people."""
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    return folder


# At 256 test_swap does it with the embedded weights.
@pytest.mark.parametrize("size", [128, pytest.param(256, marks=pytest.mark.slow), 512])
def test_a_swap_works_at_the_size_of_its_weights(tmp_path, size):
    swapper = HeadSwapper(with_trained_parser(write_weights(tmp_path, size)))
    body = open_photo(find_photos()[1])
    result = swapper(*find_photos())
    assert swapper.spec.size == size and result.image.shape == body.shape
    assert result.layout.shape == (size, size)
    assert all(stage.shape[:2] == (size, size) for stage in result.stages.values())
    # An untrained decoder paints noise; what is kept is the photos' all the same.
    kept = result.mask == 0
    outside = kept & (result.image == body).all(-1)
    assert 0.6 < outside.mean() and 0.01 < (result.mask == 1).mean() < 0.4


def test_programs_are_told_apart_by_the_spec(tmp_path):
    runners = [
        Runner(SwapNetworks.load(write_weights(tmp_path / str(size), size))) for size in (128, 256)
    ]
    facts = [repr(runner._networks.facts) for runner in runners]
    assert facts[0] != facts[1]
    other = write_weights(tmp_path / "finish", 128, finish={"tone": 0.5})
    assert repr(Runner(SwapNetworks.load(other))._networks.facts) != facts[0]


def test_layouts_are_remapped_from_the_parser_to_the_other_networks(tmp_path):
    folder = with_trained_parser(write_weights(tmp_path, 128, labels="cihp20"))
    swapper = HeadSwapper(folder)
    pair = swapper.pair(*find_photos())
    own = HeadSwapper(with_trained_parser(write_weights(tmp_path / "own", 128)))
    theirs = own.pair(*find_photos())
    for mine, other in ((pair.head, theirs.head), (pair.body, theirs.body)):
        np.testing.assert_array_equal(mine.layout, remap(other.layout, HALFBODY9, CIHP20))
    assert np.isin(pair.head.layout, CIHP20.head).mean() > 0.05


def test_a_parser_whose_classes_mean_nothing_to_the_others_is_refused(tmp_path):
    bald = LabelSet(
        "bald", ("background", "face", "neck", "clothes"), (1,), (3,), (2,), 0, ((0, 0, 0),) * 4
    )
    part = weights.load_part(weights.find(), "parser")
    with pytest.raises(ValueError, match="parser speaks halfbody9, the other networks bald.*hair"):
        PhotoParser(part, labels=bald)


def test_networks_of_two_label_sets_are_refused_by_name(tmp_path):
    folder = write_weights(tmp_path, 128)
    path = folder / "layout_generator.json"
    record = json.loads(path.read_text())
    record["extra"]["labels"] = "cihp20"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="layout_generator speaks cihp20, the UNet halfbody9"):
        SwapNetworks.load(folder)


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"size": 100}, "size is 100: it must be a multiple of 32"),
        ({"size": 160}, "no multiple of the layout generator's 128"),
        ({"prediction": "noise"}, "prediction is 'noise'"),
        ({"latent_std": [0.0] * 4}, "deviations above 0"),
        ({"labels": "nobody"}, "unknown label set 'nobody'"),
        ({"finish": {"shine": 1}}, "finish has no 'shine'"),
        ({"finish": {"tone": 2}}, "tone is 2, out of range"),
        ({"finish": {"tone": True}}, "tone is True, it must be a number"),
        ({"finish": {"own_neck": 1}}, "own_neck is 1, it must be true or false"),
    ],
)
def test_a_description_that_makes_no_swap_is_refused(tmp_path, facts, message):
    folder = write_weights(tmp_path, 128)
    path = folder / "unet.json"
    record = json.loads(path.read_text())
    record["extra"] |= facts
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        SwapNetworks.load(folder)


def test_what_weights_do_not_tell_is_named(tmp_path):
    folder = write_weights(tmp_path, 128)
    path = folder / "unet.json"
    record = json.loads(path.read_text())
    del record["extra"]["labels"], record["extra"]["schedule"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="lack labels, schedule: add them"):
        SwapNetworks.load(folder)


def test_networks_that_ask_for_no_finish_get_none(tmp_path):
    spec = SwapNetworks.load(write_weights(tmp_path, 128)).spec
    assert spec.finish == Finish()
    embedded: SwapSpec = SwapNetworks.load(weights.find()).spec
    assert embedded.finish.texture > 0 and embedded.finish.match_border


def test_a_finish_is_read_from_text():
    assert Finish.parse(["tone=0.25", "own_neck=true"]) == {"tone": 0.25, "own_neck": True}
    wrong = {"tone": "give KEY=VALUE", "tone=x": "give KEY=VALUE", "x=1": "no 'x'"}
    for text, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            Finish.parse([text])


@pytest.mark.untyped
def test_preserving_latents_gives_the_decoders_own_crop(tmp_path):
    folder = with_trained_parser(write_weights(tmp_path, 128))
    swapper = HeadSwapper(folder)
    pair = swapper.pair(*find_photos())
    ((photo,),) = swapper.paint([pair], [0])
    ((latents,),) = swapper.paint([pair], [0], preserve="latents")
    crop = pair.body.crop
    np.testing.assert_array_equal(photo.stages["decoded"], latents.stages["decoded"])
    inside = np.zeros(latents.mask.shape, bool)
    inside[max(0, crop.top) : crop.top + crop.side, max(0, crop.left) : crop.left + crop.side] = 1
    np.testing.assert_array_equal(latents.mask == 1, inside)
    body = open_photo(find_photos()[1])
    np.testing.assert_array_equal(latents.image[~inside], body[~inside])
    assert (latents.image[inside] != photo.image[inside]).any(-1).mean() > 0.5
    with pytest.raises(ValueError, match="preserve is 'all'"):
        swapper(*find_photos(), preserve="all")


@pytest.mark.slow  # as test_batch does with files
def test_a_batch_gives_each_pair_what_it_gets_alone(tmp_path):
    networks = SwapNetworks.load(write_weights(tmp_path, 128, steps=3))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 128, 128, 3), np.uint8)
    layouts = np.zeros((2, 3, 128, 128), np.int32)
    for i in range(3):
        layouts[0, i, 20:60, 40 + 5 * i : 80] = HALFBODY9.face
        layouts[1, i, 20:60, 45:85] = HALFBODY9.face
        layouts[:, i, 60:, 20:110] = HALFBODY9.index("clothes")
    seeds, numbers = np.array([5, 5, 9], np.uint32), np.array([[0, 1], [1, 2], [0, 1]], np.uint32)
    together = Runner(networks, 4, jax.devices()[:2])  # two devices, and a pair of padding
    alone = Runner(networks)
    assert together.batch == 4

    def run(runner: Runner, which: slice):
        shifts, heads = runner.align(
            layouts[0, which], layouts[1, which], np.zeros(len(layouts[0, which]), bool)
        )
        plan = runner.plan(heads, layouts[1, which])
        painted = runner.paint(
            images[0, which], images[1, which], plan, seeds=seeds[which], numbers=numbers[which],
            sampling=Sampling(keep=True),
        )  # fmt: skip
        return shifts, plan, painted

    shifts, plan, painted = run(together, slice(None))
    assert shifts.tolist() == [2, 0, -2] or len(set(shifts.tolist())) == 3
    assert painted.images.shape == (3, 2, 128, 128, 3)
    assert painted.history is not None and painted.history.shape == (3, *painted.images.shape)
    for i in range(3):
        one_shift, one_plan, one = run(alone, slice(i, i + 1))
        assert one_shift[0] == shifts[i]
        for mine, other in zip(plan, one_plan, strict=True):
            np.testing.assert_array_equal(mine[i], other[0])
        difference = painted.images[i].astype(int) - one.images[0]
        assert np.abs(difference).max() <= 1  # rounding of another batch
    same = painted.images[0, 1].astype(int) - painted.images[1, 0]
    assert np.abs(same).max() > 1  # one seed and number, but other pairs


def test_info_prints_the_description(tmp_path, capsys):
    folder = write_weights(tmp_path, 128)
    assert cli.main(["info", "--weights", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["spec"]["size"] == 128 and told["spec"]["labels"] == "halfbody9"
    assert told["networks"]["unet"]["parameters"] > 1000
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert "256" in text and "match_border" in text and "parser" in text
