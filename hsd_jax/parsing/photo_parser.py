"""Photo to layout, and where its people are.

The parser sees pictures of 256 x 256: first the whole photo, then, for each person, the half-body
crop around the face found there, where the layout that the swap uses is made.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.models import apply
from hsd_jax.parsing.complexion import by_complexion
from hsd_jax.parsing.guided_filter import guided_filter
from hsd_jax.runtime.programs import Program
from hsd_jax.weights import Loaded

SIZE = 256
_COARSE_SIZES = (256, 512)  # the second only when the first finds nobody
_MIN_FACE = 12  # pixels across, in the photo: below, a swap shows nothing
_MIN_SURE = 0.75  # mean probability: real faces have 0.82 and more, blank pictures 0.67 at most


@dataclass(frozen=True)
class Face:
    """A face in a photo: centroid and square root of its area, in the photo's pixels."""

    x: float
    y: float
    size: float

    def crop(self, share: float) -> Crop:
        """The square around it of which its size is `share`."""
        return framing.crop_around(self.x, self.y, self.size, share)


@dataclass(frozen=True)
class Person:
    """One person of a photo, cut out at the framing that the nets were trained on."""

    photo: np.ndarray
    """uint8 [H, W, 3], the whole photo."""
    crop: Crop
    """Where the person is in it."""
    share: float
    """The face's size as a share of the crop's side."""
    image: np.ndarray
    """uint8 [256, 256, 3], the crop."""
    layout: np.ndarray
    """int32 [256, 256]; other people in the crop count as background."""
    faces: int
    """How many faces the photo shows."""


class PhotoParser:
    """The embedded parser on photos of any size."""

    def __init__(self, weights: Loaded):
        self.labels: LabelSet = get_label_set(weights.extra["labels"])
        module, params = weights.module, weights.params
        # See `hsd_jax.training.tools.balance`.
        factors = weights.extra.get("balance", [1.0] * self.labels.num_classes)
        balance = np.array(factors, np.float32)[None, None, None]

        def mirrored_mean(params: Any, images: jax.Array) -> jax.Array:
            x = images.astype(jnp.float32) / 127.5 - 1
            logits = apply(module, params, jnp.concatenate([x, x[:, :, ::-1]]))
            straight, mirrored = jnp.split(jax.nn.softmax(logits), 2)
            return (straight + mirrored[:, :, ::-1]) / 2

        def settled(images: jax.Array, mean: jax.Array) -> jax.Array:
            """Edges, which the net gives a quarter as fine, brought to the picture's own."""
            return guided_filter(images / 255, mean, radius=2, eps=1e-3, reduce=4)

        def enlarged_mean(params: Any, images: jax.Array) -> jax.Array:
            """Of a picture three eighths larger: hair, necks and hats gain, nothing loses."""
            b, h, w, _ = images.shape
            size = (b, h * 11 // 8, w * 11 // 8, 3)
            second = mirrored_mean(params, jax.image.resize(images / 255, size, "bilinear") * 255)
            return jax.image.resize(second, (b, h, w, second.shape[-1]), "bilinear")

        def balanced(images: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
            found = settled(images, (first + second) / 2) * balance
            return found / jnp.sum(found, -1, keepdims=True)

        # Four programs, so that the net is in as few of them as it has sizes: they load faster.
        facts, self._params = (module, weights.extra), params
        self._near = Program("parser", mirrored_mean, facts)
        self._far = Program("parser-enlarged", enlarged_mean, facts)
        self._settled = Program("settled", settled)
        self._balanced = Program("balanced", balanced, facts)
        self._last: tuple[np.ndarray, Any] | None = None

    def _mean(self, images: np.ndarray) -> Any:
        """The net's means; a look mostly follows a glance at the same picture."""
        last = self._last
        if last is None or not np.array_equal(last[0], images):
            self._last = last = images, self._near(self._params, images)
        return last[1]

    def _glance(self, image: np.ndarray) -> np.ndarray:
        """One look at it, uint8 `[H, W, 3]` -> float32 `[H, W, K]`."""
        images = image[None]
        return np.asarray(self._settled(images, self._mean(images)))[0]

    def programs(self) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its usual arguments, in the order of use."""
        images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
        mean = jax.ShapeDtypeStruct((1, SIZE, SIZE, self.labels.num_classes), jnp.float32)
        return [
            (self._near, (self._params, images)),
            (self._settled, (images, mean)),
            (self._far, (self._params, images)),
            (self._balanced, (images, mean, mean)),
        ]

    def prepare(self) -> None:
        """Reads back what earlier processes compiled, in the background."""
        for program, arguments in self.programs():
            program.prepare(*arguments)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]`, sides multiples of 64, as it is -> float32 `[H, W, K]`.

        With a second look, enlarged, the classes' balance, and what colour tells about skin.
        """
        images = image[None]
        second = self._far(self._params, images)
        found = np.asarray(self._balanced(images, self._mean(images), second))[0]
        return by_complexion(image, found, self.labels)

    def parse(self, image: np.ndarray) -> tuple[np.ndarray, list[Face]]:
        """Class indices of a photo at its own size, uint8 `[H, W]`, and its faces, largest first.

        Everywhere the whole photo's layout, enlarged; around each face the crop's, which is finer.
        """
        faces, probabilities, square = self._survey(image)
        layout = _to_photo(image, np.zeros(image.shape[:2], np.uint8), probabilities, square)
        for face in reversed(faces):  # the largest last, in front
            _, crop, refined = self._refine(image, face, framing.framing(image, face.size))
            layout = _to_photo(image, layout, refined, crop)
        return layout, faces

    def person(
        self,
        image: np.ndarray,
        number: int = 1,
        name: str = "the photo",
        share: float | None = None,
    ) -> Person:
        """The `number`-th largest person.

        Args:
          image: uint8 `[H, W, 3]`.
          number: 1 for the largest face.
          name: of the photo, for the message.
          share: the face's size as a share of the crop's side; None for what suits the photo. Two
            people are framed alike by the same share.

        Raises:
          ValueError: no face, or fewer than `number`.
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
        return self._framed(image, face, share or framing.framing(image, face.size), len(faces))

    def reframed(self, person: Person, share: float) -> Person:
        """The same person, whose face is another share of the crop."""
        face = Face(*framing.face_in(person.crop, person.share))
        return self._framed(person.photo, face, share, person.faces)

    def _framed(self, image: np.ndarray, face: Face, share: float, faces: int) -> Person:
        face, crop, probabilities = self._refine(image, face, share)
        layout = self._one_person(probabilities.argmax(-1).astype(np.int32), face, crop)
        return Person(image, crop, share, framing.take(image, crop, SIZE), layout, faces)

    def _survey(self, image: np.ndarray) -> tuple[list[Face], np.ndarray, Crop]:
        """Faces of the whole photo, its probabilities, and the square that these cover."""
        height, width = image.shape[:2]
        side = max(height, width)
        square = Crop((width - side) // 2, (height - side) // 2, side)
        best: tuple[list[Face], np.ndarray] | None = None
        for size in _COARSE_SIZES:
            probabilities = self._glance(framing.take(image, square, size))
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
        """The face seen again in its own crop, that crop, and the probabilities of a last look."""
        crop = face.crop(share)
        for _ in range(2):
            near = [
                found
                for found in self._find_faces(self._glance(framing.take(image, crop, SIZE)), crop)
                if np.hypot(found.x - face.x, found.y - face.y) < face.size
            ]
            if not near:
                break
            face, last = near[0], crop
            crop = face.crop(share)
            if abs(crop.side - last.side) < 0.03 * last.side:
                crop = last
                break
        return face, crop, self.probabilities(framing.take(image, crop, SIZE))

    def _find_faces(self, probabilities: np.ndarray, square: Crop) -> list[Face]:
        """Faces in a parsed square, the largest first: sure blobs of face and glasses."""
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
        glasses = [i for i, name in enumerate(self.labels.classes) if name == "glasses"]
        return [self.labels.face, *glasses]

    def _one_person(self, layout: np.ndarray, face: Face, crop: Crop) -> np.ndarray:
        """Without the others in the crop: heads apart from this face's become background."""
        heads, count = _blobs(np.isin(layout, self.labels.head))
        if count < 2:
            return layout
        scale = crop.side / SIZE
        row = int(np.clip((face.y - crop.top) / scale, 0, SIZE - 1))
        column = int(np.clip((face.x - crop.left) / scale, 0, SIZE - 1))
        distance = np.hypot(*np.indices(layout.shape) - np.array([row, column])[:, None, None])
        nearest = np.where(heads > 0, distance, np.inf).argmin()
        mine = heads.ravel()[nearest]
        return np.where((heads > 0) & (heads != mine), self.labels.background, layout)


def _blobs(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions, numbered from 1, and their count."""
    numbered: Any = ndimage.label(mask)  # scipy's own annotation forgets the pair
    return numbered


def _to_photo(
    image: np.ndarray, layout: np.ndarray, probabilities: np.ndarray, crop: Crop
) -> np.ndarray:
    """`layout` with the crop's most probable classes pasted in, at the photo's size."""
    best = np.full((crop.side, crop.side), -1.0, np.float32)
    winner = np.zeros((crop.side, crop.side), np.uint8)
    for index in range(probabilities.shape[-1]):
        enlarged = framing.resize_map(probabilities[..., index], crop.side)
        better = enlarged > best
        best[better], winner[better] = enlarged[better], index
    return framing.paste(layout, winner, crop)
