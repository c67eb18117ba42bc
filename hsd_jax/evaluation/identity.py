"""Whether a swap shows the head's person: `IDs-*` of the benchmark, and `hsd eval identity`.

IDs (the paper, section 4.1) is the cosine similarity of the ArcFace embeddings of the head photo's
face and the result's.

`hsd eval identity` swaps pairs of photos and compares the result's face with both photos' faces by
a recogniser that is independent of this project: dlib's ResNet (Davis King 2017, CC0) with 128
numbers per face, whose distance is below 0.6 for photos of one person. Pairs in which its detector
misses a face are reported and left out.
"""

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hsd_jax import HeadSwapper
from hsd_jax.evaluation.features import Extractor
from hsd_jax.evaluation.metrics import Reference
from hsd_jax.evaluation.regions import Images, take_square
from hsd_jax.imaging import files
from hsd_jax.imaging.framing import Crop
from hsd_jax.runtime import cache, console

SAME = 0.6
"""dlib considers two faces to be the same person below this distance."""

Describe = Callable[[np.ndarray], np.ndarray | None]


class Identity:
    """IDs-*: the cosine similarity of the head photo's face and the result's, by features."""

    higher_is_better = True

    def __init__(self, extractor: Extractor, size: int):
        """`extractor` sees faces of `size` x `size` pixels.

        With the extractor `hsd` this is a stand-in: a parser's features show pose and colours, not
        identity.
        """
        self.names = (f"IDs-{extractor.name}",)
        self._extractor, self._size = extractor, size

    def __call__(self, results: Images, reference: Reference) -> dict[str, np.ndarray]:
        """The similarity of each pair, -1 to 1."""
        key = id(self)
        if key not in reference.memory:
            reference.memory[key] = self._features(reference.head, reference.faces)
        return {
            self.names[0]: cosine(reference.memory[key], self._features(results, reference.faces))
        }

    def _features(self, images: Images, squares: Sequence[Crop]) -> np.ndarray:
        faces = [take_square(x, s, self._size) for x, s in zip(images, squares, strict=True)]
        return self._extractor(np.stack(faces)).astype(np.float64)


def cosine(a: Float[np.ndarray, "*b d"], b: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b"]:
    """The cosine similarity of vectors, -1 to 1; 0 if one is zero."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / np.maximum(norms, 1e-12))


class OnnxFaces:
    """A face recognition network in ONNX, run by onnxruntime; an `Extractor` of 112 x 112 faces.

    The input is that of insightface's ArcFace models: RGB, NCHW, (byte - 127.5) / 127.5. The name
    is the file's, so that metrics of two models cannot be confused.
    """

    size = 112

    def __init__(self, path: Path):
        """Opens the model.

        Raises:
          ValueError: no such file, no onnxruntime, or a model of another input.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        try:
            import onnxruntime  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise ValueError("onnxruntime is missing: pip install onnxruntime") from None
        self.name, self.fingerprint = path.stem, cache.file_fingerprint(path)[:16]
        self._session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        entry = self._session.get_inputs()[0]
        self._input = entry.name
        if list(entry.shape[1:]) != [3, self.size, self.size]:
            raise ValueError(
                f"{path} takes {entry.shape}: give a model of [N, 3, {self.size}, {self.size}]"
            )
        self._one = isinstance(entry.shape[0], int)

    def __call__(self, images: Images) -> Float[np.ndarray, "b d"]:
        """uint8 `[B, 112, 112, 3]` -> float32 `[B, D]`."""
        x = (images.astype(np.float32) - 127.5) / 127.5
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        parts = [x[i : i + 1] for i in range(len(x))] if self._one else [x]
        return np.concatenate([self._session.run(None, {self._input: p})[0] for p in parts])


def recogniser() -> Describe:
    """Loads dlib: uint8 `[H, W, 3]` -> descriptor of the largest face, float64 `[128]`, or None.

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


def run(options: argparse.Namespace) -> None:
    """`hsd eval identity`.

    Raises:
      ValueError: an odd number of photos, no recogniser, or a photo that cannot be swapped.
    """
    photos = options.photos
    if len(photos) % 2:
        raise ValueError(f"{len(photos)} photos: give pairs, HEAD BODY HEAD BODY ...")
    describe, swapper = recogniser(), HeadSwapper.from_pretrained(options.weights)
    rows: list[list[Any]] = []
    with console.Progress(len(photos) // 2, "pair") as progress:
        for head, body in zip(photos[::2], photos[1::2], strict=True):
            result = swapper(head, body).image
            images = {"result": result, head: files.open_photo(head), body: files.open_photo(body)}
            faces = {name: describe(image) for name, image in images.items()}
            progress.update()
            if hidden := [name for name, face in faces.items() if face is None]:
                progress.print(f"{head} on {body}: no face found in {', '.join(hidden)}")
                continue
            own, *others = (face for face in faces.values() if face is not None)
            metrics = [float(f(own, x)) for x in others for f in (_distance, cosine)]
            rows.append([Path(head).name, Path(body).name, *metrics])
    if not rows:
        return
    right = sum(row[2] < min(SAME, row[4]) for row in rows)
    rows.append(["mean", "", *np.mean([row[2:] for row in rows], axis=0)])
    names = [f"{name} to {photo}" for photo in ("head", "body") for name in ("distance", "cosine")]
    print(console.table(["head", "body", *names], rows))
    print(f"{right} of {len(rows) - 1} results show the head's person (distance below {SAME} and "
          "nearer than the body's)")  # fmt: skip


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))
