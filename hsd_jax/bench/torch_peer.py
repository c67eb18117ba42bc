"""The same networks in PyTorch, after CompVis latent-diffusion, for comparison.

They support what the paper's networks and the embedded ones need. Modules have CompVis' names, so
that `convert.to_torch` gives their `state_dict`. Only `hsd bench ... --vs torch` imports this file.
"""

# PyTorch types every part of a module as "a tensor or a module".
# pyright: reportMissingImports=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import contextlib
import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hsd_jax.convert import to_torch
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet


class _ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, emb: int, scale_shift: bool):
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, outputs * (1 + scale_shift)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0.0),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )  # fmt: skip
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h, emb = self.in_layers(x), self.emb_layers(emb)[:, :, None, None]
        if not self.scale_shift:
            return self.skip_connection(x) + self.out_layers(h + emb)
        scale, shift = emb.chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        qkv = self.qkv(self.norm(flat)).view(b, self.heads, 3, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h * w)
        return (flat + self.proj_out(y)).view(b, c, h, w)


class _Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class _Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Block(nn.Sequential):
    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, _ResBlock) else layer(x)
        return x


class TorchUNet(nn.Module):
    """`UNetModel` of openaimodel.py with attention in the middle alone; (z and s, t) -> eps."""

    def __init__(self, unet: UNet, in_channels: int):
        super().__init__()
        self.width, emb = unet.model_channels, 4 * unet.model_channels
        block = partial(_ResBlock, emb=emb, scale_shift=unet.use_scale_shift_norm)
        self.time_embed = nn.Sequential(
            nn.Linear(self.width, emb), nn.SiLU(), nn.Linear(emb, emb)
        )
        widths, width = [self.width], self.width
        self.input_blocks = nn.ModuleList([_Block(nn.Conv2d(in_channels, width, 3, padding=1))])
        for level, mult in enumerate(unet.channel_mult):
            for _ in range(unet.num_res_blocks):
                self.input_blocks.append(_Block(block(width, mult * self.width)))
                width = mult * self.width
                widths.append(width)
            if level < len(unet.channel_mult) - 1:
                self.input_blocks.append(_Block(_Down(width)))
                widths.append(width)
        per_head = unet.num_head_channels
        heads = width // per_head if per_head > 0 else unet.num_heads
        first, last = block(width, width), block(width, width)
        self.middle_block = _Block(first, _Attention(width, heads), last)
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(unet.channel_mult))):
            for i in range(unet.num_res_blocks + 1):
                layers: list[nn.Module] = [block(width + widths.pop(), mult * self.width)]
                width = mult * self.width
                if level > 0 and i == unet.num_res_blocks:
                    layers.append(_Up(width))
                self.output_blocks.append(_Block(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, unet.out_channels, 3, padding=1)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angles = t[:, None].float() * torch.exp(-math.log(10000.0) * steps)[None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], -1)
        emb = self.time_embed(waves.to(self.time_embed[0].weight.dtype))
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), emb)
        return self.out(x)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _VaeBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _VaeAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in "qkvo")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(y)


class _VaeDown(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Coder(nn.Module):
    """`Encoder` or `Decoder` of model.py."""

    def __init__(self, net: Autoencoder, decodes: bool):
        super().__init__()
        mults = net.ch_mult
        width = net.ch * (mults[-1] if decodes else 1)
        self.decodes, seen = decodes, net.out_ch * net.patch**2
        self.conv_in = nn.Conv2d(net.z_channels if decodes else seen, width, 3, padding=1)
        if decodes:
            self.mid = self._middle(width, net.mid_attention)
        levels = []
        for level in reversed(range(len(mults))) if decodes else range(len(mults)):
            part, outputs = nn.Module(), net.ch * mults[level]
            widths = [width] + [outputs] * (net.num_res_blocks + decodes)
            pairs = zip(widths[:-1], widths[1:], strict=True)
            part.block = nn.ModuleList(_VaeBlock(a, b) for a, b in pairs)
            width = outputs
            if decodes and level:
                part.upsample = _Up(width)
            elif not decodes and level < len(mults) - 1:
                part.downsample = _VaeDown(width)
            levels.append(part)
        if decodes:
            self.up = nn.ModuleList(levels[::-1])
        else:
            self.down, self.mid = nn.ModuleList(levels), self._middle(width, net.mid_attention)
        outputs = seen if decodes else net.z_channels * (1 + (net.kind == "kl"))
        self.norm_out, self.conv_out = _norm(width), nn.Conv2d(width, outputs, 3, padding=1)

    @staticmethod
    def _middle(width: int, attends: bool) -> nn.Module:
        mid = nn.Module()
        mid.block_1, mid.block_2 = _VaeBlock(width, width), _VaeBlock(width, width)
        mid.attn_1 = _VaeAttention(width) if attends else nn.Identity()
        return mid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        if self.decodes:
            h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        for part in reversed(self.up) if self.decodes else self.down:
            for block in part.block:
                h = block(h)
            for name in ("upsample", "downsample"):
                h = getattr(part, name)(h) if hasattr(part, name) else h
        if not self.decodes:
            h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        return self.conv_out(F.silu(self.norm_out(h)))


class _Encode(nn.Module):
    """Encodes images to latents (for kl the posterior's mean)."""

    def __init__(self, net: Autoencoder):
        super().__init__()
        moments = 1 + (net.kind == "kl")
        self.patch, self.channels = net.patch, net.embed_dim
        self.encoder = _Coder(net, decodes=False)
        self.quant_conv = nn.Conv2d(moments * net.z_channels, moments * net.embed_dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(to_patches(x, self.patch)))[:, : self.channels]


class _Decode(nn.Module):
    """Decodes latents, without quantisation."""

    def __init__(self, net: Autoencoder):
        super().__init__()
        self.patch = net.patch
        self.post_quant_conv = nn.Conv2d(net.embed_dim, net.z_channels, 1)
        self.decoder = _Coder(net, decodes=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return from_patches(self.decoder(self.post_quant_conv(z)), self.patch)


def to_patches(x: torch.Tensor, p: int) -> torch.Tensor:
    """Tiles of p x p pixels as channels, in our order."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // p, p, w // p, p).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, p * p * c, h // p, w // p)


def from_patches(x: torch.Tensor, p: int) -> torch.Tensor:
    """Inverts `to_patches`."""
    b, c, h, w = x.shape
    x = x.view(b, p, p, c // p**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // p**2, h * p, w * p)


def unet_peer(unet: UNet, params: Any, in_channels: int) -> TorchUNet:
    """PyTorch's UNet with our parameters."""
    return _with_state(TorchUNet(unet, in_channels), to_torch(unet, params, "unet", "compvis"))


def autoencoder_peers(net: Autoencoder, params: Any) -> tuple[nn.Module, nn.Module]:
    """PyTorch's encoder and decoder with our parameters."""
    # CompVis has no patches; its networks are the part between them.
    trunk = net.clone(patch=1, out_ch=net.out_ch * net.patch**2)
    state = to_torch(trunk, params, "autoencoder", "compvis")

    def part(module: nn.Module) -> nn.Module:
        return _with_state(module, {name: state[name] for name in module.state_dict()})

    return part(_Encode(net)), part(_Decode(net))


def _with_state(module: Any, state: dict[str, np.ndarray]) -> Any:
    module.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return module.to(device())


def device() -> str:
    """PyTorch's device: its accelerator if it has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def tensor(x: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Converts NHWC to torch's NCHW."""
    x = np.moveaxis(x, -1, 1) if x.ndim == 4 else x
    return torch.tensor(np.ascontiguousarray(x)).to(device(), dtype)


def array(x: torch.Tensor) -> np.ndarray:
    """Converts NCHW back to NHWC, float32."""
    return np.moveaxis(x.detach().float().cpu().numpy(), 1, -1)


def wait() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forms(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    dtype: torch.dtype,
    compiles: bool = True,
) -> dict[str, Callable[[], torch.Tensor]]:
    """Forward passes as users of PyTorch run them: eager, channels last and, if possible, compiled.

    `compiled`, unless `compiles` is False, is channels last, with Inductor's freezing on CPU and
    CUDA graphs on an accelerator.
    """
    module = module.eval().to(dtype)
    inputs = tuple(x.to(dtype) if x.ndim == 4 else x for x in inputs)
    last = copy.deepcopy(module).to(memory_format=torch.channels_last)
    last_inputs = tuple(
        x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs
    )
    found = {"eager": (module, inputs), "channels_last": (last, last_inputs)}
    if compiles:
        with contextlib.suppress(Exception), torch.no_grad():  # no C++ compiler, an unknown Python
            (fast,) = compiled([last])
            fast(*last_inputs)
            found["compiled"] = (fast, last_inputs)

    def call(net: Any, args: tuple[torch.Tensor, ...]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with torch.no_grad():
                y = net(*args)
            wait()
            return y

        return run

    return {name: call(*what) for name, what in found.items()}


def compiled(modules: list[nn.Module]) -> list[Any]:
    """Compiles modules, channels last, with freezing on CPU or CUDA graphs on an accelerator."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    inductor.freezing = not torch.cuda.is_available()
    mode = None if inductor.freezing else "max-autotune"
    last = [module.to(memory_format=torch.channels_last) for module in modules]
    return [torch.compile(module, mode=mode) for module in last]
