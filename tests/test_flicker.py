"""Flicker of results, against frames whose movement is known."""

import numpy as np
import pytest
from scipy import ndimage

from hsd_jax.evaluation.flicker import flicker, frames_of, measure, moved


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    noise = np.random.default_rng(1).uniform(0, 255, (96, 128, 3))
    return ndimage.gaussian_filter(noise, (4, 4, 0)).astype(np.uint8)


def test_what_is_moved_back_is_where_it_was(photo):
    inner = (slice(12, -12),) * 2
    there = moved(moved(photo.astype(np.float32), 5), 5, back=True)
    assert np.abs(there - photo)[inner].max() < 0.5
    assert np.abs(moved(photo.astype(np.float32), 5) - photo)[inner].max() > 2


def test_what_does_not_change_does_not_flicker_and_noise_does(photo):
    mask = np.zeros(photo.shape[:2], np.float32)
    mask[30:60, 30:90] = 1

    def painting(level: float):
        rng = np.random.default_rng(2)

        def swap(frame):
            painted = 128 + level * rng.standard_normal(frame.shape)
            result = np.where(mask[..., None] > 0, painted, frame)
            return result.astype(np.uint8), mask

        return measure(swap, photo, 4)

    still, noisy = painting(0), painting(20)
    assert still["generated"].results < 0.01 and noisy["generated"].ratio > 3
    assert 1 < still["generated"].frames < 4 and still["kept"].ratio == pytest.approx(1)
    assert set(still) == {"generated", "kept"}  # no head is pasted
    frames = frames_of(photo, 4)
    same = flicker(frames, frames, [mask] * 4)
    assert same["kept"].ratio == 1
