"""What a pickle of weights says, read without running any of it and without torch.

A pickle is a program for a stack machine whose instructions can call anything that Python can
import. This is another machine for the same programs. It never imports what a file names, and knows
the calls that saved weights need, each as a function of our own. Of any other object (a trainer's
arguments, paths, callbacks) nothing is made but an `Unread` that has its name. Tensors stay in the
file until they are asked for.

Python's own Unpickler, restricted, does not do: it hashes the keys of dicts before anything can
look at them, and a tuple in a tuple in a tuple, a million deep, then ends the process.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_MAX_RANK = 16
_MAX_REPEATED = 2**24  # elements of a tensor that has more than its storage, by strides of 0
_ELEMENTS = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16},
    **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"},
    **{"ComplexFloat": "<c8", "ComplexDouble": "<c16"},
}
_STORAGES = {f"torch.{name}Storage": np.dtype(kind) for name, kind in _ELEMENTS.items()}
# For the types of elements that have no storage of their own in torch.
_STORAGES["torch.storage.UntypedStorage"] = np.dtype("u1")
_LATE = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
_LATE_ELEMENTS = {
    **{f"torch.{name}": np.dtype(getattr(ml_dtypes, name)) for name in _LATE},
    **{f"torch.uint{8 * size}": np.dtype(f"<u{size}") for size in (2, 4, 8)},
}


class Refused(ValueError):
    """A pickle that is damaged, or that asks for more than weights need."""


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; never imported."""

    text: str


@dataclass(frozen=True)
class Unread:
    """An object that weights do not need and that is not made: a path, a callback, a number."""

    kind: str


@dataclass
class Storage:
    """A run of numbers in the file; `source.read(storage)` gives all of them, `[numel]`."""

    dtype: np.dtype
    key: str
    numel: int
    source: Any = None


class Tensor:
    """A strided view of a storage, in elements; it stays in the file until `np.asarray` asks."""

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: np.dtype | None = None,
    ):
        """`dtype`: of the elements, where the storage is one of bytes."""
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.dtype = storage.dtype if dtype is None else dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A fresh array each time; ValueError when the file is damaged there."""
        values, size = self.storage.source.read(self.storage), self.dtype.itemsize
        if not math.prod(self.shape):
            return np.empty(self.shape, dtype or self.dtype)
        strides = [stride * size for stride in self.strides]
        view = np.ndarray(self.shape, self.dtype, values, self.offset * size, strides)
        return np.array(view, dtype or self.dtype)


@dataclass(eq=False)
class Array:
    """An array of numpy within the pickle; without `data` unless its numbers are floats."""

    shape: tuple[int, ...] = ()
    dtype: np.dtype = np.dtype("<f4")
    fortran: bool = False
    data: "bytes | bytearray | _Latin1 | None" = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A fresh array each time."""
        if self.data is None:
            raise ValueError("an array in it holds no floats")
        data = self.data.text.encode("latin1") if isinstance(self.data, _Latin1) else self.data
        values = np.frombuffer(data, self.dtype)
        return np.array(values.reshape(self.shape, order="F" if self.fortran else "C"), dtype)


@dataclass(frozen=True)
class _Latin1:
    """Bytes as a text, as pickles of protocol 2 have them; encoded when they are needed."""

    text: str


@dataclass(eq=False)
class _Dtype:
    """numpy's type of elements: "f4", and its order of bytes."""

    name: Any
    order: Any = None


def load(stream: Any, storages: list[Storage] | None = None) -> Any:
    """The object that one pickle in `stream` describes; the stream is left behind its end.

    Args:
      stream: with `read`, `readline` and `tell`; `read` must not allocate more than there is.
      storages: takes up those that it refers to; the caller tells their sources.

    Returns:
      Dicts, lists, tuples and scalars, with `Tensor` for torch's tensors, `Array` for numpy's
      arrays, and `Name` and `Unread` for what is never made.

    Raises:
      Refused: it is damaged, names what takes over a machine, or has tensors of an unknown kind.
    """
    try:
        return _run(stream, [] if storages is None else storages)
    except Refused:
        raise
    except Exception as error:  # a hostile file can make the decoder fail in any way
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Refused(f"its pickle is damaged ({' '.join(detail.split())[:200]})") from error


def loads(data: bytes, storages: list[Storage] | None = None) -> Any:
    """`load` of bytes."""
    return load(io.BytesIO(data), storages)


# Instructions whose argument is the value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _run(stream: Any, storages: list[Storage]) -> Any:
    """The stack machine."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below each open MARK
    memo: dict[int, Any] = {}
    arg: Any
    for opcode, arg, _ in pickletools.genops(stream):
        match opcode.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marked.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                stack = marked.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if arg is None else int(arg)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[int(arg)])
            case "GLOBAL":
                stack.append(_name(arg.replace(" ", ".", 1)))
            case "INST":
                stack = marked.pop()
                stack.append(_new(_name(arg.replace(" ", ".", 1))))
            case "OBJ":
                kind, *_ = stack
                stack = marked.pop()
                stack.append(_new(kind))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
                if isinstance(stack[-1], Storage):
                    storages.append(stack[-1])
            case name if name in _VALUES:
                stack.append(arg)
            case name if name in _OPERATIONS:
                operands = []
                for all_since_mark in _OPERANDS[name]:
                    operands.append(stack if all_since_mark else stack.pop())
                    stack = marked.pop() if all_since_mark else stack
                stack.append(_OPERATIONS[name](*operands[::-1]))
            case name:
                raise _refuse(f"the instruction {name}")
    raise Refused("its pickle ends too early")


def _refuse(name: str) -> Refused:
    return Refused(
        f"its pickle asks for {name[:100]!r}, which no weights need; nothing of it was run. If you "
        "trust its origin, save its tensors alone where torch is: "
        "torch.save(torch.load(SRC, weights_only=False)['state_dict'], 'weights.pth')"
    )


def _name(text: str) -> Name:
    root, _, rest = text.partition(".")
    hostile = root in _HOSTILE or (root in ("builtins", "__builtin__") and rest not in _BUILTINS)
    if hostile or not re.fullmatch(r"[\w.<>]+", text):
        raise _refuse(text)
    return Name(text)


def _call(function: Any, args: Any) -> Any:
    if isinstance(function, Unread):
        return function
    if not isinstance(function, Name):
        raise _refuse("a call of a value")
    if function.text in _CALLS:
        return _CALLS[function.text](*args)
    if function.text.startswith(("torch._utils.", "torch._tensor.")):
        raise _refuse(function.text)  # a tensor: without it the weights would not be whole
    return Unread(function.text)


def _new(kind: Any, *_: Any) -> Unread:
    """An instance of a class; we make none."""
    if not isinstance(kind, Name):
        raise _refuse("an instance of a value")
    return Unread(kind.text)


def _build(target: Any, state: Any) -> Any:
    """An object's state: of numpy's arrays; of what is not kept, and a state dict's `_metadata`."""
    if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1:
        target.order = state[1]
    elif isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5:
        _fill(target, *state[1:])
    elif type(target) not in (_Dtype, Array, Unread, dict):
        raise _refuse(f"the state of a {type(target).__name__}")
    return target


def _extend(target: Any, items: list[Any]) -> Any:
    if _is_made(target, list):
        target.extend(items)
    return target


def _set(target: Any, items: list[Any]) -> Any:
    if _is_made(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
    return target


def _is_made(target: Any, kind: type) -> bool:
    """Whether `target` is one to be filled; Refused unless it is that or unread."""
    if type(target) not in (kind, Unread):
        raise _refuse(f"to fill a {type(target).__name__} as a {kind.__name__}")
    return type(target) is kind


def _key(key: Any) -> Any:
    """A key of a dict: flat, for the hash of a deeply nested tuple can exhaust the stack."""
    if type(key) in (str, bytes, int, float, bool, type(None), Name, Unread):
        return key
    if type(key) is tuple and all(type(part) in (str, int) for part in key):
        return key
    raise Refused(f"a dict in its pickle has a key of type {type(key).__name__}")


def _storage(persistent: Any) -> Storage | Name:
    """The tuple by which torch refers to numbers outside the pickle, or to a module's class."""
    match persistent:
        case ("module", Name() as kind, *_):
            return kind
    if not isinstance(persistent, tuple) or len(persistent) < 5 or persistent[0] != "storage":
        raise Refused("its pickle refers to something that is no storage")
    _, kind, key, _device, numel = persistent[:5]
    if len(persistent) > 5 and persistent[5] is not None:
        raise Refused("a storage in it is a view of another, as torch before 0.4 wrote them")
    if not isinstance(kind, Name) or kind.text not in _STORAGES:
        raise Refused(f"a storage in it is of {getattr(kind, 'text', None)!r:.80}, not of numbers")
    (numel,) = _whole((numel,), "number of elements")
    return Storage(_STORAGES[kind.text], str(key), numel)


# What instructions make of what they take from the stack; pickletools tells what that is.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "TUPLE": tuple,
    **dict.fromkeys(("TUPLE1", "TUPLE2", "TUPLE3"), lambda *items: items),
    "EMPTY_LIST": list,
    "LIST": list,
    "APPEND": lambda target, item: _extend(target, [item]),
    "APPENDS": _extend,
    "EMPTY_DICT": dict,
    "DICT": lambda items: _set({}, items),
    "SETITEM": lambda target, key, value: _set(target, [key, value]),
    "SETITEMS": _set,
    "EMPTY_SET": lambda: Unread("builtins.set"),
    "ADDITEMS": lambda target, _: target,
    "FROZENSET": lambda _: Unread("builtins.set"),
    "STACK_GLOBAL": lambda module, qualified: _name(f"{module}.{qualified}"),
    "REDUCE": _call,
    "BUILD": _build,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new,
}
# Of what each takes, from the top on: whether it is all since the last MARK.
_OPERANDS = {
    opcode.name: [
        kind is pickletools.stackslice
        for kind in reversed(opcode.stack_before)
        if kind is not pickletools.markobject
    ]
    for opcode in pickletools.opcodes
}


# What may be called. Each takes the arguments of the torch or Python function that it stands for.


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    return _view(storage, offset, shape, strides)


def _late_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v3, whose fourth from here is the type of its elements."""
    kind = rest[2] if len(rest) > 2 else None
    if not isinstance(kind, Name) or kind.text not in _LATE_ELEMENTS:
        raise _refuse(kind.text if isinstance(kind, Name) else "elements of an unknown type")
    return _view(storage, offset, shape, strides, _LATE_ELEMENTS[kind.text])


def _view(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None
) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refused("a tensor in it has no storage")
    shape, strides = _whole(shape, "size"), _whole(strides, "stride")
    (offset,) = _whole((offset,), "offset")
    if len(shape) != len(strides):
        raise Refused(f"a tensor in it has {len(shape)} sizes and {len(strides)} strides")
    numel, rest = divmod(storage.numel, 1 if dtype is None else dtype.itemsize)
    if rest:
        raise Refused(f"a tensor in it has elements of {dtype} in {storage.numel} bytes")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
    if count > max(numel, _MAX_REPEATED) or last >= max(numel, 1):
        raise Refused(
            f"a tensor of shape {list(shape)[:8]} in it reaches outside its {numel} numbers"
        )
    return Tensor(storage, offset, shape, strides, dtype)


def _whole(values: Any, what: str) -> tuple[int, ...]:
    """`values` as a tuple of int, none negative."""
    if type(values) not in (tuple, list):
        raise Refused(f"its pickle is damaged: a tensor's {what} is a {type(values).__name__}")
    if len(values) > _MAX_RANK:
        raise Refused(f"a tensor in it has {len(values)} {what}s")
    values = tuple(values)
    if any(type(value) is not int or not 0 <= value < 2**62 for value in values):
        raise Refused(f"a tensor in it has a {what} that is no whole number from 0")
    return values


def _fill(array: Array, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    """numpy's `ndarray.__setstate__`, of floats; all else is left out."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray | _Latin1):
        return
    if dtype.name not in ("f2", "f4", "f8") or dtype.order != "<":
        return
    shape, kind = _whole(shape, "size"), np.dtype(f"<{dtype.name}")
    size = len(data.text if isinstance(data, _Latin1) else data)
    if math.prod(shape) * kind.itemsize != size:
        raise Refused(f"an array of shape {list(shape)[:8]} in it has {size} bytes")
    array.shape, array.dtype, array.fortran, array.data = shape, kind, bool(fortran), data


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """numpy's `_frombuffer`, by which protocol 5 has its arrays."""
    array = Array()
    _fill(array, shape, dtype, order == "F", data)
    return array


def _encoded(text: Any, encoding: Any = None) -> Any:
    """_codecs.encode, by which protocol 2 holds bytes."""
    is_bytes = isinstance(text, str) and encoding == "latin1"
    return _Latin1(text) if is_bytes else Unread("_codecs.encode")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict."""
    made = {_key(key): value for key, value in pairs}
    if type(pairs) is list:
        pairs.clear()  # or a short file could ask for copies of one long list without end
    return made


def _size(values: Any = ()) -> tuple[int, ...]:
    """torch.Size."""
    return _whole(values, "size")


def _with_attributes(function: Any, kind: Any, args: Any, _state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor to which somebody gave attributes."""
    if kind not in (Name("torch.Tensor"), Name("torch.nn.parameter.Parameter")):
        raise _refuse(kind.text if isinstance(kind, Name) else "an unknown kind of tensor")
    return _call(function, args)


_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, and since
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _late_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": _size,
    "numpy.dtype": lambda name=None, *_: _Dtype(name),
    "_codecs.encode": _encoded,
    **{f"{module}._reconstruct": lambda *_: Array() for module in _ARRAYS},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}

# What takes over a machine where a pickle is run. Here nothing is, whatever its name: this list
# only tells a person what kind of file that is. All other names are data's, or left unread.
_HOSTILE = frozenset(
    "os posix nt subprocess commands sys importlib imp runpy pty ctypes shutil socket webbrowser "
    "pickle cPickle _pickle marshal pdb bdb timeit pip".split()
)
_BUILTINS = frozenset(
    "set frozenset dict list tuple str bytes bytearray int long float complex bool object slice "
    "range xrange type getattr unicode".split()
)
