"""The training loop: the same for every task; its order of operations is a contract."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax import weights
from hsd_jax.training.checkpoint import Checkpoints
from hsd_jax.training.input import eval_batches, load_source, make_dataset
from hsd_jax.training.log import Log
from hsd_jax.training.optimizer import make_optimizer
from hsd_jax.training.rng import named_key
from hsd_jax.training.state import TrainState, create_state, make_step
from hsd_jax.training.tasks import Task, make_task


def train(config: Mapping[str, Any], workdir: Path, export_only: bool = False) -> TrainState:
    """Trains to `config["steps"]`, going on from the newest checkpoint of `workdir`.

    Args:
      config: plain nested dict, as `configs/*.py` make it.
      workdir: receives config.json, metrics.jsonl, samples/, checkpoints/ and, at the end,
        weights/ (the EMA parameters as released files).
      export_only: write the newest checkpoint's weights and train no further.

    Returns:
      The last state.

    Raises:
      ValueError: the config does not fit the task or the data.
      FloatingPointError: the loss became NaN or infinite; the last checkpoint is untouched.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    task = make_task(config)
    optimizer = make_optimizer(config["optimizer"], config["steps"])
    with Checkpoints(workdir / "checkpoints", config["keep"]) as checkpoints:
        state = _start(config, task, optimizer, checkpoints)
        if not export_only:
            state = _run(config, task, optimizer, checkpoints, state, workdir)
    export(task, state, workdir / "weights")
    return state


def export(task: Task, state: TrainState, folder: Path) -> None:
    """Writes the task's nets, EMA parameters, as released files."""
    for name, part in task.parts(state.ema).items():
        weights.save_part(folder, name, part.module, part.params, part.extra)


def _start(config: Mapping[str, Any], task: Task, optimizer: Any, checkpoints: Checkpoints):
    """Order: newest checkpoint, else `init_from` (released weights), else random."""
    init = jax.jit(lambda key: create_state(task.init(key), optimizer))
    state = init(named_key(config["seed"], "init"))
    if checkpoints.latest is not None:
        return checkpoints.restore(state)
    if config["init_from"]:
        params = dict(state.params)
        for name in task.parts(params):
            params[name] = weights.load_part(weights.find(config["init_from"]), name).params
        state = state.replace(params=params, ema=jax.tree.map(jnp.copy, params))
    return state


def _run(
    config: Mapping[str, Any],
    task: Task,
    optimizer: Any,
    checkpoints: Checkpoints,
    state: TrainState,
    workdir: Path,
) -> TrainState:
    step_fn = jax.jit(make_step(task.loss, optimizer, config["ema"]), donate_argnums=0)
    evaluate = jax.jit(task.evaluate)
    data, first = config["data"], int(state.step)
    load = task.source or (lambda folder, split: load_source(folder, split, cache=True))
    sources = tuple(data["sources"]) or None
    batches: Any = make_dataset(
        load(data["dir"], "train"),
        seed=config["seed"],
        batch_size=config["batch_size"],
        transform=task.transform,
        partner=task.partner,
        start_step=first,
        sources=sources,
    )
    test = load(data["dir"], "test")
    log = Log(workdir, first)
    # THE ORDER IS A CONTRACT: batch k makes step k, and a checkpoint of step k saw k batches.
    try:
        for step in range(first, config["steps"]):
            batch = next(batches)
            key = named_key(config["seed"], "train", step)
            state, metrics = step_fn(state, jax.device_put(batch), key)
            done, last = step + 1, step + 1 == config["steps"]
            if done % config["log_every"] == 0 or last:
                _log_metrics(log, done, metrics, config["batch_size"])
            if done % config["save_every"] == 0 or last:
                checkpoints.save(state)
            if done % config["eval_every"] == 0 or last:
                test_batches = eval_batches(
                    test,
                    config["eval_batch_size"],
                    task.eval_transform,
                    partner=task.partner,
                    sources=tuple(data["test_sources"]) or None,
                )
                key = named_key(config["seed"], "eval")
                _log_figures(log, done, evaluate, state, test_batches, key, task)
    finally:
        batches.close()
    return state


def _log_metrics(log: Log, step: int, metrics: Mapping[str, Any], batch_size: int) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{bad[0]} is {values[bad[0]]} at step {step}: lower the learning rate or clip "
            "gradients; the last checkpoint is untouched"
        )
    seconds = log.seconds_per_step(step)
    log.write_scalars(step, values | {"images_per_second": batch_size / seconds})


def _log_figures(
    log: Log, step: int, evaluate: Any, state: TrainState, batches: Any, key: jax.Array, task: Task
) -> None:
    """Test figures of the EMA parameters, and pictures of the first batch."""
    totals: dict[str, np.ndarray] = {}
    for index, batch in enumerate(batches):
        ratios = jax.device_get(evaluate(state.ema, batch, jax.random.fold_in(key, index)))
        for name, ratio in ratios.items():
            totals[name] = totals.get(name, 0) + np.array(ratio, np.float64)
        if index == 0:
            log.write_images(step, task.preview(state.ema, batch, key))
    log.write_scalars(step, {f"test/{n}": a / b for n, (a, b) in totals.items() if b})
    log.seconds_per_step(step)
