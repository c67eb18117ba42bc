"""Runs batches of pairs through the networks, compiled once, on one device or many.

`hsd swap` runs a batch of one pair; `hsd batch`, `hsd eval` and `hsd bench` run the same programs
with more. Each stage is a program of its own, so that a process loads them in parallel while it
parses, and a change of solver only compiles the sampler. Batches and samples have fixed sizes, so
that other numbers of them neither recompile nor need more memory.

Large networks on a CPU only paint a `window`, which has one of four sizes, each with its programs.
For small networks and on accelerators, painting the whole crop takes less time than loading another
program.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hsd_jax.models.forms import natively
from hsd_jax.models.unet import MANY
from hsd_jax.runtime.programs import Program
from hsd_jax.runtime.threads import begin
from hsd_jax.swapping.mattes import old_hair
from hsd_jax.swapping.mixing import Region
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.pair import Pair
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.spec import Sampling
from hsd_jax.swapping.window import Window, window_around

export.register_namedtuple_serialization(Plan, serialized_name="hsd_jax.swapping.Plan")

Device = Any
"""One of `jax.devices()`, whose class JAX does not publish."""

BUCKETS = (1, 4)
"""Sizes of a batch of samples: four at once read the weights once; surplus ones are discarded."""

LARGE = 100_000_000
"""Parameters of UNet and autoencoder above which a call takes seconds, not loading."""


Preview = Callable[[np.ndarray], None]
"""Is called after each step with what it predicts of the first pair, uint8 `[samples, H, W, 3]`."""


class Painted(NamedTuple):
    """The networks' output for a batch of pairs."""

    images: np.ndarray
    """uint8 `[pairs, samples, H, W, 3]`."""
    history: np.ndarray | None
    """The prediction at each step, uint8 `[steps, pairs, samples, H, W, 3]`, if kept."""


class Runner:
    """One set of networks, compiled for batches of a fixed size."""

    def __init__(
        self, networks: SwapNetworks, batch: int = 1, devices: Sequence[Device] | None = None
    ):
        """Puts the parameters on the devices and names the programs.

        Args:
          networks: those of one set of weights.
          batch: pairs per batch, rounded up to a multiple of the devices; smaller ones are padded.
          devices: the devices that share a batch; None for the first device only.
        """
        devices = list(devices or jax.devices()[:1])[: max(1, batch)]
        self.spec, self._networks, self._params = networks.spec, networks, networks.params
        self.batch = -(-batch // len(devices)) * len(devices)
        self._split = None
        if len(devices) > 1:
            mesh = Mesh(np.array(devices), ("data",))
            self._split = NamedSharding(mesh, PartitionSpec("data"))
            self._params = jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))
        sized = jax.tree.leaves([self._params["unet"], self._params["autoencoder"]])
        self._large = sum(x.size for x in sized) >= LARGE
        facts = networks.facts
        self._align = _program("align", networks.align, facts)
        self._plan = cache(self._planner)
        self._encode = _program("encode", _encode_pairs(networks), facts, large=self._large)
        self._decode = _program("decode", networks.decode, facts, large=self._large)
        self._sample = cache(partial(self._sampling, "sample", networks.sample))
        self._step = cache(partial(self._sampling, "step", networks.sample_step))

    def _sampling(self, name: str, function: Callable[..., Any], sampling: Sampling) -> Program:
        """A program that calls the UNet, for one way of sampling."""
        many_calls = len(self.spec.times(sampling)) >= MANY
        facts = (self._networks.facts, sampling)
        bound = partial(function, sampling=sampling)
        return _program(name, bound, facts, large=self._large, many_calls=many_calls)

    def _planner(self, region: Region) -> Program:
        function = partial(self._networks.plan, region=region)
        return _program("plan", function, (self._networks.facts, region))

    @property
    def in_window(self) -> bool:
        """Whether `paint` only paints the window around what is generated, by default."""
        return self._large and jax.default_backend() == "cpu" and self.batch == 1

    def programs(
        self, samples: int, sampling: Sampling
    ) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its arguments for whole crops, in order of use.

        Args:
          samples: per pair and batch, one of `BUCKETS`.
          sampling: the solver and its steps.
        """
        b, array = self.batch, partial(jax.ShapeDtypeStruct, sharding=self._split)
        square = (b, self.spec.size, self.spec.size)
        layout, mask = array(square, jnp.int32), array(square, jnp.bool_)
        crops, params = array((*square, 3), jnp.uint8), jax.tree.map(self._like, self._params)
        z = array((b, *self.spec.latent_shape), jnp.float32)
        plan = Plan(layout, layout, mask, mask)
        keys = array((b,), jnp.uint32), array((b, samples), jnp.uint32)
        latents = array((b * samples, *self.spec.latent_shape), jnp.float32)
        unet = _part(params, "unet", "condition")
        return [
            (self._align, (layout, layout, array((b,), jnp.bool_))),
            (self._plan("head"), (_part(params, "layout_generator"), layout, layout)),
            (self._encode, (_part(params, "autoencoder"), crops, crops)),
            (self._sample(sampling), (unet, z, z, plan, *keys)),
            (self._decode, (_part(params, "autoencoder"), latents)),
        ]

    def _like(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        sharding = None if self._split is None else x.sharding
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def compiled(self, sampling: Sampling) -> Any:
        """The compiled sampler for one sample per pair, for its HLO and memory analysis."""
        program, arguments = self.programs(1, sampling)[3]
        return program.jitted().lower(*arguments).compile()

    def prepare(self, samples: int, sampling: Sampling) -> None:
        """Loads programs that earlier processes compiled, in the background."""
        if self._split is None:
            for program, arguments in self.programs(_bucket(samples), sampling):
                if not self.in_window or program in (self._align, self._plan("head")):
                    program.prepare(*arguments)

    def align(
        self, heads: np.ndarray, bodies: np.ndarray, eyes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Aligns layouts `[b, H, W]`: the shifts in columns, and the moved head layouts.

        `eyes`, bool `[b]`, tells for which pairs the eyes of the two crops coincide.
        """
        parts = [self._align(*part) for part in self._batches(heads, bodies, eyes)]
        shifts, moved = _joined(parts, len(heads))
        return shifts, moved

    def plan(self, heads: np.ndarray, bodies: np.ndarray, region: Region = "head") -> Plan:
        """`plan.make_plan` for aligned layouts `[b, H, W]`, as numpy arrays."""
        generator, planner = _part(self._params, "layout_generator"), self._plan(region)
        plans = [planner(generator, *part) for part in self._batches(heads, bodies)]
        return Plan(*_joined(plans, len(heads)))

    def plan_pairs(self, pairs: Sequence[Pair]) -> Plan:
        """Plans pairs: `plan`, less the pixels that their photos do not really show.

        Beyond its photo's edge a head is only repeated pixels, and hair of the old head covers
        background and neck that would be kept. Then each pair's own edit applies.

        Raises:
          ValueError: if the pairs are edited in different regions.
        """
        edit = pairs[0].edit
        if any(pair.edit.region != edit.region for pair in pairs):
            raise ValueError("the pairs are edited in different regions: paint them apart")
        heads, bodies = [pair.head for pair in pairs], [pair.body for pair in pairs]
        layouts = (np.stack([x.layout for x in people]) for people in (heads, bodies))
        searched = bodies if self.spec.finish.old_hair and edit.drops_hair else []
        strands = [begin(old_hair, body, self.spec) for body in searched]
        plan = self.plan(*layouts, region=edit.region)
        plan = plan._replace(head=plan.head & np.stack([head.inside for head in heads]))
        if strands:
            found = np.stack([future.result() for future in strands])
            plan = plan._replace(body=plan.body & ~found)
        if all(pair.edit.only_region for pair in pairs):
            return plan
        plans = [
            pair.edit.masks(Plan(*(x[i] for x in plan)), pair.body.crop, self.spec)
            for i, pair in enumerate(pairs)
        ]
        return Plan(*map(np.stack, zip(*plans, strict=True)))

    def paint(
        self,
        heads: np.ndarray,
        bodies: np.ndarray,
        plan: Plan,
        *,
        seeds: np.ndarray,
        numbers: np.ndarray,
        sampling: Sampling,
        in_window: bool | None = None,
        preview: Preview | None = None,
    ) -> Painted:
        """Encodes the crops of each pair, fuses their latents and decodes the result.

        Args:
          heads, bodies: uint8 `[b, H, W, 3]`, aligned.
          plan: the plan of these pairs, `[b, H, W]`.
          seeds: uint32 `[b]`.
          numbers: uint32 `[b, k]`, the indices of the samples to draw for each seed.
          sampling: the solver and its steps.
          in_window: whether to paint only a window around what is generated and copy the rest from
            the photos; None for whichever is faster with these networks on this device.
          preview: is shown what each step predicts, see `Preview`, of each batch after the other.
        """
        if self.in_window if in_window is None else in_window:
            return self._in_windows(heads, bodies, plan, seeds, numbers, sampling, preview)
        arrays = (heads, bodies, *plan, seeds, numbers)
        options = {"sampling": sampling, "preview": preview}
        parts = [self._painted(*part, **options) for part in self._batches(*arrays)]
        images = np.concatenate([part.images for part in parts])[: len(heads)]
        if not sampling.keep:
            return Painted(images, None)
        history = np.concatenate([part.history for part in parts if part.history is not None], 1)
        return Painted(images, history[:, : len(heads)])

    def _in_windows(
        self,
        heads: np.ndarray,
        bodies: np.ndarray,
        plan: Plan,
        seeds: np.ndarray,
        numbers: np.ndarray,
        sampling: Sampling,
        preview: Preview | None,
    ) -> Painted:
        """Paints pair by pair, each in its own window."""
        images, histories = [], []
        for i, (head, body) in enumerate(zip(heads, bodies, strict=True)):
            one = Plan(*(x[i] for x in plan))
            window = window_around(~(one.head | one.body), self.spec.factor)
            cut = [window.cut(x)[None] for x in (head, body, *one)]
            photos = np.where(one.head[..., None], head, body)
            shown = None if preview is None else _placed(preview, window, photos)
            of_pair = seeds[i : i + 1], numbers[i : i + 1]
            painted = self._painted(*cut, *of_pair, sampling=sampling, preview=shown)
            images.append(window.put(painted.images, photos))
            if painted.history is not None:
                histories.append(window.put(painted.history, photos))
        history = np.concatenate(histories, 1) if histories else None
        return Painted(np.concatenate(images), history)

    def _painted(
        self,
        heads: Any,
        bodies: Any,
        *rest: Any,
        sampling: Sampling,
        preview: Preview | None,
    ) -> Painted:
        """Paints one batch of crops or windows, bucket by bucket of samples."""
        *plan, seeds, numbers = rest
        size, samples = _bucket(numbers.shape[1]), numbers.shape[1]
        unet = _part(self._params, "unet", "condition")
        z_head, z_body = self._encode(_part(self._params, "autoencoder"), heads, bodies)
        images, histories = [], []
        for start in range(0, samples, size):
            some = _filled(numbers[:, start : start + size], size)
            arguments = (unet, z_head, z_body, Plan(*plan), seeds, some)
            if preview is None:
                z0, history = self._sample(sampling)(*arguments)
            else:
                z0, history = self._stepped(arguments, sampling, preview), None
            images.append(self._decoded(z0))
            if history is not None:
                histories.append(np.stack([self._decoded(x0) for x0 in history]))
        kept = np.concatenate(histories, 2)[:, :, :samples] if histories else None
        return Painted(np.concatenate(images, 1)[:, :samples], kept)

    def _stepped(self, arguments: Any, sampling: Sampling, preview: Preview) -> Any:
        """`_sample`, step by step."""
        _, z_head, *_, numbers = arguments
        z = x0 = np.zeros((*numbers.shape, *z_head.shape[1:]), np.float32)
        for index in range(len(self.spec.times(sampling))):
            z, x0 = self._step(sampling)(*arguments, z, x0, np.int32(index))
            preview(self._decoded(x0)[0])
        return z

    def _decoded(self, z: Any) -> np.ndarray:
        """Decodes latents `[b, k, h, w, c]` to uint8 images `[b, k, H, W, 3]`."""
        b, k, *shape = z.shape
        images = np.asarray(self._decode(_part(self._params, "autoencoder"), z.reshape(-1, *shape)))
        return images.reshape(b, k, *images.shape[1:])

    def _batches(self, *arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Splits arrays `[n, ...]` into batches; the last is padded with copies."""
        for start in range(0, len(arrays[0]), self.batch):
            part = tuple(_filled(np.asarray(x)[start : start + self.batch], self.batch, 0)
                         for x in arrays)  # fmt: skip
            yield part if self._split is None else jax.device_put(part, self._split)


def _program(
    name: str,
    function: Callable[..., Any],
    facts: Any,
    large: bool = False,
    many_calls: bool = False,
) -> Program:
    """A program; fast convolutions are compiled only if the network is large or called often."""
    here = None if large or many_calls else natively(function)
    return Program(name, function, facts, here=here, large=large)


def _placed(preview: Preview, window: Window, photos: np.ndarray) -> Preview:
    return lambda images: preview(window.put(images, photos))


def _encode_pairs(networks: SwapNetworks) -> Callable[..., Any]:
    def encode_pairs(params: Any, heads: jax.Array, bodies: jax.Array) -> Any:
        b = len(heads)
        # Pairs stay adjacent, so that a batch split over devices needs no transfer.
        both = jnp.stack([heads, bodies], 1).reshape(2 * b, *heads.shape[1:])
        z = networks.encode(params, both)
        z = z.reshape(b, 2, *z.shape[1:])
        return z[:, 0], z[:, 1]

    return encode_pairs


def _joined(parts: Sequence[Sequence[Any]], count: int) -> tuple[np.ndarray, ...]:
    """Concatenates the outputs of several batches and drops the padding."""
    arrays = (np.concatenate([np.asarray(x) for x in xs]) for xs in zip(*parts, strict=True))
    return tuple(array[:count] for array in arrays)


def _filled(array: Any, size: int, axis: int = 1) -> Any:
    """Pads an axis to `size` with copies of its last entry."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    return np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)], "edge")


def _part(params: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: params[name] for name in names}


def _bucket(samples: int) -> int:
    return next((size for size in BUCKETS if samples <= size), BUCKETS[-1])
