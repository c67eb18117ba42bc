"""A whole set of weights of any size, small enough to compile in a moment; untrained."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import linen as nn

from hsd_jax import weights
from hsd_jax.bench.weights import random_params
from hsd_jax.labels import get_label_set
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.layout_generator import LayoutGenerator
from hsd_jax.models.parser import Parser
from hsd_jax.models.unet import UNet


def write_weights(
    folder: Path, size: int, labels: str = "halfbody9", parser_labels: str = "", **facts: Any
) -> Path:
    """Writes the five networks of a swap; returns the folder.

    Args:
      folder: is made.
      size: of the crops.
      labels: of all networks.
      parser_labels: of the parser, where they are others.
      facts: more of the UNet's, such as `finish` or `steps`.
    """
    classes, channels = get_label_set(labels).num_classes, 4
    unet = UNet(
        out_channels=channels, model_channels=32, channel_mult=(1, 1), num_res_blocks=1,
        num_head_channels=16,
    )  # fmt: skip
    stem = SpatialRescaler(out_channels=classes, n_stages=2)
    autoencoder = Autoencoder(
        kind="kl", embed_dim=channels, z_channels=channels, ch=32, ch_mult=(1,), num_res_blocks=1,
        patch=4, mid_attention=False,
    )  # fmt: skip
    generator = LayoutGenerator(
        num_classes=classes, preset="small", width=0.125, norm="group", patch=4
    )
    parser_set = get_label_set(parser_labels or labels)
    parser = Parser(num_classes=parser_set.num_classes, widths=(16, 16), depths=(1, 1))
    image = jnp.zeros((1, 64, 64, 3))
    unet_facts = {
        "size": size, "labels": labels, "latent_mean": [0.0] * channels,
        "latent_std": [1.0] * channels, "schedule": {"kind": "linear"}, "prediction": "eps",
        "known": False, "steps": 2, **facts,
    }  # fmt: skip
    z = jnp.zeros((1, 16, 16, channels + classes))
    _save(folder, "unet", unet, unet_facts, z[..., :channels], jnp.zeros(1, int), z[..., channels:])
    _save(folder, "condition", stem, {"labels": labels}, jnp.zeros((1, 64, 64, classes)))
    _save(folder, "autoencoder", autoencoder, {}, image)
    generator_facts = {"labels": labels, "size": min(size, 128)}
    _save(folder, "layout_generator", generator, generator_facts, jnp.zeros((1, 128, 128, classes)))
    _save(folder, "parser", parser, {"labels": parser_set.name, "size": 128}, image)
    return folder


def _save(folder: Path, name: str, module: nn.Module, facts: dict[str, Any], *args: Any) -> None:
    params = _params(module, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args))
    weights.save_part(folder, name, module, params, facts, np.float32)


@cache
def _params(module: nn.Module, *args: jax.ShapeDtypeStruct) -> Any:
    """From shapes alone: nothing compiles. Tracing takes seconds, more where types are checked."""
    checked = not jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return random_params(module, *args)
    finally:
        jaxtyping.config.update("jaxtyping_disable", not checked)
