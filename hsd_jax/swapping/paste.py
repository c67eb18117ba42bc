"""From the painted crop to the photo: finished, at native resolution, under the kept pixels."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hsd_jax.imaging import composite, framing
from hsd_jax.swapping.finish import settle
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import SwapSpec

Preserve = Literal["photo", "latents"]


class Pasted(NamedTuple):
    """The body's photo with the new head."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Float[np.ndarray, "H W"]
    """1 where pixels were generated, 0 where they are a photo's."""


def paste_back(
    pair: Pair,
    plan: Plan,
    painted: UInt8[np.ndarray, "s s 3"],
    spec: SwapSpec,
    preserve: Preserve = "photo",
) -> Pasted:
    """Puts a painted crop into the body's photo.

    Args:
      pair: that was painted.
      plan: of this pair, `[s, s]`.
      painted: the decoder's image.
      spec: of the weights.
      preserve: "photo": what was not generated is the photos' own pixels. "latents": the whole
        crop is the decoder's, as in the paper.
    """
    head, body, side = pair.head, pair.body, pair.body.crop.side
    nothing = np.zeros(body.photo.shape[:2], np.float32)
    if preserve == "latents":
        square, generated = framing.resize(painted, side), np.ones((side, side), np.float32)
    else:
        layers = composite.Layers.at_crop(head.image, body.image, plan.head, plan.body)
        inside = framing.inside(body.photo, body.crop, spec.size)
        finished = settle(painted, layers, plan.layout, spec, inside)
        # The head by its own crop and the body's very pixels, at the resolution of its photo.
        native = composite.Layers(
            head=framing.take(head.photo, head.crop, side),
            body=framing.take(body.photo, body.crop),
            head_alpha=framing.resize_map(layers.head_alpha, side),
            body_alpha=framing.resize_map(layers.body_alpha, side),
        )
        square = composite.blend(framing.resize(finished, side), native)
        generated = native.generated_alpha
    return Pasted(
        framing.paste(body.photo, square, body.crop), framing.paste(nothing, generated, body.crop)
    )
