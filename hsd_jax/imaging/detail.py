"""Detail finer than the networks' grid, carried over from where it is seen.

What a network paints at 256 pixels is soft in a photo of 1000. Texture completion has found, for
each of those pixels, a seen one that looks like it; the seen one's fine detail in the photo, what
a photo loses on the way to the networks' size and back, is added to the painted one. These are the
image analogies of Hertzmann et al. (2001) between a photo and its own reduction.
"""

import numpy as np
from jaxtyping import Float, Integer, UInt8

from hsd_jax.imaging import framing


def carried(
    photo: UInt8[np.ndarray, "S S 3"],
    coarse: UInt8[np.ndarray, "S S 3"],
    sources: Integer[np.ndarray, "s s 2"],
    rows: slice,
) -> Float[np.ndarray, "R S 3"]:
    """What is to be added to some rows of a painted image, enlarged to the photo's size.

    Args:
      photo: a square crop at its own resolution.
      coarse: it without its fine detail, see `reduced`.
      sources: row and column of the pixel that each one is like, at the networks' size; -1 where
        a pixel has none.
      rows: of the photo.

    Returns:
      Levels of 255, 0 where there is no source.
    """
    side, size = len(photo), len(sources)
    at = np.minimum((np.arange(side) + 0.5) * size / side, size - 1).astype(int)
    inner, columns = np.nonzero(sources[..., 0][at[rows, None], at[None]] >= 0)
    outer = inner + rows.start
    moved = sources[at[outer], at[columns]] - np.stack([at[outer], at[columns]], -1)
    moved = np.round(moved * side / size).astype(int)
    i, j = (np.clip(x + d, 0, side - 1) for x, d in ((outer, moved[:, 0]), (columns, moved[:, 1])))
    result = np.zeros((rows.stop - rows.start, side, 3), np.float32)
    result[inner, columns] = photo[i, j].astype(np.float32) - coarse[i, j]
    return result


def reduced(photo: UInt8[np.ndarray, "S S 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """A square photo as it is after a way to `size` and back."""
    return framing.resize(framing.resize(photo, size), len(photo))
