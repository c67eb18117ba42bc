"""Images made of several: captions, the figure of a swap, numbers on faces."""

import numpy as np

from hsd_jax.imaging import figure, sheets
from hsd_jax.labels import HALFBODY9


def test_rows_of_tiles_stand_under_their_captions():
    red = np.full((256, 256, 3), (255, 0, 0), np.uint8)
    sheet = sheets.captioned([[("one", red), ("two", red // 2)], [("three", red[:64, :64])]])
    assert sheet.shape == (2 * 288 + 16, 2 * 272 + 16, 3)
    for top, left, colour in ((32, 16, 255), (32, 288, 127), (320, 16, 255)):
        assert (sheet[top : top + 256, left : left + 256] == (colour, 0, 0)).all()
    assert (sheet[:32] < 128).any() and (sheet[320:, 288:] == 255).all()


def test_faces_are_circled_and_numbered_in_their_order():
    grey = np.full((300, 400, 3), 90, np.uint8)
    shown = sheets.numbered_faces(grey, [(100.0, 100.0, 60.0), (300.0, 200.0, 40.0)])
    changed = (shown != grey).any(-1)
    for x, y, size in ((100, 100, 60), (300, 200, 40)):
        assert changed[y, x + int(0.8 * size) - 3 : x + int(0.8 * size) + 3].any()  # the circle
        assert not changed[y - 10 : y + 10, x - 10 : x + 10].any()  # the face stays visible
    # The first number is a 1, the second a 2: taller than wide, and wider.
    assert changed[40:90, 40:75].any() and changed[160:195, 260:285].any()


def test_the_figure_shows_what_is_kept_and_what_the_steps_predict():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 200, (2, 256, 256, 3), np.uint8)
    layout = rng.integers(0, 9, (4, 256, 256))
    kept = np.zeros((2, 256, 256), bool)
    kept[0, :100], kept[1, 150:] = True, True
    stages = {
        "head": photo[0], "body": photo[1], "head_layout": layout[0], "body_layout": layout[1],
        "blended": layout[2], "inpainted": layout[3], "kept_head": kept[0], "kept_body": kept[1],
        "decoded": photo[0], "result": photo[1],
    }  # fmt: skip
    steps = [np.full((256, 256, 3), n, np.uint8) for n in range(10)]
    drawn = figure.explain(stages, steps, list(range(900, -100, -100)), HALFBODY9)
    assert drawn.shape == (3 * 288 + 16, 6 * 272 + 16, 3)

    def tile(row, column):
        return drawn[32 + 288 * row : 288 * (row + 1), 16 + 272 * column : 272 * (column + 1)]

    np.testing.assert_array_equal(tile(0, 2)[:100], photo[0, :100])
    assert (tile(0, 2)[100:] == 160).all() and (tile(0, 5)[:150] == 160).all()
    assert (tile(1, 2)[100:150] == 255).all() and (tile(1, 2)[:100] == 0).all()
    assert [tile(2, n)[0, 0, 0] for n in range(4)] == [0, 3, 6, 9]  # the first, the last, between
    np.testing.assert_array_equal(tile(2, 5), photo[1])
