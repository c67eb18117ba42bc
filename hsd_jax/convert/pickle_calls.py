"""The calls and names that a pickle of weights may ask for, each as a function of our own.

Nothing here imports what a file names; what is not listed is refused by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_MAX_RANK = 16

STORAGES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
"""Element types by the class that a file names."""


class Refused(ValueError):
    """A pickle that is damaged, or that asks for more than weights need."""


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; never imported."""

    text: str


@dataclass(frozen=True)
class Unread:
    """A value that weights do not need, such as a numpy scalar among a trainer's notes."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    dtype: np.dtype
    key: str
    numel: int


@dataclass(frozen=True)
class TensorSpec:
    """A strided view of a storage, within its bounds; strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def refuse(name: str) -> Refused:
    return Refused(
        f"its pickle asks for {name[:100]!r}, which no weights need; nothing of it was run. If you "
        "trust its origin, save its tensors alone where torch is: "
        "torch.save(torch.load(SRC, weights_only=False)['state_dict'], 'weights.pth')"
    )


# What may be called. Each takes the arguments of the torch or Python function that it stands for.


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorSpec:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor in it has no storage")
    shape, strides = _whole(shape, "size"), _whole(strides, "stride")
    (offset,) = _whole((offset,), "offset")
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise Refused(f"a tensor in it has {len(shape)} sizes and {len(strides)} strides")
    count = 1
    for size in shape:
        count *= size
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
    if count > storage.numel or last >= max(storage.numel, 1):
        raise Refused(
            f"a tensor of shape {list(shape)[:8]} in it reaches outside its {storage.numel} numbers"
        )
    return TensorSpec(storage, offset, shape, strides)


def _whole(values: Any, what: str) -> tuple[int, ...]:
    """`values` as a tuple of int, none negative."""
    values = tuple(values)
    if any(type(value) is not int or not 0 <= value < 2**62 for value in values):
        raise Refused(f"a tensor in it has a {what} that is no whole number from 0")
    return values


def _parameter(data: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter: the tensor itself."""
    return data


def _with_attributes(function: Any, kind: Any, args: Any, _state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor to which somebody gave attributes."""
    if kind not in (Name("torch.Tensor"), Name("torch.nn.parameter.Parameter")):
        raise refuse(kind.text if isinstance(kind, Name) else "an unknown kind of tensor")
    return call(function, args)


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict: dicts keep their order too."""
    return {key_of(key): value for key, value in pairs}


def _unread(kind: str) -> Callable[..., Unread]:
    return lambda *_: Unread(kind)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": tuple,
    **{
        name: _unread(name)
        for name in (
            "torch.device",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "_codecs.encode",
            "builtins.set",
            "__builtin__.set",
        )
    },
}

# May be named, never called: element types, and the classes by which Lightning keys its notes.
_NAMES = {
    *STORAGES,
    "numpy.ndarray",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    *(
        f"torch.{dtype}"
        for dtype in (
            *("float16", "float32", "float64", "bfloat16"),
            *("int8", "int16", "int32", "int64", "uint8", "bool"),
        )
    ),
}
_NAMED_PACKAGES = ("pytorch_lightning.", "lightning.", "lightning_fabric.")


def name_of(module: str, qualified: str) -> Name:
    text = f"{module}.{qualified}"
    if text in _CALLS or text in _NAMES or text.startswith(_NAMED_PACKAGES):
        return Name(text)
    raise refuse(text)


def call(function: Any, args: Any) -> Any:
    if not isinstance(function, Name) or function.text not in _CALLS:
        raise refuse(function.text if isinstance(function, Name) else "a call of a value")
    return _CALLS[function.text](*args)


def key_of(key: Any) -> Any:
    """A key of a dict: flat, for the hash of a deeply nested tuple can exhaust the stack."""
    if type(key) in (str, bytes, int, float, bool, type(None), Name):
        return key
    if type(key) is tuple and all(type(part) in (str, int) for part in key):
        return key
    raise Refused(f"a dict in its pickle has a key of type {type(key).__name__}")


def storage_of(persistent: Any) -> Storage:
    """The tuple by which torch refers to numbers outside the pickle."""
    if not isinstance(persistent, tuple) or len(persistent) < 5 or persistent[0] != "storage":
        raise Refused("its pickle refers to something that is no storage")
    _, kind, key, _device, numel = persistent[:5]
    if len(persistent) > 5 and persistent[5] is not None:
        raise Refused("a storage in it is a view of another, as torch before 0.4 wrote them")
    if not isinstance(kind, Name) or kind.text not in STORAGES:
        raise Refused(f"a storage in it is of {getattr(kind, 'text', None)!r:.80}, not of numbers")
    (numel,) = _whole((numel,), "number of elements")
    return Storage(STORAGES[kind.text], str(key), numel)
