"""The landmark network: a residual U-Net for facial landmarks and the pose of the head.

Landmarks are soft-argmaxes of heatmaps (integral regression: Sun et al., ECCV 2018, arXiv
1711.08229; with a Gaussian target on the heatmap: Nibali et al., arXiv 1801.07372). These are
translation-equivariant and finer than the heatmap's cells; a regression from pooled features would
have to learn both from data.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hsd_jax.models.blocks import GroupNorm, space_to_depth
from hsd_jax.models.conv import Conv, upsample_nearest
from hsd_jax.models.parser import Residual

# Left and right are the viewer's. The edges are the ends of the cheeks, before the ears.
POINTS = (
    "left_eye", "right_eye", "nose", "left_mouth", "right_mouth", "chin", "forehead", "left_edge",
    "right_edge",
)  # fmt: skip
MIRRORED = (1, 0, 2, 4, 3, 5, 6, 8, 7)  # the point that each becomes in a mirror image
SIZE = 128  # side of the input
SIDE = 2.2  # of the network's crop, in face sizes (square roots of the face mask's area)


class Found(NamedTuple):
    """The network's output for `B` crops."""

    points: Float[Array, "B P 2"]
    """Column and row as shares of the crop's side, 0 at its left and upper edge."""
    angles: Float[Array, "B 2"]
    """Yaw, to the viewer's right, and pitch, upwards, in radians."""
    confidence: Float[Array, " B"]
    """Logit of "this is a clearly visible face"."""
    heatmaps: Float[Array, "B h w P"]
    """Logits over the cells, a quarter as fine as the crop."""


def soft_argmax(heatmaps: Float[Array, "B h w P"]) -> Float[Array, "B P 2"]:
    """Means of the softmax over the centres of cells: (column, row) as shares of the side."""
    _, h, w, _ = heatmaps.shape
    share = jax.nn.softmax(heatmaps.astype(jnp.float32), axis=(1, 2))
    columns, rows = (jnp.arange(w) + 0.5) / w, (jnp.arange(h) + 0.5) / h
    x = jnp.einsum("bhwp,w->bp", share, columns)
    y = jnp.einsum("bhwp,h->bp", share, rows)
    return jnp.stack([x, y], axis=-1)


class LandmarkNet(nn.Module):
    """Finds `POINTS`, the pose of the head, and whether there is a face.

    Attributes:
      widths: channels at 1/4, 1/8, 1/16 of the side; multiples of 16.
      depths: residual blocks at each of them in the encoder.
      hidden: features for the pose and the confidence, besides the landmarks.
      dtype: compute type, None for float32.
    """

    widths: tuple[int, ...] = (48, 64, 96)
    depths: tuple[int, ...] = (1, 2, 2)
    hidden: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Found:
        """Finds the landmarks of crops.

        Args:
          x: in [-1, 1]; `SIZE` pixels a side, `SIDE` face sizes wide.

        Raises:
          ValueError: if the crops have another size, which the pose's dense layer does not fit.
        """
        if x.shape[1:3] != (SIZE, SIZE):
            raise ValueError(
                f"the landmark net takes crops of {SIZE} x {SIZE} pixels, "
                f"not {x.shape[1]} x {x.shape[2]}: resize them"
            )
        h = Conv(self.widths[0], dtype=self.dtype, name="stem")(space_to_depth(x, 4))
        skips = []
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if level:
                h = Conv(width, stride=2, dtype=self.dtype, name=f"down{level}")(h)
            for i in range(depth):
                h = Residual(width, dtype=self.dtype, name=f"encoder{level}_{i}")(h)
            skips.append(h)
        heatmaps = self._heatmaps(skips)
        points = soft_argmax(heatmaps)
        angles, confidence = self._pose(skips[-1], points)
        return Found(points, angles, confidence, heatmaps)

    def _heatmaps(self, skips: list[jax.Array]) -> jax.Array:
        h = skips[-1]
        for level in reversed(range(len(self.widths) - 1)):
            h = Conv(self.widths[level], kernel_size=1, dtype=self.dtype, name=f"up{level}")(h)
            h = upsample_nearest(h) + skips[level]
            h = Residual(self.widths[level], dtype=self.dtype, name=f"decoder{level}")(h)
        h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name="norm_out")(h))
        heatmaps = Conv(len(POINTS), dtype=self.dtype, name="heatmaps")(h)
        return heatmaps.astype(jnp.float32)

    def _pose(self, h: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The angles and the confidence, from the coarsest features and the landmarks."""
        width = self.widths[-1]
        h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name="pose_norm0")(h))
        h = Conv(width, stride=2, dtype=self.dtype, name="pose_down")(h)
        h = nn.swish(GroupNorm(1e-6, 16, self.dtype, name="pose_norm1")(h))
        h = nn.Dense(self.hidden, dtype=self.dtype, name="pose_hidden")(h.reshape(len(h), -1))
        places = points.reshape(len(h), -1) - 0.5
        h = jnp.concatenate([nn.swish(h).astype(jnp.float32), places], axis=-1)
        h = nn.Dense(3, name="pose")(h)
        return h[:, :2], h[:, 2]
