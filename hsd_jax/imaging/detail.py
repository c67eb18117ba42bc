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
    photo: UInt8[np.ndarray, "S S 3"], sources: Integer[np.ndarray, "s s 2"]
) -> Float[np.ndarray, "S S 3"]:
    """What is to be added to a painted image that was enlarged to the photo's size.

    Args:
      photo: a square crop at its own resolution.
      sources: row and column of the pixel that each one is like, at the networks' size; -1 where
        a pixel has none.

    Returns:
      Levels of 255, 0 where there is no source.
    """
    side, size = len(photo), len(sources)
    result = np.zeros(photo.shape, np.float32)
    coarse = framing.resize(framing.resize(photo, size), side)
    at = np.minimum((np.arange(side) + 0.5) * size / side, size - 1).astype(int)
    rows, columns = np.nonzero(sources[..., 0][at[:, None], at[None]] >= 0)
    moved = sources[at[rows], at[columns]] - np.stack([at[rows], at[columns]], -1)
    moved = np.round(moved * side / size).astype(int)
    i, j = (np.clip(x + d, 0, side - 1) for x, d in ((rows, moved[:, 0]), (columns, moved[:, 1])))
    result[rows, columns] = photo[i, j].astype(np.float32) - coarse[i, j]
    return result
