"""What is kept and what is painted: the parts of a plan that need no trained net."""

import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.labels import CIHP20, HALFBODY9
from hsd_jax.models.layout_generator import LayoutOutput
from hsd_jax.swapping import plan
from hsd_jax.swapping.spec import Finish
from hsd_jax.training.tasks.layout import soft_jaccard

HAIR, FACE, NECK, CLOTHES = (HALFBODY9.index(name) for name in ("hair", "face", "neck", "clothes"))


BOTH_VIEWS, SMOOTH = Finish(mirror_layout=True), Finish(smooth_layout=8)  # 4 pixels of 128


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
