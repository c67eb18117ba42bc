"""PyTorch checkpoints to our networks and back, exactly, without PyTorch.

`from_torch` and `to_torch` are for Python; `hsd convert` does the same between files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hsd_jax.convert.dispatch import PARTS, load
from hsd_jax.convert.state import read

__all__ = ["PARTS", "from_torch", "to_torch"]


def from_torch(
    path: str | Path, part: str, config: Mapping[str, Any] | str | Path | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a PyTorch checkpoint, ready for `module.apply({"params": params}, ...)`.

    Everything is NHWC: images float32 `[B, H, W, 3]` in [-1, 1], layouts one-hot `[B, H, W, K]`.

    Args:
      path: a file or folder; see `hsd_jax.convert.state`. A pickle is read without running it.
      part: which network, and with it what comes back:
        "autoencoder": `Autoencoder`, with methods encode(x) -> latents before quantisation (kl:
          mean and logvar), quantize(h), decode(z). From CompVis, taming or diffusers.
        "unet": `UNet`, (z, t, s) -> eps; s may be None. From CompVis (averages preferred, if kept)
          or diffusers' UNet2DModel, whose input is z and s together.
        "condition": `SpatialRescaler`, onehot -> s. From CompVis.
        "layout_generator": `U2Net`, x -> logits of the official U2NET and U2NETP; with
          config={"num_classes": K}, `LayoutGenerator`.
        "perceptual": `LPIPS`. "inception": `InceptionV3` of FID.
      config: what the checkpoint does not tell: a mapping, or a file of CompVis (YAML) or diffusers
        (JSON). Settings found beside the checkpoint hold where these have none; what is then still
        open is read from the shapes, and what they cannot tell is asked for by name.

    Returns:
      (module, params), float32.

    Raises:
      ValueError: no such checkpoint, a damaged one, a pickle that asks for more than tensors, a
        network that cannot be represented, or a tensor that is missing, extra or misshapen.
    """
    module, params = load(read(path, part), part, config)
    return module, jax.tree.map(jnp.asarray, params)


def to_torch(
    module: nn.Module, params: Mapping[str, Any], part: str, style: str
) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, bit for bit: torch's names to float32 arrays in torch's layout.

    Args:
      module: of `part`.
      params: of the module.
      part: as for `from_torch`.
      style: "compvis" (and official names for the parts that CompVis has not), without a prefix;
        or "diffusers", which knows only "unet" and "autoencoder".

    Raises:
      ValueError: that style cannot represent the network.
    """
    from hsd_jax.convert.export import state_of

    return state_of(module, params, part, style)
