"""Released weights: a folder with a safetensors file and a json per network, and no code.

`NAME.safetensors` holds the parameters by path ("mid/conv0/kernel"), `NAME.json` the module's
class, its fields, and metadata (label set, latent scale, schedule). Networks larger than
`SHARD_BYTES` are split into NAME-00001-of-0000N.safetensors, which the json lists.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hsd_jax.runtime import cache
from hsd_jax.weights.record import FORMAT, build_module, kept_fields, read_record

_LFS = b"version https://git-lfs"
DEFAULT = "embedded"
SHARD_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Loaded:
    """A network read from a folder: `module.apply({"params": params}, ...)` runs it."""

    module: Any
    params: Any
    extra: dict[str, Any]


def find(name_or_dir: str | Path = DEFAULT) -> Path:
    """Finds a folder of weights by the name of shipped weights or by its path.

    Raises:
      ValueError: neither a shipped name nor a folder.
    """
    here = Path(__file__).parent
    shipped = sorted(path.parent.name for path in here.glob("*/unet.json"))
    if str(name_or_dir) in shipped:
        return here / str(name_or_dir)
    folder = Path(name_or_dir)
    if not folder.is_dir():
        raise ValueError(
            f"no weights {str(name_or_dir)!r}: give a folder, or one of {', '.join(shipped)}"
        )
    return folder


def fingerprint(folder: Path, *parts: str) -> str:
    """16 hexadecimal digits that identify the networks `parts` of a folder; all if none is given.

    Raises:
      ValueError: if one is missing.
    """
    files = [] if parts else sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    for part in parts:
        found = [folder / f"{part}.json", *sorted(folder.glob(f"{part}[.-]*safetensors"))]
        if len(found) < 2 or not found[0].is_file():
            raise ValueError(f"{folder} holds no {part}: give a folder with the networks of a swap")
        files += found
    return cache.fingerprint(*(cache.file_fingerprint(file) for file in files))


def save_part(
    folder: Path,
    name: str,
    module: nn.Module,
    params: Any,
    extra: Mapping[str, Any],
    dtype: Any = np.float16,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `name`.safetensors and `name`.json into `folder`, parameters as `dtype`.

    Memory holds one shard besides `params`. The json comes last: without it there is no network.

    Raises:
      ValueError: a parameter is not finite as `dtype`; nothing is written then.
    """
    tensors: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    bad = next((p for p, x in tensors.items() if not np.isfinite(_cast(x, dtype)).all()), None)
    if bad:
        raise ValueError(f"{name}: {bad} is not finite as {np.dtype(dtype).name}")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, np.dtype(dtype).itemsize, shard_bytes)
    files = [f"{name}.safetensors"]
    if len(shards) > 1:
        total = len(shards)
        files = [f"{name}-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)]
    for file, paths in zip(files, shards, strict=True):
        save_file({path: _cast(tensors[path], dtype) for path in paths}, folder / file)
        (folder / file).chmod(0o644)  # safetensors makes it private
    record = {
        "format": FORMAT,
        "module": type(module).__name__,
        "fields": {field: getattr(module, field) for field in kept_fields(module)},
        "extra": dict(extra),
        "parameters": int(sum(value.size for value in tensors.values())),
    }
    if len(files) > 1:
        record["files"] = files
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def _cast(value: Any, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # overflow is reported by name
        return np.asarray(value).astype(dtype, copy=False)


def _shards(tensors: Mapping[str, Any], itemsize: int, limit: int) -> list[list[str]]:
    """Paths in groups of at most `limit` bytes, or of one tensor."""
    shards: list[list[str]] = [[]]
    filled = 0
    for path, value in tensors.items():
        size = value.size * itemsize
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(path)
        filled += size
    return shards


def has_part(folder: Path, name: str) -> bool:
    """Whether a folder of weights has such a network; only newer ones have landmarks."""
    return (folder / f"{name}.json").is_file()


def load_part(folder: Path, name: str) -> Loaded:
    """Reads a network: float32 parameters, whatever the file's type.

    Raises:
      ValueError: a file is missing, damaged, or of another format.
    """
    path, record = folder / f"{name}.json", read_record(folder, name)
    tensors: dict[str, np.ndarray] = {}
    try:
        module = build_module(record)
        for shard in record["files"]:
            if not (folder / shard).is_file():
                raise ValueError(f"{folder / shard} is missing")
            with open(folder / shard, "rb") as file:
                if file.read(len(_LFS)) == _LFS:
                    raise ValueError(f"{folder / shard} is a Git LFS pointer: git lfs pull")
            with safe_open(folder / shard, framework="numpy") as file:
                for key in file.keys():
                    # Cast by numpy: JAX would compile a program for every shape.
                    tensors[key] = file.get_tensor(key).astype(np.float32, copy=False)
        params = unflatten_dict(tensors, sep="/")
    except (ValueError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise ValueError(f"{path} or its safetensors is damaged: {error}") from error
    size = sum(tensor.size for tensor in tensors.values())
    if size != record["parameters"]:
        raise ValueError(
            f"{path} tells of {record['parameters']} parameters, its safetensors has {size}: "
            "they are of two networks"
        )
    return Loaded(module, jax.device_put(params), record["extra"])
