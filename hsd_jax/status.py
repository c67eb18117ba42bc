"""How a command that `python -m` starts ends: with a status, and one line for what went wrong."""

import sys
from collections.abc import Callable


def status_of(name: str, run: Callable[[], object], extras: str = "") -> int:
    """Runs a command; returns 0, or 2 after one line on stderr.

    Args:
      name: of the module, as it was started.
      run: the command; what is wrong with its arguments or files it raises as ValueError or
        OSError.
      extras: of the installation ("eval,train", say), told where a package is missing.
    """
    try:
        run()
        return 0
    except ModuleNotFoundError as error:
        if not extras:
            raise
        reason = f"{error.name} is missing: pip install 'hsd-jax[{extras}]'"
    except (ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    print(f"{name}: error: {reason}", file=sys.stderr)
    return 2
