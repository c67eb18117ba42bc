"""`python -m hsd_jax.train --config configs/FILE.py:ARG --workdir DIR`: the only training entry.

Idempotent: started again with the same folder, it goes on from the newest checkpoint there.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_EXPORT = flags.DEFINE_bool("export", False, "Write the newest checkpoint's weights and stop.")
flags.mark_flag_as_required("config")


def _main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    from hsd_jax.training import loop  # after the flags: a typo answers at once

    try:
        loop.train(_CONFIG.value.to_dict(), Path(_WORKDIR.value), export_only=_EXPORT.value)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"hsd_jax.train: {error}")


if __name__ == "__main__":
    app.run(_main)
