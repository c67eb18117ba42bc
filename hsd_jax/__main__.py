"""The script `hsd`, also `python -m hsd_jax`: it may be stopped while it still imports itself."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> int:
    """Runs `hsd` on `sys.argv`; see `hsd_jax.cli.main`."""
    if hasattr(signal, "pthread_sigmask"):
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        for number in stops:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)  # see `process.prepare`
    from hsd_jax.cli import main as run

    return run()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing has been written yet, and an exception could get lost in what is being imported."""
    try:
        os.write(2, b"hsd: stopped, nothing is left half-written\n")
    except OSError:
        pass  # a closed stderr
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
