"""One pure step on many devices: sharded by `jax.jit` over a mesh, or mapped by `jax.pmap`.

Both run one `TrainStep`; `pmap` gives it an axis name. "sharded" (the default) splits
the batch over the whole mesh ("data", "fsdp") and, with fsdp > 1, also parameters, optimizer state
and EMA over "fsdp", by their shapes alone (as google-research/big_vision, `sharding.py`, does).
`pmap` keeps a copy of everything on every device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hsd_jax.training.rng import named_key
from hsd_jax.training.state import Batch, Metrics, TrainState
from hsd_jax.training.step import TrainStep

AXES = ("data", "fsdp")
MODES = ("sharded", "pmap")
# Smaller arrays are replicated: gathering them would cost more than sharding saves.
MIN_SHARD_SIZE = 2**16

CompiledStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def fsdp_spec(shape: Sequence[int], fsdp: int) -> PartitionSpec:
    """How an array of `shape` is sharded: along its largest axis that `fsdp` divides.

    Among equally large axes it is the last. Arrays with fewer than `MIN_SHARD_SIZE` elements or
    without such an axis are replicated.
    """
    fitting = [(n, axis) for axis, n in enumerate(shape) if n % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < MIN_SHARD_SIZE:
        return PartitionSpec()
    split = max(fitting)[1]
    return PartitionSpec(*(AXES[1] if axis == split else None for axis in range(split + 1)))


@dataclass(frozen=True)
class Parallel:
    """The placement of a run's arrays; see `make_parallel`."""

    mode: str
    mesh: Mesh

    @cached_property
    def replicated(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @cached_property
    def by_example(self) -> NamedSharding:
        """The first axis split over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(AXES))

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    def state_shardings(self, state: Any) -> Any:
        """A sharding for every array (or its shape) of `state`."""
        fsdp = self.mesh.shape[AXES[1]]
        return jax.tree.map(lambda x: NamedSharding(self.mesh, fsdp_spec(x.shape, fsdp)), state)

    def abstract(self, create: Callable[[], Any]) -> Any:
        """Shapes, types and shardings of the arrays that `create` would make."""
        shapes = jax.eval_shape(create)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            self.state_shardings(shapes),
        )

    def create(self, create: Callable[[], Any]) -> Any:
        """Runs the pure function `create`; its arrays never exist unsharded."""
        shardings = self.state_shardings(jax.eval_shape(create))
        return jax.jit(create, out_shardings=shardings)()

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """Makes the global batch from this process's part, with each example's `index`."""
        local = len(next(iter(batch.values())))
        index = np.arange(local, dtype=np.int32) + local * jax.process_index()
        return {
            name: jax.make_array_from_process_local_data(self.by_example, value)
            for name, value in numbered(batch, index).items()
        }

    def compile(self, step: TrainStep, state: Any) -> CompiledStep:
        """The step on these devices, compiled on the first call; it donates the state.

        `state`: the state or its shapes.
        """
        if self.mode == "pmap":
            return self._mapped(step)
        copied, split = PartitionSpec(), self.by_example.spec

        def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            if step.accumulate == 1:
                return step(state, batch)
            # The compiler would all-reduce the gradients of every part; here each device sums its
            # own, and they are reduced once.
            sums = jax.shard_map(
                partial(step.sums, axis_name=AXES), mesh=self.mesh,
                in_specs=(copied, split, copied), out_specs=copied, check_vma=False,
            )  # fmt: skip
            return step.update(state, sums(state.params, batch, state.step))

        shardings = self.state_shardings(state)
        return jax.jit(
            run,
            in_shardings=(shardings, self.by_example),
            out_shardings=(shardings, self.replicated),
            donate_argnums=0,
        )

    def evaluator(
        self, evaluate: Callable[[Any, Batch, jax.Array], Any], seed: int
    ) -> Callable[[Any, Batch, np.integer], Any]:
        """`(parameters, batch, number of the batch) -> its metrics`, compiled, on every process."""

        def run(params: Any, batch: Batch, number: jax.Array) -> Any:
            return evaluate(params, batch, jax.random.fold_in(named_key(seed, "eval"), number))

        return jax.jit(run, out_shardings=self.replicated)

    def _mapped(self, step: TrainStep) -> CompiledStep:
        mapped = jax.pmap(
            partial(step, axis_name=AXES[0]),
            axis_name=AXES[0],
            in_axes=(None, 0),
            out_axes=None,
            devices=list(self.mesh.devices.flat),
            donate_argnums=0,
        )
        # [B, ...] to [devices, B / devices, ...], without moving rows.
        divide = jax.jit(
            lambda batch: jax.tree.map(
                lambda x: x.reshape(self.size, x.shape[0] // self.size, *x.shape[1:]), batch
            ),
            out_shardings=self.by_example,
        )

        def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            state, metrics = mapped(state, divide(batch))
            if jax.process_count() > 1:
                # pmap returns this process's copies; the rest of this file uses mesh shardings.
                state = jax.tree.map(self._of_the_mesh, state)
            return state, metrics

        return run

    def _of_the_mesh(self, x: jax.Array) -> jax.Array:
        pieces = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, self.replicated, pieces)


def numbered(batch: Mapping[str, Any], index: np.ndarray | None = None) -> dict[str, Any]:
    """The batch with `index`, each example's place in the whole batch (default 0, 1, ...)."""
    if index is None:
        index = np.arange(len(next(iter(batch.values()))), dtype=np.int32)
    return dict(batch) | {"index": index}


def on_host(tree: Any) -> Any:
    """Gathers `tree` as numpy arrays on every process; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def make_parallel(config: Mapping[str, Any], devices: Sequence[Any] | None = None) -> Parallel:
    """The devices of a run.

    Args:
      config: `parallel` ("sharded" or "pmap"), `mesh` (the sizes `data` and `fsdp`; one may be -1
        for all remaining devices, and a single process may use fewer devices than it has),
        `batch_size`, `eval_batch_size` and `accumulate`, which must divide evenly.
      devices: None for all devices.

    Raises:
      ValueError: sizes that do not fit the devices or the batch.
    """
    devices = jax.devices() if devices is None else devices
    mode, mesh = config["parallel"], config["mesh"]
    if mode not in MODES:
        raise ValueError(f"parallel is {mode!r}: use one of {', '.join(MODES)}")
    data, fsdp = _sizes(mesh["data"], mesh["fsdp"], len(devices))
    if mode == "pmap" and fsdp > 1:
        raise ValueError(f"pmap copies all parameters: mesh.fsdp must be 1, got {fsdp}")
    if data * fsdp < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh {data} x {fsdp} leaves some of {len(devices)} devices idle: with several "
            "processes all must be used"
        )
    for name, parts in (("batch_size", config["accumulate"]), ("eval_batch_size", 1)):
        if config[name] % (data * fsdp * parts):
            raise ValueError(
                f"{name} {config[name]} does not divide over {data * fsdp} devices"
                + (f" in {parts} parts" if parts > 1 else "")
                + f": use a multiple of {data * fsdp * parts}, or fewer devices (mesh.data)"
            )
    mesh = jax.make_mesh(
        (data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[: data * fsdp]
    )
    return Parallel(mode, mesh)


def _sizes(data: int, fsdp: int, count: int) -> tuple[int, int]:
    given = [n for n in (data, fsdp) if n != -1]
    known = int(np.prod(given))
    wanted = f"mesh data={data}, fsdp={fsdp} on {count} device{'s' * (count != 1)}"
    if not given or any(n < 1 for n in given):
        raise ValueError(f"{wanted}: sizes are positive, and one of them may be -1")
    if len(given) == 2:
        if known > count:
            raise ValueError(f"{wanted}: there are too few; lower a size or use -1")
        return data, fsdp
    if count % known:
        raise ValueError(f"{wanted}: {known} does not divide {count}; name both sizes")
    return (count // known, fsdp) if data == -1 else (data, count // known)

