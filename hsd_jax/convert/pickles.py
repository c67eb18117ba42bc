"""What a torch file's pickle says, read without running any of it and without torch.

A pickle is a program for a stack machine whose instructions can call anything that Python can
import. This is another machine for the same programs: it knows the few calls that saved weights
need (`pickle_calls`) and refuses the first that it does not know, by name. It never imports what a
file names, and tensors are left in the file until they are asked for.
"""

import io
import pickletools
from typing import Any

from hsd_jax.convert.pickle_calls import (
    Refused,
    Unread,
    call,
    key_of,
    name_of,
    refuse,
    storage_of,
)


def load(stream: Any) -> Any:
    """The object that one pickle in `stream` describes; the stream is left behind its end.

    Args:
      stream: with `read`, `readline` and `tell`; `read` must not allocate more than there is.

    Returns:
      Dicts, lists, tuples and scalars, with `TensorSpec` for tensors and `Name` and `Unread` for
      what is never made.

    Raises:
      Refused: it asks for more, or is damaged.
    """
    try:
        return _Machine().run(stream)
    except Refused:
        raise
    except Exception as error:  # a hostile file can make the decoder fail in any way
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Refused(f"its pickle is damaged ({' '.join(detail.split())[:200]})") from error


def loads(data: bytes) -> Any:
    """`load` of bytes."""
    return load(io.BytesIO(data))


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Machine:
    """The stack machine; a method `op_X` for each instruction X that is no plain value."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        for opcode, arg, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(arg)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif operation := getattr(self, f"op_{name}", None):
                operation(arg)
            else:
                raise refuse(f"the instruction {name}")
        raise Refused("its pickle ends too early")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def op_PROTO(self, _: Any) -> None:
        pass

    op_FRAME = op_PROTO

    def op_MARK(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def op_POP(self, _: Any) -> None:
        self.stack.pop()

    def op_POP_MARK(self, _: Any) -> None:
        self.since_mark()

    def op_DUP(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_GET(self, arg: Any) -> None:
        self.stack.append(self.memo[int(arg)])

    op_BINGET = op_LONG_BINGET = op_GET

    def op_PUT(self, arg: Any) -> None:
        self.memo[int(arg)] = self.stack[-1]

    op_BINPUT = op_LONG_BINPUT = op_PUT

    def op_MEMOIZE(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_EMPTY_LIST(self, _: Any) -> None:
        self.stack.append([])

    def op_LIST(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def op_APPEND(self, _: Any) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def op_APPENDS(self, _: Any) -> None:
        items = self.since_mark()
        self._top(list).extend(items)

    def op_TUPLE(self, _: Any) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def op_TUPLE1(self, _: Any) -> None:
        self._tuple(1)

    def op_TUPLE2(self, _: Any) -> None:
        self._tuple(2)

    def op_TUPLE3(self, _: Any) -> None:
        self._tuple(3)

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise Refused("its pickle is damaged (a tuple of nothing)")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(items)

    def op_EMPTY_SET(self, _: Any) -> None:
        self.stack.append(Unread("builtins.set"))

    def op_ADDITEMS(self, _: Any) -> None:
        self.since_mark()

    def op_FROZENSET(self, _: Any) -> None:
        self.since_mark()
        self.op_EMPTY_SET(None)

    def op_EMPTY_DICT(self, _: Any) -> None:
        self.stack.append({})

    def op_DICT(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._set(items)

    def op_SETITEM(self, _: Any) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self._set(items)

    def op_SETITEMS(self, _: Any) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise refuse(f"to fill a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def op_GLOBAL(self, arg: Any) -> None:
        module, _, qualified = arg.partition(" ")
        self.stack.append(name_of(module, qualified))

    def op_STACK_GLOBAL(self, _: Any) -> None:
        module, qualified = self.stack[-2:]
        del self.stack[-2:]
        self.stack.append(name_of(str(module), str(qualified)))

    def op_REDUCE(self, _: Any) -> None:
        function, args = self.stack[-2:]
        del self.stack[-2:]
        self.stack.append(call(function, args))

    def op_BUILD(self, _: Any) -> None:
        """An object's state: only of what is not kept, and the `_metadata` of a state dict."""
        self.stack.pop()
        if type(self.stack[-1]) not in (Unread, dict):
            raise refuse(f"the state of a {type(self.stack[-1]).__name__}")

    def op_BINPERSID(self, _: Any) -> None:
        self.stack.append(storage_of(self.stack.pop()))
