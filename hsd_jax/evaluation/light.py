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
from hsd_jax.parsing.complexion import face_pixels
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import console
from hsd_jax.swapping.light import face_light
from hsd_jax.swapping.skin import in_tone

_NECK = 150  # pixels of a crop
_APART = ((0, 12), (12, 25), (25, 100))
_CHANNELS = {"log(R/G)": 0, "log(B/G)": 2}


def lights(parser: PhotoParser, folder: Path) -> Float[np.ndarray, "n 3"]:
    """The linear colours of the faces in a folder of photos.

    Raises:
      ValueError: there are fewer than three, or a photo cannot be read or shows no face.
    """
    found = []
    for path in photos_in(folder):
        person = parser.person(read_photo(path).pixels, 1, path.name)
        colour = face_light(person, parser.labels)
        if colour is not None:
            found.append(colour)
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


def skins(parser: PhotoParser, folder: Path) -> list[Skin]:
    """The skin of the people in a folder of photos, if they show enough of it.

    Raises:
      ValueError: a photo cannot be read or shows no face.
    """
    found = []
    for path in photos_in(folder):
        person = parser.person(read_photo(path).pixels, 1, path.name)
        face = face_pixels(person.image, person.layout, parser.labels)
        neck = np.isin(person.layout, parser.labels.neck)
        colours = person.image[np.asarray(ndimage.binary_erosion(neck, iterations=3), bool)]
        if face is not None and len(colours) >= _NECK:
            spread = np.linspace(0, len(colours) - 1, _NECK).round().astype(int)
            found.append(Skin(np.median(to_lab(face), axis=0), colours[spread]))
    return found


def neck_errors(people: Sequence[Skin]) -> Float[np.ndarray, "p 3"]:
    """Necks in the tone of other people's faces, against the necks of those people.

    Returns:
      For each ordered pair how far their faces are apart (CIE76), and the sum over L*, a* and b* of
      the mean distances between the sorted values: of the neck as it is, and in the other's tone.
    """
    rows = []
    for one, other in permutations(people, 2):
        toned = in_tone(one.neck, to_rgb(one.face), to_rgb(other.face))
        necks = [np.sort(to_lab(x), axis=0) for x in (other.neck, one.neck, toned)]
        errors = [np.abs(neck - necks[0]).mean(0).sum() for neck in necks[1:]]
        rows.append([np.linalg.norm(one.face - other.face), *errors])
    return np.array(rows).reshape(-1, 3)


def run(options: argparse.Namespace) -> None:
    """`hsd eval light`: a row for each folder and ratio.

    Raises:
      ValueError: as `lights` does.
    """
    parser, rows, slopes = PhotoParser.load(weights.find(options.weights)), [], {}
    for name, folder in (("one light", options.one), ("any light", options.any)):
        colours = lights(parser, folder)
        for ratio, channel in _CHANNELS.items():
            slope, _ = slope_and_spread(colours, channel)
            _, spread = slope_and_spread(colours, channel, slopes.setdefault(ratio, slope))
            rows.append([name, str(len(colours)), ratio, f"{slope:.3f}", f"{spread:.3f}"])
        spread = float(np.std(np.log(colours[:, 1]), ddof=1))
        rows.append([name, str(len(colours)), "log(G)", "", f"{spread:.3f}"])
    header = ["photos", "faces", "ratio", "slope", "spread around the first slope"]
    print(console.table(header, rows))
    errors, rows = neck_errors(skins(parser, options.one)), []
    for low, high in _APART:
        these = errors[(errors[:, 0] >= low) & (errors[:, 0] < high)]
        if len(these):
            means = (f"{x:.2f}" for x in these[:, 1:].mean(0))
            rows.append([f"{low} to {high}", str(len(these)), *means])
    header = ["faces apart (CIE76)", "pairs", "neck as it is", "neck in the other's tone"]
    print(console.table(header, rows))
