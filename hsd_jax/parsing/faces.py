"""A face in a photo: its place, the confidence that it is one, and the crop for its person."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hsd_jax.imaging.files import MIN_SIDE
from hsd_jax.imaging.framing import Crop
from hsd_jax.parsing.landmarks import TRUSTED, Landmarks

REFUSED, SURE = 0.2, 0.6  # confidences: less than the first is refused, than the second doubted
# The regression's weights and bias, and the least certainty that counts: small faces have less.
_SEEN, _CERTAIN, _BIAS, _LEAST = 1.169, 28.902, -29.033, 0.68
# Medians of training images: the square root of the face's area and the row of its centroid, as
# shares of the crop's side (1,985 half-body street photos, 615 portraits).
_HALF_BODY = (0.209, 0.342)
_PORTRAIT = (0.475, 0.51)


@dataclass(frozen=True)
class Face:
    """The centroid of a face and the square root of its area, in the photo's pixels."""

    x: float
    y: float
    size: float
    certainty: float = 1.0
    """The mean probability of the parser's most probable classes around the face."""
    landmarks: Landmarks | None = None

    @property
    def confidence(self) -> float:
        """The confidence that this is a visible face, 0 to 1; 1 without a landmark network.

        A logistic regression on the landmark network's confidence and the parser's certainty, which
        is low around a cat's face, for instance (docs/faces.md).
        """
        if self.landmarks is None:
            return 1.0
        seen = np.clip(self.landmarks.confidence, 1e-4, 1 - 1e-4)
        certainty = max(self.certainty, _LEAST)
        score = _SEEN * np.log(seen / (1 - seen)) + _CERTAIN * certainty + _BIAS
        return float(1 / (1 + np.exp(-score)))

    def crop(self, share: float) -> Crop:
        """The square around the face whose side is the face's size divided by `share`.

        The centroid is put in the middle column, and in the row that faces of this share have in
        training images.
        """
        side = max(MIN_SIDE, round(self.size / share))
        return Crop(round(self.x - 0.5 * side), round(self.y - _face_row(share) * side), side)

    def aligns_with(self, other: "Face") -> bool:
        """Whether the landmarks of both faces are reliable."""
        found = self.landmarks, other.landmarks
        return all(marks is not None and marks.confidence >= TRUSTED for marks in found)

    def crop_like(self, other: "Face", crop: Crop, turned: bool = False) -> Crop | None:
        """The square that shows this head at the place and size that `other`'s has in `crop`.

        The points between the eyes coincide and, if `turned`, the lines through the eyes are
        parallel. None if the landmarks of either are not reliable.
        """
        if not self.aligns_with(other):
            return None
        assert self.landmarks is not None and other.landmarks is not None
        side = max(MIN_SIDE, round(crop.side * self.landmarks.size / other.landmarks.size))
        turn = self.landmarks.roll - other.landmarks.roll if turned else 0.0
        eyes = Crop(0, 0, side, turn).points(crop.places(other.landmarks.eyes))
        left, top = self.landmarks.eyes - eyes
        return Crop(round(float(left)), round(float(top)), side, turn)

    def share_in(self, photo: np.ndarray) -> float:
        """The share of the crop that suits the photo: half-body if the photo shows that much.

        The paper's crops are all half-body (eyes at 0.29 of the height, 2.25 times FFHQ's square).
        Around a close-up such a square would be mostly empty and the face few pixels wide, so the
        crop shrinks until the photo fills it, but no further than a portrait's framing.
        """
        fills = self.size / (1.1 * max(photo.shape[:2]))
        return float(np.clip(fills, _HALF_BODY[0], _PORTRAIT[0]))


def _face_row(share: float) -> float:
    (share0, row0), (share1, row1) = _HALF_BODY, _PORTRAIT
    return row0 + (share - share0) / (share1 - share0) * (row1 - row0)


def surest(faces: Iterable[Face]) -> float:
    """The confidence of the surest face; 0 for none."""
    return max((face.confidence for face in faces), default=0.0)
