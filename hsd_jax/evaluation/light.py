"""`hsd eval light`: the figures of `swapping.light` and `swapping.skin`, from photos of faces."""

import argparse
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hsd_jax import weights
from hsd_jax.evaluation.faces import photos_in
from hsd_jax.imaging.colour import to_lab, to_rgb
from hsd_jax.imaging.files import read_photo
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person, PhotoParser
from hsd_jax.runtime import console
from hsd_jax.swapping.light import face_light
from hsd_jax.swapping.skin import face_tone, in_tone

_NECK = 150  # pixels of a crop
_APART = ((0, 12), (12, 25), (25, 100))
_CHANNELS = {"log(R/G)": 0, "log(B/G)": 2}


def people_in(parser: PhotoParser, folder: Path) -> list[Person]:
    """The largest face's person of each photo in a folder.

    Raises:
      ValueError: a photo cannot be read or shows no face.
    """
    return [parser.person(read_photo(path).pixels, 1, path.name) for path in photos_in(folder)]


def lights(people: Sequence[Person], labels: LabelSet, folder: Path) -> Float[np.ndarray, "n 3"]:
    """The linear colours of the faces of a folder's people, where enough of them is seen.

    Raises:
      ValueError: there are fewer than three.
    """
    found = [x for x in (face_light(person, labels) for person in people) if x is not None]
    if len(found) < 3:
        raise ValueError(f"{folder} shows {len(found)} faces: a line takes at least 3")
    return np.stack(found)


def slope_and_spread(
    colours: Float[np.ndarray, "n 3"], channel: int, slope: float | None = None
) -> tuple[float, float]:
    """The slope of a channel's log ratio to green against log(G), and the spread around it.

    Args:
      colours: linear.
      channel: 0 or 2.
      slope: instead of the fitted one.
    """
    green = np.log(colours[:, 1])
    ratio = np.log(colours[:, channel]) - green
    fitted = float(np.polyfit(green, ratio, 1)[0]) if slope is None else slope
    return fitted, float(np.std(ratio - fitted * green, ddof=1))


class Skin(NamedTuple):
    """What a photo shows of a person's skin."""

    face: Float[np.ndarray, "3"]
    """The median L*a*b* of the face."""
    neck: UInt8[np.ndarray, "n 3"]
    """Colours, of all people as many."""


def skins(people: Sequence[Person], labels: LabelSet) -> list[Skin]:
    """The skin of the people who show enough of it."""
    found = []
    for person in people:
        face, neck = face_tone(person, labels), np.isin(person.layout, labels.neck)
        colours = person.image[np.asarray(ndimage.binary_erosion(neck, iterations=3), bool)]
        if np.isfinite(face).all() and len(colours) >= _NECK:
            spread = np.linspace(0, len(colours) - 1, _NECK).round().astype(int)
            found.append(Skin(face, colours[spread]))
    return found


def neck_errors(people: Sequence[Skin]) -> Float[np.ndarray, "p 3"]:
    """Necks in the tone of other people's faces, against the necks of those people.

    Returns:
      For each ordered pair how far their faces are apart (CIE76), and the sum over L*, a* and b* of
      the mean distances between the sorted values: of the neck as it is, and in the other's tone.
    """
    rows, shades = [], [np.sort(to_lab(person.neck), axis=0) for person in people]
    for (one, kept), (other, truth) in permutations(zip(people, shades, strict=True), 2):
        toned = in_tone(one.neck, to_rgb(one.face), to_rgb(other.face))
        errors = (kept - truth, np.sort(to_lab(toned), axis=0) - truth)
        sums = [np.abs(error).mean(0).sum() for error in errors]
        rows.append([np.linalg.norm(one.face - other.face), *sums])
    return np.array(rows).reshape(-1, 3)


def run(options: argparse.Namespace) -> None:
    """`hsd eval light`: a row for each folder and ratio.

    Raises:
      ValueError: as `people_in` and `lights` do.
    """
    parser, rows, slopes = PhotoParser.load(weights.find(options.weights)), [], {}
    one = people_in(parser, options.one)
    for name, folder in (("one light", options.one), ("any light", options.any)):
        people = one if folder is options.one else people_in(parser, folder)
        colours = lights(people, parser.labels, folder)
        for ratio, channel in _CHANNELS.items():
            slope, _ = slope_and_spread(colours, channel)
            _, spread = slope_and_spread(colours, channel, slopes.setdefault(ratio, slope))
            rows.append([name, str(len(colours)), ratio, f"{slope:.3f}", f"{spread:.3f}"])
        spread = float(np.std(np.log(colours[:, 1]), ddof=1))
        rows.append([name, str(len(colours)), "log(G)", "", f"{spread:.3f}"])
    header = ["photos", "faces", "ratio", "slope", "spread around the first slope"]
    print(console.table(header, rows))
    errors, rows = neck_errors(skins(one, parser.labels)), []
    for low, high in _APART:
        these = errors[(errors[:, 0] >= low) & (errors[:, 0] < high)]
        if len(these):
            means = (f"{x:.2f}" for x in these[:, 1:].mean(0))
            rows.append([f"{low} to {high}", str(len(these)), *means])
    header = ["faces apart (CIE76)", "pairs", "neck as it is", "neck in the other's tone"]
    print(console.table(header, rows))
