"""A first guess for a hole: the known values of each class, continued smoothly into it.

An unknown cell of clothes looks like the clothes near it, a cell of neck like the face above and
the chest below. So every class is continued by itself, by the push-pull of Gortler et al. ("The
Lumigraph", 1996, section 3.4), and each cell takes the continuation of the classes it holds. Edges
of the layout stay sharp.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hsd_jax.labels import LabelSet
from hsd_jax.models.blocks import average_pool

# All skin has one colour; a neck in a hole is seldom visible elsewhere.
_SKIN = ("skin", "face", "neck", "left_arm", "right_arm", "nose", "left_ear", "right_ear")


def class_fill(
    values: Float[Array, "b h w c"],
    known: Float[Array, "b h w 1"],
    onehot: Float[Array, "b H W k"],
    labels: LabelSet,
) -> Float[Array, "b h w c"]:
    """Keeps known values and fills the others by the layout.

    Args:
      values: latents or an image; read only where `known` is 1.
      known: 0/1 mask.
      onehot: the whole layout; H and W are one multiple of h and w.
      labels: the label set of the layout; face, neck and other skin count as one class.

    Returns:
      An array like `values`. A class without known values takes the continuation of all classes;
      if nothing is known at all, the result is 0.
    """
    shares = average_pool(onehot, onehot.shape[1] // values.shape[1]) @ _merge(labels)
    nearby = push_pull(values, known)[..., None, :]
    # Cells of several classes have a mixed value: the fourth power gives them little weight.
    weight = (known * shares**4)[..., None]
    continued = push_pull(values[..., None, :], weight)
    seen = jnp.sum(weight, (1, 2), keepdims=True) > 0.5
    guess = jnp.sum(shares[..., None] * jnp.where(seen, continued, nearby), -2)
    return known * values + (1 - known) * guess


def push_pull(
    values: Float[Array, "b h w ..."], weight: Float[Array, "b h w ..."]
) -> Float[Array, "b h w ..."]:
    """Fills values of weight below 1 smoothly, by weighted means of what is near.

    `weight` is 0 to 1 and broadcasts against `values`; the result is 0 where all of it is 0.
    """
    h, w = weight.shape[1:3]
    if min(h, w) == 1 or h % 2 or w % 2:
        total = jnp.sum(weight, (1, 2), keepdims=True)
        mean = jnp.sum(weight * values, (1, 2), keepdims=True) / jnp.maximum(total, 1e-6)
        return weight * values + (1 - weight) * mean
    sums = _sum_of_four(weight)
    coarse = _sum_of_four(weight * values) / jnp.maximum(sums, 1e-6)
    filled = push_pull(coarse, jnp.minimum(sums, 1.0))
    filled = jax.image.resize(filled, (filled.shape[0], h, w, *filled.shape[3:]), "linear")
    return weight * values + (1 - weight) * filled


def _sum_of_four(x: Array) -> Array:
    b, h, w, *rest = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, *rest).sum((2, 4))


def _merge(labels: LabelSet) -> np.ndarray:
    """float32 [k, g]: 1 where a class belongs to a group of classes that look alike."""
    skin = [labels.face, *labels.neck, *(i for i, n in enumerate(labels.classes) if n in _SKIN)]
    group = np.arange(labels.num_classes)
    group[skin] = labels.face
    return np.eye(labels.num_classes, dtype=np.float32)[group][:, np.unique(group)]
