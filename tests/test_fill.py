"""The first guess of a hole: classes continue by themselves, what is known stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.diffusion.fill import class_fill, push_pull
from hsd_jax.labels import CIHP20, HALFBODY9, one_hot

FACE, NECK, CLOTHES = (HALFBODY9.index(name) for name in ("face", "neck", "clothes"))


def halves(upper: int, lower: int, side: int = 16) -> np.ndarray:
    """A layout of two classes, int32 [1, 4 side, 4 side]; the edge lies between two cells."""
    layout = np.full((1, 4 * side, 4 * side), upper, np.int32)
    layout[:, 2 * side :] = lower
    return layout


def fill(values, known, layout, labels=HALFBODY9):
    onehot = one_hot(jnp.asarray(layout), labels)
    args = jnp.asarray(values, jnp.float32), jnp.asarray(known, jnp.float32)
    return np.asarray(jax.jit(class_fill, static_argnums=3)(*args, onehot, labels))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_each_class_continues_by_itself_up_to_the_edge():
    values = np.zeros((1, 16, 16, 2), np.float32)
    values[:, :8], values[:, 8:] = (1, -2), (5, 3)
    known = np.ones((1, 16, 16, 1), np.float32)
    known[:, 3:13, 2:14] = 0
    filled = fill(values * known, known, halves(0, CLOTHES))
    np.testing.assert_allclose(filled, values, atol=1e-5)


def test_what_is_known_stays_and_what_is_not_is_never_read():
    values, known = noise(2, 16, 16, 3), (noise(2, 16, 16, 1) > 0).astype(np.float32)
    layout = np.random.default_rng(1).integers(0, 9, (2, 64, 64))
    filled = fill(values, known, layout)
    np.testing.assert_array_equal(filled * known, values * known)
    np.testing.assert_array_equal(fill(values * known, known, layout), filled)
    assert filled.min() >= (values * known).min() - 1e-5
    assert filled.max() <= (values * known).max() + 1e-5


@pytest.mark.parametrize("labels, name", [(HALFBODY9, "neck"), (CIHP20, "skin")])
def test_a_neck_that_is_nowhere_seen_looks_like_the_face(labels, name):
    layout = halves(labels.index("face"), labels.index(name))
    layout[:, :, :16] = labels.background
    values = np.ones((1, 16, 16, 1), np.float32)
    values[:, :, :4] = -1  # the background
    known = np.ones_like(values)
    known[:, 8:] = 0
    filled = fill(values, known, layout, labels)
    np.testing.assert_allclose(filled[:, 8:, :4], -1, atol=1e-5)
    np.testing.assert_allclose(filled[:, 8:, 4:], 1, atol=1e-5)


def test_a_class_of_which_nothing_is_known_continues_what_is_near():
    values = np.full((1, 16, 16, 1), 7, np.float32)
    known = np.ones_like(values)
    known[:, 8:] = 0
    filled = fill(values, known, halves(0, CLOTHES))
    np.testing.assert_allclose(filled, values, atol=1e-4)


def test_nothing_known_is_zero():
    assert not fill(noise(1, 16, 16, 2), np.zeros((1, 16, 16, 1)), halves(FACE, NECK)).any()


def test_near_values_count_more_than_far_ones():
    values = np.linspace(0, 1, 32, dtype=np.float32)[None, None, :, None].repeat(32, 1)
    known = np.ones((1, 32, 32, 1), np.float32)
    known[:, :, 12:20] = 0
    row = np.asarray(push_pull(jnp.asarray(values), jnp.asarray(known)))[0, 16, 12:20, 0]
    assert (np.diff(row) >= -1e-6).all() and row[-1] - row[0] > 0.1


def test_odd_sides_work():
    values, known = noise(1, 12, 10, 1), np.ones((1, 12, 10, 1), np.float32)
    known[:, 4:8, 3:7] = 0
    filled = np.asarray(push_pull(jnp.asarray(values * known), jnp.asarray(known)))
    assert np.isfinite(filled).all() and filled[0, 5, 5, 0] != 0
