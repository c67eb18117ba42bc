"""Half-body SHHQ, the paper's data set, from SHHQ-1.0 as its authors give it out.

The source folder (docs/data.md says how to obtain it):

    no_segment/NAME.png|jpg    the photos, 512 wide and 1024 high           SHHQ-1.0
    segments/NAME.png|jpg      masks of the person, the same size           SHHQ-1.0, for bg_white
    parsing/NAME.png           layouts: class indices of cihp20 or shhq17, or SHHQ's own colours
    faces.csv                  optional: where the faces are

HS-Diffusion (arXiv 2212.06458, section 4.1) aligns by landmarks, crops half bodies, parses those
with SCHP trained on CIHP, and splits at random into 35,942 and 4,000. Its crop's numbers, its split
and its backdrop are not published: see `data.crop`, `split_names` and the variants.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data.crop import Box, Landmarks, crop_matrix, cut, face_box, whiten
from data.pairs import Example, Pairs, check_classes, open_image, pair_features
from data.shhq_labels import from_colours, to_cihp
from hsd_jax.labels import CIHP20, LABEL_SETS, SHHQ17

WIDTH, HEIGHT = 512, 1024
PICTURES, TEST_PICTURES = 39942, 4000
VARIANTS = ("bg_white", "no_segment")
SIZES = (256, 512)
LAYOUT_LABELS = ("cihp20", "shhq17")
HOW_TO_OBTAIN = (
    "SHHQ-1.0 is given out by its authors for non-commercial research, after a signed agreement: "
    "https://github.com/stylegan-human/StyleGAN-Human/blob/main/docs/Dataset.md; "
    "unpack it there (docs/data.md)"
)

_BOX = ("left", "top", "right", "bottom")
_LANDMARKS = ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "mouth_x", "mouth_y")


@dataclass(eq=False)
class ShhqConfig(tfds.core.BuilderConfig):
    """One of the four forms of the data set, named VARIANT_SIZE.

    Attributes:
      variant: "bg_white", the person on white, as in the paper's figures; or "no_segment", the
        photo as it is.
      size: side of the half-body square in pixels.
    """

    variant: str = "bg_white"
    size: int = 256


CONFIGS = {
    (variant, size): ShhqConfig(
        name=f"{variant}_{size}",
        description=f"half-body squares of {size} pixels, {variant}",
        variant=variant,
        size=size,
    )
    for size in SIZES
    for variant in VARIANTS
}


class Record(NamedTuple):
    """One photo: its name without suffix, its split, its face where faces.csv has it."""

    name: str
    split: str
    face: Landmarks | Box | None

    @property
    def key(self) -> str:
        """The name."""
        return self.name


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> "train" or "test", 4,000 of SHHQ's 39,942 in test and that share of fewer.

    The paper's random split is unknown. Ours goes by a hash of the name: it is the same on every
    machine, and leaving some photos out moves hardly any other.
    """
    order = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())
    test = round(len(order) * TEST_PICTURES / PICTURES)
    return {name: "test" if i < test else "train" for i, name in enumerate(order)}


def list_names(source: Path) -> list[str]:
    """The photos' names without suffix, sorted.

    Raises:
      ValueError: no such folder, or no photos in it.
    """
    folder = source / "no_segment"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {HOW_TO_OBTAIN}")
    names = {p.stem for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg")}
    if not names:
        raise ValueError(f"{folder}: no .png or .jpg files; {HOW_TO_OBTAIN}")
    return sorted(names)


def read_faces(source: Path) -> dict[str, Landmarks | Box] | None:
    """The rows of faces.csv by name; None without the file.

    Its columns, in pixels of the photo, are `name` and either left, top, right, bottom of the face
    or left_eye_x, left_eye_y, right_eye_x, right_eye_y, mouth_x, mouth_y (left in the image; of
    dlib's 68 points the means of 36-41, of 42-47, and of 48 and 54, as for FFHQ).

    Raises:
      ValueError: other columns, or a row that is not of numbers.
    """
    path = source / "faces.csv"
    if not path.is_file():
        return None
    faces: dict[str, Landmarks | Box] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        given = set(rows.fieldnames or ())
        columns = next((c for c in (_LANDMARKS, _BOX) if given >= {"name", *c}), None)
        if columns is None:
            raise ValueError(
                f"{path}: the first line must name name and either {', '.join(_BOX)} "
                f"or {', '.join(_LANDMARKS)}"
            )
        for row in rows:
            try:
                v = [float(row[column]) for column in columns]
            except (TypeError, ValueError) as error:
                where = f"{path}, line {rows.line_num}"
                raise ValueError(f"{where}: {', '.join(columns)} must be numbers") from error
            boxed = columns is _BOX
            faces[Path(row["name"]).stem] = (
                Box(*v) if boxed else Landmarks((v[0], v[1]), (v[2], v[3]), (v[4], v[5]))
            )
    return faces


def _find(folder: Path, name: str) -> Path:
    """FOLDER/NAME with the suffix it has there."""
    paths = (folder / f"{name}{suffix}" for suffix in (".png", ".jpg", ".PNG", ".JPG"))
    return next((path for path in paths if path.is_file()), folder / f"{name}.png")


def _check_size(image: Any, what: str, pair: str) -> None:
    if image.size != (WIDTH, HEIGHT):
        raise ValueError(
            f"{pair}: {what} is {image.width}x{image.height}; SHHQ-1.0 has {WIDTH}x{HEIGHT}"
        )


def read_photo(source: Path, name: str, variant: str) -> np.ndarray:
    """The full-body photo, uint8 [1024, 512, 3].

    Raises:
      ValueError: naming the photo: it or its mask is missing, broken or of another size.
    """
    photo = open_image(_find(source / "no_segment", name), name)
    _check_size(photo, "photo", name)
    if photo.mode not in ("RGB", "RGBA"):
        raise ValueError(f"{name}: photo is {photo.mode}; save it in RGB")
    image = np.asarray(photo.convert("RGB"))
    if variant == "no_segment":
        return image
    mask = open_image(_find(source / "segments", name), name)
    _check_size(mask, "mask", name)
    person = np.asarray(mask.convert("L"))
    if person.max() < 128:
        raise ValueError(f"{name}: mask shows nobody; it must be 0 to 255, 255 on the person")
    return whiten(image, person)


def read_layout(source: Path, name: str, size: int, labels: str) -> np.ndarray:
    """The layout in cihp20, uint8 [1024, 512], or [size, size] where the crop was parsed.

    Raises:
      ValueError: naming the photo: no layout, another size, unknown classes or colours.
    """
    layout = open_image(source / "parsing" / f"{name}.png", name)
    if layout.size not in ((WIDTH, HEIGHT), (size, size)):
        raise ValueError(
            f"{name}: layout is {layout.width}x{layout.height}; "
            f"make it {WIDTH}x{HEIGHT}, or {size}x{size} from the crops"
        )
    if layout.mode in ("L", "P"):
        indices, label_set = np.array(layout), LABEL_SETS[labels]
        check_classes(indices, label_set.num_classes, labels, name)
    else:
        indices, label_set = from_colours(np.asarray(layout.convert("RGB")), name), SHHQ17
    return to_cihp(indices) if label_set == SHHQ17 else indices


def _matrix(record: Record, layout: np.ndarray | None, size: int) -> np.ndarray:
    face = record.face
    if face is None:
        if layout is None or layout.shape != (HEIGHT, WIDTH):
            raise ValueError(
                f"{record.name}: where is the face? give faces.csv, or layouts of {WIDTH}x{HEIGHT}"
            )
        # Glasses may cut a face in two.
        face = face_box(np.isin(layout, (CIHP20.face, CIHP20.index("sunglasses"))))
        if face is None:
            raise ValueError(f"{record.name}: layout shows no face; leave the photo out")
    try:
        return crop_matrix(face, size)
    except ValueError as error:
        raise ValueError(f"{record.name}: {error}") from error


def read_crop(source: Path, variant: str, size: int, record: Record) -> np.ndarray:
    """The half-body square of a photo whose face is in faces.csv, before there is a layout."""
    matrix = _matrix(record, None, size)
    fill = 255 if variant == "bg_white" else None
    return cut(read_photo(source, record.name, variant), matrix, size, fill, nearest=False)


def read_record(source: Path, variant: str, size: int, labels: str, record: Record) -> Example:
    """One pair as the bytes that are stored, checked.

    Returns:
      image: PNG bytes, RGB [size, size]; layout: PNG bytes, indices of cihp20; name; source "shhq".

    Raises:
      ValueError: naming the photo and what is wrong with it.
    """
    layout = read_layout(source, record.name, size, labels)
    photo = read_photo(source, record.name, variant)
    matrix = _matrix(record, layout, size)
    image = cut(photo, matrix, size, 255 if variant == "bg_white" else None, nearest=False)
    if layout.shape != (size, size):
        layout = cut(layout, matrix, size, CIHP20.background, nearest=True)
    if face_box(layout == CIHP20.face) is None:
        raise ValueError(f"{record.name}: the half-body layout shows no face; leave the photo out")
    return {"image": encode_png(image[..., ::-1]), "layout": encode_png(layout),
            "name": record.name, "source": "shhq"}  # fmt: skip


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of greyscale or BGR pixels."""
    return cv2.imencode(".png", pixels)[1].tobytes()


class Shhq(Pairs):
    """Half-body SHHQ with layouts of cihp20, in four configs; `load_source(name="shhq/CONFIG")`.

    Args:
      labels: the classes in which the source's layouts are written, "cihp20" or "shhq17"; coloured
        ones are SHHQ's own whatever it says. Stored are always cihp20's.
      Others as in `Pairs`.
    """

    BUILDER_CONFIGS = list(CONFIGS.values())
    MANUAL_DOWNLOAD_INSTRUCTIONS = HOW_TO_OBTAIN

    def __init__(self, *, labels: str = "cihp20", **kwargs: Any):
        if labels not in LAYOUT_LABELS:
            raise ValueError(f"labels is {labels!r}: use one of {', '.join(LAYOUT_LABELS)}")
        self._labels = labels
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Half-body SHHQ (HS-Diffusion) with semantic layouts of cihp20.",
            homepage="https://github.com/stylegan-human/StyleGAN-Human",
            features=pair_features("png"),
        )

    @property
    def config(self) -> ShhqConfig:
        """Variant and size."""
        assert isinstance(self.builder_config, ShhqConfig)
        return self.builder_config

    def list_records(self, source: Path) -> list[Record]:
        """Every photo; faces.csv must have them all where it is given."""
        names, faces = list_names(source), read_faces(source)
        splits = split_names(names)
        if faces is None:
            return [Record(name, splits[name], None) for name in names]
        lacking = [n for n in names if n not in faces and n not in self._skip]
        if lacking:
            raise ValueError(
                f"{source / 'faces.csv'}: no row for {lacking[0]} and {len(lacking) - 1} more; "
                "add them or leave them out"
            )
        return [Record(name, splits[name], faces.get(name)) for name in names]

    def reader(self, source: Path) -> Callable[[Record], Example]:
        """`read_record` of this folder and config."""
        return partial(read_record, source, self.config.variant, self.config.size, self._labels)

    def cropper(self, source: Path) -> Callable[[Record], np.ndarray]:
        """`read_crop` of this folder and config."""
        return partial(read_crop, source, self.config.variant, self.config.size)
