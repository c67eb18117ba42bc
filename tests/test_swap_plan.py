"""What is kept and what is painted: the parts of a plan that need no trained net."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hsd_jax import weights
from hsd_jax.labels import CIHP20, HALFBODY9
from hsd_jax.models.layout_generator import LayoutOutput
from hsd_jax.swapping import plan
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.spec import Finish
from hsd_jax.training.tasks.layout import soft_jaccard

HAIR, FACE, NECK, CLOTHES = (HALFBODY9.index(name) for name in ("hair", "face", "neck", "clothes"))


BOTH_VIEWS, SMOOTH = Finish(mirror_layout=True), Finish(smooth_layout=8)  # 4 pixels of 128


@pytest.fixture(scope="module")
def spec():
    """Of the embedded weights."""
    return SwapNetworks.load(weights.find()).spec


class Leaning:
    """A generator with a bias to one side: it answers with what stands left of each pixel."""

    def apply(self, variables, x, **_):
        return LayoutOutput(jnp.roll(x, 1, axis=2), x, x[..., :1])


@pytest.mark.untyped
def test_two_views_have_no_bias_to_a_side():
    rng = np.random.default_rng(0)
    layouts = jnp.asarray(rng.integers(0, 20, (2, 8, 10)))
    probs = plan.layout_probs(Leaning(), {}, layouts, CIHP20, BOTH_VIEWS)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)
    sides = jnp.array(CIHP20.mirrored)
    mirrored = plan.layout_probs(
        Leaning(), {}, sides[layouts][:, :, ::-1], CIHP20, BOTH_VIEWS
    )
    np.testing.assert_allclose(mirrored[:, :, ::-1][..., sides], probs, atol=1e-6)
    assert float(probs.max()) < 1.01 and (np.asarray(probs) == 0.5).any()


def test_holes_get_no_head_and_smooth_edges():
    probs = np.zeros((1, 64, 64, 9), np.float32)
    probs[:, :, :32, CLOTHES], probs[:, :, 32:, NECK] = 1, 1
    probs[:, 20:30, 20:30] = 0.4 * np.eye(9)[CLOTHES] + 0.6 * np.eye(9)[HAIR]
    ragged = probs.copy()
    ragged[:, ::2, 32] = np.eye(9)[CLOTHES]  # every other row steps out by a pixel
    for given in (probs, ragged):
        found = np.asarray(plan.classes_without_head(jnp.asarray(given), 128, HALFBODY9, SMOOTH))[0]
        assert set(np.unique(found)) == {NECK, CLOTHES}
        edges = (found == CLOTHES).sum(1)
        assert np.ptp(edges) <= 1 and abs(edges.mean() - 64) <= 1.5


def test_no_neck_beside_a_head_above_its_chin():
    layout = np.zeros((64, 64), int)
    layout[5:30, 20:40], layout[10:28, 24:36] = HAIR, FACE
    beside = np.asarray(plan._beside_head(jnp.asarray(layout)[None], HALFBODY9))[0]
    assert beside[27, 10] and beside[27, 50] and beside[0, 0]
    assert not beside[28:].any() and not beside[:, 20:40].any()


class Clothed:
    """A generator that sees clothes everywhere."""

    def apply(self, variables, x, **_):
        probs = jnp.zeros_like(x).at[..., CLOTHES].set(1.0)
        return LayoutOutput(probs, probs, x[..., :1])


@pytest.mark.untyped
def test_the_body_stays_where_its_photo_shows_what_is_there(spec):
    """A narrow head on a wide one's body: painted is what the wide one hid, and little else."""
    body, head = np.zeros((2, 256, 256), np.int32)
    body[180:, 60:196], body[120:180, 108:148], body[40:130, 80:176] = CLOTHES, NECK, FACE
    head[180:, 60:196], head[110:180, 112:144], head[50:125, 100:156] = CLOTHES, NECK, FACE
    spec = replace(spec, layout_size=256)
    found = plan.make_plan(Clothed(), {}, jnp.asarray(head)[None], jnp.asarray(body)[None], spec)
    hidden = np.asarray(ndimage.binary_dilation(body == FACE, iterations=4)) & (head != FACE)
    kept = np.asarray(found.head | found.body)[0]
    assert kept[~hidden].mean() > 0.99 and kept[body == FACE].mean() < 0.55
    layout = np.asarray(found.layout)[0]
    seen = (body != FACE) & (head != FACE) & ~((body == NECK) & (np.indices(body.shape)[0] < 126))
    np.testing.assert_array_equal(layout[seen], body[seen])
    assert (layout[(body == FACE) & (head != FACE)] == CLOTHES).mean() > 0.9
    paper = plan.make_plan(
        Clothed(), {}, jnp.asarray(head)[None], jnp.asarray(body)[None],
        replace(spec, finish=Finish()),
    )  # fmt: skip
    assert not np.asarray(paper.body)[0][body == NECK].any()


def test_soft_jaccard_is_one_minus_iou_over_the_classes_shown():
    target = np.zeros((2, 4, 4), int)
    target[0, :2], target[1, :, 0] = 1, 3
    found = target.copy()
    found[0, 1] = 0  # 4 of 8 pixels of class 1 lost to class 0
    onehot = np.eye(5, dtype=np.float32)
    exact = soft_jaccard(jnp.asarray(onehot[target]), jnp.asarray(onehot[target]))
    np.testing.assert_allclose(exact, 0, atol=1e-6)
    half = soft_jaccard(jnp.asarray(onehot[found]), jnp.asarray(onehot[target]))
    np.testing.assert_allclose(half, [(4 / 12 + 4 / 8) / 2, 0], atol=1e-6)


def test_what_a_new_hat_presses_down_goes():
    hat = HALFBODY9.index("hat")
    head, body = np.zeros((2, 1, 64, 64), np.int32)
    head[0, 10:20, 20:44], head[0, 18:26, 20:24], head[0, 20:50, 24:40] = hat, hat, FACE
    body[0, 6:50, 14:50], body[0, 22:50, 24:40] = HAIR, FACE
    head, body = jnp.asarray(head), jnp.asarray(body)
    pressed = np.asarray(plan._above_hat(head, body, (hat,), HALFBODY9))[0]
    assert pressed[6:10, 14:50].all() and pressed[10:26, 14:20].all()  # above and beside
    assert pressed[10:20, 44:50].all() and not pressed[20:, 44:].any()  # it ends higher there
    assert not pressed[26:].any() and not pressed[10:20, 20:44].any() and not pressed[:6].any()
    assert not np.asarray(plan._above_hat(body, body, (hat,), HALFBODY9)).any()


def test_no_background_shows_between_new_hair_and_a_narrower_face():
    head, body = np.zeros((2, 1, 64, 64), np.int32)
    head[0, 10:50, 10:54], head[0, 20:40, 20:44], head[0, 22:30, 54:58] = HAIR, FACE, FACE
    body[0, 20:40, 26:38] = FACE
    gap = np.asarray(plan._gap(jnp.asarray(head), jnp.asarray(body), (HAIR,), HALFBODY9))[0]
    assert gap[20:40, 20:26].all() and gap[20:40, 38:44].all() and gap.sum() == 20 * 12


class Empty:
    """A generator that sees background everywhere."""

    def apply(self, variables, x, **_):
        return LayoutOutput(jnp.zeros_like(x).at[..., 0].set(1), x, x[..., :1])


@pytest.mark.untyped
def test_what_the_old_hair_hid_is_skin_behind_glasses_too(spec):
    head, body = np.zeros((2, 1, 256, 256), np.int32)
    head[0, 40:80, 80:180], head[0, 80:160, 100:160] = HAIR, FACE
    head[0, 100:115, 100:130] = HALFBODY9.index("glasses")
    body[0, 50:200, 60:200], body[0, 90:160, 120:150] = HAIR, FACE
    made = plan.make_plan(Empty(), {}, jnp.asarray(head), jnp.asarray(body), spec, "hair")
    layout, kept = np.asarray(made.layout)[0], np.asarray(made.body)[0]
    assert (layout[80:160, 100:160] == FACE).all() and (layout[40:80, 80:180] == HAIR).all()
    assert not layout[160:200].any() and not kept[50:200, 60:110].any()
    assert kept[110:150, 130:140].all() and not made.head[0, 80:].any()
