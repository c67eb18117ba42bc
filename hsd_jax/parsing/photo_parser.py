"""Finds the people in a photo and their layouts.

The parser first runs on the whole photo, then on a crop around each face that it found there; a
swap uses the crop's layout.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.files import MIN_SIDE
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet, can_remap, remap
from hsd_jax.parsing.segmenter import Segmenter
from hsd_jax.runtime.programs import Program
from hsd_jax.weights import Loaded

_ZOOMS = (1, 2)  # of the whole photo; the second if the first finds no face
_MIN_FACE = 12  # pixels of the photo; on smaller faces a swap is not visible
_MIN_SURE = 0.75  # mean probability: real faces have 0.82 and more, blank images 0.67 at most


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

    @classmethod
    def of(cls, crop: Crop, share: float) -> "Face":
        """The face around which `crop` was made."""
        x, y = crop.left + 0.5 * crop.side, crop.top + _face_row(share) * crop.side
        return cls(x, y, share * crop.side)

    def crop(self, share: float) -> Crop:
        """The square around the face whose side is the face's size divided by `share`.

        The centroid is put in the middle column, and in the row that faces of this share have in
        training images.
        """
        side = max(MIN_SIDE, round(self.size / share))
        return Crop(round(self.x - 0.5 * side), round(self.y - _face_row(share) * side), side)

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


@dataclass(frozen=True)
class Person:
    """One person in a photo, cropped with the framing that the networks were trained on."""

    photo: UInt8[np.ndarray, "H W 3"]
    """The whole photo."""
    crop: Crop
    """The person's square in the photo."""
    share: float
    """The face's size as a share of the crop's side."""
    image: UInt8[np.ndarray, "s s 3"]
    """The crop at the size of the networks."""
    layout: Int32[np.ndarray, "s s"]
    """The crop's layout; other people in it are background."""
    faces: int
    """How many faces the photo shows."""
    inside: Bool[np.ndarray, "s s"]
    """Where the crop lies in the photo; elsewhere the image repeats edge pixels."""

    @property
    def room(self) -> tuple[float, float, float, float]:
        """How much photo lies beyond the crop; see `framing.room`."""
        return framing.room(self.photo, self.crop)

    def moved(self, columns: int) -> "Person":
        """The crop so many of its own columns further right; the layout stays."""
        size = len(self.image)
        crop = self.crop.shifted(columns * self.crop.side / size)
        image, inside = _cut(self.photo, crop, size)
        return replace(self, crop=crop, image=image, inside=inside)


def _cut(photo: np.ndarray, crop: Crop, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The crop's image, and which of its pixels lie in the photo."""
    return framing.take(photo, crop, size), framing.inside(photo, crop, size)


class PhotoParser:
    """Applies a parser to photos of any size."""

    def __init__(self, weights: Loaded, size: int | None = None, labels: LabelSet | None = None):
        """Prepares a parser.

        Args:
          weights: the part "parser" of a set of weights.
          size: the side of the crops that `person` returns; None for the parser's own.
          labels: the label set of its layouts; None for the parser's own.

        Raises:
          ValueError: if the parser's layouts cannot be remapped to `labels`.
        """
        self._segmenter = Segmenter(weights)
        own = self._segmenter.labels
        self.labels, self.size = labels or own, size or self._segmenter.size
        if reason := can_remap(own, self.labels):
            raise ValueError(
                f"the parser speaks {own.name}, the other networks {self.labels.name}: {reason}"
            )

    def programs(self) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its usual arguments, in order of use."""
        return self._segmenter.programs()

    def prepare(self) -> None:
        """Loads programs that earlier processes compiled, in the background."""
        self._segmenter.prepare()

    def probabilities(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        """The probabilities of the parser's own classes; see `Segmenter.probabilities`."""
        return self._segmenter.probabilities(image)

    def parse(self, image: np.ndarray) -> tuple[np.ndarray, list[Face]]:
        """Parses a photo: class indices uint8 `[H, W]` and the faces, largest first.

        Around each face the layout is that of a crop, which is finer; elsewhere it is that of the
        whole photo, enlarged.
        """
        faces, probabilities, square = self._survey(image)
        layout = _to_photo(image, np.zeros(image.shape[:2], np.uint8), probabilities, square)
        for face in reversed(faces):  # the largest last, in front
            _, crop, refined = self._refine(image, face, face.share_in(image))
            layout = _to_photo(image, layout, refined, crop)
        return remap(layout, self._segmenter.labels, self.labels), faces

    def person(
        self,
        image: np.ndarray,
        number: int = 1,
        name: str = "the photo",
        share: float | None = None,
    ) -> Person:
        """Crops and parses one person of a photo.

        Args:
          image: uint8 `[H, W, 3]`.
          number: which person, counted by the size of their faces; 1 is the largest.
          name: what messages call the photo.
          share: the face's size as a share of the crop's side; None for `Face.share_in`. The same
            share frames two people alike.

        Raises:
          ValueError: if there are fewer than `number` faces.
        """
        faces = self._survey(image)[0]
        if not faces:
            raise ValueError(
                f"{name}: no face found: give a photo that shows a person from the front, head and "
                "shoulders, upright"
            )
        if not 1 <= number <= len(faces):
            raise ValueError(
                f"{name}: there is no person {number}: {len(faces)} found, counted by size from 1"
            )
        face = faces[number - 1]
        return self._framed(image, face, share or face.share_in(image), len(faces))

    def reframed(self, person: Person, share: float) -> Person:
        """Crops and parses the same person again, with another share."""
        face = Face.of(person.crop, person.share)
        return self._framed(person.photo, face, share, person.faces)

    def _framed(self, image: np.ndarray, face: Face, share: float, faces: int) -> Person:
        face, crop, probabilities = self._refine(image, face, share)
        layout = _resized(probabilities, self.size).argmax(-1).astype(np.int32)
        layout = self._one_person(layout, face, crop)
        layout = remap(layout, self._segmenter.labels, self.labels)
        cut, inside = _cut(image, crop, self.size)
        return Person(image, crop, share, cut, layout, faces, inside)

    def _survey(self, image: np.ndarray) -> tuple[list[Face], np.ndarray, Crop]:
        """The faces of the whole photo, its probabilities, and the square that these cover."""
        height, width = image.shape[:2]
        side = max(height, width)
        square = Crop((width - side) // 2, (height - side) // 2, side)
        best: tuple[list[Face], np.ndarray] | None = None
        for zoom in _ZOOMS:
            probabilities = self._look(image, square, zoom)
            found = [
                face
                for face in self._find_faces(probabilities, square)
                if 0 <= face.x < width and 0 <= face.y < height
            ]
            if best is None or found:
                best = found, probabilities
            if found:
                break
        assert best is not None
        return *best, square

    def _refine(
        self, image: np.ndarray, face: Face, share: float
    ) -> tuple[Face, Crop, np.ndarray]:
        """Finds the face again in its own crop; returns it, the crop and its probabilities."""
        crop = face.crop(share)
        for _ in range(2):
            near = [
                found
                for found in self._find_faces(self._look(image, crop), crop)
                if np.hypot(found.x - face.x, found.y - face.y) < face.size
            ]
            if not near:
                break
            face, last = near[0], crop
            crop = face.crop(share)
            if abs(crop.side - last.side) < 0.03 * last.side:
                crop = last
                break
        return face, crop, self._look(image, crop, last=True)

    def _look(
        self, image: np.ndarray, crop: Crop, zoom: int = 1, last: bool = False
    ) -> np.ndarray:
        """Class probabilities of a crop at `zoom` times the parser's size.

        The last look at a crop is by `Segmenter.probabilities`, the others by `glance`.
        """
        seen = framing.take(image, crop, zoom * self._segmenter.size)
        return self._segmenter.probabilities(seen) if last else self._segmenter.glance(seen)

    def _find_faces(self, probabilities: np.ndarray, square: Crop) -> list[Face]:
        """The faces in a parsed square, largest first: confident blobs of face and glasses."""
        layout, classes = probabilities.argmax(-1), self._face_classes()
        sure = probabilities[..., classes].sum(-1)
        mask = np.isin(layout, classes)
        mask = ndimage.binary_opening(mask, iterations=1)
        blobs, count = _blobs(mask)
        scale = square.side / layout.shape[0]
        faces = []
        for index in range(1, count + 1):
            rows, columns = np.nonzero(blobs == index)
            size = np.sqrt(len(rows)) * scale
            if len(rows) < 30 or size < _MIN_FACE or sure[rows, columns].mean() < _MIN_SURE:
                continue
            x = square.left + (columns.mean() + 0.5) * scale
            y = square.top + (rows.mean() + 0.5) * scale
            faces.append(Face(float(x), float(y), float(size)))
        faces.sort(key=lambda face: -face.size)
        # Beside a large face, a blob of a tenth of its area is a hand or a poster.
        return [face for face in faces if face.size > 0.32 * faces[0].size]

    def _face_classes(self) -> list[int]:
        labels = self._segmenter.labels
        glasses = [i for i, name in enumerate(labels.classes) if name == "glasses"]
        return [labels.face, *glasses]

    def _one_person(self, layout: np.ndarray, face: Face, crop: Crop) -> np.ndarray:
        """Removes other people: heads not connected to this face become background."""
        labels = self._segmenter.labels
        heads, count = _blobs(np.isin(layout, labels.head))
        if count < 2:
            return layout
        scale = crop.side / len(layout)
        row = int(np.clip((face.y - crop.top) / scale, 0, len(layout) - 1))
        column = int(np.clip((face.x - crop.left) / scale, 0, len(layout) - 1))
        distance = np.hypot(*np.indices(layout.shape) - np.array([row, column])[:, None, None])
        nearest = np.where(heads > 0, distance, np.inf).argmin()
        mine = heads.ravel()[nearest]
        return np.where((heads > 0) & (heads != mine), labels.background, layout)


def _blobs(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels connected regions from 1 and counts them."""
    numbered: Any = ndimage.label(mask)  # scipy's annotation lacks the pair
    return numbered


def _resized(probabilities: np.ndarray, size: int) -> np.ndarray:
    """Resizes `[h, w, k]` to `[size, size, k]`, bilinear."""
    if len(probabilities) == size:
        return probabilities
    channels = [framing.resize_map(channel, size) for channel in np.moveaxis(probabilities, -1, 0)]
    return np.stack(channels, -1)


def _to_photo(
    image: np.ndarray, layout: np.ndarray, probabilities: np.ndarray, crop: Crop
) -> np.ndarray:
    """Pastes the crop's most probable classes into `layout`, at the photo's size."""
    best = np.full((crop.side, crop.side), -1.0, np.float32)
    winner = np.zeros((crop.side, crop.side), np.uint8)
    for index in range(probabilities.shape[-1]):
        enlarged = framing.resize_map(probabilities[..., index], crop.side)
        better = enlarged > best
        best[better], winner[better] = enlarged[better], index
    return framing.paste(layout, winner, crop)
