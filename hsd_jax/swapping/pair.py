"""Frames two people alike and pairs them for the networks: aligned, at the same size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from hsd_jax.imaging.files import Photo
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.faces import SURE
from hsd_jax.parsing.photo_parser import Person, PhotoParser
from hsd_jax.swapping.edits import Edit

Align = Literal["shift", "similarity", "none"]
"""How a head is brought over the body's neck: "shift" moves it sideways (see `aligned`), and
"similarity" also turns it until its eyes lie on a line parallel to the body's own."""

_WIDER, _TRIES = 0.85, 3
_CROWN = 0.4  # height of the half ellipse, divided by half its width
_TOUCHING = 1 / 64  # of the crop's side; shorter runs of the head along an edge are noise
_NOT_BELOW = np.array([True, False, True, True])  # of top, bottom, left and right
_ROOM = 0.01  # of the crop's side; a smaller margin of photo beyond the crop counts as none
_CUT_OFF = 30 / 256**2  # share of the crop with a head beyond its photo that causes a warning
_SOFT = 2.0  # enlargement of the head that causes a warning
_TURNED, _RAISED, _BENT = 25.0, 20.0, 20.0  # degrees between two poses that cause a warning


@dataclass(frozen=True)
class Pair:
    """The two people of a swap.

    Attributes:
      head: the person whose head is kept, cropped to where it will stand.
      body: the person whose body and surroundings are kept.
      shift: the number of columns of the crop that neck alignment moved the head by.
      notes: changes made to the photos, and problems with their files, for the user.
      edit: what is swapped and what is sampled.
      persons: their numbers in the head photo and the body photo, 1 for the largest face.
      srgb: whether the body's file had a colour profile, see `imaging.files.Photo`.
      then: the pair of the next edit, given the result of this one; None if there is none.
    """

    head: Person
    body: Person
    shift: int
    notes: tuple[str, ...] = ()
    edit: Edit = Edit()
    persons: tuple[int, int] = (1, 1)
    srgb: bool = False
    then: Callable[[np.ndarray], "Pair"] | None = None

    def warnings(self, labels: LabelSet) -> tuple[str, ...]:
        """Problems with the photos that may spoil the result, and `notes`."""
        sides = zip(("head", "body"), (self.head, self.body), self.persons, strict=True)
        found = [
            f"the {name} photo shows {person.faces} faces: the largest is used unless you choose"
            if number == 1
            else f"the {name} photo shows {person.faces} faces: number {number} by size is used"
            for name, person, number in sides
            if person.faces > 1
        ]
        head = np.isin(self.head.layout, labels.head)
        if np.mean(head & ~self.head.inside) > _CUT_OFF:
            found.append("the head reaches over the edge of its photo and is cut off there")
        for name, person in (("head", self.head), ("body", self.body)):
            if person.turns:
                how = "upside down" if person.turns == 2 else "sideways"
                found.append(f"the {name} photo shows the person {how}: it was turned upright")
            if person.face and person.face.confidence < SURE:
                found.append(
                    f"what was taken for the face of the {name} photo may be none "
                    f"(confidence {person.face.confidence:.2f})"
                )
        found += _poses_apart(self.head, self.body)
        enlarged = self.body.crop.side / self.head.crop.side
        if enlarged > _SOFT:
            found.append(f"the head is enlarged {enlarged:.1f} times and will look soft")
        return tuple(dict.fromkeys((*found, *self.notes)))


def _poses_apart(head: Person, body: Person) -> list[str]:
    """Warnings about the difference between the poses of the two heads."""
    if not eyes_meet(head, body):
        return []
    assert head.face and body.face and head.face.landmarks and body.face.landmarks
    (a, b), found = (head.face.landmarks, body.face.landmarks), []
    for how, apart, most in (
        ("turned", abs(a.yaw - b.yaw), _TURNED),
        ("raised", abs(a.pitch - b.pitch), _RAISED),
        ("bent", abs(a.roll - head.crop.turn - b.roll), _BENT),
    ):
        if apart > most:
            found.append(f"the two heads are {how} {apart:.0f} degrees apart and may look put on")
    return found


def frame_pair(
    parser: PhotoParser,
    head: Photo,
    body: Photo,
    head_person: int = 1,
    person: int = 1,
    turned: bool = False,
) -> tuple[Person, Person]:
    """Crops two people alike: their eyes coincide and their heads have the same size.

    If the landmarks of either are not reliable, their faces' masks are aligned instead.

    Args:
      parser: a parser with the networks' size and labels.
      head, body: the photos.
      head_person, person: which person of each; 1 is the largest face.
      turned: whether to turn the head until the lines through the eyes are parallel, too.

    Returns:
      The head's person and the body's.

    Raises:
      ValueError: if a photo shows no face, or no such person.
    """
    target = parser.person(body.pixels, person, body.name)
    source = parser.person(head.pixels, head_person, head.name, target, turned)
    source, target = widen(parser, source, target)
    return end_beyond_photo(source, parser.labels), target


def widen(parser: PhotoParser, head: Person, body: Person) -> tuple[Person, Person]:
    """Widens both crops if they would cut off the new head inside the body's photo, or the old one.

    Long hair that leaves the crop below is left: a crop that held it would show a small face.
    """
    for _ in range(_TRIES):
        shown, labels = np.minimum(head.room, body.room) > _ROOM, parser.labels
        old = _touches(body.layout, labels) & (np.array(body.room) > _ROOM) & _NOT_BELOW
        if not np.any(_touches(head.layout, labels) & shown | old):
            break
        body = parser.reframed(body, head.share * _WIDER)
        head = parser.reframed(head, body.share, body)
    return head, body


def eyes_meet(head: Person, body: Person) -> bool:
    """Whether `frame_pair` aligned the eyes, because both have reliable landmarks."""
    return head.face is not None and body.face is not None and head.face.aligns_with(body.face)


def aligned(head: Person, body: Person, shift: int, layout: np.ndarray) -> Pair:
    """Applies neck alignment (the paper, section 3.4) to the head.

    The head's crop moves sideways by whole pixels before it is encoded, since latents could only
    move by whole cells.

    Args:
      head, body: the people that `frame_pair` returns.
      shift: the number of columns of the crop.
      layout: the head's layout, moved by `shift`.
    """
    return Pair(replace(head.moved(-shift), layout=layout), body, shift)


def end_beyond_photo(head: Person, labels: LabelSet) -> Person:
    """Completes a head beyond the edges of its photo with flat half ellipses.

    Beyond a photo the parser sees only repeated edge pixels. Only the layout is used there; the
    pixels are generated.
    """
    layout, inside = head.layout.copy(), head.inside
    for view, seen in ((layout, inside.any(1)), (layout.T, inside.any(0))):
        places = np.flatnonzero(seen)
        _end(view[places[0] :: -1], labels)
        _end(view[places[-1] :], labels)
    return replace(head, layout=layout)


def _touches(layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Whether the head touches the crop's top, bottom, left and right edges."""
    head = np.isin(layout, labels.head)
    counts = [head[0].sum(), head[-1].sum(), head[:, 0].sum(), head[:, -1].sum()]
    return np.array(counts) > _TOUCHING * len(layout)


def _end(layout: np.ndarray, labels: LabelSet) -> None:
    """Replaces head pixels beyond the first row, in place, by an ellipse for each of its runs."""
    touching = max(1, round(_TOUCHING * layout.shape[1]))
    head = np.isin(layout[0], labels.head)
    beyond = layout[1:]
    beyond[np.isin(beyond, labels.head)] = labels.background
    runs: Any = ndimage.label(ndimage.binary_closing(head, iterations=touching))
    for run in range(1, runs[1] + 1):
        columns = np.flatnonzero(head & (runs[0] == run))
        if len(columns) <= touching:
            continue
        middle, half = np.mean(columns[[0, -1]]), np.ptp(columns) / 2 + 1
        height = _CROWN * half * np.sqrt(1 - ((columns - middle) / half) ** 2)
        rows, order = np.nonzero(np.arange(1, len(layout))[:, None] <= height[None])
        beyond[rows, columns[order]] = _grown_out(layout[0, columns], labels)[order]


def _grown_out(classes: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Head classes in a row, with the nearest hair or hat where a face is seen between them."""
    grown = np.flatnonzero(classes != labels.face)
    if not len(grown):
        return classes
    nearest = np.abs(np.arange(len(classes))[:, None] - grown[None]).argmin(1)
    return classes[grown[nearest]]
