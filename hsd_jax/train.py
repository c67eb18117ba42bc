"""`python -m hsd_jax.train --config configs/FILE.py:ARG --workdir DIR`: the only training entry.

The command is idempotent: run again with the same folder, it resumes from the newest checkpoint.
With `--plan TOPOLOGY` it reports what a step would need on that hardware, and does not train.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_EXPORT = flags.DEFINE_bool("export", False, "Write the newest checkpoint's weights and stop.")
_PLAN = flags.DEFINE_string("plan", None, "Hardware to plan for: v5e:4x4, say, or cpu:8.")
_MFU = flags.DEFINE_float("mfu", 0.4, "Use of the hardware that --plan tells times for.", 0.01, 1)
flags.mark_flag_as_required("config")


def _main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if not (_WORKDIR.value or _PLAN.value):
        raise app.UsageError("give --workdir, the folder of the run, or --plan")
    # After the flags: a typo answers at once.
    config = _CONFIG.value.to_dict()
    try:
        if _PLAN.value:
            _plan(config, _PLAN.value)
        else:
            _train(config, Path(_WORKDIR.value or ""))
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"hsd_jax.train: {error}")


def _train(config: dict, workdir: Path) -> None:
    from hsd_jax.training import loop, processes

    processes.join()
    extra = {}
    if config.get("eval_metrics") and not _EXPORT.value:
        # The loop knows nothing of the benchmark; this entry knows both.
        from hsd_jax.evaluation import during_training

        extra = during_training.resolve({**loop.DEFAULTS, **config})
    loop.train(config, workdir, _EXPORT.value, extra)


def _plan(config: dict, topology: str) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")
    count = topology.removeprefix("cpu:")
    if count.isdigit():
        jax.config.update("jax_num_cpu_devices", int(count))
    from hsd_jax.training import dryrun

    print(dryrun.describe(dryrun.dry_run(config, topology), _MFU.value))


if __name__ == "__main__":
    app.run(_main)
