"""What the parity tests share: both layouts, comparisons, and cheap compilation."""

import json

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch_reference as reference
from arrays import assert_close, to_torch  # noqa: F401  # handed on with what is below

from hsd_jax.models import conv

RNG = np.random.default_rng(0)
nchw = to_torch


def plain_convolutions(request, monkeypatch):
    """For quick tests: Winograd, which `test_conv` holds equal, takes long to compile."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(conv, "_MIN_WINOGRAD_CHANNELS", 10**9)


def compiled(function):
    """`jax.jit`, its compilation cheap: everything here runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def nhwc(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def save(folder, state, name="model.ckpt"):
    torch.save(state, folder / name)
    return folder / name


def same_state(ours, module):
    theirs = {k: v.numpy() for k, v in module.state_dict().items() if "num_batches" not in k}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        np.testing.assert_array_equal(ours[name], value)


def latent_diffusion(folder):
    """A latent diffusion model of CompVis in `folder`: (checkpoint, averaged UNet, first stage)."""
    unet, averages = (
        reference.randomize(reference.UNet(6, 3, 32, num_heads=4), seed) for seed in (1, 2)
    )
    first_stage = reference.randomize(reference.Autoencoder(n_embed=16, ch_mult=(1, 1, 1)), 3)
    condition = reference.randomize(reference.SpatialRescaler(2, 9, 3), 4)
    state = reference.latent_diffusion(unet, first_stage, condition, averages)
    state["first_stage_model.loss.logvar"] = torch.zeros(())
    state["scale_factor"] = torch.tensor(0.5)
    save(folder, {"state_dict": state, "epoch": 1, "optimizer_states": [{"state": {}}]})
    settings = dict(
        in_channels=6, out_channels=3, model_channels=32, num_res_blocks=1, channel_mult=[1, 2],
        attention_resolutions=[16], num_heads=4,
    )  # fmt: skip
    params = dict(
        linear_start=0.0015, linear_end=0.0205, timesteps=1000, scale_by_std=True,
        unet_config=dict(target="UNetModel", params=settings),
        cond_stage_config=dict(target="SpatialRescaler", params=dict(
            n_stages=2, in_channels=9, out_channels=3)),
        first_stage_config=dict(target="VQModelInterface", params=dict(
            embed_dim=3, n_embed=16, lossconfig=dict(target="torch.nn.Identity"), ddconfig=dict(
                double_z=False, z_channels=3, resolution=256, in_channels=3, out_ch=3, ch=32,
                ch_mult=[1, 1, 1], num_res_blocks=1, attn_resolutions=[], dropout=0.0))),
    )  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps({"model": {"params": params}}))
    return folder / "model.ckpt", averages, first_stage
