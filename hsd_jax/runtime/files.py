"""Atomic writes of files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it if the block ends without an error.

    Processes that write the same path do not disturb each other; the last one wins. If the block
    fails, the temporary file is removed.

    Raises:
      OSError: the folder cannot be written to, or the disk is full.
    """
    # Not `path` with a suffix, which might exceed the file system's longest name.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".hsd-", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; written files get the usual permissions.
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Writes a block into a folder, or where it is to be made, and removes it.

    Raises:
      ValueError: it cannot be written to, or the disk is full.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(4096))
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{there} cannot be written to ({reason}): give another folder") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8 atomically; names of files in it may be any bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # once: it can only be read by setting it, which threads would notice
