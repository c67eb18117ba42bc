"""Files that are there complete or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name when the block ends without an error.

    Two processes that write the same path do not disturb each other: the last one wins. What the
    block leaves unfinished is removed.

    Raises:
      OSError: the folder cannot be written to, or the disk is full.
    """
    # Of fixed length: a name as long as the file system allows has no room for additions.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".hsd-", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp leaves it to its owner alone; a written file has what the umask gives any other.
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file, see `atomic`."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file in UTF-8, see `atomic`."""
    write_bytes(path, text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # once: it can only be read by setting it, which threads would notice
