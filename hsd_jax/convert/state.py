"""A checkpoint as it lies on disk: its tensors by name, lazily, and the configuration beside it.

Read are files of `torch.save` (.ckpt, .pth, .pt, .bin), safetensors, shards of either with their
index, and folders of these: a model of diffusers, a pipeline of such models, or one checkpoint
beside its configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from hsd_jax.convert import torch_files
from hsd_jax.convert.pickles import Tensor

# In a folder, the first of these that is there.
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.bin",
)
_SUFFIXES = (".ckpt", ".safetensors", ".pth", ".pt", ".bin")
_MODEL_FOLDERS = {"autoencoder": ("vqvae", "vae"), "unet": ("unet",)}
_MAX_CONFIG = 16 * 2**20
_TENSORS = (Tensor, np.ndarray)


@dataclass(frozen=True)
class State:
    """What was found at a path.

    Attributes:
      tensors: name to tensor, each with `shape` and `dtype` and read by `np.asarray`.
      config: the configuration beside it, parsed; None when there is none.
      source: the file that was read.
    """

    tensors: dict[str, Any]
    config: dict[str, Any] | None
    source: Path


def read(path: str | Path, part: str | None = None) -> State:
    """The checkpoint at `path`.

    Args:
      path: a file, or a folder (see the module's text).
      part: which model of a pipeline's folder, "autoencoder" or "unet".

    Raises:
      ValueError: nothing there, nothing of a known kind, damaged, or a pickle that asks for more
        than tensors.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    file = _in_folder(path, part) if path.is_dir() else path
    if file.name.endswith(".index.json"):
        tensors = _read_shards(file)
    else:
        tensors = _read_file(file)
    config = _beside(file)
    return State(tensors, read_config(config) if config else None, file)


def read_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from a mapping, or from a JSON or YAML file.

    Raises:
      ValueError: no such file, or no mapping in it.
    """
    if isinstance(config, Mapping):
        return dict(config)
    import yaml

    path = Path(config)
    if not path.is_file():
        raise ValueError(f"{path}: no such configuration file")
    if path.stat().st_size > _MAX_CONFIG:
        raise ValueError(f"{path} is too large for a configuration")
    try:
        text = path.read_text(encoding="utf-8")
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds no mapping of settings")
    return loaded


def _in_folder(folder: Path, part: str | None) -> Path:
    """The file of weights in a folder, or in its subfolder for `part`."""
    for sub in ("", *_MODEL_FOLDERS.get(part or "", ())):
        for name in _WEIGHTS:
            if (folder / sub / name).is_file():
                return folder / sub / name
    if part == "perceptual" and (folder / "perceptual.safetensors").is_file():
        return folder / "perceptual.safetensors"  # in a folder of ours
    files = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files[:4])
        raise ValueError(f"{folder} holds several checkpoints ({names}): name one")
    models = [sub for subs in _MODEL_FOLDERS.values() for sub in subs if (folder / sub).is_dir()]
    if models and part is None:
        raise ValueError(f"{folder} holds several models ({', '.join(models)}): name one")
    raise ValueError(f"{folder} holds no checkpoint{f' of {part}' if part else ''}")


def _beside(file: Path) -> Path | None:
    """The configuration of a file of weights: diffusers' JSON, or a YAML of CompVis' trainer."""
    stem = file.name.split(".")[0]
    names = ["config.json", f"{stem}.json", f"{stem}.yaml", "config.yaml", "model.yaml"]
    for path in [file.parent / name for name in names]:
        if path.is_file() and path != file:
            return path
    # logs/RUN/checkpoints/last.ckpt with logs/RUN/configs/DATE-project.yaml
    projects = sorted(file.parent.parent.glob("configs/*-project.yaml"))
    return projects[-1] if projects and file.parent.name == "checkpoints" else None


def _read_shards(index: Path) -> dict[str, Any]:
    files = read_config(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{index} has no weight_map")
    tensors: dict[str, Any] = {}
    for name in sorted(set(map(str, files.values()))):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise ValueError(f"{index} names the file {name!r}, which is not beside it")
        tensors |= _read_file(shard)
    missing = sorted(set(files) - set(tensors))
    if missing:
        raise ValueError(f"{index} names the tensor {missing[0]!r}, which its files lack")
    return tensors


def _read_file(file: Path) -> dict[str, Any]:
    with open(file, "rb") as opened:
        head = opened.read(9)
    if head[8:9] == b"{" or file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _tensors_of(torch_files.load(file), file)


@dataclass(frozen=True)
class _Slice:
    """A tensor in a safetensors file."""

    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.file.get_tensor(self.name), dtype or self.dtype)


_SAFETENSORS = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"},
    **{"U8": "u1", "BOOL": "?", "BF16": ml_dtypes.bfloat16},
}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {
            name: _Slice(file, name, tuple(s.get_shape()), np.dtype(_SAFETENSORS[s.get_dtype()]))
            for name, s in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} holds numbers of type {error}, which cannot be read") from error


def _tensors_of(saved: Any, file: Path) -> dict[str, Any]:
    """The state dict in what `torch.save` wrote: itself, or the dict of tensors inside it."""
    if not isinstance(saved, dict):
        raise ValueError(f"{file} holds a {type(saved).__name__}: save a state dict")
    inner = {key: value for key, value in saved.items() if isinstance(value, dict)}
    if "state_dict" in inner:
        inner = {"state_dict": inner["state_dict"]}
    elif direct := _named_tensors(saved):
        return _without_module(direct)
    found = {key: _named_tensors(value) for key, value in inner.items()}
    found = {key: tensors for key, tensors in found.items() if tensors}
    if len(found) != 1:
        keys = ", ".join(str(key)[:40] for key in (found or saved))
        what = "several dicts of tensors" if found else "no dict of tensors"
        raise ValueError(f"{file} holds {what} (it has {keys or 'nothing'}): save a state dict")
    return _without_module(next(iter(found.values())))


def _named_tensors(items: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in items.items() if isinstance(value, _TENSORS)}


def _without_module(tensors: dict[str, Any]) -> dict[str, Any]:
    """Without the prefix that torch's DataParallel gives to every name."""
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names begin with `prefix`, without it."""
    cut = len(prefix)
    return {name[cut:]: value for name, value in tensors.items() if name.startswith(prefix)}
