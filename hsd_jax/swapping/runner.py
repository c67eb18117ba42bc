"""The programs of a swap: five, each compiled once, for photos of any size and any seed.

One for each stage rather than one for all: a process reads them back in parallel while it parses,
another solver compiles the sampler alone, and the autoencoder's serve every one. Samples are made
in buckets of fixed size, so that no number of them compiles anew or needs more memory.

Large nets on a CPU paint a `window` alone, of one of four sizes, each with its programs.
Small ones, and accelerators, paint the whole crop sooner than they would load another program.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from hsd_jax.models.unet import MANY
from hsd_jax.parsing.photo_parser import SIZE
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping.mixing import shift_columns, turned_neck_shift
from hsd_jax.swapping.networks import Painter, Plan
from hsd_jax.swapping.window import Window, window_around

export.register_namedtuple_serialization(Plan, serialized_name="hsd_jax.swapping.networks.Plan")

BUCKETS = (1, 4)
"""Samples at once: four share the reading of the weights; the last of them may be thrown away."""

LARGE = 100_000_000
"""Parameters of UNet and autoencoder from which on it is their calls that take seconds."""


class SwapPrograms:
    """A `Painter` bound to its parameters."""

    def __init__(self, painter: Painter, params: dict[str, Any]):
        """`params`: of the four nets, by part name."""
        self._painter, self._params = painter, params
        facts, labels = painter.facts, painter.labels
        size = sum(x.size for x in jax.tree.leaves(_part(params, "unet", "autoencoder")))
        self._large = size >= LARGE
        self._align = Program("align", partial(_align, labels=labels), labels)
        self._plan = Program("plan", painter.plan, facts)
        self._encode = Program("encode", painter.encode, facts, large=self._large)
        self._decode = Program("decode", painter.decode, facts, large=self._large)
        self._sample = cache(self._sampler)

    def _sampler(self, samples: int, solver: str, num_steps: int | None, keep: bool) -> Program:
        options = dict(samples=samples, solver=solver, num_steps=num_steps, keep=keep)
        function = partial(self._painter.sample, **options)
        facts, many_calls = self._painter.facts, self._painter.calls(solver, num_steps) >= MANY
        return Program(
            "sample", function, (facts, options), many_calls=many_calls, large=self._large
        )

    @property
    def in_window(self) -> bool:
        """Whether `paint` takes the window around what is generated, unless it is told."""
        return self._large and jax.default_backend() == "cpu"

    def programs(
        self, samples: int, solver: str, num_steps: int | None, keep: bool
    ) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its arguments for whole crops, in the order of use.

        Args:
          samples: at once, one of `BUCKETS`.
          solver, num_steps, keep: as in `Painter.sample`.
        """
        latents, square = self._painter.latent_shape, (SIZE, SIZE)
        layout, mask = _array(square, jnp.int32), _array(square, jnp.bool_)
        seed, params = _array((), jnp.uint32), jax.tree.map(_like, self._params)
        both = _array((2, *latents), jnp.float32)
        plan = Plan(layout, layout, mask, mask)
        return [
            (self._align, (layout, layout)),
            (self._plan, (_part(params, "layout_generator"), layout, layout)),
            (self._encode, (params["autoencoder"], _array((2, *square, 3), jnp.uint8))),
            (
                self._sample(samples, solver, num_steps, keep),
                (_part(params, "unet", "condition"), both, plan, seed, seed),
            ),
            (self._decode, (params["autoencoder"], _array((samples, *latents), jnp.float32))),
        ]

    def prepare(self, samples: int, solver: str, num_steps: int | None, keep: bool) -> None:
        """Reads back what earlier processes compiled, in the background."""
        for program, arguments in self.programs(_bucket(samples), solver, num_steps, keep):
            if not self.in_window or program in (self._align, self._plan):
                program.prepare(*arguments)

    def align(self, head: np.ndarray, body: np.ndarray) -> tuple[int, np.ndarray]:
        """Neck alignment of layouts: by how many columns, and the head's layout moved."""
        shift, moved = self._align(head, body)
        return int(shift), np.asarray(moved)

    def plan(self, head: np.ndarray, body: np.ndarray) -> Plan:
        """`Painter.plan` of aligned layouts, as numpy arrays."""
        plan = self._plan(_part(self._params, "layout_generator"), head, body)
        return Plan(*map(np.asarray, plan))

    def paint(
        self,
        head: np.ndarray,
        body: np.ndarray,
        plan: Plan,
        *,
        seed: int,
        samples: int,
        solver: str,
        num_steps: int | None,
        keep: bool,
        first: int = 0,
        in_window: bool | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Encodes both crops once, then fuses their latents and decodes, bucket by bucket.

        Args:
          head, body: uint8 `[256, 256, 3]`, aligned.
          plan: of this pair.
          seed: 0 to 2**32 - 1.
          samples: how many.
          solver, num_steps, keep: as in `Painter.sample`.
          first: the number of the first sample; samples have their own keys by number.
          in_window: whether all but the window around what is generated is left unpainted, as in
            the photos; None for what is faster with these nets on this device.

        Returns:
          uint8 `[samples, 256, 256, 3]` and, with `keep`, what each step predicts,
          `[steps, samples, 256, 256, 3]`.
        """
        window = Window(0, 0, *head.shape[:2])
        if self.in_window if in_window is None else in_window:
            window = window_around(~(plan.head | plan.body), self._painter.factor)
        parts = window.cut(head), window.cut(body), Plan(*map(window.cut, plan))
        numbers, options = range(first, first + samples), (solver, num_steps, keep)
        painted, history = self._paint(*parts, seed, numbers, options)
        photos = np.where(plan.head[..., None], head, body)
        whole = window.put(painted, photos)
        return whole, None if history is None else window.put(history, photos)

    def _paint(
        self,
        head: np.ndarray,
        body: np.ndarray,
        plan: Plan,
        seed: int,
        numbers: range,
        options: tuple[str, int | None, bool],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`paint` of a window, for the samples of these numbers."""
        size, samples = _bucket(len(numbers)), len(numbers)
        program = self._sample(size, *options)
        nets = _part(self._params, "unet", "condition")
        z = self._encode(self._params["autoencoder"], np.stack([head, body]))
        pictures, histories = [], []
        for start in numbers[::size]:
            z0, history = program(nets, z, plan, np.uint32(seed), np.uint32(start))
            pictures.append(self._pictures(z0))
            if history is not None:
                histories.append(np.stack([self._pictures(x0) for x0 in history]))
        painted = np.concatenate(pictures)[:samples]
        return painted, np.concatenate(histories, 1)[:, :samples] if histories else None

    def _pictures(self, z: jax.Array) -> np.ndarray:
        return np.asarray(self._decode(self._params["autoencoder"], z))


def _align(head: jax.Array, body: jax.Array, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Neck alignment of the layouts: by how many columns, and the head's, moved."""
    shift = turned_neck_shift(head, body, labels)
    return shift, shift_columns(head, shift, labels.background)


def _part(params: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: params[name] for name in names}


def _bucket(samples: int) -> int:
    return next((size for size in BUCKETS if samples <= size), BUCKETS[-1])


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _like(x: Any) -> jax.ShapeDtypeStruct:
    return _array(x.shape, x.dtype)
