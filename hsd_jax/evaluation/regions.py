"""What of a picture counts: the crops and masks of the paper's figures.

HS-Diffusion, arXiv 2212.06458, section 4.1. The paper leaves much open; `Choices` names each such
choice, with the default that fits its words and its figures.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image

from hsd_jax.labels import LabelSet
from hsd_jax.swapping.mixing import regions

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Pictures = UInt8[np.ndarray, "b h w 3"]
Masks = Bool[np.ndarray, "b h w"]


@dataclass(frozen=True)
class Choices:
    """What the paper does not say.

    Attributes:
      frame: "face" brings the head's picture to the size and place that its face has in the body's
        picture, as the crops of `hsd swap` do; "data" takes both as they are, for sets that are
        face-aligned like the paper's. Neck alignment, where a method has it, comes after either.
      fill: level of the masked pixels of the Mask- figures, 0 to 255. Not stated; black is what a
        product with a mask gives.
      masks: whose masks hide head and body in a result: "layouts" (m_H and m_B, from the layouts
        that were mixed) or "parsed" (of the result, parsed again by the embedded parser). Real
        pictures are masked by their own layout always.
      focal: share of each side that the Focal- crop keeps, from the middle ("the middle 1/2
        region").
      rounding: the crop's first row where the border's width is not whole: "floor" or "ceil"; no
        choice at 256 or 512 pixels.
      focal_size: enlarge the crop to this side before the extractor, 0 for not; extractors resize
        by themselves when they must.
      focal_filter: how, "bilinear", "bicubic" or "lanczos".
      similarity: how SSIM and LPIPS look at a region: "whole" (both pictures are multiplied by the
        mask, and the mean is over the whole picture, which the paper's .97 to .998 suggest) or
        "inside" (the mean over the region alone, far stricter).
      face_margin: of the identity's square crop around the face, as a share of the face's height
        on each side. ArcFace is trained on crops aligned by five landmarks, which layouts lack; the
        same square is used for both pictures, as heads are not moved but sideways.
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
    """What a swap keeps: the head (in front) and the body; head layouts aligned already."""
    found = regions(head_layouts, body_layouts, labels)
    return np.asarray(found.head) > 0, np.asarray(found.body) > 0


def own_masks(layouts: Integer[np.ndarray, "b h w"], labels: LabelSet) -> Masks:
    """Head and body of real pictures: what the Mask- figures hide there."""
    return np.isin(layouts, (*labels.head, *labels.body))


def exposed(pictures: Pictures, hidden: Masks, choices: Choices) -> Pictures:
    """The Mask- figures' pictures: what a swap has to inpaint, the rest filled."""
    return np.where(hidden[..., None], np.uint8(choices.fill), pictures)


def focal(pictures: Pictures, choices: Choices) -> UInt8[np.ndarray, "b n m 3"]:
    """The Focal- figures' crops, the middle of the picture: rows and columns S/4 to 3S/4."""
    rows, columns = (_middle(side, choices) for side in pictures.shape[1:3])
    crops = pictures[:, rows, columns]
    if choices.focal_size:
        crops = resize(crops, choices.focal_size, choices.focal_filter)
    return crops


def _middle(side: int, choices: Choices) -> slice:
    length = max(1, round(side * choices.focal))
    border = side - length
    start = border // 2 if choices.rounding == "floor" else (border + 1) // 2
    return slice(start, start + length)


def resize(pictures: Pictures, size: int, filter_name: str) -> UInt8[np.ndarray, "b n n 3"]:
    """To `size` x `size`, with Pillow (antialiased)."""
    chosen = FILTERS[filter_name]
    return np.stack(
        [np.asarray(Image.fromarray(x).resize((size, size), chosen)) for x in pictures]
    )


def face_square(
    layout: Integer[np.ndarray, "h w"], labels: LabelSet, choices: Choices
) -> tuple[int, int, int]:
    """(top, left, side) of the square around the face; it may reach over the edges.

    Raises:
      ValueError: no face.
    """
    rows, columns = np.nonzero(layout == labels.face)
    if not len(rows):
        raise ValueError("a layout without a face has no identity: leave the picture out")
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    side = round(max(height, width) + 2 * choices.face_margin * height)
    top, left = (round((x.min() + x.max() + 1 - side) / 2) for x in (rows, columns))
    return top, left, side


def take_square(
    picture: UInt8[np.ndarray, "h w 3"], square: tuple[int, int, int], size: int
) -> UInt8[np.ndarray, "n n 3"]:
    """The square at `size` pixels, bilinear; beyond the picture its edge is repeated."""
    top, left, side = square
    rows, columns = (
        np.clip(np.arange(start, start + side), 0, length - 1)
        for start, length in ((top, picture.shape[0]), (left, picture.shape[1]))
    )
    return resize(picture[rows][:, columns][None], size, "bilinear")[0]


def to_weights(masks: Masks) -> Float[np.ndarray, "b h w 1"]:
    """Masks as factors of pictures."""
    return masks[..., None].astype(np.float32)
