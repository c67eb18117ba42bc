"""Baselines without networks.

Cut-and-paste is the paper's first baseline (section 4.1). OpenCV's inpainting replaces its trained
baselines, whose input is cut-and-paste without the neck. Images are uint8 `[H, W, 3]`, layouts
integers `[H, W]`; heads are already aligned, except for the rows without alignment.
"""

from functools import partial
from typing import NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Bool, UInt8

from hsd_jax.labels import LabelSet
from hsd_jax.swapping.mixing import dilate, group_mask, regions

# Margins around the old head and the neck: those of a swap's first version (swapping/plan.py), but
# fixed, so that metrics of different versions can be compared.
OLD_HEAD_MARGIN = 7
NECK_MARGIN = 3
CANVAS = 255
RADIUS = 5  # of OpenCV's inpainting


class Pasted(NamedTuple):
    """The head pasted onto the body photo.

    Attributes:
      image: uint8 `[H, W, 3]`.
      head: bool `[H, W]`, where the head is.
      gap: bool `[H, W]`, what no photo shows: the old head and the neck, each with a margin,
        outside the new head.
    """

    image: np.ndarray
    head: np.ndarray
    gap: np.ndarray


def paste(
    head: np.ndarray,
    body: np.ndarray,
    layout_head: np.ndarray,
    layout_body: np.ndarray,
    labels: LabelSet,
) -> Pasted:
    """Pastes the new head onto the body photo, which still shows the old one in the gap."""
    new, gap = (np.asarray(mask) for mask in _head_and_gap(layout_head, layout_body, labels))
    return Pasted(np.where(new[..., None], head, body), new, gap)


@partial(jax.jit, static_argnames="labels")
def _head_and_gap(
    layout_head: jax.Array, layout_body: jax.Array, labels: LabelSet
) -> tuple[jax.Array, jax.Array]:
    new = regions(layout_head, layout_body, labels).head > 0
    old = dilate(group_mask(layout_body, labels.head), OLD_HEAD_MARGIN) > 0
    neck = dilate(group_mask(layout_body, labels.neck), NECK_MARGIN) > 0
    return new, (old | neck) & ~new


def cut_and_paste(
    pasted: Pasted, layout_body: np.ndarray, labels: LabelSet, canvas: int = CANVAS
) -> np.ndarray:
    """The paper's cut-and-paste: head, body and the body's neck on a canvas.

    The canvas is white, like the backdrop of the paper's images. Photos keep their background; the
    canvas only shows where the old head was and the new one is not.
    """
    bare = np.isin(layout_body, labels.head) & ~pasted.head
    return np.where(bare[..., None], np.uint8(canvas), pasted.image)


def inpaint(pasted: Pasted, navier_stokes: bool = False) -> np.ndarray:
    """Fills the gap by Telea (2004) or Bertalmio et al. (2001)."""
    return inpaint_hole(pasted.image, pasted.gap, navier_stokes)


def inpaint_hole(
    image: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"], navier_stokes: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Fills a hole with OpenCV; see `inpaint`."""
    method = cv2.INPAINT_NS if navier_stokes else cv2.INPAINT_TELEA
    return cv2.inpaint(image, hole.astype(np.uint8), RADIUS, method)


def poisson(pasted: Pasted, head: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Clones the head seamlessly (Perez et al. 2003) onto the body photo without its own head.

    Uses OpenCV's `seamlessClone`. First the old head and the gap are filled by Telea from the body
    photo only: the clone takes its colours from there, and would otherwise leave the old head.
    """
    filled = inpaint_hole(body, pasted.gap | pasted.head)
    mask = pasted.head.astype(np.uint8)
    # The clone's border must lie in the image.
    mask[[0, -1]] = 0
    mask[:, [0, -1]] = 0
    if not mask.any():
        return filled
    left, top, width, height = cv2.boundingRect(mask)
    # The centre of the mask's box, so that it is cloned where it is.
    centre = (left + width // 2, top + height // 2)
    return cv2.seamlessClone(
        np.ascontiguousarray(head), filled, mask * np.uint8(255), centre, cv2.NORMAL_CLONE
    )
