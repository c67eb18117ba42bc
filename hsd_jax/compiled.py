"""The programs of a swap: five, each compiled once, for photos of any size and any seed.

One for each stage rather than one for all: a process reads them back in parallel while it parses,
another solver compiles the sampler alone, and the autoencoder's serve every one. Samples are made
in buckets of fixed size, so that no number of them compiles anew or needs more memory.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from hsd_jax.mixing import shift_columns, turned_neck_shift
from hsd_jax.models.unet import MANY
from hsd_jax.painting import Painter, Plan
from hsd_jax.parse import SIZE
from hsd_jax.programs import Program

export.register_namedtuple_serialization(Plan, serialized_name="hsd_jax.painting.Plan")

BUCKETS = (1, 4)
"""Samples at once: four share the reading of the weights; the last of them may be thrown away."""


class SwapPrograms:
    """A `Painter` bound to its parameters."""

    def __init__(self, painter: Painter, params: dict[str, Any]):
        """`params`: of the four nets, by part name."""
        self._painter, self._params = painter, params
        facts, labels = painter.facts, painter.labels
        self._align = Program("align", partial(_align, labels=labels), labels)
        self._plan = Program("plan", painter.plan, facts)
        self._encode = Program("encode", painter.encode, facts)
        self._decode = Program("decode", painter.decode, facts)
        self._sample = cache(self._sampler)

    def _sampler(self, samples: int, solver: str, num_steps: int | None, keep: bool) -> Program:
        options = dict(samples=samples, solver=solver, num_steps=num_steps, keep=keep)
        function = partial(self._painter.sample, **options)
        many_calls = self._painter.calls(solver, num_steps) >= MANY
        return Program("sample", function, (self._painter.facts, options), many_calls)

    def programs(
        self, samples: int, solver: str, num_steps: int | None, keep: bool
    ) -> list[tuple[Program, tuple[Any, ...]]]:
        """Each program with the shapes of its arguments, in the order of use.

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
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Encodes both crops once, then fuses their latents and decodes, bucket by bucket.

        Args:
          head, body: uint8 `[256, 256, 3]`, aligned.
          plan: of this pair.
          seed: 0 to 2**32 - 1.
          samples: how many.
          solver, num_steps, keep: as in `Painter.sample`.

        Returns:
          uint8 `[samples, 256, 256, 3]` and, with `keep`, what each step predicts,
          `[steps, samples, 256, 256, 3]`.
        """
        size = _bucket(samples)
        program = self._sample(size, solver, num_steps, keep)
        nets = _part(self._params, "unet", "condition")
        z = self._encode(self._params["autoencoder"], np.stack([head, body]))
        pictures, histories = [], []
        for first in range(0, samples, size):
            z0, history = program(nets, z, plan, np.uint32(seed), np.uint32(first))
            pictures.append(self._pictures(z0))
            if history is not None:
                histories.append(np.stack([self._pictures(x0) for x0 in history]))
        whole = np.concatenate(pictures)[:samples]
        return whole, np.concatenate(histories, 1)[:, :samples] if histories else None

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
