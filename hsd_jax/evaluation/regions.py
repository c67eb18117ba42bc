"""Frames, crops and masks: which pixels of an image a metric sees.

HS-Diffusion, arXiv 2212.06458, section 4.1. The paper leaves much open; `Choices` lists these
choices, with defaults that fit its words and numbers. `stage` aligns a pair in one frame.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from hsd_jax.evaluation.pairs import LabelledImage
from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet
from hsd_jax.swapping.mixing import neck_shift, regions, shift_columns, turned_neck_shift

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Images = UInt8[np.ndarray, "b h w 3"]
Masks = Bool[np.ndarray, "b h w"]


@dataclass(frozen=True)
class Choices:
    """The choices that the paper leaves open.

    Attributes:
      frame: "face" moves the head's face to the size and place of the body's face, like the crops
        of `hsd swap`; "data" uses both images as they are, for data sets that are face-aligned like
        the paper's. Neck alignment, if a method has it, follows.
      fill: the level of masked pixels in the Mask- metrics, 0 to 255; black, the default, is the
        product with a mask.
      masks: what hides head and body in a result: "layouts" (m_H and m_B of the mixed layouts) or
        "parsed" (the layout that the embedded parser finds in the result). Real images are always
        masked by their own layouts.
      focal: the share of each side in the central Focal- crop ("the middle 1/2 region").
      rounding: "floor" or "ceil" of the crop's first row; irrelevant at 256 or 512 pixels.
      focal_size: the side to enlarge the crop to before the extractor; 0 for no resizing
        (extractors resize if they must).
      focal_filter: the filter for that, "bilinear", "bicubic" or "lanczos".
      similarity: how SSIM and LPIPS treat a region: "whole" (both images are multiplied by the
        mask, and the mean is over the whole image, as the paper's .97 to .998 suggest) or "inside"
        (the mean over the region only, which is far stricter).
      face_margin: the margin of the square crop for the identity, as a share of the face's height
        on each side. ArcFace is trained on crops aligned by five landmarks, which layouts lack;
        both images use the same square, since heads only move sideways.
    """

    frame: str = "face"
    fill: int = 0
    masks: str = "layouts"
    focal: float = 0.5
    rounding: str = "floor"
    focal_size: int = 0
    focal_filter: str = "bicubic"
    similarity: str = "whole"
    face_margin: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill is {self.fill}: give 0 to 255")
        if not 0 < self.focal <= 1:
            raise ValueError(f"focal is {self.focal}: give a share over 0 and up to 1")
        if self.focal_size < 0:
            raise ValueError(f"focal_size is {self.focal_size}: give pixels, or 0 for no resizing")
        if self.face_margin < 0:
            raise ValueError(f"face_margin is {self.face_margin}: give 0 or more")
        for name, known in (
            ("frame", ("face", "data")),
            ("masks", ("layouts", "parsed")),
            ("rounding", ("floor", "ceil")),
            ("focal_filter", tuple(FILTERS)),
            ("similarity", ("whole", "inside")),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}: use one of {', '.join(known)}")


def swap_masks(
    head_layouts: Integer[np.ndarray, "b h w"],
    body_layouts: Integer[np.ndarray, "b h w"],
    labels: LabelSet,
) -> tuple[Masks, Masks]:
    """The masks of head (in front) and body that a swap keeps, from aligned layouts."""
    found = regions(head_layouts, body_layouts, labels)
    return np.asarray(found.head) > 0, np.asarray(found.body) > 0


def own_masks(layouts: Integer[np.ndarray, "b h w"], labels: LabelSet) -> Masks:
    """The head and body of real images, which the Mask- metrics hide."""
    return np.isin(layouts, (*labels.head, *labels.body))


def exposed(images: Images, hidden: Masks, choices: Choices) -> Images:
    """The Mask- metrics' images: masked pixels are filled, only inpainted regions remain."""
    return np.where(hidden[..., None], np.uint8(choices.fill), images)


def focal(images: Images, choices: Choices) -> UInt8[np.ndarray, "b n m 3"]:
    """The Focal- metrics' crops, the middle of the image: rows and columns S/4 to 3S/4."""
    rows, columns = (_middle(side, choices) for side in images.shape[1:3])
    crops = images[:, rows, columns]
    if choices.focal_size:
        crops = resize(crops, choices.focal_size, choices.focal_filter)
    return crops


def _middle(side: int, choices: Choices) -> slice:
    length = max(1, round(side * choices.focal))
    border = side - length
    start = border // 2 if choices.rounding == "floor" else (border + 1) // 2
    return slice(start, start + length)


def resize(images: Images, size: int, filter_name: str) -> UInt8[np.ndarray, "b n n 3"]:
    """Resizes images to `size` x `size` with Pillow (antialiased)."""
    chosen = FILTERS[filter_name]
    return np.stack(
        [np.asarray(Image.fromarray(x).resize((size, size), chosen)) for x in images]
    )


def face_square(layout: Integer[np.ndarray, "h w"], labels: LabelSet, choices: Choices) -> Crop:
    """The square around the face; it may extend beyond the image.

    Raises:
      ValueError: no face.
    """
    rows, columns = np.nonzero(layout == labels.face)
    if not len(rows):
        raise ValueError("a layout without a face has no identity: leave the image out")
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    side = round(max(height, width) + 2 * choices.face_margin * height)
    top, left = (round((x.min() + x.max() + 1 - side) / 2) for x in (rows, columns))
    return Crop(left, top, side)


def take_square(
    image: UInt8[np.ndarray, "h w 3"], square: Crop, size: int
) -> UInt8[np.ndarray, "n n 3"]:
    """Crops the square at `size` pixels, bilinear; beyond the image, edge pixels are repeated."""
    return resize(framing.take(image, square)[None], size, "bilinear")[0]


class Staged(NamedTuple):
    """A pair in the body's frame.

    Attributes:
      head, body: uint8 `[S, S, 3]` with their layouts, int32 `[S, S]`.
      photo: uint8, the head's whole image.
      crop: the square of it that `head` shows.
      shift: the number of columns that neck alignment moved the head by; 0 without.
    """

    head: LabelledImage
    body: LabelledImage
    photo: np.ndarray
    crop: Crop
    shift: int


Alignment = bool | Literal["necks"]
"""How heads are aligned; see `stage`."""
ALIGNMENTS: tuple[Alignment, ...] = (True, "necks", False)

_neck_shift = jax.jit(neck_shift, static_argnames="labels")
_turned_neck_shift = jax.jit(turned_neck_shift, static_argnames="labels")


def stage(
    head: LabelledImage, body: LabelledImage, labels: LabelSet, frame: str, aligned: Alignment
) -> Staged:
    """Frames the head as `hsd_jax.swap` does, from given layouts.

    Args:
      head, body: square, with layouts of `labels`; both show a face.
      labels: of the layouts.
      frame: "face" or "data", see `Choices`.
      aligned: True moves the head sideways until the lower faces meet (the paper, section 3.4),
        "necks" also until the necks of turned heads meet (ours), False leaves it.

    Raises:
      ValueError: images that are not square, of two sizes with frame "data", or without a face.
    """
    size = body.image.shape[0]
    for image, layout in (head, body):
        if image.shape[:2] != layout.shape or len({*layout.shape}) > 1:
            raise ValueError(
                f"an image of {image.shape} with a layout of {layout.shape}: "
                "give square ones of one size"
            )
    if frame == "data":
        if head.image.shape != body.image.shape:
            raise ValueError(f"images of {head.image.shape[0]} and {size} pixels: use frame face")
        crop = Crop(0, 0, size)
    else:
        crop = face_crop(head.layout, body.layout, labels.face)
    layout = take_layout(head.layout, crop, size, labels.background)
    shift_of = _turned_neck_shift if aligned == "necks" else _neck_shift
    shift = int(shift_of(layout, body.layout, labels=labels)) if aligned else 0
    crop = crop.shifted(-shift * crop.side / size)
    moved = np.asarray(shift_columns(layout, shift, labels.background))
    framed = LabelledImage(framing.take(head.image, crop, size), moved)
    return Staged(framed, body, head.image, crop, shift)


def face_crop(head: np.ndarray, body: np.ndarray, face: int) -> Crop:
    """The square of the head's image that puts its face at the size and place of the body's.

    Raises:
      ValueError: a layout without a face.
    """
    (x, y, length), (to_x, to_y, to_length) = (_place(layout, face) for layout in (head, body))
    zoom = length / to_length
    side = max(1, round(body.shape[0] * zoom))
    return Crop(round(x - to_x * zoom), round(y - to_y * zoom), side)


def _place(layout: np.ndarray, face: int) -> tuple[float, float, float]:
    """(column, row, square root of the area) of the face."""
    rows, columns = np.nonzero(layout == face)
    if not len(rows):
        raise ValueError("a layout without a face: leave the image out of the pairs")
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5, float(np.sqrt(len(rows)))


def take_layout(layout: np.ndarray, crop: Crop, size: int, background: int) -> np.ndarray:
    """Crops a layout at `size` pixels, nearest neighbour; background beyond its edges."""
    at = (np.arange(size) + 0.5) * crop.side / size
    rows, columns = (np.floor(start + at).astype(int) for start in (crop.top, crop.left))
    height, width = layout.shape
    result = layout[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return np.where(framing.inside(layout, crop, size), result, background).astype(np.int32)
