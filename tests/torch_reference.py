"""The reference networks in PyTorch, written anew after their descriptions, for parity tests.

CompVis' autoencoders (`model.py`, `autoencoder.py`), UNet (`openaimodel.py`), `SpatialRescaler`,
DDIM, and U^2-Net; modules carry the references' names, so that `state_dict()` has the names of
their checkpoints. NCHW, as there.
"""

import math

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, those that begin at zero too; activations keep about unit size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module.eval()


def vae_norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class VaeResnetBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.conv1 = vae_norm(inputs), nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.norm2, self.conv2 = vae_norm(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class VaeAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = vae_norm(channels)
        self.q, self.k, self.v, self.proj_out = (
            nn.Conv2d(channels, channels, 1) for _ in range(4)
        )

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, dim=-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class VaeDownsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, 0)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VaeUpsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def vae_middle(channels, attention):
    middle = nn.Module()
    middle.block_1 = VaeResnetBlock(channels, channels)
    middle.attn_1 = VaeAttention(channels) if attention else nn.Identity()
    middle.block_2 = VaeResnetBlock(channels, channels)
    return middle


class VaeLevel(nn.Module):
    def __init__(self, inputs, outputs, blocks, attention):
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(
            VaeResnetBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.attn = nn.ModuleList(VaeAttention(outputs) for _ in range(blocks if attention else 0))

    def forward(self, h):
        for i, block in enumerate(self.block):
            h = block(h)
            if len(self.attn):
                h = self.attn[i](h)
        return h


class VaeEncoder(nn.Module):
    def __init__(self, outputs, ch, ch_mult, blocks, attends, mid_attention, in_channels):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, 1, 1)
        self.down, width = nn.ModuleList(), ch
        for level, mult in enumerate(ch_mult):
            self.down.append(VaeLevel(width, ch * mult, blocks, level in attends))
            width = ch * mult
            if level < len(ch_mult) - 1:
                self.down[-1].downsample = VaeDownsample(width)
        self.mid = vae_middle(width, mid_attention)
        self.norm_out, self.conv_out = vae_norm(width), nn.Conv2d(width, outputs, 3, 1, 1)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        return self.conv_out(F.silu(self.norm_out(h)))


class VaeDecoder(nn.Module):
    def __init__(self, inputs, ch, ch_mult, blocks, attends, mid_attention, out_ch):
        super().__init__()
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(inputs, width, 3, 1, 1)
        self.mid = vae_middle(width, mid_attention)
        levels = []
        for level, mult in reversed(list(enumerate(ch_mult))):
            levels.insert(0, VaeLevel(width, ch * mult, blocks + 1, level in attends))
            width = ch * mult
            if level > 0:
                levels[0].upsample = VaeUpsample(width)
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = vae_norm(width), nn.Conv2d(width, out_ch, 3, 1, 1)

    def forward(self, z):
        h = self.conv_in(z)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        for level in reversed(self.up):
            h = level(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """VQModelInterface for `n_embed` entries, AutoencoderKL for None; settings as in its YAML."""

    def __init__(
        self, embed_dim=3, n_embed=None, z_channels=3, ch=32, ch_mult=(1, 2), num_res_blocks=1,
        attends=(), mid_attention=True, in_channels=3, out_ch=3,
    ):  # fmt: skip
        super().__init__()
        moments = 1 if n_embed else 2
        trunk = (ch, ch_mult, num_res_blocks, attends, mid_attention)
        self.encoder = VaeEncoder(moments * z_channels, *trunk, in_channels)
        self.decoder = VaeDecoder(z_channels, *trunk, out_ch)
        self.quant_conv = nn.Conv2d(moments * z_channels, moments * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        if n_embed:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(n_embed, embed_dim)

    def encode(self, x):
        """Latents before quantisation; for KL mean and log-variance in the channels."""
        return self.quant_conv(self.encoder(x))

    def quantized(self, h):
        if not hasattr(self, "quantize"):
            return h
        codebook = self.quantize.embedding.weight
        flat = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1])
        indices = torch.cdist(flat.double(), codebook.double()).argmin(1)
        rows = codebook[indices].view(h.shape[0], *h.shape[2:], -1).permute(0, 3, 1, 2)
        return h + (rows - h).detach()

    def decode(self, z):
        return self.decoder(self.post_quant_conv(self.quantized(z)))


def timestep_embedding(t, dim):
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class UNetResBlock(nn.Module):
    def __init__(self, inputs, outputs, emb, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb, 2 * outputs if scale_shift else outputs)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0.0),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )  # fmt: skip
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def _resampled(self, x):
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x, emb):
        h = self._resampled(self.in_layers[1](self.in_layers[0](x)))
        h, x = self.in_layers[2](h), self._resampled(x)
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x) + h


class UNetAttention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        b, c, height, width = x.shape
        flat = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            # [3, heads, dim]: q, k, v first.
            q, k, v = (
                part.reshape(b * self.heads, c // self.heads, -1) for part in qkv.chunk(3, dim=1)
            )
        else:
            # [heads, 3, dim]: heads first.
            q, k, v = qkv.reshape(b * self.heads, 3 * c // self.heads, -1).chunk(3, dim=1)
        scale = (c // self.heads) ** -0.25
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, -1)
        return (flat + self.proj_out(h)).reshape(b, c, height, width)


class UNetDownsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x):
        return self.op(x)


class Block(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb) if isinstance(layer, UNetResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """UNetModel without cross-attention and classes; arguments as in its YAML."""

    def __init__(
        self, in_channels, out_channels, model_channels, attention_resolutions=(),
        num_res_blocks=1, channel_mult=(1, 2), num_heads=-1, num_head_channels=-1,
        use_scale_shift_norm=False, resblock_updown=False, use_new_attention_order=False,
    ):  # fmt: skip
        super().__init__()
        self.model_channels, emb = model_channels, 4 * model_channels

        def res(inputs, outputs, resample=None):
            return UNetResBlock(inputs, outputs, emb, use_scale_shift_norm, resample)

        def attention(channels):
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            return UNetAttention(channels, heads, use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        )
        width, ds = model_channels, 1
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels, width, 3, 1, 1))])
        widths = [width]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [res(width, mult * model_channels)]
                width = mult * model_channels
                if ds in attention_resolutions:
                    layers.append(attention(width))
                self.input_blocks.append(Block(*layers))
                widths.append(width)
            if level < len(channel_mult) - 1:
                down = res(width, width, "down") if resblock_updown else UNetDownsample(width)
                self.input_blocks.append(Block(down))
                widths.append(width)
                ds *= 2
        self.middle_block = Block(res(width, width), attention(width), res(width, width))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = [res(width + widths.pop(), mult * model_channels)]
                width = mult * model_channels
                if ds in attention_resolutions:
                    layers.append(attention(width))
                if level and i == num_res_blocks:
                    up = res(width, width, "up") if resblock_updown else VaeUpsample(width)
                    layers.append(up)
                    ds //= 2
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, 1, 1)
        )

    def forward(self, z, t, s=None):
        emb = self.time_embed(timestep_embedding(t, self.model_channels))
        h, skips = z if s is None else torch.cat([z, s], dim=1), []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


class SpatialRescaler(nn.Module):
    def __init__(self, n_stages, in_channels, out_channels, bias=False):
        super().__init__()
        self.n_stages = n_stages
        self.channel_mapper = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x):
        for _ in range(self.n_stages):
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        return self.channel_mapper(x)


def latent_diffusion(unet, first_stage, condition, averages=None, schedule=(0.0015, 0.0205, 1000)):
    """The names and tensors of a LatentDiffusion's state dict."""
    state = {}
    for prefix, module in (
        ("model.diffusion_model.", unet), ("first_stage_model.", first_stage),
        ("cond_stage_model.", condition),
    ):  # fmt: skip
        state |= {prefix + name: value for name, value in module.state_dict().items()}
    if averages is not None:
        state |= {
            "model_ema.diffusion_model" + name.replace(".", ""): value
            for name, value in averages.state_dict().items()
        }
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    betas = beta_table(*schedule)
    state |= {"betas": betas.float(), "alphas_cumprod": torch.cumprod(1 - betas, 0).float()}
    return state


def beta_table(start, end, steps):
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


@torch.no_grad()
def ddim(unet, z, s, steps, schedule=(0.0015, 0.0205, 1000)):
    """CompVis' DDIMSampler with eta 0: timesteps range(0, T, T // S) + 1, tables in float32."""
    total = schedule[2]
    alphas = torch.cumprod(1 - beta_table(*schedule), 0).float()
    timesteps = torch.arange(0, total, total // steps) + 1
    before = torch.cat([alphas[:1], alphas[timesteps[:-1]]])
    for i in reversed(range(len(timesteps))):
        t = torch.full(z.shape[:1], int(timesteps[i]))
        eps, a, a_before = unet(z, t, s), alphas[timesteps[i]], before[i]
        x0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
        z = a_before.sqrt() * x0 + (1 - a_before).sqrt() * eps
    return z


class RebnConv(nn.Module):
    def __init__(self, inputs, outputs, dilation=1):
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn_s1(self.conv_s1(x)))


def resized(x, like):
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def pooled(x):
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


class RSU(nn.Module):
    """RSU7, RSU6, RSU5, RSU4 by height, and RSU4F where `flat`."""

    def __init__(self, height, inputs, mid, outputs, flat=False):
        super().__init__()
        self.height, self.flat = height, flat
        self.rebnconvin = RebnConv(inputs, outputs)
        for i in range(1, height + 1):
            dilation = 2 ** (i - 1) if flat else 2 if i == height else 1
            self.add_module(f"rebnconv{i}", RebnConv(outputs if i == 1 else mid, mid, dilation))
        for i in range(height - 1, 0, -1):
            dilation = 2 ** (i - 1) if flat else 1
            width = outputs if i == 1 else mid
            self.add_module(f"rebnconv{i}d", RebnConv(2 * mid, width, dilation))

    def forward(self, x):
        x = self.rebnconvin(x)
        h, skips = x, []
        for i in range(1, self.height):
            h = getattr(self, f"rebnconv{i}")(h if self.flat or i == 1 else pooled(h))
            skips.append(h)
        h = getattr(self, f"rebnconv{self.height}")(h)
        for i in range(self.height - 1, 0, -1):
            skip = skips.pop()
            h = getattr(self, f"rebnconv{i}d")(torch.cat([resized(h, skip), skip], dim=1))
        return h + x


U2NET = (
    [(7, 32, 64), (6, 32, 128), (5, 64, 256), (4, 128, 512), (4, 256, 512), (4, 256, 512)],
    [(4, 256, 512), (4, 128, 256), (5, 64, 128), (6, 32, 64), (7, 16, 64)],
)
U2NETP = ([(h, 16, 64) for h in (7, 6, 5, 4, 4, 4)], [(h, 16, 64) for h in (4, 4, 5, 6, 7)])


class U2Net(nn.Module):
    """U2NET for that table, U2NETP for the other; returns logits d0 .. d6."""

    def __init__(self, table, in_channels=3, out_channels=1):
        super().__init__()
        encoder, decoder = table
        width = in_channels
        for i, (height, mid, out) in enumerate(encoder, 1):
            self.add_module(f"stage{i}", RSU(height, width, mid, out, flat=i >= 5))
            width = out
        for i, (height, mid, out) in zip((5, 4, 3, 2, 1), decoder, strict=True):
            width += encoder[i - 1][2]
            self.add_module(f"stage{i}d", RSU(height, width, mid, out, flat=i == 5))
            width = out
        widths = [row[2] for row in reversed(decoder)] + [encoder[-1][2]]
        for i, out in enumerate(widths, 1):
            self.add_module(f"side{i}", nn.Conv2d(out, out_channels, 3, padding=1))
        self.outconv = nn.Conv2d(6 * out_channels, out_channels, 1)

    def forward(self, x):
        encoded, h = [], x
        for i in range(1, 7):
            h = getattr(self, f"stage{i}")(h if i == 1 else pooled(h))
            encoded.append(h)
        decoded = [h]
        for i in range(5, 0, -1):
            skip = encoded[i - 1]
            h = getattr(self, f"stage{i}d")(torch.cat([resized(h, skip), skip], dim=1))
            decoded.insert(0, h)
        sides = [resized(getattr(self, f"side{i}")(d), x) for i, d in enumerate(decoded, 1)]
        return [self.outconv(torch.cat(sides, dim=1)), *sides]
