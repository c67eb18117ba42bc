"""Augmentation of an image with its layout: numpy and OpenCV, one example at a time.

Images are uint8 `[H, W, 3]`, layouts uint8 `[H, W]`; every function takes the example's own
`numpy.random.Generator`, so that augmentation does not depend on the number of processes.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

Image = np.ndarray
Layout = np.ndarray
Rng = np.random.Generator

cv2.setNumThreads(1)  # the training step owns the other cores


def random_window(
    image: Image,
    layout: Layout,
    rng: Rng,
    size: int,
    scale: tuple[float, float],
    rotation: float = 0.0,
    jitter: float = 0.0,
    nearest: bool = False,
    mirror: float = 0.5,
) -> tuple[Image, Layout]:
    """A random `size` x `size` view of the example: rotated, scaled, shifted, perhaps mirrored.

    Args:
      image, layout: the example.
      rng: the example's generator.
      size: the side of the view in pixels.
      scale: the range of the log-uniform scale; below `size / H` the image is continued, downwards
        by its last row (clothes continue), sideways by its mirror image.
      rotation: the largest angle in degrees.
      jitter: the largest shift as a share of the view; if the image is larger than the view, the
        view first takes a random position inside it.
      nearest: `image` holds class indices too.
      mirror: probability of the mirror image.

    Returns:
      The view of the image and of the layout.
    """
    height, width = layout.shape
    zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    image, layout = _grow(image), _grow(layout)
    if zoom < 0.75 and not nearest:  # bilinear sampling alone would alias
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    slack = np.maximum(0.0, np.array([width, height]) * zoom - size)
    offset = rng.uniform(-0.5, 0.5, 2) * slack + rng.uniform(-jitter, jitter, 2) * size
    angle = rng.uniform(-rotation, rotation)
    center = (width, height)  # of the grown image, whose borders are half a side on every edge
    matrix = cv2.getRotationMatrix2D(center, angle, zoom)
    matrix[:, 2] += size / 2 + offset - np.array(center)
    if rng.random() < mirror:
        matrix[0] *= -1
        matrix[0, 2] += size - 1
    view = (size, size)

    def warp(x: np.ndarray, flags: int) -> np.ndarray:
        return cv2.warpAffine(x, matrix, view, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    image = warp(image, cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)
    return image, warp(layout, cv2.INTER_NEAREST)


def window_options(data: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `random_window`, from a config's `data`."""
    plain = {name: data[name] for name in ("size", "rotation", "jitter", "mirror")}
    return plain | {"scale": tuple(data["scale"])}


def _grow(x: np.ndarray) -> np.ndarray:
    """Half a side more on every edge: mirrored sideways, the outermost row repeated up and down."""
    h, w = x.shape[:2]
    x = cv2.copyMakeBorder(x, 0, 0, w // 2, w // 2, cv2.BORDER_REFLECT)
    return cv2.copyMakeBorder(x, h // 2, h // 2, 0, 0, cv2.BORDER_REPLICATE)


def random_backdrop(rng: Rng, size: int) -> Image:
    """White, one colour, a gradient, or blurred blobs of colour."""
    kind = rng.integers(4)
    if kind == 0:
        return np.full((size, size, 3), rng.integers(225, 256), np.uint8)
    if kind == 1:
        return np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), (size, size, 3)).copy()
    cells = (2, 2) if kind == 2 else (int(rng.integers(3, 12)),) * 2
    coarse = rng.integers(0, 256, (*cells, 3)).astype(np.uint8)
    interpolation = cv2.INTER_LINEAR if kind == 2 else cv2.INTER_CUBIC
    return cv2.resize(coarse, (size, size), interpolation=interpolation)


def change_backdrop(image: Image, layout: Layout, rng: Rng) -> Image:
    """Puts the person (layout > 0) on a random backdrop, with a soft edge."""
    person = cv2.GaussianBlur((layout > 0).astype(np.float32), (0, 0), 0.8)[..., None]
    backdrop = random_backdrop(rng, layout.shape[0])
    return (image * person + backdrop * (1 - person)).astype(np.uint8)


def recolour(image: Image, layout: Layout, rng: Rng, data: Mapping[str, Any]) -> Image:
    """Another backdrop and other colours, as a config's `backdrop` and `colour` ask for."""
    if rng.random() < data["backdrop"]:
        image = change_backdrop(image, layout, rng)
    return jitter_colour(image, rng, data["colour"]) if data["colour"] else image


def jitter_colour(image: Image, rng: Rng, strength: float = 1.0, grey: float = 0.1) -> Image:
    """Gamma, contrast, brightness, channel gains and saturation; grey with probability `grey`."""
    gamma = np.exp(rng.uniform(-0.45, 0.45) * strength)
    gains = np.exp(rng.uniform(-0.15, 0.15, 3) * strength)
    contrast = np.exp(rng.uniform(-0.3, 0.3) * strength)
    shift = rng.uniform(-0.12, 0.12) * strength
    levels = np.arange(256, dtype=np.float32) / 255
    curve = (levels**gamma - 0.5) * contrast + 0.5 + shift
    table = np.clip(curve[:, None] * gains[None] * 255, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, np.ascontiguousarray(table[None]))
    saturation = 0.0 if rng.random() < grey else 1 + rng.uniform(-0.5, 0.5) * strength
    luma = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, saturation, luma, 1 - saturation, 0)


def degrade(image: Image, rng: Rng) -> Image:
    """Random blur, loss of resolution, noise and JPEG, as from cameras and web pages."""
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.15:
        side = image.shape[0]
        small = int(side * rng.uniform(0.35, 0.9))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(1, 12), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 95))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image


def fit_partner(
    partner: Layout, layout: Layout, face: int, rng: Rng, jitter: float = 0.12
) -> Layout:
    """Scales and moves another person's layout until its face lies on this one's.

    A swap aligns the size and height of two faces before it mixes them, so holes in training must
    be aligned too. The paper's images all have the same scale, ours do not.

    Args:
      partner, layout: `[H, W]`.
      face: class index of the face.
      rng: the example's generator.
      jitter: standard deviation of the log of the size and, as a share of the face's size, of the
        position.

    Returns:
      The partner's layout on this image's grid, background outside it; unchanged if
      either shows no face.
    """
    mine, theirs = face_place(layout, face), face_place(partner, face)
    if mine is None or theirs is None:
        return partner
    x, y, size = mine
    size *= float(np.exp(rng.normal(0, jitter)))
    x, y = np.array([x, y]) + rng.normal(0, jitter, 2) * size
    matrix = fit_matrix(theirs, (x, y, size))
    return cv2.warpAffine(partner, matrix, layout.shape[::-1], flags=cv2.INTER_NEAREST)


Place = tuple[float, float, float]


def fit_matrix(theirs: Place, mine: Place) -> np.ndarray:
    """The 2 x 3 matrix that moves a face at `theirs` to `mine` (see `face_place`)."""
    (their_x, their_y, their_size), (x, y, size) = theirs, mine
    zoom = size / their_size
    return np.array([[zoom, 0, x - zoom * their_x], [0, zoom, y - zoom * their_y]])


MIN_FACE = 30  # pixels; fewer do not count as a face


def face_place(layout: Layout, face: int) -> Place | None:
    """(column, row, square root of the area) of the face; None if it is too small."""
    rows, columns = np.nonzero(layout == face)
    if len(rows) < MIN_FACE:
        return None
    return float(columns.mean()), float(rows.mean()), float(np.sqrt(len(rows)))
