"""Times the networks of a swap, ours and PyTorch's: encode both crops, fuse, decode.

Two sets are timed: the embedded networks, whose quality per sampler `hsd eval selfswap --solver
--steps` measures, and the paper's with random weights. Ours is the code of `hsd swap` or, for
several pairs, of batches. PyTorch's are what the CompVis scripts do (eager modules, 50 steps of
DDIM, known latents noised and mixed in before every step) and, compiled, our solver with our number
of calls. diffusers' are its own models, schedulers and loop.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.bench.timing import Budget, interleaved, medians, ratio
from hsd_jax.bench.weights import normal, random_params
from hsd_jax.diffusion.schedule import to_x0_eps
from hsd_jax.diffusion.solvers import SOLVERS
from hsd_jax.labels import get_label_set
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.unet import UNet
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan, latent_regions
from hsd_jax.swapping.runner import Runner
from hsd_jax.swapping.spec import PARTS, Sampling, SwapSpec
from hsd_jax.weights import Loaded

COLUMNS = ("networks", "type", "batch", "sampler", "UNet calls", "s", "this / hsd")
OURS, EAGER, COMPILED = "hsd", "PyTorch, eager, DDIM", "PyTorch, compiled, DPM-Solver++(2M)"
DIFFUSERS = tuple(name.replace("PyTorch", "diffusers") for name in (EAGER, COMPILED))
DDIM_STEPS = 50
_ROUNDS = 2  # a round of PyTorch's takes a minute on two cores

Networks = dict[str, Loaded]
"""The parts that `SwapNetworks` takes."""


class Pair(NamedTuple):
    """What is painted."""

    head: np.ndarray  # uint8 [256, 256, 3]
    body: np.ndarray
    plan: Plan


def embedded_networks() -> Networks:
    """The networks of `hsd swap`."""
    folder = weights.find()
    return {name: weights.load_part(folder, name) for name in PARTS}


def paper_networks(others: Networks, make: Callable[..., Any] = random_params) -> Networks:
    """UNet, autoencoder and condition of the paper's sizes, with random weights.

    `make` returns parameters for a module and shapes of its arguments.
    """
    facts = others["unet"].extra
    size, labels = facts["size"], facts["labels"]
    small, channels = size // 4, 3
    z = jax.ShapeDtypeStruct((1, small, small, channels), jnp.float32)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    layout = jax.ShapeDtypeStruct((1, size, size, get_label_set(labels).num_classes), jnp.float32)
    facts = dict(
        size=size, labels=labels, latent_mean=[0.0] * channels, latent_std=[1.0] * channels,
        known=False,
        schedule=dict(kind="linear", start=0.0015, end=0.0205), prediction="eps", steps=None,
    )  # fmt: skip
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    return others | {
        "unet": Loaded(UNet(), make(UNet(), z, t, z), facts),
        "autoencoder": Loaded(Autoencoder(), make(Autoencoder(), image), {}),
        "condition": Loaded(SpatialRescaler(), make(SpatialRescaler(), layout), {}),
    }


def rows(
    pair: Pair, embedded: Networks, vs: str, budget: Budget, quick: bool
) -> list[list[Any]]:
    """One row per sampler; see `COLUMNS`.

    Args:
      pair, embedded: what is painted, and by which networks beside the paper's.
      vs: "torch" or "diffusers".
      budget: of time.
      quick: whether to leave out the paper's networks.
    """
    on_cpu = jax.default_backend() == "cpu"
    sizes = {"embedded": embedded} | ({} if quick else {"the paper's": paper_networks(embedded)})
    cases = list(product(sizes, (1,) if on_cpu else (1, 32)))
    found = []
    dtype = "float32" if on_cpu else "bfloat16"
    for name, batch in budget.cases(cases, lambda case: "{} networks, batch {}".format(*case)):
        found += _rows(name, sizes[name], dtype, batch, pair, vs, budget)
    return found


def _rows(
    name: str, networks: Networks, dtype: str, batch: int, pair: Pair, vs: str, budget: Budget
) -> list[list[Any]]:
    calls = ours(networks, pair, dtype, batch)
    spec = SwapNetworks(networks).spec
    our_calls = len(spec.times(Sampling()))
    eager, compiled = (EAGER, COMPILED) if vs == "torch" else DIFFUSERS
    counts = dict.fromkeys((*calls, compiled), our_calls) | {eager: DDIM_STEPS}
    for peer, solver in {eager: "ddim", compiled: "dpmpp"}.items():
        budget.tell(f"  {peer}: the first call")
        run = theirs(
            networks, pair, dtype, batch, solver, counts[peer], vs, compiled=peer == compiled
        )
        if run is not None:
            calls[peer] = run
    times = interleaved(calls, rounds=_ROUNDS, seconds=0, warm=1, tell=budget.tell)
    return [
        [name, dtype, batch, sampler, counts[sampler], seconds, ratio(times, sampler, OURS)]
        for sampler, seconds in medians(times).items()
    ]


def ours(networks: Networks, pair: Pair, dtype: str, batch: int) -> dict[str, Callable[[], Any]]:
    """Our samplers, by name.

    For one pair these are `hsd swap`'s and the alternative that it does not choose (the window or
    the whole crop); for several, `hsd eval swap`'s.
    """
    kind = jnp.dtype(dtype)
    networks = networks | {
        name: replace(networks[name], module=networks[name].module.clone(dtype=kind))
        for name in ("unet", "autoencoder")
    }
    runner = Runner(SwapNetworks(networks), batch)
    heads, bodies, plan = jax.tree.map(lambda x: np.repeat(x[None], batch, 0), pair)
    seeds = np.arange(batch, dtype=np.uint32)
    options: Any = dict(seeds=seeds, numbers=0 * seeds[:, None], sampling=Sampling())
    paint = partial(runner.paint, heads, bodies, plan, **options)
    if batch > 1:
        return {OURS: paint}
    other = f"{OURS}, {'whole crop' if runner.in_window else 'window'}"
    return {OURS: paint, other: partial(paint, in_window=not runner.in_window)}


def theirs(
    networks: Networks,
    pair: Pair,
    dtype: str,
    batch: int,
    solver: str,
    steps: int,
    vs: str,
    compiled: bool,
) -> Callable[[], Any] | None:
    """PyTorch's sampler, its condition computed beforehand; None if it cannot be compiled.

    It is ours in PyTorch, or diffusers' own.
    """
    import torch  # pyright: ignore[reportMissingImports]

    from hsd_jax.bench import torch_peer as peer

    half = getattr(torch, dtype)
    unet, autoencoder = networks["unet"], networks["autoencoder"]
    channels = unet.params["input_blocks_0_0"]["kernel"].shape[2]
    spec = SwapNetworks(networks).spec
    if vs == "diffusers":
        from hsd_jax.bench import diffusers_peer

        modules = diffusers_peer.modules(unet, autoencoder)
        denoise = diffusers_peer.stepper(unet.extra, solver, steps)
    else:
        modules = [
            peer.unet_peer(unet.module, unet.params, channels),
            *peer.autoencoder_peers(autoencoder.module, autoencoder.params),
        ]
        denoise = _stepper(spec, solver, steps)
    modules = [module.eval().to(half) for module in modules]
    images = np.repeat(np.stack([pair.head, pair.body]), batch, 0)  # all heads first
    x = peer.tensor((images / 127.5 - 1).astype(np.float32), half)
    plan = jax.tree.map(lambda x: np.repeat(x[None], batch, 0), pair.plan)
    regions = latent_regions(plan, spec.factor)
    head, body, rest = (peer.tensor(np.asarray(mask)) for mask in regions)
    condition = normal(*rest.shape[2:], channels - unet.module.out_channels)
    s = peer.tensor(condition[None].repeat(batch, 0))
    if compiled:
        modules = peer.compiled(modules)

    @torch.no_grad()
    def run() -> Any:
        unet, encode, decode = modules
        z_head, z_body = encode(x).float().clone().chunk(2)
        known = head * z_head + body * z_body
        z = denoise(unet, known, rest, s, half)
        image = decode(((1 - rest) * known + rest * z).to(half))
        peer.wait()
        return image

    try:
        run()
    except Exception:  # no C++ compiler, or a Python that it does not know
        if not compiled:
            raise
        return None
    return run


def _stepper(spec: SwapSpec, solver: str, steps: int) -> Callable[..., Any]:
    """Denoises in PyTorch by our tables, with the known latents mixed in before every call."""
    import torch  # pyright: ignore[reportMissingImports]

    tables = SOLVERS[solver].tables(spec.schedule, steps)
    split: Any = to_x0_eps

    def denoise(unet: Any, known: Any, rest: Any, s: Any, half: Any) -> Any:
        z, before = torch.randn_like(known), torch.zeros_like(known)
        for i, t in enumerate(tables.t.tolist()):
            alpha, sigma = float(tables.alpha[i]), float(tables.sigma[i])
            noised = alpha * known + sigma * torch.randn_like(known)
            z = (1 - rest) * noised + rest * z
            at = torch.full((len(z),), t, device=z.device, dtype=torch.int32)
            output = unet(torch.cat([z, s], 1).to(half), at).float()
            x0, eps = split(spec.prediction, output, z, alpha, sigma)
            parts = {"z": z, "x0": x0, "eps": eps, "x0_before": before}
            z = sum(float(weight[i]) * parts[name] for name, weight in tables.weights.items())
            before = x0
        return z

    return denoise
