"""The part of a crop that large nets paint: what is generated, and a margin that decides its look.

All else of a crop is a photo's own pixels, which nets encode, denoise and decode in vain. Beyond
the margin the nets' receptive field, the statistics of group norms and attention would see more,
so that a window is not exact: `hsd eval selfswap --window` measures what it changes.
"""

from typing import NamedTuple

import numpy as np

MARGIN = 16
"""Pixels around what is generated; with 8, 16, 24 and 32 the benchmark's figures are the same."""
_SHARES = (0.75, 1.0)  # of the crop, along each axis: four programs do for all pairs
_MULTIPLE = 8  # latents a side, for nets that halve it three times


class Window(NamedTuple):
    """A part of a crop, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def _slices(self) -> tuple[slice, slice]:
        rows, columns = (self.top, self.top + self.height), (self.left, self.left + self.width)
        return slice(*rows), slice(*columns)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """`[height, width, ...]` of `[H, W, ...]`."""
        return picture[self._slices]

    def put(self, parts: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """`parts` `[..., height, width, 3]` in their place on copies of `picture` `[H, W, 3]`."""
        whole = np.broadcast_to(picture, (*parts.shape[:-3], *picture.shape)).copy()
        whole[(..., *self._slices, slice(None))] = parts
        return whole


def window_around(generated: np.ndarray, step: int) -> Window:
    """The smallest window that holds all that is generated with its margin.

    Args:
      generated: bool `[H, W]`; the whole is the window where nothing is.
      step: pixels of a latent; the window begins at a multiple of it. Where three quarters of a
        crop are no whole number of eight latents, the whole is taken.
    """
    top, height = _span(np.flatnonzero(generated.any(1)), generated.shape[0], step)
    left, width = _span(np.flatnonzero(generated.any(0)), generated.shape[1], step)
    return Window(top, left, height, width)


def _span(places: np.ndarray, size: int, step: int) -> tuple[int, int]:
    """Where the window of these places begins along an axis of this size, and its length."""
    if not len(places):
        return 0, size
    first = max(int(places[0]) - MARGIN, 0) // step * step
    last = min(-(-(int(places[-1]) + 1 + MARGIN) // step) * step, size)
    lengths = (int(share * size) for share in _SHARES)
    length = next(
        n for n in lengths if n == size or (n >= last - first and n % (_MULTIPLE * step) == 0)
    )
    return min(max((first + last - length) // 2 // step * step, 0), size - length), length
