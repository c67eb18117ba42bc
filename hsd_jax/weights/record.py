"""The json beside a network's parameters: what it may say, checked before anything is built.

A folder of weights may come from anyone. Its jsons choose among the classes of `MODULES` and the
fields of these, by their types and within bounds, and name files in their own folder alone.
"""

import dataclasses
import importlib
import json
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from flax import linen as nn

FORMAT = 1
# Only these can be named by a file: a json chooses among them and never imports anything else.
MODULES = {
    "Autoencoder": "hsd_jax.models.autoencoder",
    "UNet": "hsd_jax.models.unet",
    "SpatialRescaler": "hsd_jax.models.condition",
    "LayoutGenerator": "hsd_jax.models.layout_generator",
    "U2Net": "hsd_jax.models.layout_generator",
    "Parser": "hsd_jax.models.parser",
    "LiteParser": "hsd_jax.models.lite_parser",
    "LandmarkNet": "hsd_jax.models.landmarks",
    "LPIPS": "hsd_jax.models.perceptual",
    "InceptionV3": "hsd_jax.models.inception",
}
_NOT_KEPT = ("parent", "name", "dtype", "remat")  # what a network is, not how it is run
# Of the facts in `extra` that this package reads, the types; there may be others.
_FACTS = {
    **{"labels": str, "size": int, "steps": int | None, "prediction": str, "known": bool},
    **{"latent_mean": list[float], "latent_std": list[float], "schedule": dict, "finish": dict},
    **{"balance": list[float], "complexion": float},
}
_SCHEDULE = {"kind": str, "num_timesteps": int, "start": float, "end": float}
_MAX_BYTES = 2**20
_MAX_WHOLE = 2**16
_MAX_ITEMS = 64
# The least value of fields that count nothing; all others are at least 1, and lists not empty.
_LEAST = {"num_head_channels": -1, "freq_shift": 0, "down_padding": 0}
_LISTS = ("attn_levels", "attention_factors")


def kept_fields(module: type[nn.Module] | nn.Module) -> list[str]:
    """The names of a module's fields that its json has."""
    fields = dataclasses.fields(module)
    return [field.name for field in fields if field.init and field.name not in _NOT_KEPT]


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """A network's json: `module`, `fields`, `extra`, `parameters`, and `files` in this folder.

    Raises:
      ValueError: it is missing, damaged, of another format, or names what it may not.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no {name}: {path} is missing")
    try:
        record = _parsed(path)
        _check(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if record["format"] != FORMAT:
        raise ValueError(f"{path} has format {record['format']}; this version reads {FORMAT}")
    record.setdefault("files", [f"{name}.safetensors"])
    for file in record["files"]:
        if Path(file).name != file:
            raise ValueError(f"{path} names the file {file!r}, which is not beside it")
    return record


def _parsed(path: Path) -> Any:
    """The json, strictly: no key twice, and no number that json has not."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no number")
        return value

    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has over {_MAX_BYTES} bytes")
    text = path.read_text("utf-8")
    return json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)


def _check(record: Any) -> None:
    kinds = {"format": int, "module": str, "fields": dict, "extra": dict, "parameters": int}
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    for key, kind in kinds.items():
        if key not in record:
            raise ValueError(f"it has no {key!r}")
        if type(record[key]) is not kind:
            raise ValueError(f"{key} is {_short(record[key])}")
    if not _fits(record.get("files", []), list[str]):
        raise ValueError(f"files is {_short(record['files'])}")
    _check_values(record["extra"], _FACTS)
    schedule = record["extra"].get("schedule", {})
    if odd := next((key for key in schedule if key not in _SCHEDULE), None):
        raise ValueError(f"schedule has no {_short(odd)}: it has {', '.join(_SCHEDULE)}")
    _check_values(schedule, _SCHEDULE)


def _check_values(values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """ValueError for a value that is not of its key's type; keys without a type are free."""
    for key in types.keys() & values.keys():
        if not _fits(values[key], types[key]):
            raise ValueError(f"{key} is {_short(values[key])}")


def build_module(record: Mapping[str, Any]) -> nn.Module:
    """The network of a json that `read_record` has read.

    Raises:
      ValueError: no such class, no such field, or a field of another type or out of bounds.
    """
    class_name, fields = record["module"], record["fields"]
    if class_name not in MODULES:
        raise ValueError(f"unknown module {_short(class_name)}; known: {', '.join(MODULES)}")
    module_class = getattr(importlib.import_module(MODULES[class_name]), class_name)
    hints, known = typing.get_type_hints(module_class), kept_fields(module_class)
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"{class_name} has no field {_short(name)}: it has {', '.join(known)}")
        least = 0 if name in _LISTS else _LEAST.get(name, 1)
        if not _fits(value, hints[name], least) or (value == [] and name not in _LISTS):
            raise ValueError(f"{class_name}: {name} is {_short(value)}")
    try:
        return module_class(**{name: _frozen(value) for name, value in fields.items()})
    except TypeError as error:
        raise ValueError(f"{class_name}: {error}") from error


def _fits(value: Any, hint: Any, least: int = 1) -> bool:
    """Whether a value of json can stand for a field of this type, whole numbers from `least`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "_fields"):  # a named tuple
        origin, arguments = tuple, tuple(typing.get_type_hints(hint).values())
    if origin in (typing.Union, UnionType):
        return any(_fits(value, option, least) for option in arguments)
    if origin in (tuple, list):
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            return False
        if origin is list or arguments[1:] == (...,):
            return all(_fits(item, arguments[0], least) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= _MAX_WHOLE
    if hint is int:
        return type(value) is int and least <= value <= _MAX_WHOLE
    return type(value) is hint


def _frozen(value: Any) -> Any:
    """Lists as tuples: module fields must be hashable."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    return f"{value!r:.60}"
