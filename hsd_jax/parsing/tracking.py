"""Follows a person through the frames of a video, by place."""

from collections.abc import Iterable, Iterator, Sequence

from hsd_jax.parsing.faces import Face


def follow(frames: Iterable[tuple[int, Sequence[Face]]], number: int) -> Iterator[int]:
    """Tells who of each frame is person `number` of the first one.

    In each frame it is the one whose head overlaps most, as intersection over union, with where the
    person was last seen.

    Args:
      frames: each one's quarter turns and faces, as `PhotoParser.persons` returns them.
      number: counted by size from 1.

    Yields:
      The person's number in each frame; 0 where nobody overlaps.

    Raises:
      ValueError: if the first frame has no such person.
    """
    last: tuple[int, Face] | None = None
    for turns, faces in frames:
        if last is None:
            if number > len(faces):
                raise ValueError(
                    f"the first frame has no person {number} to follow: {len(faces)} found"
                )
            found = number
        else:
            # Places in frames that are turned otherwise have nothing in common.
            shares = [_overlap(face, last[1]) if turns == last[0] else 0.0 for face in faces]
            found = 1 + shares.index(max(shares)) if any(shares) else 0
        if found:
            last = turns, faces[found - 1]
        yield found


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of two heads: squares with twice the sides of the faces."""
    width, height = (
        max(0.0, min(p + a.size, q + b.size) - max(p - a.size, q - b.size))
        for p, q in ((a.x, b.x), (a.y, b.y))
    )
    both = width * height
    return both / (4 * a.size**2 + 4 * b.size**2 - both)
