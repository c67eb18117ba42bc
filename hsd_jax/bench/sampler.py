"""A swap's networks at the paper's size: this sampler beside PyTorch's usual one.

Both crops through the encoder, the mixing scan, the decoder. PyTorch's is what the CompVis scripts
do: eager modules, DDIM of 50 steps, known latents noised and mixed in before every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.bench.timing import interleaved, medians, ratio
from hsd_jax.bench.weights import normal, random_params
from hsd_jax.diffusion.conditioning import predictor
from hsd_jax.diffusion.fusion import fuse, step_times
from hsd_jax.diffusion.schedule import Schedule, denoiser
from hsd_jax.mixing import Regions
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet

COLUMNS = ("sampler", "UNet calls", "s", "this / hsd")
_SIZE, _SMALL, _CHANNELS = 256, 64, 3
_SCHEDULE = Schedule(kind="linear", start=0.0015, end=0.0205)
_DDIM_STEPS = 50
_ROUNDS = 2  # a round of PyTorch's takes a minute on two cores


class Nets(NamedTuple):
    """Random parameters of the paper's nets, and a pair for them."""

    unet: Any
    autoencoder: Any
    pictures: np.ndarray
    condition: np.ndarray
    masks: Regions


def rows(tell: Callable[[str], None]) -> list[list[Any]]:
    """One row a sampler: name, calls, seconds, time over hsd's."""
    tell("the paper's size: compiling")
    nets = _nets()
    ours, theirs = "hsd, DPM-Solver++(2M)", "PyTorch, eager, DDIM"
    calls = {ours: _ours(nets), theirs: _theirs(nets)}
    counts = {ours: len(step_times(_SCHEDULE, "dpmpp")), theirs: _DDIM_STEPS}
    tell("the paper's size")
    times = interleaved(calls, rounds=_ROUNDS, seconds=0)
    return [
        [name, counts[name], seconds, ratio(times, name, ours)]
        for name, seconds in medians(times).items()
    ]


def _nets() -> Nets:
    z = jax.ShapeDtypeStruct((1, _SMALL, _SMALL, _CHANNELS), jnp.float32)
    picture = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    unet = random_params(UNet(), z, jax.ShapeDtypeStruct((1,), jnp.int32), z)
    autoencoder = random_params(Autoencoder(), picture)
    for name in ("quant_conv", "post_quant_conv"):  # the peers are the trunks alone
        autoencoder[name] = {"kernel": jnp.eye(3)[None, None], "bias": jnp.zeros(3)}
    row = jnp.arange(_SMALL)[None, :, None, None] + jnp.zeros((1, 1, _SMALL, 1), jnp.int32)
    head, body = (part.astype(jnp.float32) for part in (row < 28, row >= 36))
    masks = Regions(head, body, 1 - head - body)
    condition = normal(1, _SMALL, _SMALL, _CHANNELS)
    return Nets(unet, autoencoder, normal(2, _SIZE, _SIZE, 3), condition, masks)


def _ours(nets: Nets) -> Callable[[], Any]:
    unet, autoencoder = UNet(), Autoencoder()
    times = step_times(_SCHEDULE, "dpmpp")

    def sample(unet_params: Any, params: Any, x: jax.Array, s: jax.Array) -> jax.Array:
        z = apply(autoencoder, params, x, method="encode")
        predict = predictor(unet, unet_params, s, times)
        keys = jax.random.key(0)[None]
        denoise = denoiser(predict, _SCHEDULE, "eps")
        fused = fuse(denoise, _SCHEDULE, z[:1], z[1:], nets.masks, keys, solver="dpmpp")
        assert isinstance(fused, jax.Array)  # no history was asked for
        method = Autoencoder.decode
        return apply(autoencoder, params, fused, method=method, force_not_quantize=True)

    arguments = (nets.unet, nets.autoencoder, nets.pictures, nets.condition)
    run = jax.jit(sample).lower(*arguments).compile()
    return lambda: jax.block_until_ready(run(*arguments))


def _theirs(nets: Nets) -> Callable[[], Any]:
    import torch  # pyright: ignore[reportMissingImports]

    from hsd_jax.bench import torch_peer as peer

    net = peer.unet_peer(UNet(), nets.unet, 2 * _CHANNELS)
    encoder, decoder = peer.coder_peers(Autoencoder(), nets.autoencoder)
    x, s = peer.tensor(nets.pictures), peer.tensor(nets.condition)
    head, body, rest = (peer.tensor(np.asarray(mask)) for mask in nets.masks)
    times = step_times(_SCHEDULE, "ddim", _DDIM_STEPS)
    alpha_bar = _SCHEDULE.alpha_bar
    now = torch.tensor(alpha_bar[times])
    after = torch.tensor([*alpha_bar[times[1:]], 1.0])

    @torch.no_grad()
    def run() -> Any:
        z_head, z_body = encoder(x).chunk(2)
        known = head * z_head + body * z_body
        z = torch.randn_like(z_head)
        for t, a, b in zip(times.tolist(), now.tolist(), after.tolist(), strict=True):
            noised = a**0.5 * known + (1 - a) ** 0.5 * torch.randn_like(known)
            z = (1 - rest) * noised + rest * z
            eps = net(torch.cat([z, s], 1), torch.full((1,), t, device=z.device))
            x0 = (z - (1 - a) ** 0.5 * eps) / a**0.5
            z = b**0.5 * x0 + (1 - b) ** 0.5 * eps
        picture = decoder((1 - rest) * known + rest * z)
        peer.wait()
        return picture

    return run
