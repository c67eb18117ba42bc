"""Photos sixteen times as long as wide: refused soon, without gigabytes for the square around."""

import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from hsd_jax import HeadSwapper
from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.parsing.photo_parser import _to_photo


def panorama(height: int, person: np.ndarray | None = None) -> np.ndarray:
    """Blotches of all colours, and perhaps somebody who stands in them."""
    rng = np.random.default_rng(0)
    blotches = Image.fromarray(rng.integers(0, 256, (8, 128, 3), np.uint8))
    picture = blotches.resize((16 * height, height), Image.Resampling.BICUBIC)
    if person is not None:
        who = Image.fromarray(person)
        picture.paste(who.resize((height * who.width // who.height, height)), (5 * height, 0))
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["with a person", "upright and empty"])
def test_a_panorama_is_found_or_refused_within_three_seconds(swapper: HeadSwapper, pair, kind):
    photo = panorama(1000, pair[1] if kind == "with a person" else None)
    if kind == "upright and empty":
        photo = np.rot90(photo)
    seconds, before = [], time.process_time()
    for _ in range(2):  # the first compiles
        try:
            assert swapper.pair(photo, pair[1]).head.faces
        except ValueError as error:
            assert "no face found" in str(error) or "looks most like a face" in str(error)
        seconds.append(time.process_time() - before - sum(seconds))
    assert min(seconds) < 3, "seconds of a processor"


@pytest.mark.parametrize("where", ["wide", "tall"])
def test_the_square_around_a_panorama_is_never_made(where):
    photo = panorama(200)
    if where == "tall":
        photo = np.rot90(photo)
    side = 3200
    height, width = photo.shape[:2]
    square = Crop((width - side) // 2, (height - side) // 2, side)
    whole = framing.resize(framing.take(photo, square), 192)
    tracemalloc.start()
    seen = framing.take(photo, square, 192)
    probabilities = np.random.default_rng(1).random((192, 192, 9), np.float32)
    layout = _to_photo(photo, np.zeros((height, width), np.uint8), probabilities, square)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * side * side, "bytes; the square itself has 3 a pixel, its probabilities 4"
    assert np.abs(seen.astype(int) - whole).mean() < 1  # by whole blocks: nearly the same
    by_class = np.stack([framing.resize_map(x, side) for x in np.moveaxis(probabilities, -1, 0)])
    rows, columns = framing.seen_of(photo, square)
    np.testing.assert_array_equal(layout, by_class[:, rows, columns].argmax(0))
