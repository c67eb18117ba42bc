"""A checkpoint as it lies on disk: its tensors by name, lazily, and the configuration beside it.

Read are files of `torch.save` (.ckpt, .pth, .pt, .bin), safetensors, shards of either with their
index, and folders of these: a model of diffusers, a pipeline of such models, or one checkpoint
beside its configuration. What a file is, its first bytes tell, and not its ending.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from hsd_jax.convert import torch_files
from hsd_jax.convert.pickles import Array, Tensor

# In a folder, the first of these that is there.
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.bin",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\..*")
_SUFFIXES = (".ckpt", ".safetensors", ".pth", ".pt", ".bin")
_MODEL_FOLDERS = {"autoencoder": ("vqvae", "vae"), "unet": ("unet",)}
_MAX_CONFIG = 16 * 2**20
_DEPTH = 4  # of dicts in dicts in which tensors are looked for
# What people have in place of a checkpoint, by how it begins.
_OTHERS = (
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself (git lfs pull)"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head)",
     "a web page, such as a log-in or an error: download the file itself"),
    (rb"\s*[{\[]", "JSON and no weights: give the file that it is about"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "compressed: unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first (before its version 0.2 torch wrote such "
     "files too: load and save them anew by torch)"),
    (rb"\x89HDF|GGUF", "HDF5 or GGUF: give PyTorch's file, or safetensors"),
    (rb"\0{64}", "empty: its bytes are zeros"),
)  # fmt: skip
# What torch's wrappers of modules add to names: DataParallel, compile, FSDP, Fabric's strategies.
_WRAPPER = re.compile(
    r"(?:(?<=[./])|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|_forward_module)[./]"
)


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
    tensors = _unwrapped(tensors, file)
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
    if files and all(_SHARD.fullmatch(file.name) for file in files):
        raise ValueError(f"{folder} holds shards ({files[0].name}) without their .index.json")
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
        head = opened.read(512)
    if not head:
        raise ValueError(f"{file} is empty: get it again")
    if head[8:9] == b"{":
        return _read_safetensors(file)
    if found := next((what for start, what in _OTHERS if re.match(start, head)), None):
        raise ValueError(f"{file} is {found}")
    return _tensors_of(torch_files.load(file), file)


@dataclass(frozen=True)
class _Slice:
    """A tensor in a safetensors file, from its byte `begin` on."""

    file: Path
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        count = int(np.prod(self.shape, dtype=np.int64))
        values = np.fromfile(self.file, self.dtype, count, offset=self.begin)
        if values.size != count:
            raise ValueError(f"{self.file} has changed while it was read")
        return np.asarray(values.reshape(self.shape), dtype)


_SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "BOOL": "?", "C64": "<c8"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
    **{"F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz},
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Its tensors; their bytes are read here, for safetensors' numpy knows no type of 8 bits."""
    try:
        with safe_open(path, framework="numpy") as file:  # checks sizes and places
            names = list(file.keys())
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {
            name: _Slice(
                path, 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"]),
                np.dtype(_SAFETENSORS[header[name]["dtype"]]),
            )
            for name in names
        }  # fmt: skip
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} holds numbers of type {error}, which cannot be read") from error


def _tensors_of(saved: Any, file: Path) -> dict[str, Any]:
    """The tensors in what `torch.save` wrote: a state dict, or dicts in which there are some.

    Of several the names begin with their keys: {"model": ..., "ema": ...} gives "ema.NAME".
    """
    if not isinstance(saved, dict):
        what = getattr(saved, "kind", type(saved).__name__)
        raise ValueError(f"{file} holds a {what} and no dict of tensors: save a state dict")
    direct = _named_tensors(saved)
    if any("." in name for name in direct):
        return direct
    states = {key: value for key, value in saved.items() if str(key).startswith("state_dict")}
    found = {prefix: ts for prefix, ts in _dicts(states or saved, "", set()) if ts}
    if not found:
        keys = ", ".join(str(key)[:40] for key in saved) or "nothing"
        raise ValueError(f"{file} holds no dict of tensors (it has {keys}): save a state dict")
    if len(found) == 1:
        return next(iter(found.values()))
    return {prefix + name: tensor for prefix, ts in found.items() for name, tensor in ts.items()}


def _dicts(items: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dict's own tensors, and those of the dicts in it, each dict once."""
    seen.add(id(items))
    yield prefix, _named_tensors(items)
    for key, value in items.items():
        inside = isinstance(value, dict) and isinstance(key, str) and id(value) not in seen
        if inside and prefix.count(".") < _DEPTH:
            yield from _dicts(value, f"{prefix}{key}.", seen)


def _named_tensors(items: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): value
        for key, value in items.items()
        if isinstance(value, Tensor) or (isinstance(value, Array) and value.data is not None)
    }


def _unwrapped(tensors: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Names without what wrappers of modules put into them, at any place, and repeatedly."""
    plain = {_WRAPPER.sub("", name): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        twice = next(name for name in tensors if _WRAPPER.search(name))
        raise ValueError(f"{source} holds {twice!r} and the same in another wrapper: save one")
    return plain


def under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names begin with `prefix`, without it."""
    cut = len(prefix)
    return {name[cut:]: value for name, value in tensors.items() if name.startswith(prefix)}
