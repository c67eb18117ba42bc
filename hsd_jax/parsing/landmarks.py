"""Facial landmarks in photos, and the pose of the head."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.imaging import framing
from hsd_jax.imaging.framing import Crop
from hsd_jax.models import apply
from hsd_jax.models.forms import natively
from hsd_jax.models.landmarks import MIRRORED, POINTS, SIDE, SIZE, LandmarkNet
from hsd_jax.runtime.programs import Program

Box = tuple[float, float, float]
"""A face's centroid (column, row) and the square root of its area, in the photo's pixels."""

TRUSTED = 0.95  # confidence; with less the landmarks are not used
_HEIGHT = 2.587  # from chin to forehead, in eye distances; median of 72 portraits
_EYES, _TURNED = 0.7, 30.0  # weight of the eyes for a frontal head; yaw in degrees where it is 0
_AREA = 0.8  # a face's area, divided by its width between the edges times its height


@dataclass(frozen=True)
class Landmarks:
    """The landmarks and the pose of one face in a photo."""

    points: np.ndarray
    """float32 [9, 2], column and row of `models.landmarks.POINTS` in the photo's pixels."""
    yaw: float
    """Degrees to the viewer's right."""
    pitch: float
    """Degrees upwards."""
    confidence: float
    """0 to 1: the probability that a face is there and clearly visible."""

    def point(self, name: str) -> np.ndarray:
        """Column and row of the landmark `name`, one of `POINTS`; float32 [2]."""
        return self.points[POINTS.index(name)]

    @property
    def eye_distance(self) -> float:
        """The distance between the eyes' centres, in pixels."""
        return float(np.linalg.norm(self.points[1] - self.points[0]))

    @property
    def eyes(self) -> np.ndarray:
        """The point between the eyes, float32 [2]."""
        return self.points[:2].mean(0)

    @property
    def roll(self) -> float:
        """The angle of the line through the eyes in degrees, clockwise as the viewer sees it."""
        across, down = self.points[1] - self.points[0]
        return float(np.degrees(np.arctan2(down, across)))

    @property
    def size(self) -> float:
        """The head's size: the eye distance that it has from the front, in pixels.

        A mean of two estimates, from the eyes and from the height between chin and forehead. The
        more the head is turned, the more the height counts: the eyes are foreshortened, and the
        network's yaw does not go beyond 35 degrees.
        """
        height = np.linalg.norm(self.point("chin") - self.point("forehead")) / _HEIGHT
        across = self.eye_distance / np.cos(np.radians(self.yaw))
        weight = _EYES * np.clip((_TURNED - abs(self.yaw)) / 20, 0, 1)
        return float(across**weight * height ** (1 - weight))

    @property
    def box(self) -> Box:
        """The face's centroid and size, estimated from its outline."""
        left, right, chin, forehead = (
            self.point(name) for name in ("left_edge", "right_edge", "chin", "forehead")
        )
        x, y = (chin + forehead) / 2
        area = _AREA * np.linalg.norm(right - left) * np.linalg.norm(chin - forehead)
        return float(x), float(y), float(np.sqrt(area))


def crop_of(box: Box) -> Crop:
    """The square around a face that the network sees.

    Raises:
      ValueError: if the box is not finite or its size is not above 0.
    """
    x, y, size = box
    if not (np.isfinite(box).all() and size > 0):
        raise ValueError(f"a face's box is (column, row, size > 0), not {box}")
    side = max(2, round(SIDE * size))
    return Crop(round(x - side / 2), round(y - side / 2), side)


def locate(module: LandmarkNet, params: Any, image: np.ndarray, box: Box) -> Landmarks:
    """Finds the landmarks of the face in `box`.

    The network runs on a crop and on its mirror image. If it finds a face, it runs a second time on
    a crop around the landmarks of the first, which counts unless it loses the face (as for
    profiles, whose outline is placed badly).

    Args:
      module, params: the landmark network, as returned by `weights.load_part`.
      image: uint8 `[H, W, 3]`.
      box: roughly where the face is: its size may be off by a third, its place by a sixth of that.

    Raises:
      ValueError: if the box is not finite or its size is not above 0.
    """
    found = _look(module, params, image, box)
    if found.confidence > 0.5 and found.box[2] > 0:
        again = _look(module, params, image, found.box)
        if again.confidence >= min(found.confidence, TRUSTED):
            return again
    return found


@cache
def program(module: Any) -> Program:
    """Compiles `(params, uint8 [SIZE, SIZE, 3]) -> (points [9, 2], angles [2], confidence)`.

    Points are shares of the crop's side, angles radians, the confidence a probability.
    """

    def both_ways(params: Any, image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = image.astype(jnp.float32) / 127.5 - 1
        found = apply(module, params, jnp.stack([x, x[:, ::-1]]))
        points, mirrored = found.points
        mirrored = (mirrored * jnp.array([-1.0, 1.0])[None] + jnp.array([1.0, 0.0])[None])
        points = (points + mirrored[jnp.array(MIRRORED)]) / 2
        angles = (found.angles[0] + found.angles[1] * jnp.array([-1.0, 1.0])) / 2
        return points, angles, jax.nn.sigmoid(found.confidence).mean()

    return Program("landmarks", both_ways, module, here=natively(both_ways))


def _look(module: Any, params: Any, image: np.ndarray, box: Box) -> Landmarks:
    crop = crop_of(box)
    seen = framing.take(image, crop, SIZE)
    points, angles, confidence = jax.device_get(program(module)(params, seen))
    points = points * crop.side + np.array([crop.left, crop.top], np.float32)
    yaw, pitch = np.degrees(angles)
    return Landmarks(points.astype(np.float32), float(yaw), float(pitch), float(confidence))
