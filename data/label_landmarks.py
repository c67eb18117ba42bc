"""Label faces for the landmark network, with MediaPipe's face mesh as the teacher.

    python -m venv teacher && teacher/bin/pip install mediapipe==0.10.21
    teacher/bin/python data/label_landmarks.py --source IMAGES --out DATA [--negatives N]

IMAGES is the folder that the builder `halfbody` reads, but here layouts may be missing and images
may have any shape and size. DATA receives landmarks.csv and square crops around faces, and around
places that show no face; data/README.md describes both. MediaPipe (Apache-2.0) needs an environment
of its own; nothing else in this project uses it.
"""

import argparse
import csv
import importlib
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Of the mesh's 468 points; a place is the mean of its points. Left and right as the viewer sees.
PLACES = {
    "left_eye": (33, 133), "right_eye": (263, 362), "nose": (1,), "left_mouth": (61,),
    "right_mouth": (291,), "chin": (152,), "forehead": (10,), "left_edge": (234,),
    "right_edge": (454,),
}  # fmt: skip
# The mesh's outline, clockwise from the forehead: what a layout calls face, more or less.
OUTLINE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
FACE, SKIN = (2, 7), 5  # face and glasses, and other skin, in the layouts
CROP = 4.0  # side of a crop, in sizes of its box
MAX_SIDE = 256  # of a crop, in pixels
UPRIGHT = -2.5  # pitch in degrees that the mesh gives adults who look straight into a camera
Box = tuple[float, float, float]  # column, row, and square root of the area, in pixels


def box_of(mask: np.ndarray) -> Box | None:
    """The place and size of a face mask, bool `[H, W]`; None where there is hardly any."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 100:
        return None
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5), float(np.sqrt(len(rows)))


def box_around(mesh: np.ndarray) -> Box:
    """The same of the polygon that a mesh's outline `[N, 2]` encloses."""
    x, y = mesh[list(OUTLINE)].T
    nx, ny = np.roll(x, -1), np.roll(y, -1)
    cross = x * ny - nx * y
    area = cross.sum() / 2
    cx, cy = ((x + nx) * cross).sum() / (6 * area), ((y + ny) * cross).sum() / (6 * area)
    return float(cx), float(cy), float(np.sqrt(abs(area)))


def square(image: np.ndarray, box: Box, side: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The square around a box as `[size, size, 3]`, and its (left, top, pixels a pixel)."""
    left, top, side = round(box[0] - side / 2), round(box[1] - side / 2), max(8, round(side))
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    taken = Image.fromarray(image[rows][:, columns]).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(taken), np.array([left, top, side / size])


class Teacher:
    """The face mesh on crops of several widths, until one shows it a face."""

    def __init__(self) -> None:
        solutions: Any = importlib.import_module("mediapipe").solutions
        self._mesh = solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, refine_landmarks=False
        )

    def __call__(self, image: np.ndarray, box: Box | None) -> np.ndarray | None:
        """float `[468, 3]` in the image's pixels, depth included, or None.

        Args:
          image: uint8 `[H, W, 3]`.
          box: where the face is; None for anywhere.
        """
        if box is None:
            height, width = image.shape[:2]
            found = self._look(image, (width / 2, height / 2, max(height, width)), 1.0)
            if found is None:
                return None
            box = box_around(found[:, :2])
        for width in (3.2, 2.3, 4.5):
            found = self._look(image, box, width)
            if found is not None:
                x, y, _ = box_around(found[:, :2])
                if np.hypot(x - box[0], y - box[1]) < 0.6 * box[2]:
                    return found
        return None

    def _look(self, image: np.ndarray, box: Box, width: float) -> np.ndarray | None:
        size = 640
        seen, (left, top, scale) = square(image, box, width * box[2], size)
        faces = self._mesh.process(np.ascontiguousarray(seen)).multi_face_landmarks
        if not faces:
            return None
        points = np.array([[p.x, p.y, p.z] for p in faces[0].landmark]) * size * scale
        return points + np.array([left, top, 0])


def angles(mesh: np.ndarray) -> tuple[float, float]:
    """Yaw (to the viewer's right) and pitch (upwards) in degrees, from the mesh's axes."""
    across, down = mesh[454] - mesh[234], mesh[152] - mesh[10]
    back = np.cross(across, down)
    x, y, z = -back / np.linalg.norm(back)  # where the face looks; -z is into the camera
    pitch = np.degrees(np.arctan2(-y, np.hypot(x, z))) - UPRIGHT
    return float(np.degrees(np.arctan2(x, -z))), float(pitch)


def negatives(face: Box, skin: np.ndarray, count: int, seed: int) -> Iterator[Box]:
    """Boxes of a face's size beside it, inside the image; fewer where it leaves no room.

    The first of them lies on bare `skin`, bool `[H, W]`, if there is any: hands look like faces.
    """
    rng, (rows, columns) = np.random.default_rng(seed), np.nonzero(skin)
    first = count if len(rows) > 100 else 0
    for trial in range(20 * count):
        size = face[2] * float(np.exp(rng.uniform(-0.5, 0.4)))
        x, y = rng.uniform(0, skin.shape[1]), rng.uniform(0, skin.shape[0])
        if count == first and trial < 10:
            chosen = rng.integers(len(rows))
            x, y = float(columns[chosen]), float(rows[chosen])
        if max(abs(x - face[0]), abs(y - face[1])) > 0.8 * face[2] + 0.9 * size:
            yield x, y, size
            count -= 1
        if count == 0:
            return


def rows_of(
    teacher: Teacher, source: Path, out: Path, record: dict[str, str], count: int
) -> Iterator[dict[str, Any]]:
    """The lines of landmarks.csv for one image, whose crops are written."""
    folder, name = source / record["source"], record["name"]
    image = np.asarray(Image.open(folder / "image" / f"{name}.jpg").convert("RGB"))
    path, box = folder / "layout" / f"{name}.png", None
    layout = np.asarray(Image.open(path)) if path.exists() else np.zeros(image.shape[:2], np.uint8)
    if path.exists():
        box = box_of(np.isin(layout, FACE))
    mesh = teacher(image, box)
    if mesh is not None and box is None:
        box = box_around(mesh[:, :2])
    if box is None:
        return
    if mesh is not None:
        yield _row(image, box, mesh, out, record, 0)
    seed = zlib.crc32(f"{record['source']}/{name}".encode())
    for number, place in enumerate(negatives(box, layout == SKIN, count, seed), 1):
        yield _row(image, place, None, out, record, number)


def _row(
    image: np.ndarray, box: Box, mesh: np.ndarray | None, out: Path, record: dict[str, str],
    number: int,
) -> dict[str, Any]:  # fmt: skip
    size = min(MAX_SIDE, round(CROP * box[2]))
    crop, (left, top, scale) = square(image, box, CROP * box[2], size)
    path = Path("crops", record["source"], f"{record['name']}_{number}.jpg")
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(crop).save(out / path, quality=95)
    x, y, face = (box[0] - left) / scale, (box[1] - top) / scale, box[2] / scale
    row: dict[str, Any] = dict(
        image=path.as_posix(), source=record["source"], split=record["split"],
        x=round(x, 2), y=round(y, 2), size=round(face, 2), found=int(mesh is not None),
    )  # fmt: skip
    if mesh is not None:
        for place, points in PLACES.items():
            px, py = (mesh[list(points), :2].mean(0) - (left, top)) / scale
            row |= {f"{place}_x": round(float(px), 2), f"{place}_y": round(float(py), 2)}
        row["yaw"], row["pitch"] = (round(angle, 2) for angle in angles(mesh))
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--source", required=True, type=Path, help="folder with index.csv")
    arguments.add_argument("--out", required=True, type=Path, help="folder to write")
    arguments.add_argument("--negatives", type=int, default=1, help="crops without a face, each")
    options = arguments.parse_args(argv)
    with (options.source / "index.csv").open(newline="", encoding="utf-8-sig") as file:
        records = list(csv.DictReader(file))
    teacher = Teacher()
    columns = ["image", "source", "split", "x", "y", "size", "found"]
    columns += [f"{place}_{axis}" for place in PLACES for axis in "xy"] + ["yaw", "pitch"]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "landmarks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for record in records:
            writer.writerows(
                rows_of(teacher, options.source, options.out, record, options.negatives)
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
