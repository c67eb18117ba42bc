"""Label sets: the meaning of a layout's class indices, and remapping between sets.

A layout is an integer array [..., H, W] of class indices. Every class belongs to exactly one group:
head (kept from the first photo), body (kept from the second), neck (always generated anew) or
background. The groups of `cihp20` are those of HS-Diffusion, arXiv 2212.06458, appendix B.1.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, UInt8

Colour = tuple[int, int, int]
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


@dataclass(frozen=True)
class LabelSet:
    """The meaning of class indices; hashable, so a static argument under `jax.jit`.

    Attributes:
      name: the set's name, as in `LABEL_SETS`.
      classes: one name per class; the position is the class index.
      head, body, neck: class indices of each group; with `background` they cover every class once.
      background: the index of the background class, which also marks the holes of a layout.
      palette: (red, green, blue) in 0..255 for each class, for `colorize`.

    Raises:
      ValueError: if a class name repeats, a class is in no group or in several, the palette does
        not fit the classes, or no class can serve as `face`.
    """

    name: str
    classes: tuple[str, ...]
    head: tuple[int, ...]
    body: tuple[int, ...]
    neck: tuple[int, ...]
    background: int
    palette: tuple[Colour, ...]

    def __post_init__(self) -> None:
        where = f"label set {self.name!r}"
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{where}: class names repeat in {self.classes}; make them unique")
        grouped = sorted((*self.head, *self.body, *self.neck, self.background))
        if grouped != list(range(self.num_classes)):
            raise ValueError(
                f"{where}: the groups hold {grouped}; put each of 0..{self.num_classes - 1} into "
                "exactly one of head, body, neck and background"
            )
        if len(self.palette) != self.num_classes:
            raise ValueError(
                f"{where}: {len(self.palette)} colours for {self.num_classes} classes; "
                "give one each"
            )
        for colour in self.palette:
            if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
                raise ValueError(f"{where}: {colour} is no colour; give three integers in 0..255")
        if self.face not in self.head:
            raise ValueError(
                f"{where}: class {self.classes[self.face]!r} must be in the head group"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes, background included."""
        return len(self.classes)

    @property
    def face(self) -> int:
        """The index of `face`, or of `skin` in sets that split the face into parts."""
        return self.index("face" if "face" in self.classes else "skin")

    def index(self, class_name: str) -> int:
        """The index of a class; ValueError with the known names if there is none."""
        if class_name not in self.classes:
            raise ValueError(
                f"label set {self.name!r} has no class {class_name!r}; "
                f"use one of {', '.join(self.classes)}"
            )
        return self.classes.index(class_name)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The class that each becomes in a mirror image, with left and right swapped."""
        sides = {"left": "right", "right": "left", "l": "r", "r": "l"}
        names = ("_".join(sides.get(w, w) for w in name.split("_")) for name in self.classes)
        return tuple(
            self.classes.index(new) if new in self.classes else i for i, new in enumerate(names)
        )

    def group(self, index: int) -> str:
        """The group of a class index: "head", "body", "neck" or "background"."""
        for name in ("head", "body", "neck"):
            if index in getattr(self, name):
                return name
        if index == self.background:
            return "background"
        raise ValueError(
            f"label set {self.name!r} has no class {index}; use 0..{self.num_classes - 1}"
        )


def _label_set(name: str, rows: tuple[tuple[str, str, Colour], ...]) -> LabelSet:
    """Makes a set from one row (class, group, colour) per class, in the order of the indices."""

    def members(group: str) -> tuple[int, ...]:
        return tuple(i for i, row in enumerate(rows) if row[1] == group)

    return LabelSet(
        name=name,
        classes=tuple(row[0] for row in rows),
        head=members("head"),
        body=members("body"),
        neck=members("neck"),
        background=members("background")[0],
        palette=tuple(row[2] for row in rows),
    )


CIHP20 = _label_set(
    "cihp20",
    (
        ("background", "background", (0, 0, 0)),
        ("hat", "head", (255, 128, 0)),
        ("hair", "head", (0, 0, 128)),
        ("glove", "body", (0, 128, 128)),
        ("sunglasses", "head", (0, 192, 255)),
        ("upper_clothes", "body", (128, 128, 0)),
        ("dress", "body", (192, 64, 0)),
        ("coat", "body", (0, 128, 0)),
        ("socks", "body", (192, 192, 192)),
        ("pants", "body", (64, 64, 64)),
        ("skin", "neck", (128, 128, 255)),
        ("scarf", "body", (255, 64, 64)),
        ("skirt", "body", (128, 0, 0)),
        ("face", "head", (128, 0, 128)),
        ("left_arm", "body", (255, 192, 128)),
        ("right_arm", "body", (192, 128, 64)),
        ("left_leg", "body", (192, 255, 128)),
        ("right_leg", "body", (96, 192, 64)),
        ("left_shoe", "body", (255, 255, 0)),
        ("right_shoe", "body", (192, 160, 0)),
    ),
)
"""The paper's set (appendix B.1): the classes that SCHP's model for CIHP predicts, in its order.

`skin` is the skin of neck and chest only, hence the neck group; arms and legs have their own. The
colours of background, hair, face, neck and clothes are those of the paper's figures."""

SHHQ17 = _label_set(
    "shhq17",
    (
        ("background", "background", (0, 0, 0)),
        ("headwear", "head", (255, 128, 0)),
        ("hair", "head", (0, 0, 128)),
        ("glove", "body", (0, 128, 128)),
        ("eyeglasses", "head", (0, 192, 255)),
        ("tops", "body", (128, 128, 0)),
        ("dress", "body", (192, 64, 0)),
        ("coat", "body", (0, 128, 0)),
        ("socks", "body", (192, 192, 192)),
        ("pants", "body", (64, 64, 64)),
        ("skin", "neck", (128, 128, 255)),
        ("scarf", "body", (255, 64, 64)),
        ("skirt", "body", (128, 0, 0)),
        ("face", "head", (128, 0, 128)),
        ("shoes", "body", (255, 255, 0)),
        ("bag", "body", (0, 255, 128)),
        ("accessories", "body", (255, 0, 255)),
    ),
)
"""The manual parsing that SHHQ-1.0 ships (StyleGAN-Human, docs/Dataset.md), in its order.

Its `skin` is neck, arms and legs in one class. The group here is right for the neck only, so a
layout must have its limbs split off before any mixing (for example: keep as `skin` only the
connected component that touches `face`); otherwise arms and legs are generated anew as well."""

CELEBAMASK19 = _label_set(
    "celebamask19",
    (
        ("background", "background", (0, 0, 0)),
        ("skin", "head", (128, 0, 128)),
        ("l_brow", "head", (96, 64, 0)),
        ("r_brow", "head", (176, 112, 48)),
        ("l_eye", "head", (0, 255, 0)),
        ("r_eye", "head", (0, 160, 64)),
        ("eye_g", "head", (0, 192, 255)),
        ("l_ear", "head", (255, 128, 192)),
        ("r_ear", "head", (192, 64, 128)),
        ("ear_r", "head", (255, 255, 0)),
        ("nose", "head", (192, 0, 255)),
        ("mouth", "head", (255, 255, 255)),
        ("u_lip", "head", (255, 0, 0)),
        ("l_lip", "head", (176, 0, 0)),
        ("neck", "neck", (128, 128, 255)),
        ("neck_l", "neck", (255, 224, 128)),
        ("cloth", "body", (128, 128, 0)),
        ("hair", "head", (0, 0, 128)),
        ("hat", "head", (255, 128, 0)),
    ),
)
"""CelebAMask-HQ's classes in the order of the usual BiSeNet parsers (zllrunning,
face-parsing.PyTorch): `eye_g` is glasses, `ear_r` an earring, `neck_l` a necklace.

The face is split into parts, so `face` is `skin`: the face without brows, eyes, ears, nose and
mouth. A necklace lies on the neck and is generated anew with it."""

HALFBODY9 = _label_set(
    "halfbody9",
    (
        ("background", "background", (0, 0, 0)),
        ("hair", "head", (0, 0, 128)),
        ("face", "head", (128, 0, 128)),
        ("neck", "neck", (128, 128, 255)),
        ("clothes", "body", (128, 128, 0)),
        ("skin", "body", (255, 192, 128)),
        ("hat", "head", (255, 128, 0)),
        ("glasses", "head", (0, 192, 255)),
        ("accessory", "body", (255, 0, 255)),
    ),
)
"""The embedded weights' set, for half-body crops: `face` includes ears and beard, `neck` is the
visible skin between face and collar, `skin` is all other skin (arms, hands, chest), `accessory`
is bags, shoes and the like."""

LABEL_SETS: dict[str, LabelSet] = {s.name: s for s in (CIHP20, SHHQ17, CELEBAMASK19, HALFBODY9)}


def get_label_set(name: str) -> LabelSet:
    """The shipped label set of that name; ValueError with the known names if there is none."""
    if name not in LABEL_SETS:
        raise ValueError(f"unknown label set {name!r}; use one of {', '.join(LABEL_SETS)}")
    return LABEL_SETS[name]


# Substitutes of a class for targets that lack its name in its group: the first of these that the
# target has in that group. A name may occur in several groups (skin is face, neck or limb).
_NEAREST: dict[str, tuple[str, ...]] = {
    "hat": ("headwear",),
    "headwear": ("hat",),
    **dict.fromkeys(
        ("sunglasses", "eyeglasses", "eye_g", "glasses"),
        ("sunglasses", "eyeglasses", "eye_g", "glasses"),
    ),
    "face": ("skin",),
    **dict.fromkeys(("l_brow", "r_brow", "l_eye", "r_eye", "l_ear", "r_ear", "ear_r"), ("face",)),
    **dict.fromkeys(("nose", "mouth", "u_lip", "l_lip"), ("face",)),
    "neck": ("skin",),
    "neck_l": ("neck", "skin"),
    "skin": ("face", "neck", "left_arm", "tops", "cloth"),
    "upper_clothes": ("tops", "clothes", "cloth"),
    "tops": ("upper_clothes", "clothes", "cloth"),
    "clothes": ("upper_clothes", "tops", "cloth"),
    "cloth": ("upper_clothes", "tops", "clothes"),
    **dict.fromkeys(("dress", "coat", "pants", "skirt", "scarf", "socks"), ("clothes", "cloth")),
    **dict.fromkeys(("left_arm", "right_arm"), ("skin", "tops", "cloth")),
    **dict.fromkeys(("left_leg", "right_leg"), ("skin", "pants", "cloth")),
    **dict.fromkeys(("left_shoe", "right_shoe"), ("shoes", "accessory", "cloth")),
    "shoes": ("left_shoe", "accessory", "cloth"),
    "glove": ("accessory", "cloth"),
    **dict.fromkeys(
        ("bag", "accessory", "accessories"),
        ("accessory", "accessories", "upper_clothes", "cloth"),
    ),
}


@lru_cache
def _remap_table(source: LabelSet, target: LabelSet) -> tuple[int, ...]:
    """The class of `target` for each class of `source`."""
    table = []
    for i, name in enumerate(source.classes):
        candidates = [
            target.classes.index(candidate)
            for candidate in (name, *_NEAREST.get(name, ()))
            if candidate in target.classes
        ]
        same_group = [j for j in candidates if target.group(j) == source.group(i)]
        if not same_group:
            raise ValueError(
                f"label set {target.name!r} has no {source.group(i)} class that stands for "
                f"{name!r} of {source.name!r}; rename the class or remap the layout by hand"
            )
        table.append(same_group[0])
    return tuple(table)


def can_remap(source: LabelSet, target: LabelSet) -> str:
    """The reason why layouts of `source` cannot be remapped to `target`; "" if they can."""
    try:
        _remap_table(source, target)
    except ValueError as error:
        return str(error)
    return ""


def _check_layout(layout: np.ndarray | jax.Array, labels: LabelSet) -> None:
    """Raises ValueError for an invalid layout of `labels`; checks values of numpy arrays only."""
    if not jnp.issubdtype(layout.dtype, jnp.integer):
        raise ValueError(f"a layout holds class indices, not {layout.dtype}; cast it to int32")
    if isinstance(layout, np.ndarray) and layout.size:
        low, high = int(layout.min()), int(layout.max())
        if low < 0 or high >= labels.num_classes:
            raise ValueError(
                f"layout holds class {low if low < 0 else high}, but {labels.name!r} has only "
                f"0..{labels.num_classes - 1}; pass the label set that the layout was made with"
            )


def remap(layout: AnyArray, source: LabelSet, target: LabelSet) -> AnyArray:
    """Remaps a layout from `source` to `target` by the meaning of the classes.

    If `target` is coarser, a class becomes the nearest one of its group (a coat becomes clothes, a
    nose face). No pixel leaves its group, so this commutes with mixing. As a consequence, bare arms
    become tops in shhq17, whose skin is in the neck group, and cloth in celebamask19.

    Args:
      layout: integers [..., H, W], numpy or JAX, the latter also under `jax.jit`.
      source: the set that `layout` is in.
      target: the set to return it in.

    Returns:
      The same kind of array, shape and dtype; `layout` itself if the sets are equal.

    Raises:
      ValueError: if the layout is not of integers or (numpy only; JAX clamps) holds classes that
        `source` lacks, or if a class has no counterpart in its group of `target`.
    """
    _check_layout(layout, source)
    if source == target:
        return layout
    table = np.asarray(_remap_table(source, target), layout.dtype)
    if isinstance(layout, np.ndarray):
        return table[layout]
    return jnp.asarray(table)[layout]


def colorize(
    layout: Integer[Array | np.ndarray, "*batch h w"], labels: LabelSet
) -> UInt8[np.ndarray, "*batch h w 3"]:
    """Colours the layout with the set's palette: numpy uint8 RGB, [..., H, W, 3].

    Raises:
      ValueError: if the layout is not of integers or holds classes that `labels` lacks.
    """
    indices = np.asarray(layout)
    _check_layout(indices, labels)
    return np.asarray(labels.palette, np.uint8)[indices]


def one_hot(
    layout: Integer[Array | np.ndarray, "*batch h w"],
    labels: LabelSet,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*batch h w c"]:
    """One-hot encodes the layout: [..., H, W, num_classes].

    Raises:
      ValueError: if the layout is not of integers or (numpy only; JAX gives all zeros there) holds
        classes that `labels` lacks.
    """
    _check_layout(layout, labels)
    return jax.nn.one_hot(layout, labels.num_classes, dtype=dtype)
