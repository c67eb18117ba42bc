"""Features of real pictures, kept on disk: they are the same for every method that is measured."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np


def folder() -> Path:
    """HSD_CACHE_DIR, or hsd_jax in the user's cache folder; not made yet."""
    base = os.environ.get("HSD_CACHE_DIR")
    if not base:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(caches, "hsd_jax")
    return Path(base)


def fingerprint(*facts: Any) -> str:
    """16 hexadecimal digits that tell one list of facts (strings, numbers, bytes) from another."""
    digest = hashlib.sha256()
    for fact in facts:
        data = fact if isinstance(fact, bytes) else repr(fact).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """The SHA-256 of a file, all 64 digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_fingerprint(folder: Path, *parts: str) -> str:
    """Of nets in a folder of weights.

    Raises:
      ValueError: one is missing.
    """
    marks = []
    for part in parts:
        files = [folder / f"{part}.json", *sorted(folder.glob(f"{part}[.-]*safetensors"))]
        if len(files) < 2 or not files[0].is_file():
            raise ValueError(f"{folder} holds no {part}: give a folder with the nets of a swap")
        marks += [file_fingerprint(file) for file in files]
    return fingerprint(*marks)


def source_fingerprint(source: Any) -> str:
    """Of the pictures and layouts of a `hsd_jax.training.input.Source`, however they are stored."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        example = source[index]
        for name in ("image", "layout"):
            values = np.ascontiguousarray(example[name])
            digest.update(f"{values.shape}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def cached(base: Path | None, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """`compute()`, or what an earlier call with this key has left in `base`; None keeps nothing.

    What cannot be read or written is computed: a cache is no reason to fail.
    """
    if base is None:
        return compute()
    path = base / f"features-{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile):
        features = compute()
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=base, suffix=".part", delete=False) as file:
            np.save(file, features)
        os.replace(file.name, path)
    except OSError:
        pass
    return features
