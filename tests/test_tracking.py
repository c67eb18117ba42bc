"""Who of a video's frames is who: boxes worked out by hand."""

import pytest

from hsd_jax.parsing.faces import Face
from hsd_jax.parsing.tracking import follow

ANNA, BEN = Face(100, 100, 40), Face(300, 100, 30)


def test_place_counts_and_not_size():
    larger = Face(310, 100, 60)
    assert list(follow([(0, [ANNA, BEN]), (0, [larger, ANNA])], 2)) == [2, 1]
    assert list(follow([(0, [ANNA, BEN]), (0, [larger, ANNA])], 1)) == [1, 2]


def test_the_one_who_overlaps_most_is_taken():
    # From 100: 25 off of one size is (80 - 25) / (80 + 25); 35 off of half the size is less.
    near, small = Face(125, 100, 40), Face(65, 100, 20)
    assert list(follow([(0, [ANNA]), (0, [small, near])], 1)) == [1, 2]


def test_who_is_gone_is_found_where_they_were_last_seen():
    frames = [[ANNA, BEN], [ANNA], [], [BEN], [Face(300, 161, 30)], [Face(300, 160, 30)]]
    assert list(follow(((0, faces) for faces in frames), 2)) == [2, 0, 0, 1, 0, 0]
    assert list(follow(((0, faces) for faces in [[BEN], [Face(300, 159, 30)]]), 1)) == [1, 1]
    assert list(follow([(0, [ANNA]), (1, [ANNA]), (0, [ANNA])], 1)) == [1, 0, 1]


def test_the_first_frame_must_show_who_is_meant():
    with pytest.raises(ValueError, match="no person 2 to follow: 1 found"):
        list(follow([(0, [ANNA])], 2))
