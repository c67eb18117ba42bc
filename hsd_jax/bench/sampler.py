"""The painting of a swap, this sampler beside PyTorch's: encode both crops, fuse, decode.

Twice: the embedded nets, whose quality by sampler `hsd eval selfswap --solver --steps` tells, and
the paper's with random weights. PyTorch's are what the CompVis scripts do (eager modules, DDIM of
50 steps, known latents noised and mixed in before every step) and, compiled, our solver with our
number of calls.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.bench.timing import interleaved, medians, ratio
from hsd_jax.bench.weights import normal, random_params
from hsd_jax.diffusion.conditioning import predictor
from hsd_jax.diffusion.fusion import fuse, step_times
from hsd_jax.diffusion.schedule import Prediction, Schedule, denoiser, to_x0_eps
from hsd_jax.diffusion.solvers import SOLVERS
from hsd_jax.mixing import Regions
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.unet import UNet
from hsd_jax.parse import SIZE

COLUMNS = ("nets", "type", "batch", "sampler", "UNet calls", "s", "this / hsd")
OURS, EAGER, COMPILED = "hsd", "PyTorch, eager, DDIM", "PyTorch, compiled, DPM-Solver++(2M)"
_SOLVER = "dpmpp"
DDIM_STEPS = 50
_ROUNDS = 2  # a round of PyTorch's takes a minute on two cores


class Nets(NamedTuple):
    """Nets with what they were made for."""

    unet: UNet
    unet_params: Any
    autoencoder: Autoencoder
    autoencoder_params: Any
    schedule: Schedule
    prediction: Prediction
    steps: int | None
    """UNet calls that suit the weights; None for the solver's default."""

    @property
    def condition_channels(self) -> int:
        """Of the UNet's input, those beside z."""
        kernel = self.unet_params["input_blocks_0_0"]["kernel"]
        return kernel.shape[2] - self.unet.out_channels

    def calls(self) -> int:
        """Of the UNet, for a picture."""
        return len(step_times(self.schedule, _SOLVER, self.steps))


class Pairs(NamedTuple):
    """Crops of noise, head over body with a band between them."""

    pictures: np.ndarray  # float32 [2 b, 256, 256, 3], all heads first
    condition: np.ndarray  # float32 [b, h, w, k]
    masks: Regions


def paper_nets() -> Nets:
    """The paper's sizes, random weights."""
    small, channels = SIZE // 4, 3
    z = jax.ShapeDtypeStruct((1, small, small, channels), jnp.float32)
    picture = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    unet = random_params(UNet(), z, jax.ShapeDtypeStruct((1,), jnp.int32), z)
    autoencoder = random_params(Autoencoder(), picture)
    schedule = Schedule(kind="linear", start=0.0015, end=0.0205)
    return Nets(UNet(), unet, Autoencoder(), autoencoder, schedule, "eps", None)


def embedded_nets() -> Nets:
    """What `hsd swap` paints with."""
    folder = weights.find()
    unet, autoencoder = (weights.load_part(folder, part) for part in ("unet", "autoencoder"))
    facts = unet.extra
    return Nets(
        unet.module, unet.params, autoencoder.module, autoencoder.params,
        Schedule(**facts["schedule"]), facts["prediction"], facts["steps"],
    )  # fmt: skip


def rows(tell: Callable[[str], None]) -> list[list[Any]]:
    """One row a sampler, see `COLUMNS`."""
    on_cpu = jax.default_backend() == "cpu"
    found = []
    for name, nets in {"embedded": embedded_nets(), "the paper's": paper_nets()}.items():
        for batch in (1,) if on_cpu else (1, 32):
            tell(f"{name} nets, batch {batch}")
            found += _rows(name, nets, "float32" if on_cpu else "bfloat16", batch)
    return found


def _rows(name: str, nets: Nets, dtype: str, batch: int) -> list[list[Any]]:
    pairs = _pairs(nets, batch)
    calls: dict[str, Callable[[], Any]] = {OURS: ours(nets, pairs, dtype)}
    counts = {OURS: nets.calls(), EAGER: DDIM_STEPS, COMPILED: nets.calls()}
    for peer, solver in {EAGER: "ddim", COMPILED: _SOLVER}.items():
        run = theirs(nets, pairs, dtype, solver, counts[peer], compiled=peer == COMPILED)
        if run is not None:
            calls[peer] = run
    times = interleaved(calls, rounds=_ROUNDS, seconds=0, warm=1)
    return [
        [name, dtype, batch, sampler, counts[sampler], seconds, ratio(times, sampler, OURS)]
        for sampler, seconds in medians(times).items()
    ]


def _pairs(nets: Nets, batch: int) -> Pairs:
    small = SIZE // nets.autoencoder.factor
    row = 16 * jnp.arange(small)[None, :, None, None] + jnp.zeros((batch, 1, small, 1), jnp.int32)
    head, body = (part.astype(jnp.float32) for part in (row < 7 * small, row >= 9 * small))
    condition = normal(batch, small, small, nets.condition_channels)
    return Pairs(normal(2 * batch, SIZE, SIZE, 3), condition, Regions(head, body, 1 - head - body))


def ours(nets: Nets, pairs: Pairs, dtype: str) -> Callable[[], Any]:
    """A compiled call, pictures to pictures."""
    kind = jnp.dtype(dtype)
    unet, autoencoder = nets.unet.clone(dtype=kind), nets.autoencoder.clone(dtype=kind)
    times, batch = step_times(nets.schedule, _SOLVER, nets.steps), len(pairs.condition)
    keys = jax.random.split(jax.random.key(0), batch)

    def sample(unet_params: Any, params: Any, x: jax.Array, s: jax.Array) -> jax.Array:
        encoded: Any = apply(autoencoder, params, x, method="encode")
        z = encoded[0] if isinstance(encoded, tuple) else encoded
        denoise = denoiser(predictor(unet, unet_params, s, times), nets.schedule, nets.prediction)
        fused = fuse(
            denoise, nets.schedule, z[:batch], z[batch:], pairs.masks, keys,
            solver=_SOLVER, num_steps=nets.steps,
        )  # fmt: skip
        assert isinstance(fused, jax.Array)  # no history was asked for
        method = Autoencoder.decode
        return apply(autoencoder, params, fused, method=method, force_not_quantize=True)

    arguments = jax.device_put(
        (nets.unet_params, nets.autoencoder_params, pairs.pictures, pairs.condition)
    )
    run = jax.jit(sample).lower(*arguments).compile()
    return lambda: jax.block_until_ready(run(*arguments))


def theirs(
    nets: Nets, pairs: Pairs, dtype: str, solver: str, steps: int, compiled: bool
) -> Callable[[], Any] | None:
    """PyTorch's; None where it cannot compile."""
    import torch  # pyright: ignore[reportMissingImports]

    from hsd_jax.bench import torch_peer as peer

    half = getattr(torch, dtype)
    channels = nets.unet.out_channels + nets.condition_channels
    unet = peer.unet_peer(nets.unet, nets.unet_params, channels)
    modules = [unet, *peer.autoencoder_peers(nets.autoencoder, nets.autoencoder_params)]
    modules = [module.eval().to(half) for module in modules]
    x, s = peer.tensor(pairs.pictures, half), peer.tensor(pairs.condition)
    head, body, rest = (peer.tensor(np.asarray(mask)) for mask in pairs.masks)
    tables = SOLVERS[solver].tables(nets.schedule, steps)
    if compiled:
        modules = peer.compiled(modules)

    @torch.no_grad()
    def run() -> Any:
        net, encode, decode = modules
        z_head, z_body = encode(x).float().clone().chunk(2)
        known = head * z_head + body * z_body
        z, before = torch.randn_like(known), torch.zeros_like(known)
        for i, t in enumerate(tables.t.tolist()):
            alpha, sigma = float(tables.alpha[i]), float(tables.sigma[i])
            noised = alpha * known + sigma * torch.randn_like(known)
            z = (1 - rest) * noised + rest * z
            at = torch.full((len(z),), t, device=z.device, dtype=torch.int32)
            output = net(torch.cat([z, s], 1).to(half), at).float()
            split: Any = to_x0_eps
            x0, eps = split(nets.prediction, output, z, alpha, sigma)
            parts = {"z": z, "x0": x0, "eps": eps, "x0_before": before}
            z = sum(float(weight[i]) * parts[name] for name, weight in tables.weights.items())
            before = x0
        picture = decode(((1 - rest) * known + rest * z).to(half))
        peer.wait()
        return picture

    try:
        run()
    except Exception:  # no C++ compiler, or a Python that it does not know
        if not compiled:
            raise
        return None
    return run
