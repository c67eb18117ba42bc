"""The parser network with its post-processing: class probabilities of every pixel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from hsd_jax.labels import LabelSet, get_label_set
from hsd_jax.models import apply
from hsd_jax.models.forms import natively
from hsd_jax.parsing.complexion import by_complexion
from hsd_jax.parsing.guided_filter import guided_filter
from hsd_jax.runtime.programs import Program
from hsd_jax.runtime.recent import Recent, digest
from hsd_jax.weights import Loaded


class Segmenter:
    """A parser network with its metadata.

    The json's `extra` holds `labels`; `size`, the side of the crops it was trained on; optionally
    `balance`, a factor per class (see `training.tools.balance`), and `complexion`, the `trust` of
    `parsing.complexion.by_complexion` (without it, colour is not used).
    """

    def __init__(self, weights: Loaded):
        """Raises ValueError if the weights lack `labels` or `size`."""
        if missing := [name for name in ("labels", "size") if name not in weights.extra]:
            raise ValueError(f"parser.json does not tell {missing[0]}: add it to its `extra`")
        self.labels: LabelSet = get_label_set(weights.extra["labels"])
        self.size = int(weights.extra["size"])
        self._complexion = float(weights.extra.get("complexion", 0.0))
        module, params = weights.module, weights.params
        factors = weights.extra.get("balance", [1.0] * self.labels.num_classes)
        if len(factors) != self.labels.num_classes:
            raise ValueError(
                f"parser.json: balance has {len(factors)} factors for "
                f"{self.labels.num_classes} classes"
            )
        balance = np.array(factors, np.float32)[None, None, None]

        def mirrored_mean(params: Any, images: jax.Array) -> jax.Array:
            x = images.astype(jnp.float32) / 127.5 - 1
            logits = apply(module, params, jnp.concatenate([x, x[:, :, ::-1]]))
            straight, mirrored = jnp.split(jax.nn.softmax(logits), 2)
            return (straight + mirrored[:, :, ::-1]) / 2

        def refined(images: jax.Array, mean: jax.Array) -> jax.Array:
            """Aligns the network's edges, drawn at a quarter of the size, with the image's."""
            return guided_filter(images / 255, mean, radius=2, eps=1e-3, reduce=4)

        def enlarged_mean(params: Any, images: jax.Array) -> jax.Array:
            """The mean for an image 11/8 as large: better at hair, necks and hats."""
            b, h, w, _ = images.shape
            size = (b, h * 11 // 8, w * 11 // 8, 3)
            second = mirrored_mean(params, jax.image.resize(images / 255, size, "bilinear") * 255)
            return jax.image.resize(second, (b, h, w, second.shape[-1]), "bilinear")

        def balanced(images: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
            found = refined(images, (first + second) / 2) * balance
            return found / jnp.sum(found, -1, keepdims=True)

        # Four programs, so that only two contain the network, one per size: they load faster.
        facts, self._params = (module, weights.extra), params
        self._near = _program("parser", mirrored_mean, facts)
        self._far = _program("parser-enlarged", enlarged_mean, facts)
        self._refined = _program("refined", refined)
        self._balanced = _program("balanced", balanced, facts)
        self._means: Recent[Any] = Recent(1)  # both methods are often called with one image

    def programs(self) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its usual arguments, in order of use."""
        images = jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)
        shape = (1, self.size, self.size, self.labels.num_classes)
        mean = jax.ShapeDtypeStruct(shape, jnp.float32)
        return [
            (self._near, (self._params, images)),
            (self._refined, (images, mean)),
            (self._far, (self._params, images)),
            (self._balanced, (images, mean, mean)),
        ]

    def glance(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        """Class probabilities from one scale; h and w must be multiples of 64."""
        images = image[None]
        return np.asarray(self._refined(images, self._mean(images)))[0]

    def probabilities(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        """Class probabilities from two scales, with class balance and skin colour applied."""
        images = image[None]
        second = self._far(self._params, images)
        found = np.asarray(self._balanced(images, self._mean(images), second))[0]
        if not self._complexion:
            return found
        return by_complexion(image, found, self.labels, self._complexion)

    def _mean(self, images: np.ndarray) -> Any:
        return self._means.get(digest(images), lambda: self._near(self._params, images))


def _program(name: str, function: Any, facts: Any = ()) -> Program:
    return Program(name, function, facts, here=natively(function))
