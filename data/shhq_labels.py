"""Layouts as SHHQ gives them out, in the paper's classes.

Its authors later released parsing maps drawn by hand (StyleGAN-Human, docs/Dataset.md): coloured
PNGs of the whole photos in 16 classes, where the paper parses its crops with SCHP.
"""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import UInt8

from data.crop import face_box
from hsd_jax.labels import CIHP20, SHHQ17, remap

# In the order of shhq17.
COLOURS = (
    (0, 0, 0), (127, 255, 212), (255, 0, 0), (213, 140, 88), (0, 100, 0), (255, 250, 250),
    (255, 250, 205), (220, 220, 220), (160, 140, 88), (211, 211, 211), (144, 238, 144),
    (150, 26, 181), (250, 235, 215), (16, 78, 139), (245, 222, 179), (255, 140, 0), (50, 205, 50),
)  # fmt: skip


@lru_cache
def _colour_table() -> tuple[np.ndarray, np.ndarray]:
    codes = np.array(COLOURS, np.int32) @ (65536, 256, 1)
    order = np.argsort(codes)
    return codes[order], order.astype(np.uint8)


def from_colours(colours: UInt8[np.ndarray, "H W 3"], pair: str) -> UInt8[np.ndarray, "H W"]:
    """SHHQ's colours -> class indices of shhq17; ValueError naming the pair for another colour."""
    codes, classes = _colour_table()
    values = colours.astype(np.int32) @ (65536, 256, 1)
    places = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
    wrong = codes[places] != values
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{pair}: layout has the colour {tuple(colours[row, column].tolist())}, "
            "which SHHQ's table lacks; save it without smoothing"
        )
    return classes[places]


def to_cihp(layout: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """A layout of shhq17 in cihp20.

    SHHQ has one class for all skin. Parts of it that come no nearer to the face than a third of its
    height become arms, the person's right one left of the face; the others stay `skin`, the neck,
    with bare shoulders where they are one part with it.
    """
    box = face_box(layout == SHHQ17.face)
    result = remap(layout, SHHQ17, CIHP20)
    if box is None:
        return result
    skin = layout == SHHQ17.index("skin")
    reach = int(box.bottom - box.top) // 3
    near = cv2.dilate((layout == SHHQ17.face).astype(np.uint8), np.ones((2 * reach + 1,) * 2)) > 0
    _, parts = cv2.connectedComponents(skin.astype(np.uint8), connectivity=8)
    limbs = skin & ~np.isin(parts, np.unique(parts[near & skin]))
    middle = (box.left + box.right) / 2
    left = np.arange(layout.shape[1])[None] < middle
    result[limbs & left] = CIHP20.index("right_arm")
    result[limbs & ~left] = CIHP20.index("left_arm")
    return result
