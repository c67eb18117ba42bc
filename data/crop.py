"""The half-body crop of full-body photos, and the white backdrop.

HS-Diffusion (arXiv 2212.06458, section 4.1) aligns SHHQ's photos by facial landmarks and crops half
bodies, without giving numbers. Ours are measured on its figures: the eyes' midpoint lies at (0.50,
0.29) of the square, whose side is 2.25 times that of FFHQ's crop of the same face, and the eyes are
level. Coordinates are (column, row) in pixels, with integers at the centres as in OpenCV.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Matrix = Float[np.ndarray, "2 3"]
Point = tuple[float, float]

# Shares of the square's side, read off the paper's figures.
EYES = (0.5, 0.29)
FFHQ_SIDES = 2.25
FACE_WIDTH, FACE_HEIGHT, CHIN = 0.26, 0.33, 0.495


class Landmarks(NamedTuple):
    """The centres of the eye on the image's left, the eye on its right, and the mouth."""

    left_eye: Point
    right_eye: Point
    mouth: Point


class Box(NamedTuple):
    """The visible face, forehead to chin, edges included."""

    left: float
    top: float
    right: float
    bottom: float


def crop_matrix(face: Landmarks | Box, size: int) -> Matrix:
    """Photo coordinates -> those of the `size` x `size` crop.

    From landmarks it is FFHQ's rule (Karras et al., arXiv 1812.04948, appendix A) times
    `FFHQ_SIDES`, rotation included. A box is our deviation for photos without landmarks: nothing is
    rotated, the chin is put at `CHIN`, and the side follows from the box's area, since hair over
    the forehead changes its height and a turned head its width.

    Raises:
      ValueError: the face has no extent.
    """
    if isinstance(face, Box):
        width, height = face.right - face.left + 1, face.bottom - face.top + 1
        if width <= 1 or height <= 1:
            raise ValueError(f"face box {tuple(face)} is empty; write left, top, right, bottom")
        side = np.sqrt(width * height / (FACE_WIDTH * FACE_HEIGHT))
        anchor, place = ((face.left + face.right) / 2, face.bottom), (0.5, CHIN)
        axis = np.array([1.0, 0.0])
    else:
        left, right, mouth = (np.array(point, np.float64) for point in face)
        eyes, across = (left + right) / 2, right - left
        down = mouth - eyes
        axis = across + [down[1], -down[0]]
        if across[0] <= 0 or not axis.any():
            raise ValueError(f"eyes at {face.left_eye} and {face.right_eye}; the left one first")
        axis /= np.hypot(*axis)
        side = FFHQ_SIDES * 2 * max(2 * np.hypot(*across), 1.8 * np.hypot(*down))
        anchor, place = eyes, EYES
    zoom = size / side
    turn = zoom * np.array([[axis[0], axis[1]], [-axis[1], axis[0]]])
    target = np.array(place) * size - 0.5
    return np.column_stack([turn, target - turn @ anchor])


def cut(
    image: UInt8[np.ndarray, "H W *c"], matrix: Matrix, size: int, fill: int | None, nearest: bool
) -> UInt8[np.ndarray, "size size *c"]:
    """Crops a photo or, with `nearest`, a layout.

    Args:
      image: the photo or layout.
      matrix: see `crop_matrix`.
      size: side of the crop.
      fill: value beyond the photo's border; None repeats the border.
      nearest: nearest neighbour, for class indices; otherwise bicubic with antialiasing.
    """
    zoom = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    if zoom < 0.75 and not nearest:  # cubic sampling alone would alias
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_CUBIC
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    value = (fill or 0,) * 3
    return cv2.warpAffine(
        image, matrix, (size, size), flags=flags, borderMode=border, borderValue=value
    )


def face_box(face: Bool[np.ndarray, "H W"], min_side: int = 8) -> Box | None:
    """The box of the largest connected part of a face mask; None when it is below `min_side`."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(face.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    left, top, width, height, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))].tolist()
    if min(width, height) < min_side:
        return None
    return Box(left, top, left + width - 1, top + height - 1)


def whiten(
    image: UInt8[np.ndarray, "H W 3"], person: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The person on white, as SHHQ's own script does it (StyleGAN-Human, bg_white.py).

    It leaves a soft grey halo around the person, which the paper's figures show too: the mask's
    3 x 3 blur has values between 0 and 255 on its edge, whose "white" `(1 - m) * 255` overflows 8
    bits to m - 1, and a Gaussian over 81 pixels spreads that. It is reproduced here, so that our
    images look like the paper's.

    Args:
      image: RGB photo.
      person: mask of it, 0 background to 255 person.
    """
    person = cv2.blur(person, (3, 3))
    backdrop = np.where(person == 0, 255, person.astype(np.int16) - 1).astype(np.uint8)
    backdrop = cv2.GaussianBlur(backdrop, (81, 81), 0).astype(np.uint16)
    share = person.astype(np.uint16)
    shade = (backdrop * (255 - share))[..., None]
    return ((image * share[..., None] + shade) // 255).astype(np.uint8)
