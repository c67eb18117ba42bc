"""Texture completion: regular textures go on, edges go on, what is seen stays."""

import numpy as np
import pytest

from hsd_jax.imaging import texture
from hsd_jax.swapping.finish import membrane

SIDE = 64


def stripes() -> np.ndarray:
    """Diagonal stripes of period 8, float32 [64, 64, 3]."""
    rows, columns = np.indices((SIDE, SIDE))
    wave = 128 + 100 * np.sin(2 * np.pi * (rows + columns) / 8)
    return wave[..., None].repeat(3, -1).astype(np.float32)


def hole() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[24:40, 20:44] = True
    return mask


def completed(picture: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smooth guess and what is made of it."""
    guess = membrane(np.where(missing[..., None], 0, picture), 1.0 * ~missing)
    return guess, texture.complete(guess, ~missing, missing).image


def test_a_texture_goes_on_where_a_smooth_fill_is_flat():
    guess, result = completed(stripes(), hole())
    error = np.abs(result - stripes())[hole()].mean()
    assert error < 0.15 * np.abs(guess - stripes())[hole()].mean()


def test_an_edge_goes_on_through_the_hole():
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    picture[32:] = 200
    _, result = completed(picture, hole())
    assert np.abs(result - picture).max(-1)[hole()].mean() < 10
    assert np.diff(result[24:40, 32, 0]).max() > 60


def test_what_is_seen_stays_and_what_is_neither_is_not_copied():
    missing, person = hole(), np.zeros((SIDE, SIDE), bool)
    person[40:, 28:36] = True
    picture = np.where(person[..., None], 255, stripes() / 2).astype(np.float32)
    seen = ~missing & ~person
    guess = membrane(np.where(seen[..., None], picture, 0), 1.0 * seen)
    given = np.where(missing[..., None], guess, picture)
    result = texture.complete(given, seen, missing).image
    np.testing.assert_array_equal(result[~missing], picture[~missing])
    assert result[missing].max() < 150


def test_the_same_input_gives_the_same_image():
    np.testing.assert_array_equal(completed(stripes(), hole())[1], completed(stripes(), hole())[1])


@pytest.mark.parametrize("kept", [0, 4])
def test_too_little_to_learn_from_leaves_the_guess(kept):
    missing = np.ones((SIDE, SIDE), bool)
    missing[:, :kept] = False
    guess = np.full((SIDE, SIDE, 3), 9, np.float32)
    np.testing.assert_array_equal(texture.complete(guess, ~missing, missing).image, guess)
