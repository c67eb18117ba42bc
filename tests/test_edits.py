"""Edits: the same fusion with other masks and layouts; what they leave alone stays, to the bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import write_weights

from hsd_jax import HeadSwapper, weights
from hsd_jax.imaging import drawings, files, framing, sheets
from hsd_jax.labels import LABEL_SETS, colorize, get_label_set
from hsd_jax.swap import SwapResult
from hsd_jax.swapping import mixing
from hsd_jax.swapping.edits import Edit
from hsd_jax.swapping.mixing import REGIONS, mix_layouts, region_classes, regions
from hsd_jax.swapping.pair import Pair

L = get_label_set("halfbody9")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> HeadSwapper:
    """Finds people, paints noise, with the finish of the shipped weights."""
    facts = weights.read_record(weights.find(), "unet")["extra"]
    folder = write_weights(tmp_path_factory.mktemp("weights"), 128, finish=facts["finish"])
    for path in weights.find().glob("parser.*"):
        shutil.copyfile(path, folder / path.name)
    return HeadSwapper.from_pretrained(folder)


@pytest.fixture(scope="module")
def parsed(tiny: HeadSwapper, pair: tuple[np.ndarray, np.ndarray]) -> Pair:
    return tiny.pair(*pair, skin_tone="keep")


def painted(tiny: HeadSwapper, parsed: Pair, edit: Edit) -> SwapResult:
    ((result,),) = tiny.paint([replace(parsed, edit=edit)], [0])
    return result


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=lambda labels: labels.name)
def test_masks_of_every_region_are_disjoint_and_whole(labels):
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, labels.num_classes, (2, 1, 32, 32))
    for region in REGIONS:
        masks = regions(one, two, labels, region)
        np.testing.assert_array_equal(masks.head + masks.body + masks.rest, 1)
        given = region_classes(region, labels)
        assert np.isin(one[masks.head > 0], given).all()
        if region != "head":  # all that is neither of the region nor background is kept
            others = ~np.isin(two, (*given, labels.background)) & (masks.head == 0)
            np.testing.assert_array_equal(masks.body > 0, others)
        layout, _ = mix_layouts(one, two, labels, region)
        np.testing.assert_array_equal(layout[masks.head > 0], one[masks.head > 0])
        np.testing.assert_array_equal(layout[masks.rest > 0], labels.background)


def test_regions_are_named_classes():
    names = {region: {L.classes[i] for i in region_classes(region, L)} for region in REGIONS}
    assert names == {
        "head": {"hair", "face", "hat", "glasses"}, "hair": {"hair"}, "hat": {"hat"},
        "face": {"face", "glasses"}, "clothes": {"clothes", "accessory"},
    }  # fmt: skip


def grown(mask: np.ndarray, crop: framing.Crop, shape: tuple[int, int], by: int) -> np.ndarray:
    """A crop's mask, `by` of its pixels wider, on the photo."""
    wide = np.asarray(mixing.dilate(mask, by), np.uint8)
    return framing.paste(np.zeros(shape, np.uint8), framing.enlarge(wide, crop.side), crop) > 0


# The others are slow only for the compilation of their plans.
_SLOW = [pytest.param(region, marks=pytest.mark.slow) for region in ("hat", "face", "clothes")]


@pytest.mark.parametrize("region", ["hair", *_SLOW])
def test_a_region_alone_is_replaced(tiny, parsed, region):
    body = parsed.body.photo
    result = painted(tiny, parsed, Edit(region))
    given, stages = region_classes(region, L), result.stages
    touched = np.isin(stages["head_layout"], given) | np.isin(stages["body_layout"], given)
    if region == "hat":  # presses hair down
        touched |= stages["body_layout"] == L.index("hair")
    strands = round(tiny.spec.finish.old_hair * tiny.spec.scale) if region == "hair" else 0
    untouched = ~grown(touched, result.crop, body.shape[:2], by=8 + strands)
    np.testing.assert_array_equal(result.image[untouched], body[untouched])
    assert (result.image != body).any(-1)[~untouched].mean() > 0.2
    assert not result.mask[untouched].any() and untouched.mean() > 0.4
    # And the part itself is the other photo's; a face ends at the other's.
    if region == "hair":
        assert np.isin(stages["inpainted"], given)[stages["head_layout"] == L.index("hair")].all()


def test_the_target_keeps_its_hair_as_a_swap_of_faces():
    assert Edit.of(hair="target") == Edit("face") and Edit.of() == Edit()
    with pytest.raises(ValueError, match="ask for no region 'hair'"):
        Edit.of("hair", hair="target")


@pytest.mark.parametrize("generate", ["head", "clothes"])
def test_what_is_sampled_keeps_its_layout_and_leaves_the_rest(tiny, parsed, generate):
    plain, made = painted(tiny, parsed, Edit()), painted(tiny, parsed, Edit(generate=generate))
    np.testing.assert_array_equal(made.layout, plain.layout)
    given = np.isin(made.layout, region_classes(generate, L))
    shape = plain.mask.shape
    inner = 1 - np.asarray(mixing.dilate(~given, 4))
    sampled = grown(inner > 0, made.crop, shape, by=0)
    assert sampled.mean() > 0.01 and (made.mask[sampled] > 0.99).mean() > 0.99
    # The strands of the head that was there are no part of another one.
    if generate == "clothes":
        away = ~grown(given, made.crop, shape, by=8) & (plain.mask == 0)
        np.testing.assert_array_equal(made.image[away], plain.image[away])


def test_a_layout_that_is_saved_and_given_back_changes_nothing(tiny, parsed, tmp_path):
    plain = painted(tiny, parsed, Edit())
    files.save_layout(plain.photo_layout, tmp_path / "indices.png", L.palette)
    Image.fromarray(colorize(plain.photo_layout, L)).save(tmp_path / "colours.png")
    for name in ("indices.png", "colours.png"):
        layout = drawings.open_layout(tmp_path / name, L.palette)
        again = painted(tiny, parsed, Edit(layout=layout))
        np.testing.assert_array_equal(again.image, plain.image)


def test_a_drawn_layout_is_painted_where_it_differs(tiny, parsed):
    plain = painted(tiny, parsed, Edit())
    drawn = plain.photo_layout
    drawn[330:370, 60:120] = L.index("accessory")  # on her sleeve
    made = painted(tiny, parsed, Edit(layout=drawn))
    changed = (made.image != plain.image).any(-1)
    assert changed[335:365, 65:115].mean() > 0.9 and (made.mask[335:365, 65:115] > 0.9).all()
    far = np.ones(changed.shape, bool)
    far[310:390, 40:140] = False
    assert not changed[far & (plain.mask == 0)].any()
    assert (made.layout == L.index("accessory")).any()


def test_outside_a_mask_nothing_changes(tiny, pair, parsed, tmp_path):
    head, body = pair
    allowed = np.zeros(body.shape[:2], np.uint8)
    allowed[60:200, 150:300] = 255
    Image.fromarray(allowed).save(tmp_path / "mask.png")
    mask = drawings.open_mask(tmp_path / "mask.png")
    result = tiny(head, body, edit=Edit(mask=mask), skin_tone="match")
    np.testing.assert_array_equal(result.image[~mask], body[~mask])
    assert (result.image != body).any(-1)[mask].mean() > 0.5 and not result.mask[~mask].any()
    nothing = painted(tiny, parsed, Edit(mask=np.zeros_like(mask)))
    np.testing.assert_array_equal(nothing.image, body)
    assert nothing.warnings[-1] == "nothing is changed: the result is the body photo"


def test_edits_in_turn_are_one_of_the_others_result(tiny, pair):
    head, body = pair
    mask = np.zeros(body.shape[:2], bool)
    mask[:300] = True
    edits = Edit.in_turn(["hat", "head"], mask=mask, generate="clothes")
    assert edits == [Edit("hat", mask=mask), Edit("head", "clothes", mask=mask)]
    edits = Edit.in_turn(["hat", "head"], mask=mask)
    both = tiny(head, body, seed=2, edit=edits)
    first = tiny(head, body, seed=2, edit=edits[0])
    second = tiny(head, first.image, seed=2, edit=edits[1])
    np.testing.assert_array_equal(both.image, second.image)
    np.testing.assert_array_equal(both.mask, np.maximum(first.mask, second.mask))
    np.testing.assert_array_equal(both.image[~mask], body[~mask])
    with pytest.raises(ValueError, match="the head photo shows no hat"):
        tiny(body, body, edit=[Edit(), Edit("hat")])
    pairs = [tiny.pair(head, body, edit=edit) for edit in (edits, edits[:1])]
    with pytest.raises(ValueError, match="some pairs have more edits"):
        tiny.paint(pairs, [0, 0])


def test_the_pairs_of_a_batch_are_of_one_region(tiny, parsed):
    with pytest.raises(ValueError, match="different regions: paint them apart"):
        tiny.paint([parsed, replace(parsed, edit=Edit("hair"))], [0, 0])


def test_edits_that_make_no_sense_are_refused(tiny, pair, tmp_path):
    head, body = pair
    small = np.zeros((100, 90), np.uint8)
    for edit, message in (
        (Edit(layout=small), "the layout is 90 x 100: give the body photo's size, 512 x 512"),
        (Edit(mask=small > 0), "the mask is 90 x 100"),
        (Edit(layout=np.full(body.shape[:2], 9, np.uint8)), "holds class 9: halfbody9 has 0 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(head, body, edit=edit)
    with pytest.raises(ValueError, match="the head photo shows no hat"):
        tiny(body, body, edit=Edit("hat"))
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"the colour \(7, 7, 7\) belongs to no class"):
        drawings.open_layout(tmp_path / "grey.png", L.palette)
    Image.new("L", (70, 70)).save(tmp_path / "black.png")
    for name, message in (
        ("text.png", "not an image"), ("none.png", "no such file"), ("black.png", "paint white")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            drawings.open_mask(tmp_path / name)


def test_a_mask_may_be_what_is_opaque(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = drawings.open_mask(tmp_path / "mask.png")
    assert mask[:32].all() and not mask[32:].any()


def test_a_contact_sheet_shows_all_in_order():
    images = [np.full((90, 60, 3), 20 * n, np.uint8) for n in range(5)]
    sheet = sheets.contact_sheet(images)
    assert sheet.shape == (2 * 98 + 8, 3 * 68 + 8, 3)
    for n in range(5):
        row, column = divmod(n, 3)
        assert (sheet[8 + 98 * row + 60, 8 + 68 * column + 30] == 20 * n).all()
