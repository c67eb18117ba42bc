"""Trains the landmark network on crops that `data/label_landmarks.py` labelled.

It learns heatmaps, landmarks, pose and whether there is a face.
"""

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from hsd_jax.models import apply
from hsd_jax.models.landmarks import MIRRORED, POINTS, SIDE, SIZE, Found, LandmarkNet
from hsd_jax.training import augment
from hsd_jax.training.input import Example
from hsd_jax.training.state import Aux, Batch, Params
from hsd_jax.training.tasks import Arrays, Part, Ratios, Task

_READ_THREADS = 2


class LandmarkSource:
    """Random access to labelled crops, as `training.input.Records`.

    An example has `image` (uint8 [S, S, 3]), `box` (float32 [3]: column, row, size), `points`
    (float32 [9, 2], pixels of the crop), `angles` (float32 [2], yaw and pitch in radians), `found`
    (bool) and `source`; without a face, points and angles are 0.
    """

    def __init__(self, folder: str, split: str):
        """Reads FOLDER/landmarks.csv; the crops are decoded when first asked for, and kept.

        Raises:
          ValueError: no such file, a column is missing, or nothing in this split.
        """
        self._folder = Path(folder)
        path = self._folder / "landmarks.csv"
        if not path.is_file():
            raise ValueError(f"no {path}: make it with data/label_landmarks.py")
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            wanted = {"image", "source", "split", "x", "y", "size", "found", "yaw", "pitch"}
            wanted |= {f"{name}_{axis}" for name in POINTS for axis in "xy"}
            if missing := sorted(wanted - set(reader.fieldnames or ())):
                raise ValueError(f"{path} lacks the column {missing[0]}: see data/README.md")
            self._rows = [row for row in reader if row["split"] == split]
        if not self._rows:
            raise ValueError(f"{path} has no row of split {split!r}")
        self.names = [row["source"] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def layout(self, index: int) -> np.ndarray:
        raise ValueError("crops with landmarks have no layouts, so none can be a partner")

    @cached_property
    def _images(self) -> list[np.ndarray]:
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            return list(pool.map(self._decode, self._rows))

    def _decode(self, row: Mapping[str, str]) -> np.ndarray:
        return np.asarray(Image.open(self._folder / row["image"]).convert("RGB"))

    def __getitem__(self, index: int) -> Example:
        """Example `index`; its arrays are not to be written to."""
        row = self._rows[index]
        found = row["found"] == "1"
        points = np.zeros((len(POINTS), 2), np.float32)
        angles = np.zeros(2, np.float32)
        if found:
            points[:] = [[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in POINTS]
            angles[:] = np.radians([float(row["yaw"]), float(row["pitch"])])
        box = np.array([float(row[name]) for name in ("x", "y", "size")], np.float32)
        return {
            "image": self._images[index], "box": box, "points": points, "angles": angles,
            "found": found, "source": row["source"],
        }  # fmt: skip


def view(
    example: Example, zoom: float = 1.0, angle: float = 0.0, shift: Any = (0.0, 0.0),
    mirror: bool = False,
) -> Example:  # fmt: skip
    """A random view of an example, with its targets.

    Args:
      example: of a `LandmarkSource`.
      zoom: the face is this much larger in the view than its box says.
      angle: degrees that the image is turned by, counter-clockwise.
      shift: of the face's box out of the middle, in face sizes: right, down.
      mirror: left and right change places.

    Returns:
      `image` uint8 [SIZE, SIZE, 3]; `points` float32 [9, 2] as shares of its side; `angles`;
      `found`.
    """
    image, (x, y, size) = example["image"], example["box"]
    scale = zoom * SIZE / (SIDE * size)
    matrix = cv2.getRotationMatrix2D((float(x) - 0.5, float(y) - 0.5), angle, float(scale))
    matrix[:, 2] += SIZE / 2 - np.array([x, y]) + np.array(shift) * size * scale
    if scale < 0.75:  # bilinear sampling alone would alias
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / float(scale))
    if mirror:
        matrix[0] *= -1
        matrix[0, 2] += SIZE - 1
    image = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    centres = example["points"] - 0.5  # OpenCV counts from the middle of a pixel
    points = (centres @ matrix[:, :2].T + matrix[:, 2] + 0.5) / SIZE
    angles = _turned(example["angles"], matrix[:, :2] / abs(scale))
    if mirror:
        points = points[list(MIRRORED)]
    return {
        "image": image, "points": points.astype(np.float32), "angles": angles,
        "found": np.bool_(example["found"]),
    }  # fmt: skip


def _turned(angles: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Yaw and pitch after `rotation` `[2, 2]` turned or mirrored the image."""
    yaw, pitch = angles
    x, y = rotation @ np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    z = np.cos(yaw) * np.cos(pitch)
    return np.array([np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))], np.float32)


def cover(
    image: np.ndarray, box: np.ndarray, rng: np.random.Generator, size: float, offset: Any = (0, 0)
) -> np.ndarray:
    """Covers the face with an ellipse of `size` face sizes, at `offset` from its box.

    The ellipse shows hair or hat pulled down over the face, like the back of a head; another part
    of the crop; or a colour.
    """
    height, width = image.shape[:2]
    x, y, face = (float(v) for v in box)
    kind = rng.integers(3)
    if kind == 0:
        other = image[_folded(height, y - 0.5 * face, 0.45 * face)]
    elif kind == 1:
        moved = rng.uniform(0.9, 2.0, 2) * face * rng.choice([-1, 1], 2)
        other = np.roll(image, (round(moved[0]), round(moved[1])), (0, 1))
    else:
        other = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), image.shape)
    centre = round(x + offset[0] * face), round(y + offset[1] * face)
    axes = rng.uniform(0.85, 1.15, 2) * size * face / 2
    mask = np.zeros((height, width), np.float32)
    turn = float(rng.uniform(0, 180))
    cv2.ellipse(mask, centre, (round(axes[0]), round(axes[1])), turn, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    return (image * (1 - mask) + other * mask).astype(np.uint8)


def _folded(height: int, fold: float, length: float) -> np.ndarray:
    """Row indices that below `fold` repeat the `length` rows above it, back and forth."""
    rows = np.arange(height, dtype=np.float32)
    phase = (rows - fold) % (2 * length)
    below = fold - np.minimum(phase, 2 * length - phase)
    return np.where(rows < fold, rows, below).clip(0, height - 1).astype(int)


class LandmarksTask(Task):
    """`config`: `model` (fields of `LandmarkNet`), `data`, `loss` (a weight for each of `losses`).

    `data`: `scale`, `rotation`, `jitter`, `mirror`, `colour` as in `augment`, the jitter in face
    sizes; `hidden`, the share of faces that are covered completely and count as no face; `covered`,
    the share that is covered in part.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.model, self.weights = LandmarkNet(**config["model"]), config["loss"]

    def source(self, split: str) -> Any:
        # Without layouts, which only partners would need.
        return LandmarkSource(self.data["dir"], split)

    def transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        data, box, hidden = self.data, example["box"], rng.random()
        if example["found"] and hidden < data["hidden"]:  # it no longer counts as a face
            image = cover(example["image"], box, rng, 1.6)
            example = {**example, "image": image, "found": False}
        elif hidden > 1 - data["covered"]:  # still a face
            offset = rng.uniform(-0.5, 0.5, 2)
            image = cover(example["image"], box, rng, rng.uniform(0.2, 0.5), offset)
            example = {**example, "image": image}
        low, high = np.log(data["scale"])
        made = view(
            example, float(np.exp(rng.uniform(low, high))),
            rng.uniform(-data["rotation"], data["rotation"]),
            rng.uniform(-data["jitter"], data["jitter"], 2), bool(rng.random() < data["mirror"]),
        )  # fmt: skip
        image = augment.jitter_colour(made["image"], rng, data["colour"])
        return {**made, "image": augment.degrade(image, rng)}

    def eval_transform(self, example: Example, rng: np.random.Generator) -> Arrays:
        return view(example)

    def init(self, key: jax.Array) -> Params:
        return {"landmarks": self.model.init(key, jnp.zeros((1, SIZE, SIZE, 3)))["params"]}

    def look(self, params: Params, batch: Batch) -> Found:
        """The network's output for the batch's images."""
        x = batch["image"].astype(jnp.float32) / 127.5 - 1
        return apply(self.model, params["landmarks"], x)

    def loss(
        self, params: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        every = losses(self.look(params, batch), batch)
        parts = {name: jnp.mean(values) for name, values in every.items()}
        total = sum((self.weights[name] * part for name, part in parts.items()), jnp.zeros(()))
        return total, Aux({"loss": total} | parts)

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Ratios:
        found = self.look(params, batch)
        distance, inside = distances(found, batch)
        count, seen = batch["mask"], batch["mask"] * batch["found"]
        inside = inside * seen[:, None]
        degrees = jnp.abs(found.angles - batch["angles"]) * (180 / np.pi) * seen[:, None]
        right = ((found.confidence > 0) == batch["found"]) * count
        eyes = inside[:, :2]
        return {
            "eyes": (jnp.sum(distance[:, :2] * eyes), jnp.sum(eyes)),
            "points": (jnp.sum(distance * inside), jnp.sum(inside)),
            "yaw": (jnp.sum(degrees[:, 0]), jnp.sum(seen)),
            "pitch": (jnp.sum(degrees[:, 1]), jnp.sum(seen)),
            "face": (jnp.sum(right), jnp.sum(count)),
        }

    @cached_property
    def _predict(self) -> Any:
        return jax.jit(lambda params, batch: self.look(params, batch).points)

    def preview(self, params: Params, batch: dict[str, Any], key: jax.Array) -> Arrays:
        points = np.asarray(self._predict(params, batch))
        images = [np.asarray(image).copy() for image in batch["image"][:8]]
        for image, places in zip(images, points[:8], strict=True):
            for x, y in places * SIZE:
                cv2.circle(image, (round(float(x)), round(float(y))), 2, (255, 0, 0), -1)
        return {"landmarks": np.concatenate(images, axis=1)}

    def parts(self, params: Params) -> dict[str, Part]:
        return {"landmarks": Part(self.model, params["landmarks"], {})}


def target_heatmaps(points: jax.Array, cells: int, sigma: float = 1.0) -> jax.Array:
    """Gaussians of `sigma` cells around points `[B, P, 2]`: `[B, cells, cells, P]`, sums 1."""
    places = points[:, None, None] * cells
    middles = np.arange(cells, dtype=np.float32) + 0.5
    columns, rows = np.meshgrid(middles, middles)
    grid = np.stack([columns, rows], -1)[None, :, :, None]
    logits = -jnp.sum((places - grid) ** 2, -1) / (2 * sigma**2)
    return jax.nn.softmax(logits, axis=(1, 2))


def distances(found: Found, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The errors of the points in eye distances, and which of them are in the view: `[B, 9]`."""
    points = batch["points"]
    apart = jnp.linalg.norm(points[:, 1] - points[:, 0], axis=-1, keepdims=True)
    inside = jnp.all((points > 0) & (points < 1), axis=-1) & batch["found"][:, None]
    return jnp.linalg.norm(found.points - points, axis=-1) / jnp.maximum(apart, 1e-3), inside


def losses(found: Found, batch: Batch) -> dict[str, jax.Array]:
    """The losses of each example, `[B]`; all but `face` are 0 without a face.

    `heatmap` is the Kullback-Leibler divergence from the target, `points` the L1 distance in shares
    of the view, `angles` the L1 distance in radians, `face` the cross-entropy.
    """
    cells = found.heatmaps.shape[1]
    _, inside = distances(found, batch)
    target = target_heatmaps(batch["points"], cells)
    log_p = jax.nn.log_softmax(found.heatmaps, axis=(1, 2))
    divergence = jnp.sum(target * (jnp.log(target + 1e-9) - log_p), axis=(1, 2))
    off = jnp.sum(jnp.abs(found.points - batch["points"]), axis=-1)
    count = jnp.maximum(jnp.sum(inside, -1), 1)
    seen = batch["found"].astype(jnp.float32)
    sign = 1 - 2 * seen
    return {
        "heatmap": jnp.sum(jnp.where(inside, divergence, 0), -1) / count,
        "points": jnp.sum(jnp.where(inside, off, 0), -1) / count,
        "angles": jnp.sum(jnp.abs(found.angles - batch["angles"]), -1) * seen,
        "face": jax.nn.softplus(sign * found.confidence),
    }
