"""Drawn faces whose landmarks are known, and a folder of them as training reads it."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from hsd_jax.models.landmarks import POINTS

# Places in face sizes from the face's middle, in the order of `POINTS`.
FACE = np.array(
    [(-0.22, -0.1), (0.22, -0.1), (0, 0.12), (-0.17, 0.3), (0.17, 0.3), (0, 0.6), (0, -0.55),
     (-0.5, 0), (0.5, 0)]
)  # fmt: skip
Box = tuple[float, float, float]


def draw_face(seed: int, side: int = 160) -> tuple[np.ndarray, Box, np.ndarray]:
    """An image, the face's box and its points; the eyes are black."""
    rng = np.random.default_rng(seed)
    size = float(rng.uniform(0.22, 0.28) * side)
    x, y = rng.uniform(0.45, 0.55, 2) * side
    points = FACE * size + (x, y)
    image = np.ones((side, side, 3)) * rng.integers(150, 256, 3)
    rows, columns = np.indices((side, side)) + 0.5
    for centre, width, height, colour in (
        (np.array([x, y]), 1.0, 1.15, (210, 180, 140)), (points[0], 0.16, 0.16, (0, 0, 0)),
        (points[1], 0.16, 0.16, (0, 0, 0)), (points[2], 0.12, 0.12, (165, 42, 42)),
        ((points[3] + points[4]) / 2, 0.34, 0.06, (255, 0, 0)),
    ):  # fmt: skip
        radii = np.array([width, height]) * size / 2
        inside = 1 - np.hypot((columns - centre[0]) / radii[0], (rows - centre[1]) / radii[1])
        share = np.clip(inside * radii.min() + 0.5, 0, 1)[..., None]
        image = image * (1 - share) + np.array(colour) * share
    return image.astype(np.uint8), (float(x), float(y), size), points.astype(np.float32)


def write_faces(folder: Path) -> None:
    """Labelled crops as `data/label_landmarks.py` leaves them: eight faces, four others."""
    rows = []
    for i in range(12):
        image, (x, y, size), points = draw_face(i)
        found = i % 3 < 2
        row = dict(image=f"{i}.png", source="drawn", split="validation" if i >= 6 else "train",
                   x=x, y=y, size=size, found=int(found))  # fmt: skip
        if found:
            for name, (px, py) in zip(POINTS, points, strict=True):
                row |= {f"{name}_x": px, f"{name}_y": py}
            row |= dict(yaw=0.0, pitch=0.0)
        Image.fromarray(image if found else image[::-1, ::2].repeat(2, 1)).save(folder / f"{i}.png")
        rows.append(row)
    with (folder / "landmarks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
