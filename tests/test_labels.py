"""Label sets: groups, remaps by meaning, palettes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.labels import (
    CELEBAMASK19,
    CIHP20,
    HALFBODY9,
    LABEL_SETS,
    SHHQ17,
    colorize,
    get_label_set,
    one_hot,
    remap,
)

SETS = list(LABEL_SETS.values())
PAIRS = list(itertools.permutations(SETS, 2))


def pair_id(pair):
    return "-".join(labels.name for labels in pair)


def every_class(labels, dtype=np.int32):
    return np.arange(labels.num_classes, dtype=dtype)[None, :]


def test_cihp20_is_the_papers_appendix():
    assert CIHP20.num_classes == 20
    assert CIHP20.head == (1, 2, 4, 13)
    assert CIHP20.body == (3, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 19)
    assert CIHP20.neck == (10,)
    assert CIHP20.background == 0
    assert CIHP20.face == 13
    figure = {"background": (0, 0, 0), "hair": (0, 0, 128), "face": (128, 0, 128)}
    figure |= {"skin": (128, 128, 255), "upper_clothes": (128, 128, 0)}
    assert {name: CIHP20.palette[CIHP20.index(name)] for name in figure} == figure


def test_the_other_sets_keep_their_owners_order():
    assert SHHQ17.head == (1, 2, 4, 13)
    assert SHHQ17.neck == (10,)
    assert SHHQ17.classes[14:] == ("shoes", "bag", "accessories")
    assert CELEBAMASK19.face == CELEBAMASK19.index("skin") == 1
    assert CELEBAMASK19.neck == (14, 15)
    assert CELEBAMASK19.body == (16,)
    assert HALFBODY9.head == (1, 2, 6, 7)
    assert HALFBODY9.neck == (3,)
    assert HALFBODY9.body == (4, 5, 8)


@pytest.mark.parametrize("labels", SETS, ids=lambda labels: labels.name)
def test_colours_are_apart(labels):
    for a, b in itertools.combinations(labels.palette, 2):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) >= 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": (1, 2, 6)}, "exactly one"),
        ({"head": (1, 2, 3, 6, 7)}, "exactly one"),
        ({"palette": HALFBODY9.palette[:-1]}, "8 colours for 9 classes"),
        ({"palette": (*HALFBODY9.palette[:-1], (0, 0, 256))}, "no colour"),
        ({"classes": (*HALFBODY9.classes[:-1], "hat")}, "repeat"),
        ({"classes": (*HALFBODY9.classes[:2], "visage", *HALFBODY9.classes[3:])}, "head group"),
    ],
)
def test_a_set_that_does_not_hold_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HALFBODY9, **change)


def test_lookups_by_name_say_what_there_is():
    assert get_label_set("halfbody9") is HALFBODY9
    with pytest.raises(ValueError, match="'lip20'.*cihp20, shhq17, celebamask19, halfbody9"):
        get_label_set("lip20")
    assert HALFBODY9.index("neck") == 3
    with pytest.raises(ValueError, match="no class 'nose'.*background, hair, face"):
        HALFBODY9.index("nose")
    assert HALFBODY9.group(0) == "background"
    assert HALFBODY9.group(8) == "body"
    with pytest.raises(ValueError, match="no class 9.*0..8"):
        HALFBODY9.group(9)


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_remap_keeps_groups_and_what_both_sets_know(pair):
    source, target = pair
    out = remap(every_class(source), source, target)[0]
    for i, j in enumerate(out.tolist()):
        assert source.group(i) == target.group(j)
        same_name = source.classes[i] in target.classes
        if same_name and target.group(target.index(source.classes[i])) == source.group(i):
            assert target.classes[j] == source.classes[i]
    assert out[source.face] == target.face


def test_remap_goes_by_meaning():
    def named(source, target, name):
        layout = np.full((1, 1), source.index(name))
        return target.classes[remap(layout, source, target)[0, 0]]

    assert named(CIHP20, HALFBODY9, "skin") == "neck"
    assert named(CIHP20, HALFBODY9, "right_arm") == "skin"
    assert named(CIHP20, SHHQ17, "coat") == "coat"
    assert named(CIHP20, SHHQ17, "left_arm") == "tops"
    assert named(CIHP20, CELEBAMASK19, "sunglasses") == "eye_g"
    assert named(SHHQ17, CIHP20, "headwear") == "hat"
    assert named(SHHQ17, HALFBODY9, "bag") == "accessory"
    assert named(CELEBAMASK19, CIHP20, "nose") == "face"
    assert named(CELEBAMASK19, HALFBODY9, "neck_l") == "neck"
    assert named(HALFBODY9, CIHP20, "skin") == "left_arm"
    assert named(HALFBODY9, SHHQ17, "accessory") == "accessories"
    assert named(HALFBODY9, CELEBAMASK19, "face") == "skin"


def test_remap_refuses_a_class_without_a_counterpart():
    tailed = dataclasses.replace(HALFBODY9, classes=(*HALFBODY9.classes[:-1], "tail"))
    with pytest.raises(ValueError, match="'cihp20' has no body class that stands for 'tail'"):
        remap(every_class(tailed), tailed, CIHP20)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_remap_is_the_same_for_numpy_and_jax_and_keeps_the_dtype(dtype):
    layout = np.stack([every_class(CIHP20, dtype), every_class(CIHP20, dtype)[:, ::-1]])
    out = remap(layout, CIHP20, HALFBODY9)
    jitted = jax.jit(remap, static_argnums=(1, 2))(jnp.asarray(layout), CIHP20, HALFBODY9)
    assert isinstance(out, np.ndarray) and isinstance(jitted, jax.Array)
    assert out.dtype == jitted.dtype == dtype
    assert out.shape == layout.shape
    np.testing.assert_array_equal(out, jitted)
    assert remap(layout, CIHP20, CIHP20) is layout


@pytest.mark.untyped
def test_layouts_of_another_set_or_of_floats_are_refused():
    with pytest.raises(ValueError, match="class 19.*'halfbody9'.*0..8"):
        remap(every_class(CIHP20), HALFBODY9, CIHP20)
    with pytest.raises(ValueError, match="class -1"):
        colorize(np.full((2, 2), -1), HALFBODY9)
    with pytest.raises(ValueError, match="float32"):
        one_hot(jnp.zeros((2, 2)), HALFBODY9)


def test_colorize_and_one_hot_show_every_class():
    layout = np.stack([every_class(HALFBODY9), every_class(HALFBODY9)[:, ::-1]])
    picture = colorize(jnp.asarray(layout), HALFBODY9)
    assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    assert picture.shape == (2, 1, 9, 3)
    assert tuple(picture[1, 0, 4]) == HALFBODY9.palette[4] == (128, 128, 0)
    channels = one_hot(layout, HALFBODY9, jnp.bfloat16)
    assert channels.dtype == jnp.bfloat16
    np.testing.assert_array_equal(channels[0, 0].astype(np.float32), np.eye(9))


def test_a_mirror_changes_left_and_right():
    arms = [CIHP20.index("left_arm"), CIHP20.index("right_arm")]
    assert [CIHP20.mirrored[i] for i in arms] == arms[::-1]
    for labels in (CIHP20, HALFBODY9, CELEBAMASK19):
        assert [labels.mirrored[i] for i in labels.mirrored] == list(range(labels.num_classes))
    assert HALFBODY9.mirrored == tuple(range(9))
    assert CELEBAMASK19.mirrored[CELEBAMASK19.index("l_ear")] == CELEBAMASK19.index("r_ear")
    assert CELEBAMASK19.mirrored[CELEBAMASK19.index("l_lip")] == CELEBAMASK19.index("l_lip")
