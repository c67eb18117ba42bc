"""`hsd eval london`: swaps of portraits whose result is nearly known.

The Face Research Lab London set (DeBruine and Jones 2017) has two photos of a person in front of an
even backdrop, `neutral/ID.jpg` and `smiling/ID.jpg`; any folder laid out like it will do. The
smiling head on the same person's neutral photo should give back the neutral photo's neck, collar,
outline and backdrop. Heads of other people show whether strands of the old head remain.

Beside our result stand the body photo with what was generated filled by OpenCV (Telea 2004), and
the smiling photo itself, unswapped: what two real photos of one person differ by.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hsd_jax import HeadSwapper, weights
from hsd_jax.convert import from_torch
from hsd_jax.evaluation.baselines import inpaint_hole
from hsd_jax.imaging import files
from hsd_jax.imaging.colour import to_lab
from hsd_jax.models import apply
from hsd_jax.parsing.landmarks import Landmarks
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import console
from hsd_jax.swap import SwapResult

Image = UInt8[np.ndarray, "h w 3"]

METHODS = ("hsd", "telea", "another photo")
_OTHER = 7  # the cross pairs' body is that of so many people further on
_BOX = 256  # pixels of the boxes that LPIPS compares
_CHANGED = 2  # levels: pixels that differ by more were changed
_BLUR = 4.0  # sigma in pixels under which colours are compared
_STANDS_OUT, _SMALL = 40, 0.02  # levels from the backdrop; share of the photo of a stray part


class Boxes(NamedTuple):
    """Where a photo shows the neck and the hair, as slices of rows and columns."""

    neck: tuple[slice, slice]
    hair: tuple[slice, slice]


def boxes(face: Landmarks, shape: tuple[int, ...]) -> Boxes:
    """The boxes around and below a face, in proportion to its height."""
    (_, top), (x, chin) = face.point("forehead"), face.point("chin")
    height = chin - top

    def box(low: float, high: float, half: float) -> tuple[slice, slice]:
        rows = slice(max(0, int(low)), min(shape[0], int(high)))
        return rows, slice(max(0, int(x - half)), min(shape[1], int(x + half)))

    eyes = float(face.points[:2, 1].mean())
    return Boxes(
        box(chin - 0.1 * height, chin + 1.1 * height, 0.9 * height),
        box(top - 0.75 * height, eyes, height),
    )


def neck_metrics(image: Image, truth: Image, neck: tuple[slice, slice]) -> dict[str, float]:
    """What was changed of the neck's box against the true photo.

    `sharpness` is the standard deviation of the Laplacian over the truth's, `colour` the mean CIE76
    of blurred colours; both nan if nothing was changed.
    """
    changed = np.abs(image[neck].astype(int) - truth[neck]).max(-1) > _CHANGED
    if not changed.any():
        return {"sharpness": float("nan"), "colour": float("nan")}

    def rough(x: Image) -> float:
        grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return float(cv2.Laplacian(grey, cv2.CV_32F)[changed].std())

    def smooth(x: Image) -> Float[np.ndarray, "h w 3"]:
        return to_lab(ndimage.gaussian_filter(x.astype(np.float32), (_BLUR, _BLUR, 0)))

    apart = np.linalg.norm(smooth(image[neck]) - smooth(truth[neck]), axis=-1)
    sharpness = rough(image[neck]) / max(rough(truth[neck]), 1e-6)
    return {"sharpness": sharpness, "colour": float(apart[changed].mean())}


def strays(image: Image) -> float:
    """Thousandths of a photo covered by small parts that stand apart from the person.

    White clothes before a light backdrop leave such parts too: compare with the body photo's own.
    """
    height, width = image.shape[:2]
    sides = [image[: height // 2, : width // 12], image[: height // 2, -(width // 12) :]]
    backdrop = np.median(np.concatenate(sides, 1).reshape(-1, 3), axis=0)
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (1.5, 1.5, 0))
    parts: Any = ndimage.label(np.abs(smooth - backdrop).max(-1) > _STANDS_OUT, np.ones((3, 3)))
    areas = np.bincount(parts[0].ravel())[1:]
    return float(1000 * areas[areas < _SMALL * image.size / 3].sum() * 3 / image.size)


def place_metrics(found: Landmarks, wanted: Landmarks) -> dict[str, float]:
    """How far the eyes are off, in eye distances, and their distance over the truth's."""
    between = found.points[:2].mean(0) - wanted.points[:2].mean(0)
    scale = found.eye_distance / wanted.eye_distance
    return {"eyes": float(np.linalg.norm(between)) / wanted.eye_distance, "scale": scale}


def distance_of(file: Path | None) -> Callable[[Image, Image], float] | None:
    """LPIPS of two boxes, each at 256 pixels, with the weights in `file`; None without any."""
    if file is None:
        return None
    module, params = from_torch(file, "perceptual")
    compare = jax.jit(lambda params, a, b: apply(module, params, a, b))

    def batch(image: Image) -> np.ndarray:
        small = cv2.resize(image, (_BOX, _BOX), interpolation=cv2.INTER_AREA)
        return small[None].astype(np.float32) / 127.5 - 1

    return lambda a, b: float(compare(params, batch(a), batch(b))[0])


class Portraits:
    """A folder of portraits, and what swaps them."""

    def __init__(self, folder: Path, name: str, lpips: Path | None):
        """`name` is of weights, `lpips` a file of LPIPS' weights or None.

        Raises:
          ValueError: no portraits there, or weights without landmarks.
        """
        self._folder, self._swapper = folder, HeadSwapper.from_pretrained(name)
        self._parser = PhotoParser.load(weights.find(name))
        self._distance = distance_of(lpips)
        smiling = {path.stem for path in folder.glob("smiling/*.jpg")}
        self.people = sorted(p.stem for p in folder.glob("neutral/*.jpg") if p.stem in smiling)
        if not self.people:
            raise ValueError(f"{folder}: no neutral/ID.jpg with a smiling/ID.jpg beside it")

    def own(self, person: str) -> tuple[SwapResult, dict[str, dict[str, float]]]:
        """A person's smiling head on the neutral photo: the result, and the methods' metrics."""
        head, truth = (self._photo(kind, person) for kind in ("smiling", "neutral"))
        result = self._swapper(head, truth)
        filled = inpaint_hole(result.image, result.mask > 0.5)
        face = self._face(truth, person)
        images = dict(zip(METHODS, (result.image, filled, head), strict=True))
        rows = {name: self._metrics(image, truth, face) for name, image in images.items()}
        for name in ("hsd", "telea"):
            rows[name] |= place_metrics(self._face(images[name], person), face)
        return result, rows

    def other(self, person: str) -> tuple[SwapResult, float]:
        """The head on another person's body: the result, and the strays that it adds."""
        at = (self.people.index(person) + _OTHER) % len(self.people)
        body = self._photo("neutral", self.people[at])
        result = self._swapper(self._photo("smiling", person), body)
        return result, max(0.0, strays(result.image) - strays(body))

    def _photo(self, kind: str, person: str) -> Image:
        return files.read_photo(self._folder / kind / f"{person}.jpg", "the portrait").pixels

    def _face(self, image: Image, person: str) -> Landmarks:
        face = self._parser.person(image, name=person).face
        if face is None or face.landmarks is None:
            raise ValueError("these weights have no landmarks: use weights with that part")
        return face.landmarks

    def _metrics(self, image: Image, truth: Image, face: Landmarks) -> dict[str, float]:
        where = boxes(face, truth.shape)
        found = neck_metrics(image, truth, where.neck)
        if self._distance is not None:
            for name, box in where._asdict().items():
                found[f"LPIPS {name}"] = self._distance(image[box], truth[box])
        return found


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each metric, without what could not be measured."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.nanmedian([row.get(name, np.nan) for row in rows])) for name in names}


def run(options: argparse.Namespace) -> None:
    """`hsd eval london`.

    Raises:
      ValueError: data, weights or the folder for results are missing.
    """
    portraits = Portraits(Path(options.data), options.weights, options.lpips)
    people = portraits.people[: options.count]
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    added = []
    with console.Progress(len(people), "person") as progress:
        for person in people:
            result, found = portraits.own(person)
            crossed, stray = portraits.other(person)
            added.append(stray)
            for name, row in found.items():
                rows[name].append(row)
            if options.output:
                files.save_image(result.image, options.output / f"{person}_self.png")
                files.save_image(crossed.image, options.output / f"{person}_other.png")
            progress.update()
    found = {name: medians(some) for name, some in rows.items()}
    columns = list(found["hsd"])
    cells = [[name, *(row.get(column) for column in columns)] for name, row in found.items()]
    print(f"{len(people)} people, medians")
    print(console.table(["method", *columns], cells))
    print(f"strays that heads of others add: {np.median(added):.2f} thousandths of the photo")
