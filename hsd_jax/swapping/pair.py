"""Two people framed alike, and their pair as the networks take it: aligned, at one size."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from hsd_jax.imaging.files import Photo
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person, PhotoParser

_WIDER, _TRIES = 0.85, 3
_CROWN = 0.4  # height of the half ellipse by half its width
_TOUCHING = 1 / 64  # of the crop's side; runs of the head along an edge that are shorter are stray
_ROOM = 0.01  # of the crop's side: less of a photo beyond the crop is none
_CUT_OFF = 30 / 256**2  # of the crop shows a head beyond its photo: from there on it is told
_SOFT = 2.0  # times that a head is enlarged, from which it is told


@dataclass(frozen=True)
class Pair:
    """What is swapped.

    Attributes:
      head: the person whose head is kept, cropped to where it will stand.
      body: the person whose body and surroundings are kept.
      shift: by how many of the crop's columns neck alignment has moved the head.
      notes: what was done to the photos.
    """

    head: Person
    body: Person
    shift: int
    notes: tuple[str, ...] = ()

    def warnings(self, labels: LabelSet) -> tuple[str, ...]:
        """What a person should know before using the result."""
        found = [
            f"the {name} photo shows {person.faces} faces: the largest counts unless you choose"
            for name, person in (("head", self.head), ("body", self.body))
            if person.faces > 1
        ]
        head = np.isin(self.head.layout, labels.head)
        if np.mean(head & ~self.head.inside) > _CUT_OFF:
            found.append("the head reaches over the edge of its photo and is cut off there")
        enlarged = self.body.crop.side / self.head.crop.side
        if enlarged > _SOFT:
            found.append(f"the head is enlarged {enlarged:.1f} times and will look soft")
        return (*found, *self.notes)


def frame_pair(
    parser: PhotoParser, head: Photo, body: Photo, head_person: int = 1, person: int = 1
) -> tuple[Person, Person]:
    """The two people, head first, cropped alike: their faces are one share of their crops.

    Args:
      parser: at the size and in the labels of the networks.
      head, body: the photos.
      head_person, person: which person of them, 1 for the largest face.

    Raises:
      ValueError: a photo without a face, or without that person.
    """
    target = parser.person(body.pixels, person, body.name)
    source = parser.person(head.pixels, head_person, head.name, target.share)
    source, target = widen(parser, source, target)
    return end_beyond_photo(source, parser.labels), target


def widen(parser: PhotoParser, head: Person, body: Person) -> tuple[Person, Person]:
    """Both in wider crops, where theirs would cut the new head off inside the body's photo."""
    for _ in range(_TRIES):
        rooms = [person.room for person in (head, body)]
        if not np.any(_touches(head.layout, parser.labels) & (np.min(rooms, axis=0) > _ROOM)):
            break
        share = head.share * _WIDER
        head, body = parser.reframed(head, share), parser.reframed(body, share)
    return head, body


def aligned(head: Person, body: Person, shift: int, layout: np.ndarray) -> Pair:
    """The pair after neck alignment (the paper, section 3.4).

    The head's crop moves sideways by whole pixels before anything is encoded, since latents could
    only move by whole cells.

    Args:
      head, body: see `frame_pair`.
      shift: in columns of the crop.
      layout: the head's, moved by it.
    """
    return Pair(replace(head.moved(-shift), layout=layout), body, shift)


def end_beyond_photo(head: Person, labels: LabelSet) -> Person:
    """The person with a head that ends in flat half ellipses beyond the edges of its photo.

    What a parser sees beyond a photo are repeated edge pixels: only the layout's shape is used
    there, and painted.
    """
    layout, inside = head.layout.copy(), head.inside
    for view, seen in ((layout, inside.any(1)), (layout.T, inside.any(0))):
        places = np.flatnonzero(seen)
        _end(view[places[0] :: -1], labels)
        _end(view[places[-1] :], labels)
    return replace(head, layout=layout)


def _touches(layout: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Whether the head goes on beyond the crop: bool of top, bottom, left, right."""
    head = np.isin(layout, labels.head)
    counts = [head[0].sum(), head[-1].sum(), head[:, 0].sum(), head[:, -1].sum()]
    return np.array(counts) > _TOUCHING * len(layout)


def _end(layout: np.ndarray, labels: LabelSet) -> None:
    """Ends heads beyond the first row, in place: each run of that row's head pixels by itself."""
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
        beyond[rows, columns[order]] = layout[0, columns[order]]
