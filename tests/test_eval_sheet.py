"""The sheet of swaps: every tile in its place, white where there are none."""

import numpy as np
import pytest

from hsd_jax.evaluation.sheet import layout_tiles


@pytest.mark.parametrize("count, rows", [(1, 1), (4, 1), (5, 2)])
def test_tiles_fill_rows(count, rows):
    tiles = [np.full((2, 3, 3), i, np.uint8) for i in range(count)]
    sheet = layout_tiles(tiles, columns=4)
    assert sheet.shape == (2 * rows, 12, 3)
    places = sheet[::2, ::3, 0].ravel()
    np.testing.assert_array_equal(places[:count], np.arange(count))
    assert np.all(places[count:] == 255)
