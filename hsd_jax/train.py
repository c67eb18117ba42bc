"""`python -m hsd_jax.train --config configs/FILE.py:ARG --workdir DIR`: the only training entry.

The command is idempotent: run again with the same folder, it resumes from the newest checkpoint.
With `--plan TOPOLOGY` it reports what a step would need on that hardware, and does not train. With
`--sweep FILE.py:INDEX` it trains one of that file's variants of the config in DIR/INDEX; without
an index, one after another.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from hsd_jax.runtime.console import fail, one_line, status_of

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_EXPORT = flags.DEFINE_bool("export", False, "Write the newest checkpoint's weights and stop.")
_PLAN = flags.DEFINE_string("plan", None, "Hardware to plan for: v5e:4x4, say, or cpu:8.")
_SWEEP = flags.DEFINE_string("sweep", None, "FILE.py[:INDEX] with get_sweep(): lists of overrides.")
_MFU = flags.DEFINE_float("mfu", 0.4, "Use of the hardware that --plan tells times for.", 0.01, 1)
flags.mark_flag_as_required("config")

_NAME = "hsd_jax.train"


def _parse(argv: list[str], known: flags.FlagValues = flags.FLAGS) -> list[str]:
    try:
        rest = known(argv)
        _ = hasattr(known["config"].value, "to_dict")  # raises where there is no such file
        return rest
    except Exception as error:  # of the config's file too, which is code
        sys.exit(fail(_NAME, f"error: {_naming(_meaning(error))}"))


def _naming(told: str) -> str:
    """What was wrong, and, where that names no key of those that were given, which these are."""
    given = [argument for argument in sys.argv if argument.startswith("--config.")]
    if not given or any(x.partition("=")[0].removeprefix("--config.") in told for x in given):
        return told
    return f"{told} ({' '.join(given)}: give another value)"


def _meaning(error: Exception) -> str:
    """What was wrong with the arguments, of all that absl and ml_collections say about it."""
    inner = error.args[0] if error.args else error
    if isinstance(inner, KeyError):  # 'stepz'\nDid you mean "steps" instead of "stepz"?
        key, _, hint = str(inner.args[0]).partition("\n")
        return f"{hint} " * bool(hint) + f"The config has no key {key}"
    text = str(error)
    missing = re.search(r"No such file or directory: '(.+?)'", text)
    if missing and any(missing[1] in argument for argument in sys.argv):
        return (
            f"--config: there is no {missing[1]}: run this in a checkout of the repository, for an "
            "installed package has no configs, or name a file of your own"
        )
    if "Traceback" not in text:
        return text if isinstance(error, flags.Error) else f"--config: {one_line(error)}"
    return text[: text.index(":")] + ": " + text.strip().splitlines()[-1]


def _main(argv: list[str]) -> None:
    _silence()
    sys.exit(_ended(lambda: _run(argv[1:])))


def _silence() -> None:
    """Orbax and TFDS tell every step of theirs, and with tracebacks what we tell in one line."""
    if not flags.FLAGS["verbosity"].present and os.environ.get("HSD_DEBUG") != "1":
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's, which reads it when it starts


def _ended(run: Callable[[], None]) -> int:
    """The exit status; of several processes, one that fails ends here."""

    def training() -> None:
        try:
            run()
        except FloatingPointError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            from hsd_jax.training.checks import Unfit

            if not isinstance(error, Unfit):
                raise
            raise ValueError(_naming(one_line(error))) from error

    status = status_of(_NAME, training, "train")
    if status:
        from hsd_jax.training import processes

        processes.leave(status)
    return status


def _run(unknown: list[str]) -> None:
    if unknown:
        raise ValueError(f"unknown arguments: {' '.join(unknown)}")
    if not (_WORKDIR.value or _PLAN.value):
        raise ValueError("give --workdir, the folder of the run, or --plan")
    # After the flags: a typo answers at once.
    workdir = Path(_WORKDIR.value or "")
    if _SWEEP.value:
        _train(_sweep(_SWEEP.value, workdir))
        return
    config = _CONFIG.value.to_dict()
    if _PLAN.value:
        _plan(config, _PLAN.value)
    else:
        _train({workdir: config})


def _sweep(sweep: str, workdir: Path) -> dict[Path, dict]:
    """The config of each of its folders."""
    if _PLAN.value or _EXPORT.value:
        raise ValueError("--sweep trains: leave out --plan and --export")
    from hsd_jax.training.sweep import variants

    made = variants(_CONFIG.value, sweep)
    return {workdir / str(index): config for index, config in made.items()}


def _train(configs: dict[Path, dict]) -> None:
    """Trains one after another; SIGTERM, which ends one before its last step, ends all."""
    from hsd_jax.training import loop, processes

    processes.join()
    with processes.together():  # joined once and left once, however many follow each other
        for workdir, config in configs.items():
            extra = {}
            if config.get("eval_metrics") and not _EXPORT.value:
                # The loop knows nothing of the benchmark; this entry knows both.
                from hsd_jax.evaluation import during_training

                extra = during_training.resolve({**loop.DEFAULTS, **config})
            state = loop.train(config, workdir, _EXPORT.value, extra)
            if state is not None and int(state.step) != config["steps"]:
                return


def _plan(config: dict, topology: str) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")
    count = topology.removeprefix("cpu:")
    if count.isdigit():
        jax.config.update("jax_num_cpu_devices", int(count))
    from hsd_jax.training import dryrun

    print(dryrun.describe(dryrun.dry_run(config, topology), _MFU.value))


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse)
