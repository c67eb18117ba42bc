"""A face in a photo: where it is, how sure that is, and the square that frames its person."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hsd_jax.imaging.files import MIN_SIDE
from hsd_jax.imaging.framing import Crop
from hsd_jax.parsing.landmarks import TRUSTED, Landmarks

REFUSED, SURE = 0.2, 0.6  # confidences: nothing below the first is a face, from the second on it is
# Of the confidence: weights and bias, and a certainty below which small faces have theirs.
_SEEN, _CERTAIN, _BIAS, _LEAST = 0.985, 34.25, -31.36, 0.68
# Of training images: the square root of the face's area as a share of the crop's side, and the row
# of its centroid. 1,985 half-body street photos (medians 0.209, 0.342), 615 portraits.
_HALF_BODY = (0.209, 0.342)
_PORTRAIT = (0.475, 0.51)


@dataclass(frozen=True)
class Face:
    """A face in a photo: centroid and square root of its mask's area, in the photo's pixels."""

    x: float
    y: float
    size: float
    certainty: float = 1.0
    """Of the parser, around it: the mean probability of the likeliest classes."""
    landmarks: Landmarks | None = None

    @property
    def confidence(self) -> float:
        """0 to 1, that it is a face and not hidden; 1 by weights without landmarks.

        A logistic regression on what the landmark network says and how sure the parser is of what
        is around: it is of people, and not of a cat's fur (docs/faces.md).
        """
        if self.landmarks is None:
            return 1.0
        seen = np.clip(self.landmarks.confidence, 1e-4, 1 - 1e-4)
        certainty = max(self.certainty, _LEAST)
        score = _SEEN * np.log(seen / (1 - seen)) + _CERTAIN * certainty + _BIAS
        return float(1 / (1 + np.exp(-score)))

    def crop(self, share: float) -> Crop:
        """The square around it of which its size is `share`.

        The face's mask places it: the centroid comes to the middle column, and to the row that it
        has in training images of that share.
        """
        side = max(MIN_SIDE, round(self.size / share))
        return Crop(round(self.x - 0.5 * side), round(self.y - _face_row(share) * side), side)

    def aligns_with(self, other: "Face") -> bool:
        """Whether the landmarks of both are to be trusted."""
        found = self.landmarks, other.landmarks
        return all(marks is not None and marks.confidence >= TRUSTED for marks in found)

    def crop_like(self, other: "Face", crop: Crop) -> Crop | None:
        """The square in which its eyes are where those of `other` are in `crop`, as far apart.

        None where their landmarks are not to be trusted.
        """
        if not self.aligns_with(other):
            return None
        assert self.landmarks is not None and other.landmarks is not None
        side = max(MIN_SIDE, round(crop.side * self.landmarks.size / other.landmarks.size))
        place = (other.landmarks.eyes - (crop.left, crop.top)) / crop.side
        left, top = self.landmarks.eyes - place * side
        return Crop(round(float(left)), round(float(top)), side)

    def share_in(self, photo: np.ndarray) -> float:
        """The share of a crop that suits the photo: half-body where it shows that much.

        The paper's crops are all half-body (eyes at 0.29 of the height, 2.25 times FFHQ's square).
        A close-up holds less; a half-body square around it would be mostly empty and the face few
        pixels wide, so the crop closes in until the photo fills it, down to portraits' framing.
        """
        fills = self.size / (1.1 * max(photo.shape[:2]))
        return float(np.clip(fills, _HALF_BODY[0], _PORTRAIT[0]))


def _face_row(share: float) -> float:
    (share0, row0), (share1, row1) = _HALF_BODY, _PORTRAIT
    return row0 + (share - share0) / (share1 - share0) * (row1 - row0)


def surest(faces: Iterable[Face]) -> float:
    """The confidence of the surest face; 0 for none."""
    return max((face.confidence for face in faces), default=0.0)
