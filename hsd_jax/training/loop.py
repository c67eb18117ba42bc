"""The training loop of all tasks; the order of its operations is a contract."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.training import freeze, processes, run_folder
from hsd_jax.training.checkpoint import Checkpoints, OtherConfig
from hsd_jax.training.checks import check, refused
from hsd_jax.training.input import EVAL_SPLIT, Records, eval_batches, make_dataset
from hsd_jax.training.log import Log
from hsd_jax.training.observe import Pace, Trace, Watch, hardware_of, model_flops, overview
from hsd_jax.training.optimizer import make_optimizer
from hsd_jax.training.parallel import CompiledStep, Parallel, make_parallel, numbered, on_host
from hsd_jax.training.processes import Stop
from hsd_jax.training.rng import named_key
from hsd_jax.training.state import Batch, Params, TrainState, create_state
from hsd_jax.training.step import TrainStep
from hsd_jax.training.tasks import Task, make_task

# Defaults of a config.
DEFAULTS: Mapping[str, Any] = {
    "parallel": "sharded",  # or "pmap"
    "mesh": {"data": -1, "fsdp": 1},
    "accumulate": 1,  # parts that a batch is processed in
    "freeze": (),  # paths of parameters that are not trained: "autoencoder/encoder"
    "best": "",  # a metric SPLIT/NAME whose best checkpoint is kept
    "best_mode": "max",  # or "min"
    "eval_metrics": (),  # additional metrics (hsd_jax.evaluation.during_training)
    "eval_weights": "",  # the weights that they need, "" for the embedded
    "profile": 0,  # steps of an XProf trace
}
# The first steps of a run, which compile, are not traced.
_UNTRACED = 3

# EMA parameters on the host -> metrics of an evaluation, the same on every process.
ExtraMetric = Callable[[Params], Mapping[str, float]]


def train(
    config: Mapping[str, Any],
    workdir: Path,
    export_only: bool = False,
    extra_metrics: Mapping[str, ExtraMetric] | None = None,
) -> TrainState | None:
    """Trains until `config["steps"]`, from the newest checkpoint of `workdir` on.

    SIGTERM saves and returns early; the next call resumes the run. A start that is refused changes
    nothing in `workdir`.

    Args:
      config: a plain nested dict as in `configs/*.py`; missing keys are filled from `DEFAULTS`.
      workdir: receives config.json, metrics.jsonl (the same however often the run was stopped),
        timing.jsonl, parameters.txt, samples/, tensorboard/, checkpoints/ and, at the end,
        weights/ (the EMA parameters as released files) and weights_best/ where `best` is set. With
        several processes it lies on a disk that all see.
      export_only: whether to only write the newest checkpoint's weights.
      extra_metrics: the metrics of `eval_metrics`, by name.

    Returns:
      The last state; None with `export_only`, which only reads the EMA.

    Raises:
      ValueError: if the config does not fit the task, the devices, the data or the checkpoints; or
        another process trains in `workdir`.
      OSError: if what training needs on the disk cannot be read or written.
      FloatingPointError: if a metric became NaN or infinite; the last checkpoint is untouched.
    """
    config, extra = {**DEFAULTS, **config}, extra_metrics or {}
    if lacking := set(config["eval_metrics"]) - set(extra):
        raise ValueError(
            f"eval_metrics names {min(lacking)!r}, which was not given: use one of "
            f"{', '.join(extra) or 'none'}, or train by python -m hsd_jax.train"
        )
    planned = prepare(config)
    best = config["best_mode"] if config["best"] else ""
    state = None
    with (
        run_folder.locked(workdir),
        Checkpoints(workdir / "checkpoints", config["keep"], best) as checkpoints,
    ):
        run = _Run(config, planned.task, planned.parallel, workdir, checkpoints, extra)
        if not export_only:
            state, finished = run.run()
            if not finished:
                return state
        checkpoints.wait()
        if export_only or checkpoints.latest is not None:  # a run of no steps saves nothing
            run.release()
    return state


@dataclass
class Training:
    """The task, step and devices of a config, without a folder or data."""

    config: Mapping[str, Any]
    task: Task
    parallel: Parallel

    def __post_init__(self) -> None:
        config = self.config
        optimizer = make_optimizer(config["optimizer"], config["steps"])
        loss, still = self.task.loss, tuple(config["freeze"])
        if still:
            loss = freeze.without_gradient(loss, still)
            optimizer = freeze.without_updates(optimizer, still)
        self.optimizer = optimizer
        self.step = TrainStep(loss, optimizer, config["ema"], config["seed"], config["accumulate"])

    def create(self) -> TrainState:
        """The state at step 0; pure."""
        params = self.task.init(named_key(self.config["seed"], "init"))
        return create_state(params, self.optimizer)

    def compile(self, state: Any) -> CompiledStep:
        """The step on this run's devices; the first call compiles it."""
        return self.parallel.compile(self.step, state)


def prepare(config: Mapping[str, Any]) -> Training:
    """The training of a config, whose networks can be built.

    Args:
      config: complete, with `DEFAULTS`.

    Raises:
      ValueError: something in it is unknown, of a wrong type, or does not fit the rest.
    """
    check(config)
    with refused():
        training = Training(config, make_task(config), make_parallel(config))
        training.parallel.abstract(training.create)
    return training


@dataclass
class _Run(Training):
    """One run in its folder."""

    workdir: Path
    checkpoints: Checkpoints
    extra_metrics: Mapping[str, ExtraMetric]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eval_split = self.config["data"].get("eval_split", EVAL_SPLIT)
        self.evaluate = self.parallel.evaluator(self.task.evaluate, self.config["seed"])

    def start(self) -> TrainState:
        """Starts from the newest checkpoint, `init_from` (released weights) or random values."""
        if self.checkpoints.latest is not None:
            changed = run_folder.changed(self.workdir, self.config)
            try:
                state = self.checkpoints.restore(self.parallel.abstract(self.create))
            except OtherConfig as error:
                was = f" ({changed})" if changed else ""
                raise ValueError(f"{error}{was}: give that config, or another --workdir") from None
            if (step := int(state.step)) > self.config["steps"]:
                raise ValueError(
                    f"the checkpoint in {self.workdir} is of step {step}, beyond steps "
                    f"{self.config['steps']}: give more --config.steps, or another --workdir"
                )
            if changed:
                processes.say(f"goes on with a changed config: {changed}")
            return state
        state = self.parallel.create(self.create)
        if self.config["init_from"]:
            params = dict(state.params)
            folder = weights.find(self.config["init_from"])
            for name in self.task.parts(params):
                params[name] = weights.load_part(folder, name).params
            params = jax.device_put(params, self.parallel.state_shardings(params))
            state = state.replace(params=params, ema=jax.tree.map(jnp.copy, params))
        return state

    def run(self) -> tuple[TrainState, bool]:
        """Runs; returns the last state, and whether the training is complete."""
        config, data, load = self.config, self.config["data"], self.task.source
        examples, held_out = load("train"), load(self.eval_split)
        state = self.start()
        first = int(state.step)
        if jax.process_index() == 0:
            run_folder.write_config(self.workdir, config)
        log = Log(self.workdir, first, config["steps"], jax.process_index() == 0)
        _announce(log, self.parallel, state, self.task.note)
        batches: Any = make_dataset(
            examples,
            seed=config["seed"],
            batch_size=config["batch_size"],
            transform=self.task.transform,
            partner=self.task.partner,
            start_step=first,
            sources=tuple(data["sources"]) or None,
            **_this_process(),
        )
        try:
            with Stop() as stop:
                return self._steps(state, batches, held_out, log, stop)
        finally:
            batches.close()
            log.close()

    def _steps(
        self, state: TrainState, batches: Iterator[Any], held_out: Records, log: Log, stop: Stop
    ) -> tuple[TrainState, bool]:
        config, first = self.config, int(state.step)
        run, watch = self.compile(state), Watch()
        pace = Pace(first, config["steps"], config["batch_size"])
        trace = Trace(self.workdir / "profile", first + _UNTRACED, config["profile"])
        stopping, done = False, first
        if first and self._due("eval_every", first) and not _agreed(log.evaluated):
            # It was stopped before it could.
            stopping = self._evaluate(state, first, held_out, log, stop) is None
        # THE ORDER IS A CONTRACT: batch k makes step k, and a checkpoint of step k saw k batches.
        # Whatever is said about step k is written before its checkpoint, so that a run killed in
        # between says it again.
        while done < config["steps"] and not stopping:
            trace.before(done)
            done += 1
            # The first step shows whether data and networks fit.
            with refused() if done == first + 1 else nullcontext():
                batch = self.parallel.put(next(batches))
            if done == first + 1:
                pace.flops = self._model_flops(state, batch)
                pace.restart(first)
            with (
                refused() if done == first + 1 else nullcontext(),
                jax.transfer_guard("disallow"),
            ):
                state, metrics = run(state, batch)
            watch.add(done, metrics)
            if done - first <= _UNTRACED:  # they are told one by one
                jax.block_until_ready(metrics)
            trace.after(done, metrics)
            stopping = stop.asked()
            logs, evaluates, saves = (
                self._due(every, done) for every in ("log_every", "eval_every", "save_every")
            )
            if logs or evaluates or saves or stopping:
                values = watch.look()
            if logs:
                log.write_scalars(done, values, pace.report(done))
            log.progress(done)
            evaluated = {}
            if evaluates and not stopping:
                evaluated = self._evaluate(state, done, held_out, log, stop)
                stopping = evaluated is None
                pace.restart(done)
            rating = _rating(evaluated or {}, config["best"])
            if saves or stopping or rating is not None:
                self.checkpoints.save(state, done, rating)
        trace.close()
        if stopping:
            self.checkpoints.wait()
            log.write_line(f"told to stop: saved step {done}; started again, the run goes on")
        return state, not stopping

    def _due(self, every: str, step: int) -> bool:
        return step % self.config[every] == 0 or step == self.config["steps"]

    def _evaluate(
        self, state: TrainState, step: int, held_out: Records, log: Log, stop: Stop
    ) -> dict[str, float] | None:
        """Evaluates the EMA parameters on `held_out` and saves images of its first batch.

        Returns None when told to stop: the next start evaluates.
        """
        config, task = self.config, self.task
        batches = eval_batches(
            held_out,
            config["eval_batch_size"],
            task.eval_transform,
            partner=task.partner,
            sources=tuple(config["data"]["test_sources"]) or None,
            **_this_process(),
        )
        totals: dict[str, np.ndarray] = {}
        ema = state.ema if jax.process_count() == 1 else on_host(state.ema)
        for number, batch in enumerate(batches):
            if stop.asked(now=True):
                return None
            log.remark(f"step {step:>7}  evaluating, {number} batches are done")
            ratios = self.evaluate(state.ema, self.parallel.put(batch), np.int32(number))
            for name, ratio in jax.device_get(ratios).items():
                totals[name] = totals.get(name, 0) + np.array(ratio, np.float64)
            if number == 0 and jax.process_index() == 0:
                key = named_key(config["seed"], "eval")
                log.write_images(step, task.preview(ema, numbered(batch), key))
        metrics = {name: float(a / b) for name, (a, b) in totals.items() if b}
        for name in config["eval_metrics"]:
            if stop.asked(now=True):
                return None
            metrics |= self.extra_metrics[name](ema)
        metrics = {f"{self.eval_split}/{name}": value for name, value in metrics.items()}
        log.write_scalars(step, metrics)
        return metrics

    def _model_flops(self, state: TrainState, batch: Batch) -> float | None:
        """FLOPs of a step if the device's peak is known; traces the step a second time."""
        if hardware_of(jax.devices()[0].device_kind) is None:
            return None
        return model_flops(self.step, state, batch)

    def release(self) -> None:
        """Writes the newest EMA to weights/ and that of the best metric to weights_best/."""
        like = self.parallel.abstract(self.create)
        folders: dict[str, int | None] = {"weights": None}  # the newest
        if self.checkpoints.best is not None:
            folders["weights_best"] = self.checkpoints.best
        for folder, step in folders.items():
            ema = on_host(self.checkpoints.restore_ema(like, step))
            if jax.process_index() == 0:
                for name, part in self.task.parts(ema).items():
                    path = self.workdir / folder
                    weights.save_part(path, name, part.module, part.params, part.extra)


def _this_process() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def _agreed(value: bool) -> bool:
    """Broadcasts the first process's `value` to every process."""
    return processes.first_says(lambda: "yes" if value else "") == "yes"


def _rating(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric by which checkpoints are compared."""
    if not name or not metrics:
        return None
    if name not in metrics:
        raise ValueError(f"best is {name!r}: use one of {', '.join(sorted(metrics))}")
    return metrics[name]


def _announce(log: Log, parallel: Parallel, state: TrainState, note: str) -> None:
    table = overview(state.params)
    log.write_text("parameters", table)
    sizes = ", ".join(f"{name} {n}" for name, n in parallel.mesh.shape.items())
    kind = parallel.mesh.devices.flat[0].device_kind
    log.write_line(
        f"{table.splitlines()[-1]} (parameters.txt); {parallel.size} x {kind}, "
        f"{parallel.mode}, {sizes}; from step {int(state.step)}"
    )
    if note:
        log.write_line(note)
