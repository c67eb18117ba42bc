"""`hsd eval light`: what faces tell of the light, the figures of `swapping.light`."""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hsd_jax import weights
from hsd_jax.evaluation.faces import photos_in
from hsd_jax.imaging.files import read_photo
from hsd_jax.parsing.photo_parser import PhotoParser
from hsd_jax.runtime import console
from hsd_jax.swapping.light import face_light

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
