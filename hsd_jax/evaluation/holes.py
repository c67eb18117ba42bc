"""Holes with known truth: what a swap would generate if a person had worn another's head.

The old head is a random other person's, moved to this face's size and place as the crops of a swap
would. The hole is the old head and this person's neck, outside this person's own head; the image
itself is the truth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from hsd_jax.evaluation.baselines import NECK_MARGIN, OLD_HEAD_MARGIN
from hsd_jax.evaluation.pairs import LabelledImage, another, from_sources
from hsd_jax.labels import HALFBODY9, LabelSet, remap
from hsd_jax.swapping.mixing import dilate
from hsd_jax.training.augment import MIN_FACE, face_place, fit_matrix

MIN_HOLE = 100  # pixels; smaller holes are skipped
GREY = 127


@dataclass(frozen=True)
class Case:
    """An image with a hole.

    Attributes:
      index: of the image in the split.
      truth: uint8 `[H, W, 3]`, the image.
      layout: int32 `[H, W]`, its true layout.
      body_layout: int32 `[H, W]`: this body with the other person's head; its own head, which that
        photo would not show, is background.
      partner: uint8 `[H, W, 3]`, the other person's image, fitted.
      old_head: bool `[H, W]`, the other person's head and a margin for stray hair.
      hole: bool `[H, W]`.
    """

    index: int
    truth: np.ndarray
    layout: np.ndarray
    body_layout: np.ndarray
    partner: np.ndarray
    old_head: np.ndarray
    hole: np.ndarray

    @property
    def destroyed(self) -> np.ndarray:
        """The image with a grey hole, so that an encoder sees nothing of the truth."""
        return np.where(self.hole[..., None], np.uint8(GREY), self.truth)


def cases(
    source: Any,
    labels: LabelSet,
    *,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    count: int | None = None,
) -> Iterator[Case]:
    """Yields the first `count` cases of a split, or all; skips images without a face or a hole.

    The partner depends on `seed`, the image's place in the split and the set of possible partners,
    but not on `count`.

    Args:
      source: a `hsd_jax.training.input.Source` of halfbody9 layouts.
      labels: the label set of the cases' layouts.
      sources: use only images, and partners, with these `source` names.

    Raises:
      ValueError: an unknown source, fewer than two faces, or no class of `labels` for one of
        halfbody9's.
    """
    usable = [
        i
        for i in from_sources(source, sources)
        if np.sum(source.layout(i) == HALFBODY9.face) >= MIN_FACE
    ]
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} images show a face: a partner needs two or more")
    return _cases(source, labels, usable, seed, count)


def _cases(
    source: Any, labels: LabelSet, usable: list[int], seed: int, count: int | None
) -> Iterator[Case]:
    made = 0
    for place, index in enumerate(usable):
        if made == count:
            return
        rng = np.random.default_rng((seed, index))
        other = usable[another(rng, place, len(usable))]
        person, partner = (_labelled(source, i, labels) for i in (index, other))
        case = make_case(index, person, partner, labels)
        if case.hole.sum() >= MIN_HOLE:
            made += 1
            yield case


def _labelled(source: Any, index: int, labels: LabelSet) -> LabelledImage:
    example = source[index]
    return LabelledImage(example["image"], remap(example["layout"], HALFBODY9, labels))


def make_case(
    index: int, person: LabelledImage, partner: LabelledImage, labels: LabelSet
) -> Case:
    """Cuts the hole of the partner's head into the person's image.

    Raises:
      ValueError: either shows no face.
    """
    layout = person.layout
    matrix = fit(partner.layout, layout, labels.face)
    size = layout.shape[::-1]
    head = cv2.warpAffine(partner.layout.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    image = cv2.warpAffine(partner.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    worn = np.isin(head, labels.head)
    own = np.isin(layout, labels.head)
    old_head = np.asarray(dilate(worn, OLD_HEAD_MARGIN)) > 0
    neck = np.asarray(dilate(np.isin(layout, labels.neck), NECK_MARGIN)) > 0
    body_layout = np.where(worn, head, np.where(own, labels.background, layout))
    return Case(
        index=index,
        truth=person.image,
        layout=layout.astype(np.int32),
        body_layout=body_layout.astype(np.int32),
        partner=image,
        old_head=old_head,
        hole=(old_head | neck) & ~own,
    )


def fit(partner: np.ndarray, layout: np.ndarray, face: int) -> np.ndarray:
    """The 2 x 3 matrix that moves the partner's face to this one's size and place.

    Like `hsd_jax.training.augment.fit_partner` without jitter, but also for images.

    Raises:
      ValueError: one of the layouts has fewer than `MIN_FACE` pixels of face.
    """
    theirs, mine = face_place(partner, face), face_place(layout, face)
    if theirs is None or mine is None:
        raise ValueError(f"fewer than {MIN_FACE} pixels of face: give layouts that show one")
    return fit_matrix(theirs, mine)
