"""Heads that their photo's edges cut off, ended beyond them.

What a parser sees beyond a photo are repeated edge pixels. Only the layout's shape is used there,
and painted.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from hsd_jax.imaging.framing import inside
from hsd_jax.labels import LabelSet
from hsd_jax.parsing.photo_parser import Person

_CROWN = 0.4  # height of the half ellipse by half its width
_TOUCHING = 1 / 64  # of the crop's side; runs of the head along an edge that are shorter are stray


def end_beyond_photo(head: Person, labels: LabelSet) -> Person:
    """The person with a head that ends in flat half ellipses beyond the edges of its photo."""
    layout = head.layout.copy()
    within = inside(head.photo, head.crop, len(layout))
    for view, seen in ((layout, within.any(1)), (layout.T, within.any(0))):
        places = np.flatnonzero(seen)
        _end(view[places[0] :: -1], labels)
        _end(view[places[-1] :], labels)
    return replace(head, layout=layout)


def touches(layout: np.ndarray, labels: LabelSet) -> np.ndarray:
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
