"""`hsd eval landmarks`: landmarks, head pose and face confidence on labelled crops.

Every box is moved and resized at random, to simulate the box of a mask. Errors are distances from
the labels of `data/label_landmarks.py`, in eye distances.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hsd_jax import weights
from hsd_jax.models.landmarks import LandmarkNet
from hsd_jax.parsing.landmarks import Landmarks, locate
from hsd_jax.runtime import console
from hsd_jax.training.tasks.landmarks import LandmarkSource

_SHIFT, _RESIZE = 0.08, 0.12  # standard deviations, in face sizes and of the size's logarithm


def each(
    source: Any, module: LandmarkNet, params: Any, seed: int = 0
) -> Iterator[tuple[dict[str, Any], Landmarks]]:
    """Yields every example of a `LandmarkSource` with the network's landmarks."""
    rng = np.random.default_rng(seed)
    for index in range(len(source)):
        example = source[index]
        x, y, size = (float(v) for v in example["box"])
        moved = rng.normal(0, _SHIFT, 2) * size
        box = x + moved[0], y + moved[1], size * float(np.exp(rng.normal(0, _RESIZE)))
        yield example, locate(module, params, example["image"], box)


def area_under_curve(confidences: np.ndarray, found: np.ndarray) -> float:
    """The area under the ROC: P(confidence of a face > of a non-face); NaN if either is missing."""
    if found.all() or not found.any():
        return float("nan")
    faces, others = confidences[found], confidences[~found]
    more = faces[:, None] > others[None]
    return float((more + 0.5 * (faces[:, None] == others[None])).mean())


def metrics(pairs: Sequence[tuple[dict[str, Any], Landmarks]]) -> dict[str, float]:
    """The metrics of examples and their landmarks (see `each`).

    `eyes` and `points` are mean distances in eye distances, `eyes_90` the ninetieth percentile;
    `yaw` and `pitch` mean absolute errors in degrees; `auc` the area under the ROC of the
    confidence; `kept` and `refused` the shares of faces above, and of others below, one half.
    """
    found = np.array([bool(example["found"]) for example, _ in pairs])
    confidences = np.array([seen.confidence for _, seen in pairs])
    result = {"faces": float(found.sum()), "others": float((~found).sum())}
    faces = [pair for pair in pairs if pair[0]["found"]]
    if faces:
        off = np.stack([_distances(example["points"], seen.points) for example, seen in faces])
        eyes = off[:, :2].mean(1)
        turn = np.degrees(np.stack([example["angles"] for example, _ in faces]))
        seen = np.array([(seen.yaw, seen.pitch) for _, seen in faces])
        yaw, pitch = np.abs(turn - seen).mean(0)
        result |= {
            "eyes": float(eyes.mean()), "eyes_90": float(np.percentile(eyes, 90)),
            "points": float(off.mean()), "yaw": float(yaw), "pitch": float(pitch),
            "kept": float((confidences[found] > 0.5).mean()),
        }  # fmt: skip
    if not found.all():
        result["refused"] = float((confidences[~found] <= 0.5).mean())
    return result | {"auc": area_under_curve(confidences, found)}


def _distances(true: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.linalg.norm(seen - true, axis=-1) / np.linalg.norm(true[1] - true[0])


def run(options: argparse.Namespace) -> None:
    """`hsd eval landmarks`.

    Raises:
      ValueError: no such data or weights.
    """
    part = weights.load_part(weights.find(options.weights), "landmarks")
    source = LandmarkSource(options.data, options.split)
    pairs = []
    with console.Progress(len(source)) as progress:
        for pair in each(source, part.module, part.params):
            pairs.append(pair)
            progress.update()
    rows = {"all": metrics(pairs)}
    for name in sorted(set(source.names)):
        rows[name] = metrics([pair for pair in pairs if pair[0]["source"] == name])
    columns = list(rows["all"])
    cells = [[name, *(row.get(column) for column in columns)] for name, row in rows.items()]
    print(console.table(["source", *columns], cells))
