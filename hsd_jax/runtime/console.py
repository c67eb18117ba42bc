"""How a command of `python -m` begins and ends: its help, and one line of what is wrong."""

import argparse
import sys
from collections.abc import Callable


def module_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """For the arguments of `python -m name`; its help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


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
