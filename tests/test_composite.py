"""Kept pixels stay what they are, and what is painted fits them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hsd_jax import weights
from hsd_jax.imaging import detail, framing
from hsd_jax.imaging.colour import from_linear, to_lab, to_linear
from hsd_jax.labels import HALFBODY9
from hsd_jax.swapping import finish
from hsd_jax.swapping.finish import Layers, even_hue, settle
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.spec import Finish

EVERYWHERE = np.ones((64, 64), bool)


@pytest.fixture(scope="module")
def spec():
    """Of the embedded weights, whose lengths are those of a crop of 256."""
    return SwapNetworks.load(weights.find()).spec


@pytest.fixture
def layers() -> Layers:
    """A grey body photo with a square hole of 24 pixels, and no head."""
    body = np.full((64, 64, 3), 120, np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:44, 20:44] = True
    return Layers(body, body, np.zeros(hole.shape, np.float32), finish.soft_mask(~hole, 3.0))


def whole(settled: finish.Settled, side: int) -> np.ndarray:
    return settled.at(side)((slice(0, side), slice(0, side)))


def test_kept_pixels_are_untouched_and_the_hole_is_painted(layers: Layers):
    painted = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    result = finish.blend(painted, layers)
    kept, hole = layers.body_alpha == 1, layers.body_alpha == 0
    assert kept[10, 10] and hole[20:44, 20:44].all()
    np.testing.assert_array_equal(result[kept], layers.body[kept])
    np.testing.assert_array_equal(result[hole], painted[hole])


def test_soft_mask_fades_inside_the_mask_and_not_at_the_frame():
    mask = np.zeros((16, 32), bool)
    mask[:, :16] = True
    alpha = finish.soft_mask(mask, fade=4.0)
    assert (alpha[:, 16:] == 0).all() and (alpha[:, :10] == 1).all()
    assert (np.diff(alpha[8, 11:17]) < 0).all()
    np.testing.assert_array_equal(finish.soft_mask(np.ones((4, 4), bool)), 1)


def test_painted_colours_are_moved_to_the_border(layers: Layers):
    painted = np.full((64, 64, 3), 90, np.uint8)
    painted[30:34, 30:34] += 20  # a detail that must stay
    settled = finish.match_border(painted, layers).astype(int)
    assert np.abs(settled[22:28, 22:42] - 120).max() <= 3
    assert settled[31, 31, 0] - settled[25, 31, 0] == 20


def test_hidden_background_continues_what_is_around(layers: Layers, spec):
    painted = np.full((64, 64, 3), 10, np.uint8)
    layout = np.full((64, 64), HALFBODY9.background)
    settled = whole(settle(painted, layers, layout, spec, EVERYWHERE), 64)
    np.testing.assert_allclose(settled[20:44, 20:44], 120, atol=1)


def test_hidden_clothes_take_tone_and_pattern_of_what_is_around(layers: Layers, spec):
    stripes = np.where(np.arange(64)[:, None] // 4 % 2, 160, 80).astype(np.uint8)
    body = np.broadcast_to(stripes[..., None], (64, 64, 3)).copy()
    body[layers.body_alpha < 1] = 10
    striped = replace(layers, body=body)
    layout = np.full((64, 64), HALFBODY9.index("clothes"))
    settled = settle(
        np.full((64, 64, 3), 60, np.uint8), striped, layout, spec, EVERYWHERE
    )
    middle = settled.image[26:38, 30:34, 0]
    assert 95 < middle.mean() < 145 and np.ptp(middle.mean(1)) > 40


def test_hair_that_its_photo_cuts_off_is_made_of_what_it_shows(layers: Layers, spec):
    strands = np.where(np.arange(64)[None] // 4 % 2, 90, 30).astype(np.uint8)
    inside = np.arange(64)[:, None].repeat(64, 1) >= 20
    head = np.broadcast_to(strands[..., None], (64, 64, 3)) * inside[..., None]
    kept = finish.soft_mask(inside, 3.0)
    cut_off = Layers(head.astype(np.uint8), layers.body, kept, np.zeros_like(kept))
    painted = np.full((64, 64, 3), 200, np.uint8)
    layout = np.full((64, 64), HALFBODY9.index("hair"))
    grown = settle(painted, cut_off, layout, spec, EVERYWHERE, inside).image[4:16, 8:56, 0]
    assert grown.min() > 29 and grown.max() < 91 and np.ptp(grown.mean(0)) > 40
    whole_head = settle(painted, cut_off, layout, spec, EVERYWHERE, EVERYWHERE).image
    assert np.ptp(whole_head[4:16, 8:56, 0].mean(0)) < 5


@pytest.mark.parametrize("region", ["hair", "face"])
def test_a_painted_cheek_goes_on_as_the_kept_face(layers: Layers, spec, region):
    """A shadow that the networks painted beside hair goes; an eye is not continued."""
    skin, shadow, eye = (200, 150, 130), (90, 60, 50), (20, 20, 20)
    face = np.full((64, 64, 3), skin, np.uint8)
    face[30:34, 16:20] = eye
    layout = np.full((64, 64), HALFBODY9.face)
    kept = {"hair": ("body", "body_alpha"), "face": ("head", "head_alpha")}[region]
    alpha = layers.body_alpha
    nothing = np.zeros_like(alpha)
    layers = replace(layers, head_alpha=nothing, body_alpha=nothing)
    layers = replace(layers, **dict(zip(kept, (face, alpha), strict=True)))
    painted = np.full((64, 64, 3), shadow, np.uint8)
    alone = replace(spec, finish=replace(spec.finish, match_border=False))
    made = whole(settle(painted, layers, layout, alone, EVERYWHERE, region=region), 64)
    far = np.abs(made[20:44, 20:44] - skin).max() / np.abs(np.subtract(shadow, skin)).max()
    assert far < (0.2 if region == "hair" else 0.55)


def test_painted_skin_keeps_near_the_hue_of_the_face(layers: Layers):
    face_colour, painted_colour = np.array([200, 150, 130]), np.array([150, 110, 190])
    head = np.broadcast_to(face_colour.astype(np.uint8), (64, 64, 3))
    face = np.zeros((64, 64), bool)
    face[:20] = True
    painted = np.broadcast_to(painted_colour.astype(np.float32), (64, 64, 3)).copy()
    skin = np.zeros((64, 64), bool)
    skin[30:60] = True
    result = even_hue(painted, skin, head, face, 0.8, 4.0)
    own, before, after = (to_lab(x) for x in (face_colour, painted_colour, result[45, 32]))
    strayed = np.hypot(*(before - own)[1:])
    # Colours beyond sRGB are clipped, so not to the digit.
    np.testing.assert_allclose(np.hypot(*(after - own)[1:]), 4 + 0.2 * (strayed - 4), rtol=0.5)
    np.testing.assert_allclose(after[0], before[0], atol=0.5)
    np.testing.assert_array_equal(result[:25], painted[:25])
    same = even_hue(head.astype(np.float32), skin, head, face, 0.8, 4.0)
    np.testing.assert_allclose(same, head, atol=0.01)
    shaded = from_linear(0.2 * to_linear(head)) * np.ones_like(painted)
    np.testing.assert_allclose(even_hue(shaded, skin, head, face, 0.8, 1.0), shaded, atol=0.5)


def test_membrane_keeps_what_counts_and_stays_between_its_values():
    rng = np.random.default_rng(1)
    values = rng.uniform(0, 1, (32, 32, 2)).astype(np.float32)
    weight = (rng.uniform(size=(32, 32)) > 0.7).astype(np.float32)
    filled = finish.membrane(values, weight)
    np.testing.assert_allclose(filled[weight == 1], values[weight == 1], atol=1e-6)
    known = values[weight == 1]
    assert filled.min() >= known.min() - 1e-5 and filled.max() <= known.max() + 1e-5


def test_without_a_finish_what_is_painted_stays(layers: Layers, spec):
    painted = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    layout = np.full((64, 64), HALFBODY9.index("clothes"))
    plain = replace(spec, finish=Finish())
    settled = settle(painted, layers, layout, plain, EVERYWHERE)
    np.testing.assert_array_equal(whole(settled, 64), painted)


def test_what_is_painted_takes_the_grain_of_the_photo(layers: Layers, spec):
    rng = np.random.default_rng(0)
    photo = np.clip(120 + 12 * rng.standard_normal((256, 256, 1)), 0, 255).astype(np.uint8)
    photo = np.broadcast_to(photo, (256, 256, 3)).copy()
    kept = finish.soft_mask(np.asarray(layers.body_alpha > 0), 1.0)
    crop = replace(layers, body=framing.resize(photo, 64), body_alpha=kept)
    layout = np.full((64, 64), HALFBODY9.index("clothes"))
    settled = settle(np.full((64, 64, 3), 120, np.uint8), crop, layout, spec, EVERYWHERE)
    tile = slice(100, 156), slice(90, 150)
    plain = settled.at(256)(tile)
    grained = plain + detail.Carried.of(photo, settled.sources).at(tile)
    assert plain[:, 10:].std() < 4 and 8 < grained[:, 10:].std() < 16
    np.testing.assert_allclose(plain, whole(settled, 256)[tile], atol=1e-3)


def test_a_painted_outline_is_as_sharp_as_a_photo(spec):
    """From painted clothes to the background behind them within three of the photo's pixels."""
    layout = np.full((64, 64), HALFBODY9.background)
    layout[:, 32:] = HALFBODY9.index("clothes")
    colours = np.where((layout == 0)[..., None], 40, 200).astype(np.uint8).repeat(3, -1)
    hole = np.zeros((64, 64), bool)
    hole[16:48, 16:48] = True
    layers = Layers(colours, colours, np.zeros((64, 64), np.float32), finish.soft_mask(~hole, 3.0))
    blurred = ndimage.gaussian_filter(colours.astype(np.float32), (3, 3, 0)).astype(np.uint8)
    settled = settle(blurred, layers, layout, spec, EVERYWHERE)
    row = whole(settled, 512)[256, :, 0]
    assert np.count_nonzero((row[200:312] > 60) & (row[200:312] < 180)) <= 3
