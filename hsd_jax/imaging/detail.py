"""Detail finer than the networks' grid, carried over from where it is seen.

What a network paints at 256 pixels is soft in a photo of 1000. Texture completion has found, for
each of those pixels, a seen one that looks like it; the seen one's fine detail in the photo, what
a photo loses on the way to the networks' size and back, is added to the painted one. These are the
image analogies of Hertzmann et al. (2001) between a photo and its own reduction.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Scaled, Tile
from hsd_jax.runtime.threads import spread


@dataclass(frozen=True)
class Carried:
    """The fine detail of a photo, brought to where something like it is painted."""

    photo: UInt8[np.ndarray, "S S 3"]
    """A square crop at its own resolution."""
    coarse: UInt8[np.ndarray, "S S 3"]
    """It after a way to the networks' size and back; not set where there are no sources."""
    sources: Integer[np.ndarray, "s s 2"]
    """Row and column of the pixel that each one is like, at the networks' size; -1 where a pixel
    has none."""

    @classmethod
    def of(
        cls, photo: UInt8[np.ndarray, "S S 3"], sources: Integer[np.ndarray, "s s 2"]
    ) -> "Carried":
        """Reduces the photo, where sources are."""
        side, size = len(photo), len(sources)
        small, coarse = Scaled(framing.resize(photo, size), side), np.empty_like(photo)
        used = np.zeros((size, size), bool)
        used[tuple(sources[sources[..., 0] >= 0].T)] = True
        # Sources are whole pixels of the photo: up to one away from the cell.
        used = ndimage.binary_dilation(used, np.ones((3, 3)), 1 + size // side)

        def reduce(tile: Tile) -> None:
            coarse[tile] = small.at(tile)

        tiles = framing.tiles(side)
        spread(reduce, (tile for tile in tiles if used[framing.cells(tile, side, size)].any()))
        return cls(photo, coarse, sources)

    def at(self, tile: Tile) -> Float[np.ndarray, "R C 3"]:
        """What is to be added to a tile of a painted image, enlarged to the photo's size.

        Levels of 255, 0 where there is no source.
        """
        side, size = len(self.photo), len(self.sources)
        at = np.minimum((np.arange(side) + 0.5) * size / side, size - 1).astype(int)
        own, (rows, columns) = self.sources, tile
        inner = np.nonzero(own[..., 0][at[rows, None], at[None, columns]] >= 0)
        place = inner[0] + rows.start, inner[1] + columns.start
        here = at[place[0]], at[place[1]]
        moved = np.round((own[here] - np.stack(here, -1)) * side / size).astype(int)
        i, j = (np.clip(x + d, 0, side - 1) for x, d in zip(place, moved.T, strict=True))
        shape = (rows.stop - rows.start, columns.stop - columns.start, 3)
        result = np.zeros(shape, np.float32)
        result[inner] = self.photo[i, j].astype(np.float32) - self.coarse[i, j]
        return result
