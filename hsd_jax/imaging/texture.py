"""Texture completion: fills a hole with patches of its surroundings.

Every patch that touches the hole is matched with one that is wholly visible (PatchMatch, Barnes et
al. 2009), and the matches vote for the hole's pixels, from coarse to fine (Wexler, Shechtman and
Irani, "Space-Time Completion of Video", 2007). All pixels are matched at once, in numpy.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

_RADIUS = 2  # patches are 5 x 5
_COARSEST = 32
_ROUNDS = 5  # of matching and voting per level
_DECAY = 1.2  # trust in a hole's pixel falls by this factor per pixel from the edge
_STRAY = np.array([6000.0, 600.0], np.float32)  # cost of a source one image height, width away
_MIN_SOURCES = 64  # fewer whole patches are no texture to learn from

_WINDOW = [(i, j) for i in range(-_RADIUS, _RADIUS + 1) for j in range(-_RADIUS, _RADIUS + 1)]


class Completed(NamedTuple):
    """An image whose hole is filled."""

    image: np.ndarray
    """float32 `[H, W, C]`, changed in the hole only, or nowhere if too little is visible."""
    sources: np.ndarray | None
    """int `[H, W, 2]`: the row and column that each pixel of the hole was taken from; None if too
    little is visible."""


def complete(image: np.ndarray, seen: np.ndarray, hole: np.ndarray) -> Completed:
    """Fills the hole of an image.

    Args:
      image: float32 `[H, W, C]`, H and W powers of two times `_COARSEST` or less; the hole holds a
        first guess, such as `finish.membrane` gives.
      seen: bool `[H, W]`, the pixels to take patches from.
      hole: bool `[H, W]`, the pixels to fill. Pixels that are neither are ignored.

    """
    hole = hole & ~seen
    if not hole.any():
        return Completed(image, None)
    levels = [(image.astype(np.float32), seen, hole)]
    while min(levels[-1][1].shape) > _COARSEST:
        levels.append(_halve(*levels[-1]))
    rng = np.random.default_rng(0)
    matches: np.ndarray | None = None
    result = levels[-1][0]
    for level, (own, seen, hole) in enumerate(reversed(levels)):
        if level:
            result = np.where(hole[..., None], _double(result), own)
        sources = _whole(seen)
        if sources.sum() < _MIN_SOURCES or not hole.any():
            # Too coarse for whole patches: the next level starts from the guess instead.
            result, matches = own, None
            continue
        matches = _start(sources, matches, rng)
        distance = np.asarray(ndimage.distance_transform_edt(~seen))
        trust = np.where(seen | hole, _DECAY**-distance, 0)
        last = level == len(levels) - 1
        for _ in range(1 if last else _ROUNDS):
            costs = _match(result, trust, hole, sources, matches, rng, search=not last)
            result = _vote(result, trust, hole, matches, costs)
    return Completed(result, matches)


def _halve(
    image: np.ndarray, seen: np.ndarray, hole: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def fours(x: np.ndarray) -> Any:
        h, w = x.shape[:2]
        return x.reshape(h // 2, 2, w // 2, 2, *x.shape[2:])

    weight = (seen | hole).astype(np.float32)[..., None]
    total = fours(weight).sum((1, 3))
    small = fours(image * weight).sum((1, 3)) / np.maximum(total, 1e-6)
    return small, fours(seen).all((1, 3)), fours(hole).any((1, 3))


def _double(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, 0).repeat(2, 1)


def _whole(seen: np.ndarray) -> np.ndarray:
    """Centres of patches that are wholly visible."""
    return ndimage.binary_erosion(seen, np.ones((2 * _RADIUS + 1, 2 * _RADIUS + 1)))


def _start(
    sources: np.ndarray, coarse: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Initial sources (row, column), int `[H, W, 2]`: the coarser level's, or random ones."""
    places = np.argwhere(sources)
    random = places[rng.integers(len(places), size=sources.shape)]
    if coarse is None:
        return random
    parity = np.indices(sources.shape).transpose(1, 2, 0) % 2
    finer = _double(coarse) * 2 + parity
    return np.where(sources[finer[..., 0], finer[..., 1], None], finer, random)


def _match(
    image: np.ndarray,
    trust: np.ndarray,
    hole: np.ndarray,
    sources: np.ndarray,
    matches: np.ndarray,
    rng: np.random.Generator,
    search: bool,
) -> np.ndarray:
    """Improves `matches` of the hole's pixels in place; returns their costs, `[n]`."""
    rows, columns = np.nonzero(hole)
    targets = np.stack([rows, columns], -1)
    framed = _framed(image)
    patches, weights = _patches(framed, targets), _patches(_framed(trust[..., None]), targets)
    weights /= np.maximum(weights.sum((1, 2), keepdims=True), 1e-6)
    h, w = hole.shape

    def cost(places: np.ndarray) -> np.ndarray:
        inside = np.all((places >= 0) & (places < (h, w)), axis=-1)
        safe = np.where(inside[:, None], places, 0)
        usable = inside & sources[safe[:, 0], safe[:, 1]]
        values = np.full(len(places), np.inf, np.float32)
        difference = _patches(framed, safe[usable]) - patches[usable]
        values[usable] = np.einsum("npc,npc,npx->n", difference, difference, weights[usable])
        # Horizons, walls and shelves lie level: a source from the same rows is the better guess.
        return values + (((places - targets) / (h, w)) ** 2) @ _STRAY

    def offer(places: np.ndarray, costs: np.ndarray) -> np.ndarray:
        offered = cost(places)
        better = offered < costs
        matches[rows[better], columns[better]] = places[better]
        return np.where(better, offered, costs)

    costs = cost(matches[rows, columns])
    for step in (4, 2, 1) if search else (1,):
        for dy, dx in ((-step, 0), (step, 0), (0, -step), (0, step)):
            near = np.clip(targets + (dy, dx), 0, (h - 1, w - 1))
            costs = offer(matches[near[:, 0], near[:, 1]] - (dy, dx), costs)
    radius = max(h, w) // 2 if search else 2
    while radius >= 1:
        jump = rng.integers(-radius, radius + 1, size=targets.shape)
        costs = offer(matches[rows, columns] + jump, costs)
        radius //= 2
    return costs


def _framed(image: np.ndarray) -> np.ndarray:
    """float32 with repeated edges, so that patches fit at every pixel."""
    frame = (_RADIUS, _RADIUS)
    return np.pad(image.astype(np.float32), (frame, frame, (0, 0)), mode="edge")


def _patches(framed: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Patches of an image that `_framed` padded, float32 `[n, 25, C]`."""
    width = framed.shape[1]
    first = centers[:, 0] * width + centers[:, 1]
    offsets = [(i + _RADIUS) * width + j + _RADIUS for i, j in _WINDOW]
    return framed.reshape(-1, framed.shape[2])[first[:, None] + np.array(offsets)[None]]


def _vote(
    image: np.ndarray,
    trust: np.ndarray,
    hole: np.ndarray,
    matches: np.ndarray,
    costs: np.ndarray,
) -> np.ndarray:
    """Sets each pixel of the hole to the weighted mean of the matches of patches over it."""
    scale = 2 * max(float(np.percentile(costs, 75)), 1e-6)
    weight = np.zeros(hole.shape, np.float32)
    weight[hole] = trust[hole] * np.exp(-costs / scale) + 1e-6
    h, w = hole.shape
    rows, columns = np.nonzero(hole)
    frame = ((_RADIUS, _RADIUS), (_RADIUS, _RADIUS))
    weight, sources = np.pad(weight, frame), np.pad(matches, (*frame, (0, 0)))
    total = np.zeros((len(rows), image.shape[2]), np.float32)
    norm = np.zeros((len(rows), 1), np.float32)
    for dy, dx in _WINDOW:
        # The patch centred at p - d votes for p with its source's pixel at +d.
        centers = rows - dy + _RADIUS, columns - dx + _RADIUS
        own, source = weight[centers][:, None], sources[centers] + (dy, dx)
        total += own * image[source[:, 0].clip(0, h - 1), source[:, 1].clip(0, w - 1)]
        norm += own
    result = image.copy()
    result[hole] = total / np.maximum(norm, 1e-6)
    return result
