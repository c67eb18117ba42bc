"""Two people framed alike, and their pair as the networks take it: aligned, at one size."""

from dataclasses import dataclass, replace

import numpy as np

from hsd_jax.imaging import framing
from hsd_jax.imaging.files import Photo
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person, PhotoParser
from hsd_jax.parsing.truncation import end_beyond_photo, touches

_WIDER, _TRIES = 0.85, 3
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
    """

    head: Person
    body: Person
    shift: int

    def warnings(self, labels: LabelSet) -> tuple[str, ...]:
        """What a person should know before using the result."""
        found = [
            f"the {name} photo shows {person.faces} faces: the largest counts unless you choose"
            for name, person in (("head", self.head), ("body", self.body))
            if person.faces > 1
        ]
        head = np.isin(self.head.layout, labels.head)
        outside = ~framing.inside(self.head.photo, self.head.crop, len(head))
        if np.mean(head & outside) > _CUT_OFF:
            found.append("the head reaches over the edge of its photo and is cut off there")
        enlarged = self.body.crop.side / self.head.crop.side
        if enlarged > _SOFT:
            found.append(f"the head is enlarged {enlarged:.1f} times and will look soft")
        return tuple(found)


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
        rooms = [framing.room(person.photo, person.crop) for person in (head, body)]
        if not np.any(touches(head.layout, parser.labels) & (np.min(rooms, axis=0) > _ROOM)):
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
    size = len(head.image)
    crop = head.crop.shifted(-shift * head.crop.side / size)
    image = framing.take(head.photo, crop, size)
    return Pair(replace(head, crop=crop, image=image, layout=layout), body, shift)
