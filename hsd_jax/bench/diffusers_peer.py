"""The same networks in diffusers, with its schedulers and the loop of its inpainting pipelines.

Only `hsd bench swap --vs diffusers` imports this file.
"""

# PyTorch types every part of a module as "a tensor or a module".
# pyright: reportMissingImports=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn

from hsd_jax.bench import torch_peer as peer
from hsd_jax.convert import diffusers as convert
from hsd_jax.convert import to_torch
from hsd_jax.weights import Loaded


class _Unet(nn.Module):
    def __init__(self, part: Loaded):
        super().__init__()
        channels = part.params["input_blocks_0_0"]["kernel"].shape[2]
        self.net = _model(part, "unet", channels)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.net(x, t).sample


class _Coder(nn.Module):
    """Encodes or decodes; diffusers has no patches, which are made around its model."""

    def __init__(self, part: Loaded, decodes: bool):
        super().__init__()
        net, self.decodes = part.module, decodes
        self.patch, channels = net.patch, net.out_ch * net.patch**2
        trunk = net.clone(patch=1, out_ch=channels)
        self.net = _model(Loaded(trunk, part.params, {}), "autoencoder", channels)
        self.kind = net.kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.decodes:
            options = {"force_not_quantize": True} if self.kind == "vq" else {}
            return peer.from_patches(self.net.decode(x, **options).sample, self.patch)
        found = self.net.encode(peer.to_patches(x, self.patch))
        return found.latents if self.kind == "vq" else found.latent_dist.mode()


def modules(unet: Loaded, autoencoder: Loaded) -> list[nn.Module]:
    """UNet, encoder and decoder."""
    return [_Unet(unet), _Coder(autoencoder, False), _Coder(autoencoder, True)]


def stepper(extra: Any, solver: str, steps: int) -> Callable[..., torch.Tensor]:
    """Denoises by diffusers' DDIM or DPM-Solver++(2M), with the known latents mixed in.

    Args:
      extra: the UNet's, for its schedule.
      solver: "ddim" or "dpmpp".
      steps: of it.

    Raises:
      ValueError: diffusers has no such schedule.
    """
    config = convert.scheduler_from(extra)
    if config is None:
        raise ValueError(f"diffusers has no schedule {extra['schedule']['kind']!r}")
    kinds = {"ddim": diffusers.DDIMScheduler, "dpmpp": diffusers.DPMSolverMultistepScheduler}
    scheduler: Any = kinds[solver].from_config(config)

    def denoise(unet: Any, known: Any, rest: Any, s: Any, half: Any) -> torch.Tensor:
        scheduler.set_timesteps(steps, device=known.device)
        z = torch.randn_like(known)
        for t in scheduler.timesteps:
            noised = scheduler.add_noise(known, torch.randn_like(known), t[None])
            z = (1 - rest) * noised + rest * z
            at = torch.full((len(z),), int(t), device=z.device, dtype=torch.int64)
            output = unet(torch.cat([z, s], 1).to(half), at).float()
            z = scheduler.step(output, t, z).prev_sample
        return z

    return denoise


def _model(part: Loaded, name: str, channels: int) -> nn.Module:
    config = convert.config_from(part.module, channels)
    model: Any = getattr(diffusers, config["_class_name"]).from_config(config)
    state = to_torch(part.module, part.params, name, "diffusers")
    model.load_state_dict({key: torch.tensor(np.asarray(x)) for key, x in state.items()})
    return model.to(peer.device())
