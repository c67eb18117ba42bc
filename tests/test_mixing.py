"""Mixing, head-cover and neck alignment: goldens by hand and properties of random layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from hsd_jax.labels import CELEBAMASK19, CIHP20, HALFBODY9, remap
from hsd_jax.swapping import mixing

L = HALFBODY9
H, W = 12, 16
LAYOUTS = hnp.arrays(np.int32, (H, W), elements=st.integers(0, L.num_classes - 1))

# Jitted once with the label set static, as all callers do; Hypothesis reuses the one compilation.
mix_layouts = jax.jit(mixing.mix_layouts, static_argnums=2)
head_cover = jax.jit(mixing.head_cover, static_argnums=2)
remove_neck = jax.jit(mixing.remove_neck, static_argnums=1)
neck_shift = jax.jit(mixing.neck_shift, static_argnums=2)
turned_neck_shift = jax.jit(mixing.turned_neck_shift, static_argnums=2)
extended_neck_shift = jax.jit(mixing.extended_neck_shift, static_argnums=2)
shift_columns = jax.jit(mixing.shift_columns, static_argnums=3)


def isin(layout, classes):
    return np.isin(np.asarray(layout), classes)


# Two half-body people of halfbody9, small enough to read. The first has long hair over the
# shoulders and no hat; the second looks one column to the right. Class 5 is an arm.
WOMAN = np.array(
    [
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 3, 3, 3, 1, 0],
        [4, 1, 4, 3, 4, 4, 5],
    ],
    np.int32,
)
MAN = np.array(
    [
        [0, 0, 0, 6, 6, 6, 0],
        [0, 0, 0, 2, 2, 2, 0],
        [0, 0, 0, 2, 2, 2, 0],
        [0, 0, 0, 2, 2, 2, 0],
        [0, 0, 4, 4, 3, 4, 4],
        [5, 4, 4, 4, 4, 4, 4],
    ],
    np.int32,
)


def test_mix_layouts_golden():
    layout, regions = mix_layouts(WOMAN, MAN, L)
    want = [
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 4, 4, 0, 1, 4],  # hair over his shoulder (column 5) wins; his neck is a hole
        [5, 1, 4, 4, 4, 4, 4],
    ]
    np.testing.assert_array_equal(layout, want)
    np.testing.assert_array_equal(regions.head[4], [0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(regions.body[4], [0, 0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(regions.rest[4], [1, 0, 0, 0, 1, 0, 0])
    assert all(mask.dtype == jnp.float32 for mask in regions)


def test_head_cover_golden():
    want_woman = WOMAN.copy()  # his head lies on her head and background only
    np.testing.assert_array_equal(head_cover(WOMAN, MAN, L), want_woman)
    want_man = MAN.copy()
    want_man[4, 5] = want_man[5, 1] = 0  # her long hair cuts his clothes, nothing else
    np.testing.assert_array_equal(head_cover(MAN, WOMAN, L), want_man)
    want_man[4, 4] = 0
    np.testing.assert_array_equal(remove_neck(want_man, L), want_man)
    np.testing.assert_array_equal(remove_neck(head_cover(MAN, WOMAN, L), L), want_man)


def test_neck_shift_golden():
    # Mean face row 2, so the lower faces are row 3: columns 2..4 against 3..5.
    assert int(neck_shift(WOMAN, MAN, L)) == 1
    assert int(neck_shift(MAN, WOMAN, L)) == -1
    turned = MAN.copy()
    turned[3] = [0, 0, 2, 2, 2, 2, 2]  # face pixels 11, row sum 24: row 3 only; centroid 4
    assert int(neck_shift(WOMAN, turned, L)) == 1
    # Mean row 12 / 7, so rows 2 and 3: centroid 4.5, and 1.5 rounds to even on both sides.
    turned[3] = [0, 0, 0, 0, 0, 0, 2]
    assert int(neck_shift(WOMAN, turned, L)) == 2
    assert int(neck_shift(turned, WOMAN, L)) == -2


def test_a_neck_beside_its_face_draws_the_head_on():
    def person(neck: slice) -> np.ndarray:
        layout = np.full((256, 256), L.background)
        layout[60:124, 90:154], layout[124:150, neck] = L.face, L.neck[0]
        return layout

    straight, bent = person(slice(102, 142)), person(slice(132, 172))
    assert int(turned_neck_shift(straight, straight, L)) == 0
    # 30 columns apart, less 0.15 of 64
    assert int(turned_neck_shift(straight, bent, L)) == 20
    assert int(turned_neck_shift(bent, straight, L)) == -20
    nearly = person(slice(110, 150))
    assert int(turned_neck_shift(straight, nearly, L)) == 0
    hidden = np.where(bent == L.neck[0], L.background, bent)
    assert int(turned_neck_shift(straight, hidden, L)) == 0


def test_necks_are_beyond_the_lower_faces():
    def person(left: int) -> np.ndarray:
        layout = np.full((256, 256), L.background)
        layout[60:124, left : left + 64] = L.face
        return layout

    assert int(extended_neck_shift(person(90), person(110), L)) == 40  # 2.2 * 20, less 0.065 * 64
    assert int(extended_neck_shift(person(110), person(90), L)) == -40
    assert int(extended_neck_shift(person(90), person(91), L)) == 0
    assert int(extended_neck_shift(person(90), np.zeros_like(person(90)), L)) == 0


def test_neck_shift_without_a_lower_face_is_zero():
    one_row = np.where(np.arange(6)[:, None] == 1, MAN, 0)  # no row lies below the mean
    for faceless in (np.zeros_like(WOMAN), one_row):
        assert int(neck_shift(WOMAN, faceless, L)) == 0
        assert int(neck_shift(faceless, WOMAN, L)) == 0


def test_labels_with_another_numbering_give_the_same_mixture():
    layout, regions = mix_layouts(remap(WOMAN, L, CIHP20), remap(MAN, L, CIHP20), CIHP20)
    want, want_regions = mix_layouts(WOMAN, MAN, L)
    np.testing.assert_array_equal(layout, remap(np.asarray(want), L, CIHP20))
    for got, mask in zip(regions, want_regions, strict=True):
        np.testing.assert_array_equal(got, mask)
    shift = neck_shift(remap(WOMAN, L, CELEBAMASK19), remap(MAN, L, CELEBAMASK19), CELEBAMASK19)
    assert int(shift) == 1


@given(LAYOUTS)
def test_mixed_with_itself_only_the_neck_goes(layout):
    mixed, _ = mix_layouts(layout, layout, L)
    np.testing.assert_array_equal(mixed, np.where(layout == 3, 0, layout))
    without_neck = np.where(layout == 3, 4, layout)
    mixed, _ = mix_layouts(without_neck, without_neck, L)
    np.testing.assert_array_equal(mixed, without_neck)


@given(LAYOUTS, LAYOUTS)
def test_regions_are_a_partition_with_the_head_in_front(one, two):
    layout, regions = mix_layouts(one, two, L)
    head, body, rest = (np.asarray(mask) for mask in regions)
    for mask in (head, body, rest):
        assert set(np.unique(mask)) <= {0.0, 1.0}
    np.testing.assert_array_equal(head + body + rest, np.ones((H, W)))
    np.testing.assert_array_equal(head == 1, isin(one, L.head))
    np.testing.assert_array_equal(body == 1, isin(two, L.body) & ~isin(one, L.head))
    np.testing.assert_array_equal(layout, one * head + two * body)


@given(LAYOUTS, LAYOUTS)
def test_head_cover_touches_body_and_neck_under_the_other_head_only(layout, other):
    covered = np.asarray(head_cover(layout, other, L))
    keeps = isin(layout, (*L.head, L.background)) | ~isin(other, L.head)
    np.testing.assert_array_equal(covered[keeps], layout[keeps])
    assert (covered[~keeps] == 0).all()
    headless = np.where(isin(other, L.head), 4, other)
    np.testing.assert_array_equal(head_cover(layout, headless, L), layout)


@given(LAYOUTS, LAYOUTS)
def test_training_makes_the_holes_that_mixing_makes(layout, other):
    # Head-cover and neck removal leave of the body exactly what a foreign head leaves of it.
    trained = np.asarray(remove_neck(head_cover(layout, other, L), L))
    mixed, regions = mix_layouts(other, layout, L)
    body = np.asarray(regions.body) == 1
    np.testing.assert_array_equal(isin(trained, L.body), body)
    np.testing.assert_array_equal(trained[body], np.asarray(mixed)[body])


@given(LAYOUTS, LAYOUTS)
def test_neck_shift_is_antisymmetric(one, two):
    assert int(neck_shift(one, two, L)) == -int(neck_shift(two, one, L))
    assert int(neck_shift(one, one, L)) == 0


@given(hnp.arrays(np.bool_, (6, 5)), st.integers(-5, 5))
def test_neck_shift_finds_a_translation_and_shift_columns_undoes_it(face, offset):
    face[0, 0] = face[5, 4] = True  # some face above its mean row and some below
    layout = np.zeros((H, W), np.int32)
    layout[3:9, 5:10] = 2 * face
    moved = np.asarray(shift_columns(layout, offset, L.background, -1))
    np.testing.assert_array_equal(moved, np.roll(layout, offset, axis=1))  # nothing at the border
    shift = neck_shift(layout, moved, L)
    assert int(shift) == offset
    np.testing.assert_array_equal(shift_columns(moved, -shift, 0, -1), layout)


@given(LAYOUTS, st.integers(-40, 40))
def test_shift_columns_fills_and_never_wraps(layout, shift):
    want = np.full_like(layout, 7)
    if 0 <= shift < W:
        want[:, shift:] = layout[:, : W - shift]
    elif -W < shift < 0:
        want[:, :shift] = layout[:, -shift:]
    np.testing.assert_array_equal(shift_columns(layout, shift, 7, -1), want)


@pytest.mark.untyped
def test_shift_columns_moves_images_and_batches():
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    moved = shift_columns(image, 1, 255, -2)
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved[:, 1:], image[:, :-1])
    assert (np.asarray(moved[:, 0]) == 255).all()
    batch = jax.vmap(mixing.shift_columns, (0, 0, None))(
        jnp.stack([WOMAN, MAN]), jnp.array([1, -2]), 0
    )
    np.testing.assert_array_equal(batch[0], shift_columns(WOMAN, 1, 0, -1))
    np.testing.assert_array_equal(batch[1], shift_columns(MAN, -2, 0, -1))
    with pytest.raises(ValueError, match="vmap"):
        mixing.shift_columns(jnp.stack([WOMAN, MAN]), jnp.array([1, -2]), 0)


def test_batch_is_the_loop():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, L.num_classes, (2, 2, 3, H, W), np.uint8)
    batched = (
        *mix_layouts(one, two, L),
        head_cover(one, two, L),
        remove_neck(one, L),
        neck_shift(one, two, L),
    )
    for i, j in np.ndindex(2, 3):
        a, b = one[i, j], two[i, j]
        single = (
            *mix_layouts(a, b, L),
            head_cover(a, b, L),
            remove_neck(a, L),
            neck_shift(a, b, L),
        )
        same = jax.tree.map(lambda x, y, k=(i, j): np.array_equal(x[k], y), batched, single)
        assert jax.tree.all(same)
    assert batched[0].dtype == batched[2].dtype == batched[3].dtype == np.uint8
    assert batched[4].dtype == np.int32 and batched[4].shape == (2, 3)


@pytest.mark.untyped
def test_layouts_of_two_sizes_are_refused():
    for function in (mixing.mix_layouts, mixing.head_cover, mixing.neck_shift):
        with pytest.raises(ValueError, match=r"\(6, 7\) and \(6, 6\)"):
            function(WOMAN, MAN[:, :6], L)


def test_dilate_and_erode_golden():
    mask = np.zeros((5, 7), bool)
    mask[2, 1] = True
    grown = np.zeros((5, 7), np.float32)
    grown[1:4, 0:3] = 1
    np.testing.assert_array_equal(mixing.dilate(mask, 1), grown)
    np.testing.assert_array_equal(mixing.erode(grown[None], 0), grown[None])
    # The frame does not erode: column 0 stays, the other three sides go.
    kept = np.zeros((5, 7), np.float32)
    kept[2, 0:2] = 1
    np.testing.assert_array_equal(mixing.erode(grown, 1), kept)
    assert mixing.erode(np.ones((5, 7)), 9).all()
    with pytest.raises(ValueError, match="-1"):
        mixing.erode(mask, -1)


@given(hnp.arrays(np.bool_, (H, W)))
def test_erode_and_dilate_bracket_the_mask(mask):
    square = np.ones((5, 5))
    np.testing.assert_array_equal(mixing.dilate(mask, 2), ndimage.binary_dilation(mask, square))
    eroded = ndimage.binary_erosion(mask, square, border_value=1)
    np.testing.assert_array_equal(mixing.erode(mask, 2), eroded)
