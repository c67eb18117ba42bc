"""Finds the people in a photo and their layouts.

The parser first runs on the whole photo, then on a crop around each face that it found there; a
swap uses the crop's layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet, can_remap, remap
from hsd_jax.models.landmarks import SIZE
from hsd_jax.parsing.faces import REFUSED, SURE, Face, surest
from hsd_jax.parsing.landmarks import locate
from hsd_jax.parsing.landmarks import program as landmark_program
from hsd_jax.parsing.segmenter import Segmenter
from hsd_jax.runtime.programs import Program
from hsd_jax.runtime.recent import Recent, digest
from hsd_jax.weights import Loaded, has_part, load_part

_ZOOMS = (1, 2)  # of the whole photo; the second if the first finds no sure face
_MIN_FACE = 12  # pixels of the photo; on smaller faces a swap is not visible
_SETTLED = 0.98  # confidence; with less the photo is also tried sideways and upside down
_PANORAMA = 8  # times as long as wide: taken as it lies, so that it is refused at once
_SURER = 50  # factor by which the odds of a face must rise for the photo to be turned
_FINDINGS, _PEOPLE = 256, 16  # photos whose faces are remembered; people, of a megabyte each
_NO_PHOTO = np.empty((0, 0, 3), np.uint8)  # in place of photos that are not kept
_MIN_SURE = 0.75  # mean probability: real faces have 0.82 and more, blank images 0.67 at most


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
    face: Face | None = None
    """The face in the photo; None if the person was not found by `PhotoParser`."""
    turns: int = 0
    """The number of counter-clockwise quarter turns that turned the photo upright."""

    @property
    def room(self) -> tuple[float, float, float, float]:
        """How much photo lies beyond the crop; see `framing.room`."""
        return framing.room(self.photo, self.crop)

    def moved(self, columns: int) -> "Person":
        """The crop so many of its own columns further right; the layout stays."""
        size = len(self.image)
        crop = self.crop.shifted(columns * self.crop.side / size)
        image, inside = framing.take(self.photo, crop, size), framing.inside(self.photo, crop, size)
        return replace(self, crop=crop, image=image, inside=inside)


class PhotoParser:
    """Applies a parser to photos of any size.

    It remembers what it found in recent photos, which batches and the page give again and again.
    """

    def __init__(
        self,
        weights: Loaded,
        size: int | None = None,
        labels: LabelSet | None = None,
        landmarks: Loaded | None = None,
    ):
        """Prepares a parser.

        Args:
          weights: the part "parser" of a set of weights.
          size: the side of the crops that `person` returns; None for the parser's own.
          labels: the label set of its layouts; None for the parser's own.
          landmarks: the part "landmarks". Without it every face that the parser finds is accepted,
            no photo is turned, and pairs are framed by their faces' masks.

        Raises:
          ValueError: if the parser's layouts cannot be remapped to `labels`.
        """
        self._segmenter, self._landmarks = Segmenter(weights), landmarks
        self._findings: Recent[tuple[int, list[Face]]] = Recent(_FINDINGS)
        self._people: Recent[Person] = Recent(_PEOPLE)
        own = self._segmenter.labels
        self.labels, self.size = labels or own, size or self._segmenter.size
        if reason := can_remap(own, self.labels):
            raise ValueError(
                f"the parser speaks {own.name}, the other networks {self.labels.name}: {reason}"
            )

    @classmethod
    def load(
        cls, folder: Path, size: int | None = None, labels: LabelSet | None = None
    ) -> "PhotoParser":
        """Loads the parser of a folder of weights, and its landmark network if it has one."""
        landmarks = load_part(folder, "landmarks") if has_part(folder, "landmarks") else None
        return cls(load_part(folder, "parser"), size, labels, landmarks)

    def programs(self) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its usual arguments, in order of use."""
        programs = self._segmenter.programs()
        if self._landmarks:
            image = jax.ShapeDtypeStruct((SIZE, SIZE, 3), np.uint8)
            network = landmark_program(self._landmarks.module), (self._landmarks.params, image)
            programs.insert(2, network)
        return programs

    def prepare(self) -> None:
        """Loads programs that earlier processes compiled, in the background."""
        for program, arguments in self.programs():
            program.prepare(*arguments)

    def probabilities(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        """The probabilities of the parser's own classes; see `Segmenter.probabilities`."""
        return self._segmenter.probabilities(image)

    def parse(self, image: np.ndarray) -> tuple[np.ndarray, list[Face]]:
        """Parses a photo: class indices uint8 `[H, W]` and the faces, largest first.

        Around each face the layout is that of a crop, which is finer; elsewhere it is that of the
        whole photo, enlarged.
        """
        faces, probabilities, square = self._survey(image)
        faces = _accepted(faces)
        layout = _to_photo(image, np.zeros(image.shape[:2], np.uint8), probabilities, square)
        for face in reversed(faces):  # the largest last, in front
            _, crop, seen = self._refine(image, face, face.share_in(image))
            layout = _to_photo(image, layout, self._segmenter.probabilities(seen), crop)
        return remap(layout, self._segmenter.labels, self.labels), faces

    def find(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, list[Face]]:
        """Finds all candidates for a face, of any confidence, the largest first.

        Returns:
          The number of counter-clockwise quarter turns that turn the photo upright, and the faces
          of the turned photo.
        """
        return self._findings.get(digest(image), lambda: self._find(image))

    def _find(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, list[Face]]:
        faces = self._survey(image)[0]
        if self._landmarks is None or surest(faces) >= _SETTLED or _is_panorama(image):
            return 0, faces
        turned = {turns: self._survey(np.rot90(image, turns))[0] for turns in (1, 2, 3)}
        best = max(turned, key=lambda turns: surest(turned[turns]))
        surer = _odds(turned[best]) > _SURER * _odds(faces)
        return (best, turned[best]) if surer and surest(turned[best]) >= SURE else (0, faces)

    def persons(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, list[Face]]:
        """The faces that `person` counts; otherwise as `find`."""
        turns, found = self.find(image)
        return turns, _accepted(found)

    def person(
        self,
        image: np.ndarray,
        number: int = 1,
        name: str = "the photo",
        like: Person | None = None,
        turned: bool = False,
    ) -> Person:
        """Crops and parses one person of a photo.

        The crop is taken from the photo turned upright (see `find`).

        Args:
          image: uint8 `[H, W, 3]`.
          number: which person, counted by the size of their faces; 1 is the largest.
          name: what messages call the photo.
          like: a person with whose eyes this one's should coincide, at the same size of the head.
          turned: whether the crop is also turned until the eyes of both lie on parallel lines.

        Raises:
          ValueError: if there are fewer than `number` faces.
        """
        key = digest(image)
        turns, found = self._findings.get(key, lambda: self._find(image))
        faces = _accepted(found)
        if not faces:
            raise ValueError(f"{name}: {_no_face(found)}")
        if not 1 <= number <= len(faces):
            raise ValueError(
                f"{name}: there is no person {number}: {len(faces)} found, counted by size from 1"
            )
        face, photo = faces[number - 1], np.ascontiguousarray(np.rot90(image, turns))
        if like:
            person = self._framed(photo, face, like.share, len(faces), like, turned)
            return replace(person, turns=turns)

        def framed() -> Person:
            person = self._framed(photo, face, face.share_in(photo), len(faces))
            for array in (person.image, person.layout, person.inside):
                array.setflags(write=False)  # others will be given them, too
            return replace(person, photo=_NO_PHOTO, turns=turns)

        return replace(self._people.get((key, number), framed), photo=photo)

    def reframed(self, person: Person, share: float, like: Person | None = None) -> Person:
        """Crops and parses the same person again, with another share."""
        assert person.face is not None
        turned = person.crop.turn != 0
        other = self._framed(person.photo, person.face, share, person.faces, like, turned)
        return replace(other, turns=person.turns)

    def _framed(
        self,
        image: np.ndarray,
        face: Face,
        share: float,
        faces: int,
        like: Person | None = None,
        turned: bool = False,
    ) -> Person:
        crop = face.crop_like(like.face, like.crop, turned) if like and like.face else None
        if crop is None:
            face, crop, seen = self._refine(image, face, share)
        else:
            seen = self._seen(image, crop)
        probabilities = self._segmenter.probabilities(seen)
        layout = _resized(probabilities, self.size).argmax(-1).astype(np.int32)
        layout = self._one_person(layout, face, crop)
        layout = remap(layout, self._segmenter.labels, self.labels)
        cut = seen if len(seen) == self.size else framing.take(image, crop, self.size)
        inside = framing.inside(image, crop, self.size)
        return Person(image, crop, share, cut, layout, faces, inside, face)

    def _survey(self, image: np.ndarray) -> tuple[list[Face], np.ndarray, Crop]:
        """The faces of the whole photo, its probabilities, and the square that these cover."""
        height, width = image.shape[:2]
        side = max(height, width)
        square = Crop((width - side) // 2, (height - side) // 2, side)
        best: tuple[list[Face], np.ndarray] | None = None
        for zoom in _ZOOMS:
            probabilities = self._segmenter.glance(self._seen(image, square, zoom))
            found = [
                self._located(image, face)
                for face in self._find_faces(probabilities, square)
                if 0 <= face.x < width and 0 <= face.y < height
            ]
            if best is None or surest(found) > surest(best[0]):
                best = found, probabilities
            if surest(found) >= SURE:
                break
        assert best is not None
        return *best, square

    def _located(self, image: np.ndarray, face: Face) -> Face:
        """Adds landmarks to a face, if the weights have a network for them."""
        if self._landmarks is None:
            return face
        net, box = self._landmarks, (face.x, face.y, face.size)
        return replace(face, landmarks=locate(net.module, net.params, image, box))

    def _refine(
        self, image: np.ndarray, face: Face, share: float
    ) -> tuple[Face, Crop, np.ndarray]:
        """Finds the face again in its own crop; returns it, the crop and its image."""
        crop = face.crop(share)
        seen = self._seen(image, crop)
        for _ in range(2):
            near = [
                found
                for found in self._find_faces(self._segmenter.glance(seen), crop)
                if np.hypot(found.x - face.x, found.y - face.y) < face.size
            ]
            if not near:
                break
            face, last = replace(near[0], landmarks=face.landmarks), crop
            crop = face.crop(share)
            if abs(crop.side - last.side) < 0.03 * last.side:
                crop = last
                break
            seen = self._seen(image, crop)
        return face, crop, seen

    def _seen(self, image: np.ndarray, crop: Crop, zoom: int = 1) -> np.ndarray:
        """A crop at `zoom` times the parser's size."""
        return framing.take(image, crop, zoom * self._segmenter.size)

    def _find_faces(self, probabilities: np.ndarray, square: Crop) -> list[Face]:
        """The faces in a parsed square, largest first: confident blobs of face and glasses."""
        layout, classes = probabilities.argmax(-1), self._face_classes()
        sure, certain = probabilities[..., classes].sum(-1), probabilities.max(-1)
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
            certainty = _around(certain, rows.mean(), columns.mean(), np.sqrt(len(rows)))
            x = square.left + (columns.mean() + 0.5) * scale
            y = square.top + (rows.mean() + 0.5) * scale
            faces.append(Face(float(x), float(y), float(size), certainty))
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
        place = crop.places(np.array([face.x, face.y])) * len(layout)
        column, row = np.clip(place, 0, len(layout) - 1).astype(int)
        distance = np.hypot(*np.indices(layout.shape) - np.array([row, column])[:, None, None])
        nearest = np.where(heads > 0, distance, np.inf).argmin()
        mine = heads.ravel()[nearest]
        return np.where((heads > 0) & (heads != mine), labels.background, layout)


def _accepted(faces: Sequence[Face]) -> list[Face]:
    return [face for face in faces if face.confidence >= REFUSED]


def _is_panorama(image: np.ndarray) -> bool:
    return max(image.shape[:2]) > _PANORAMA * min(image.shape[:2])


def _odds(faces: Sequence[Face]) -> float:
    """The odds that at least the surest of them is a face."""
    return surest(faces) / (1 - surest(faces) + 1e-6)


def _around(values: np.ndarray, row: float, column: float, size: float) -> float:
    """The mean of a map in a box around the face, its hair and its neck."""
    top, bottom, left, right = (
        max(0, round(x))
        for x in (row - 1.5 * size, row + 2 * size, column - 1.5 * size, column + 1.5 * size)
    )
    return float(values[top : bottom + 1, left : right + 1].mean())


def _no_face(found: Sequence[Face]) -> str:
    """The message for a photo without a face that can be swapped."""
    if not found:
        return (
            "no face found: give a photo that shows a person from the front, head and shoulders, "
            "upright"
        )
    return (
        f"what looks most like a face is none that can be swapped (confidence "
        f"{surest(found):.2f}, needed {REFUSED:.2f}): give a photo in which nothing, such as "
        "hands or a camera, hides a person's face"
    )


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
    tile = framing.seen_of(image, crop)
    best = np.full([x.stop - x.start for x in tile], -1.0, np.float32)
    winner = np.zeros(best.shape, np.uint8)
    for index in range(probabilities.shape[-1]):
        probability = np.ascontiguousarray(probabilities[..., index])
        enlarged = framing.Scaled(probability, crop.side, smooth=True).at(tile)
        better = enlarged > best
        best[better], winner[better] = enlarged[better], index
    result = layout.copy()
    framing.put(result, winner, crop, tile)
    return result
