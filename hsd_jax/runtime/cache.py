"""The cache folder, and fingerprints that name its files."""

import hashlib
import os
from pathlib import Path
from typing import Any


def folder() -> Path | None:
    """HSD_CACHE_DIR, or hsd_jax in the user's cache folder; does not create it.

    None if there is no home, or XDG_CACHE_HOME is relative, which its specification says to ignore.
    """
    if base := os.environ.get("HSD_CACHE_DIR"):
        return Path(base).absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return caches / "hsd_jax" if caches.is_absolute() else None


def fingerprint(*facts: Any) -> str:
    """16 hexadecimal digits that identify a list of facts (strings, numbers, bytes)."""
    digest = hashlib.sha256()
    for fact in facts:
        data = fact if isinstance(fact, bytes) else repr(fact).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """The SHA-256 of a file, all 64 digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
