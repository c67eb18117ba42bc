"""Whose face a swap shows, by a recogniser that has nothing to do with this project.

    python -m hsd_jax.evaluation.identity HEAD BODY [HEAD BODY ...] [--weights NAME|DIR]

Each pair of photos is swapped; the result's face is compared with the head photo's and with the
body photo's. The recogniser is dlib's ResNet (Davis King 2017, CC0): 128 numbers a face, whose
distance is below 0.6 for photos of one person. It comes with its weights by

    pip install dlib-bin face_recognition_models

A photo whose face its detector does not find counts for nothing and is named.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax import HeadSwapper, weights
from hsd_jax.runtime.console import module_parser, status_of

SAME = 0.6
"""The distance below which dlib takes two faces for one person's."""

Describe = Callable[[np.ndarray], np.ndarray | None]


def recogniser() -> Describe:
    """uint8 `[H, W, 3]` -> the descriptor of its largest face, float64 `[128]`, or None.

    Raises:
      ValueError: dlib or its weights are not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if importlib.util.find_spec("dlib") is None or spec is None or spec.origin is None:
        raise ValueError(
            "dlib or its weights are missing: pip install dlib-bin face_recognition_models"
        )
    dlib: Any = importlib.import_module("dlib")
    # Not imported: the package needs a setuptools that newer environments lack.
    models = Path(spec.origin).parent / "models"
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    file = models / "dlib_face_recognition_resnet_model_v1.dat"
    net = dlib.face_recognition_model_v1(str(file))

    def describe(image: np.ndarray) -> np.ndarray | None:
        image = np.ascontiguousarray(image)
        found = detector(image, 1)
        if not found:
            return None
        face = max(found, key=lambda box: box.area())
        return np.array(net.compute_face_descriptor(image, landmarks(image, face)))

    return describe


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two descriptors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _run(options: argparse.Namespace) -> None:
    files = options.photos
    if len(files) % 2:
        raise ValueError(f"{len(files)} photos: give pairs, HEAD BODY HEAD BODY ...")
    describe, swapper = recogniser(), HeadSwapper.from_pretrained(options.weights)
    rows = []
    print(f"{'head':24s} {'body':24s}   to head: distance cosine   to body: distance cosine")
    for head, body in zip(files[::2], files[1::2], strict=True):
        result = swapper(head, body).image
        pictures = {"result": result, head: files.open_photo(head), body: files.open_photo(body)}
        faces = {name: describe(picture) for name, picture in pictures.items()}
        hidden = [str(name) for name, face in faces.items() if face is None]
        names = f"{Path(head).name:24s} {Path(body).name:24s}"
        if hidden:
            print(names, f"  no face found: {', '.join(hidden)}")
            continue
        own, *others = (face for face in faces.values() if face is not None)
        row = [f(own, x) for x in others for f in (_distance, cosine)]
        rows.append(row)
        print(names, "".join(f"{x:13.3f}" for x in row))
    if rows:
        mean = np.mean(rows, axis=0)
        right = sum(row[0] < min(SAME, row[2]) for row in rows)
        print(f"{'mean':49s}", "".join(f"{x:13.3f}" for x in mean))
        print(f"{right} of {len(rows)} results show the head's person (distance below {SAME} and "
              "nearer than the body's)")  # fmt: skip


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    name = "hsd_jax.evaluation.identity"
    parser = module_parser(name, __doc__)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="HEAD BODY, once or more often")
    parser.add_argument("--weights", default=weights.DEFAULT, metavar="NAME|DIR",
                        help="default: %(default)s")  # fmt: skip
    options = parser.parse_args(argv)
    return status_of(name, lambda: _run(options))


if __name__ == "__main__":
    sys.exit(main())
