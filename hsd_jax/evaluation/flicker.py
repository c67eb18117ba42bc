"""`hsd eval flicker HEAD BODY`: how much results flicker from frame to frame.

The frames are BODY, moved and enlarged by parts of a pixel, with the noise of a camera: what moves
is known, and so all that is left between two results that were moved back is noise or flicker.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from hsd_jax.imaging.files import open_photo
from hsd_jax.runtime.console import table
from hsd_jax.swap import HeadSwapper

_STEP, _ZOOM = np.array([0.3, 0.7]), 0.002  # rows and columns, and growth, from frame to frame
_NOISE = 2.0  # standard deviation, of 255
_FRAMES = 8
_EDGE = 3  # pixels inside a region's edge, where frames that were moved back mix


class Flicker(NamedTuple):
    """Mean absolute differences of neighbouring frames that were moved back, of 255."""

    results: float
    frames: float
    """Before the swap."""

    @property
    def ratio(self) -> float:
        """1 where a swap adds none."""
        return self.results / self.frames


def moved(
    image: Float[np.ndarray, "h w *c"], number: int, back: bool = False
) -> Float[np.ndarray, "h w *c"]:
    """An image as frame `number` shows it, or, with `back`, a frame as the image was."""
    zoom, middle = 1 + _ZOOM * number, (np.array(image.shape[:2]) - 1) / 2
    scale, shift = (zoom, number * _STEP) if back else (1 / zoom, -number * _STEP / zoom)
    offset: Any = middle - scale * middle + shift
    planes = [
        ndimage.affine_transform(plane, np.full(2, scale), offset, order=3, mode="nearest")
        for plane in np.moveaxis(np.atleast_3d(image), -1, 0)
    ]
    return np.stack(planes, -1).reshape(image.shape).astype(np.float32)


def frames_of(photo: UInt8[np.ndarray, "h w 3"], count: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """A photo as a slowly moving camera with some noise would see it."""
    rng = np.random.default_rng(0)
    shots = (moved(photo.astype(np.float32), number) for number in range(count))
    noisy = (shot + _NOISE * rng.standard_normal(shot.shape) for shot in shots)
    return [np.clip(np.round(shot), 0, 255).astype(np.uint8) for shot in noisy]


def flicker(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    results: Sequence[UInt8[np.ndarray, "h w 3"]],
    masks: Sequence[Float[np.ndarray, "h w"]],
) -> dict[str, Flicker]:
    """Compares the flicker of results with that of their frames, by region.

    "generated" is generated in all frames, "head" the head photo's and "kept" the frames' own.

    Args:
      frames: of `frames_of`.
      results: of each.
      masks: `SwapResult.mask` of each.
    """

    def still(images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([moved(x.astype(np.float32), n, back=True) for n, x in enumerate(images)])

    share, before, after = still(masks), still(frames), still(results)
    photos, own = (share < 0.01).all(0), np.abs(after - before).max((0, -1)) < 1
    regions = {"generated": (share > 0.5).all(0), "head": photos & ~own, "kept": photos & own}
    inner = {name: _inner(region) for name, region in regions.items()}
    return {
        name: Flicker(*(
            float(np.abs(np.diff(images[:, region], axis=0)).mean()) for images in (after, before)
        ))
        for name, region in inner.items() if region.any()
    }  # fmt: skip


def _inner(region: Any) -> Bool[np.ndarray, "h w"]:
    return np.asarray(ndimage.binary_erosion(region, iterations=_EDGE), bool)


def measure(
    swap: Callable[[UInt8[np.ndarray, "h w 3"]], tuple[np.ndarray, np.ndarray]],
    photo: UInt8[np.ndarray, "h w 3"],
    count: int,
) -> dict[str, Flicker]:
    """The flicker of `swap`, which returns a frame's result and its mask."""
    frames = frames_of(photo, count)
    results, masks = zip(*map(swap, frames), strict=True)
    return flicker(frames, results, masks)


def run(options: argparse.Namespace) -> None:
    """`hsd eval flicker`.

    Raises:
      ValueError: a photo cannot be read or shows no face.
    """
    swapper, head = HeadSwapper.from_pretrained(options.weights), open_photo(options.head)

    def swap(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = swapper(head, frame, skin_tone="keep", light="keep")
        return result.image, result.mask

    found = measure(swap, open_photo(options.body), options.count or _FRAMES)
    rows = [
        (name, *(f"{value:.2f}" for value in (*values, values.ratio)))
        for name, values in found.items()
    ]
    print(table(("where", "results", "frames", "ratio"), rows))
