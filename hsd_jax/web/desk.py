"""What the page does with photos, from files to files; it knows nothing of a browser."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from hsd_jax.imaging import drawings, files, framing
from hsd_jax.imaging.files import Photo
from hsd_jax.imaging.sheets import numbered_faces
from hsd_jax.labels import LabelSet, colorize
from hsd_jax.swap import HeadSwapper, SwapResult
from hsd_jax.swapping.edits import Edit, at_photo
from hsd_jax.swapping.light import Light
from hsd_jax.swapping.mixing import Region
from hsd_jax.swapping.pair import Align, Pair
from hsd_jax.swapping.skin import SkinTone
from hsd_jax.swapping.spec import DEFAULT_SAMPLING

_SHOWN = 1600  # pixels of the longer side of what a browser shows; what it downloads has all
_SMALL = 800  # of the picture with the faces
DRAWN = 512
"""Pixels of a side of the picture to draw on."""
HEAD, BODY = "the head photo", "the body photo"


class Seen(NamedTuple):
    """What the parser sees in a photo."""

    picture: UInt8[np.ndarray, "h w 3"]
    """The photo, upright and small, under the colours of its layout, with its faces numbered."""
    faces: list[tuple[float, float, float]]
    """x, y and size of each in that picture, the largest first."""


def nearest(faces: Sequence[Sequence[float]], x: float, y: float) -> int:
    """The number of the face (see `Seen`) that is nearest to a place, from 1."""
    return 1 + int(np.argmin([np.hypot(x - face[0], y - face[1]) for face in faces]))


@dataclass(frozen=True)
class Wish:
    """How to swap; see `HeadSwapper.__call__`."""

    seed: int = 0
    steps: int | None = None
    samples: int = 1
    skin_tone: SkinTone = "auto"
    person: int = 1
    head_person: int = 1
    region: Region = "head"
    align: Align = "shift"
    light: Light = "match"


class Swapped(NamedTuple):
    """The files of one swap."""

    images: list[Path]
    """One a sample, PNG at full size, with the provenance mark: what `hsd swap` writes."""
    shown: list[Path]
    """The same for the screen, JPEG."""
    before: Path
    """The body's photo for the screen."""
    stages: list[tuple[Path, str]]
    """Pictures of the way of the first sample, with captions."""
    report: dict[str, Any]
    """What there is to say, as in the JSON of `hsd swap`."""


class Desk:
    """One set of weights, and a folder for what comes of it. One call at a time."""

    def __init__(self, swapper: HeadSwapper, folder: Path):
        """Takes the folder as its own: names of results in it cannot be guessed."""
        self._swapper, self._folder = swapper, folder

    @property
    def spec(self) -> Any:
        """Of the weights, see `swapping.spec.SwapSpec`."""
        return self._swapper.spec

    @property
    def labels(self) -> LabelSet:
        """The classes of layouts."""
        return self._swapper.spec.labels

    @property
    def default_steps(self) -> int:
        """Calls of the UNet that suit the weights."""
        return len(self.spec.times(DEFAULT_SAMPLING))

    def look(self, path: Path, role: str) -> Seen:
        """The photo's layout and faces, counted as a swap counts them.

        Raises:
          ValueError: no photo, or none with a face.
        """
        photo, layout, faces = self._swapper.look(_read(path, role))
        if not faces:
            raise ValueError(f"{role} shows no face: give a person from the front, upright")
        return _seen(photo, layout, faces, self.labels)

    def layout(self, head: Path, body: Path, wish: Wish) -> UInt8[np.ndarray, "n n 3"]:
        """What a swap will show where: the body's crop under the colours of the classes.

        Errors are those of `HeadSwapper.__call__`.
        """
        pair = self._pair(_read(head, HEAD), _read(body, BODY), wish)
        layout = framing.enlarge(self._swapper.layout(pair), DRAWN)
        return _tinted(framing.take(pair.body.photo, pair.body.crop, DRAWN), layout, self.labels)

    def swap(
        self,
        head: Path,
        body: Path,
        wish: Wish,
        drawing: Path | None = None,
        preview: Callable[[np.ndarray], None] | None = None,
    ) -> Swapped:
        """One swap; arguments and errors as of `HeadSwapper.__call__`.

        `drawing` is what somebody drew on the picture of `layout`, see `drawings.open_strokes`.
        """
        photos = _read(head, HEAD), _read(body, BODY)
        edit, shown = Edit(wish.region), []
        if drawing:
            edit = replace(edit, layout=self._drawn(*photos, wish, drawing))

        def step(images: np.ndarray) -> None:
            shown.append(images[0])
            if preview:
                preview(images[0])

        results = self._swapper(
            *photos, **self._asked(wish), seed=wish.seed, samples=wish.samples, edit=edit,
            steps=None if wish.steps == self.default_steps else wish.steps,
            preview=step if preview else None,
        )  # fmt: skip
        results = results if isinstance(results, list) else [results]
        results[0] = replace(results[0], steps=tuple(shown))
        return self._written(results, photos[1], wish)

    def _pair(self, head: Photo, body: Photo, wish: Wish) -> Pair:
        return self._swapper.pair(head, body, **self._asked(wish), edit=Edit(wish.region))

    def _asked(self, wish: Wish) -> dict[str, Any]:
        names = "skin_tone", "person", "head_person", "align", "light"
        return {name: getattr(wish, name) for name in names}

    def _drawn(
        self, head: Photo, body: Photo, wish: Wish, drawing: Path
    ) -> Integer[np.ndarray, "h w"] | None:
        """The layout with the drawing on it, at the size of the body photo; None for no drawing."""
        strokes = drawings.open_strokes(drawing, self.labels.palette, 4 * DRAWN)
        if (strokes < 0).all():
            return None
        pair = self._pair(head, body, wish)
        person = pair.body
        strokes = framing.enlarge(strokes + 1, person.crop.side)  # 0 where nothing is drawn
        strokes = framing.paste(np.zeros(person.photo.shape[:2], np.uint8), strokes, person.crop)
        layout = at_photo(self._swapper.layout(pair), person.crop, person.photo.shape[:2])
        return np.rot90(np.where(strokes, strokes - 1, layout), -person.turns)

    def _written(self, results: list[SwapResult], body: Photo, wish: Wish) -> Swapped:
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        images, shown, first = [], [], results[0]
        for number, result in enumerate(results, 1):
            name = f"swap-{wish.seed}" + (f"-{number}" if number > 1 else "")
            images.append(folder / f"{name}.png")
            result.save(images[-1])
            shown.append(folder / f"{name}.jpg")
            files.save_image(_at_most(result.image, _SHOWN), shown[-1], result.mark)
        before = folder / "body.jpg"
        files.save_image(_at_most(body.pixels, _SHOWN), before, mark=None)
        stages = []
        for number, (caption, picture) in enumerate(_stages(first, self.spec.labels), 1):
            stages.append((folder / f"stage-{number:02}.jpg", caption))
            files.save_image(picture, stages[-1][0], first.mark)
        report = {
            "seed": wish.seed,
            "shift": first.shift,
            "faces": {"head": first.faces[0], "body": first.faces[1]},
            "warnings": list(first.warnings),
            "changed_fraction": round(float((first.image != body.pixels).any(-1).mean()), 6),
        }
        return Swapped(images, shown, before, stages, report)


def _read(path: Path, role: str) -> Photo:
    """The photo under the name of its role: nobody need know where the server keeps it."""
    try:
        photo = files.read_photo(path, role)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), role)) from None
    notes = tuple(note.replace(str(path), role) for note in photo.notes)
    return replace(photo, name=role, notes=notes)


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    """The image no larger than that."""
    if max(image.shape[:2]) <= side:
        return image
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _seen(photo: np.ndarray, layout: np.ndarray, faces: Any, labels: LabelSet) -> Seen:
    picture = _at_most(photo, _SMALL)
    scale = picture.shape[1] / photo.shape[1]
    small = Image.fromarray(layout.astype(np.uint8)).resize(picture.shape[1::-1], 0)
    places = [(face.x * scale, face.y * scale, face.size * scale) for face in faces]
    return Seen(numbered_faces(_tinted(picture, np.asarray(small), labels), places), places)


def _tinted(picture: np.ndarray, layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """The picture under the colours of a layout of its size."""
    mixed = (picture.astype(np.uint16) + colorize(layout, labels)) // 2
    mixed = np.where(layout[..., None] == labels.background, picture, mixed)
    return mixed.astype(np.uint8)


def _stages(result: SwapResult, labels: LabelSet) -> list[tuple[str, np.ndarray]]:
    stages: Mapping[str, np.ndarray] = result.stages
    layouts = (
        ("head", "head_layout"), ("body", "body_layout"), ("mixed", "blended"),
        ("inpainted", "inpainted"),
    )  # fmt: skip
    found = [(caption, colorize(stages[name], labels)) for caption, name in layouts]
    found += [
        (f"step {number}/{len(result.steps)}", picture)
        for number, picture in enumerate(result.steps, 1)
    ]
    return [*found, ("result", stages["result"])]
