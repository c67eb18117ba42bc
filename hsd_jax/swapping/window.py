"""The window of a crop that large networks paint: what is generated, and a margin around it.

The rest of a crop keeps a photo's own pixels; running the networks there is wasted work. A window
is not exact, since convolutions, group norms and attention also see what lies beyond the margin;
`hsd eval selfswap --window` measures the difference.
"""

from typing import NamedTuple

import numpy as np

MARGIN = 16
"""Pixels around what is generated; 8, 16, 24 and 32 give the same metrics in the benchmark."""
_SHARES = (0.75, 1.0)  # of the crop, along each axis, so that four programs suit all pairs
_MULTIPLE = 8  # UNets halve latents three times


class Window(NamedTuple):
    """A rectangle of a crop, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def _slices(self) -> tuple[slice, slice]:
        rows, columns = (self.top, self.top + self.height), (self.left, self.left + self.width)
        return slice(*rows), slice(*columns)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Cuts `[height, width, ...]` out of `[H, W, ...]`."""
        return image[self._slices]

    def put(self, parts: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Pastes `parts` `[..., height, width, 3]` into copies of `image` `[H, W, 3]`."""
        whole = np.broadcast_to(image, (*parts.shape[:-3], *image.shape)).copy()
        whole[(..., *self._slices, slice(None))] = parts
        return whole


def window_around(generated: np.ndarray, step: int) -> Window:
    """The smallest window that holds everything generated, with its margin.

    Args:
      generated: bool `[H, W]`; if nothing is generated, the window is the whole crop.
      step: pixels per latent; the window starts at a multiple of it. A side is the whole crop if
        three quarters of it are not a multiple of eight latents.
    """
    top, height = _span(np.flatnonzero(generated.any(1)), generated.shape[0], step)
    left, width = _span(np.flatnonzero(generated.any(0)), generated.shape[1], step)
    return Window(top, left, height, width)


def _span(places: np.ndarray, size: int, step: int) -> tuple[int, int]:
    """The start and length of the window around `places` on an axis of this size."""
    if not len(places):
        return 0, size
    first = max(int(places[0]) - MARGIN, 0) // step * step
    last = min(-(-(int(places[-1]) + 1 + MARGIN) // step) * step, size)
    lengths = (int(share * size) for share in _SHARES)
    length = next(
        n for n in lengths if n == size or (n >= last - first and n % (_MULTIPLE * step) == 0)
    )
    return min(max((first + last - length) // 2 // step * step, 0), size - length), length
