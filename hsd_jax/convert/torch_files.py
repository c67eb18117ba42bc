"""Torch's files without torch: what `torch.save` wrote, its tensors read when they are asked for.

Two containers: since torch 1.6 a zip archive with one record a storage, before that a row of
pickles followed by the storages. A plain pickle of numpy's arrays in nested dicts is read too.
"""

import io
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from hsd_jax.convert import pickles
from hsd_jax.convert.pickles import Array, Refused, Storage

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# A pickle that only names tensors is small; this is far beyond the largest trainers' notes.
_MAX_PICKLE = 256 * 2**20


def load(path: Path) -> Any:
    """What `torch.save` wrote to `path`: dicts, lists and scalars, with `pickles.Tensor`.

    Of a plain pickle, its arrays of floats by their slash-joined keys.

    Raises:
      ValueError: no torch file, a damaged one, or one that asks for more than tensors.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == ZIP_MAGIC
        return _load_zip(path) if is_zip else _load_legacy(path)
    except (Refused, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _load_zip(path: Path) -> Any:
    archive, storages = _Archive(path), []
    saved = pickles.loads(archive.record("data.pkl", _MAX_PICKLE), storages)
    for storage in storages:
        storage.source = archive
    return saved


@contextmanager
def _as_refusals() -> Iterator[None]:
    """A hostile archive can make its decoder fail in any way: as one kind of error, in one line."""
    try:
        yield
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Refused(f"it is damaged or cut short ({detail})") from error


class _Archive:
    """The zip container; every record is stored as it is, so none can unpack to more."""

    def __init__(self, path: Path):
        self._path, self._size = path, path.stat().st_size
        with _as_refusals():
            self._zip = zipfile.ZipFile(path)
        names = self._zip.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Refused("it is a zip file, but none that torch.save wrote")
        self._root = roots[0]
        if f"{self._root}constants.pkl" in names:
            raise Refused(
                "it is a TorchScript program; save its weights alone where torch is: "
                "torch.save(torch.jit.load(SRC).state_dict(), 'weights.pth')"
            )
        with suppress(KeyError):
            if self.record("byteorder", 16) != b"little":
                raise Refused("it was written on a big-endian machine")

    def record(self, name: str, limit: int) -> bytes:
        """A whole record, its checksum verified; KeyError when there is none."""
        info = self._zip.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused(f"its record {name!r} is compressed, which torch never does")
        if info.file_size > min(limit, self._size):
            raise Refused(f"its record {name!r} claims {info.file_size} bytes")
        with _as_refusals():
            return self._zip.read(info)

    def read(self, storage: Storage) -> np.ndarray:
        needed = storage.numel * storage.dtype.itemsize
        try:
            data = self.record(f"data/{storage.key}", self._size)
        except (KeyError, Refused) as error:
            place = f"{self._path} is damaged at storage {storage.key!r}"
            raise ValueError(f"{place}: {error}") from error
        if len(data) < needed:
            raise ValueError(
                f"{self._path} is damaged: storage {storage.key!r}: "
                f"it has {len(data)} bytes of {needed}"
            )
        return np.frombuffer(data, storage.dtype, storage.numel)


def _load_legacy(path: Path) -> Any:
    """Magic number, protocol, machine, object, keys of the storages; then these, in that order."""
    if path.stat().st_size == 0:
        raise Refused("it is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            magic = pickles.load(data)
        except Refused as error:
            raise Refused(f"it is no file of torch.save ({error})") from error
        if arrays := _arrays(magic):
            return arrays
        if magic != LEGACY_MAGIC or pickles.load(data) != _LEGACY_PROTOCOL:
            raise Refused("it is no file of torch.save: a pickle of another kind")
        machine = pickles.load(data)
        if isinstance(machine, dict) and machine.get("little_endian") is False:
            raise Refused("it was written on a big-endian machine")
        found: list[Storage] = []
        saved, keys = pickles.load(data, found), pickles.load(data)
        begin = data.tell()
    storages: dict[str, Storage] = {}
    for storage in found:
        if storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"its storage {storage.key!r} has two descriptions")
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise Refused("its list of storages is damaged")
    row = _Row(path, begin, [storages[str(key)] for key in keys])
    for storage in found:
        storage.source = row
    return saved


def _arrays(saved: Any) -> dict[str, Array]:
    """The arrays in nested dicts by their slash-joined keys, as JAX's users pickle parameters."""
    found: dict[str, Array] = {}
    seen, queue = set(), [("", saved)]
    while queue:
        name, item = queue.pop()
        if isinstance(item, Array) and item.data is not None:
            found[name[1:]] = item
        elif isinstance(item, dict) and id(item) not in seen:
            seen.add(id(item))
            queue.extend((f"{name}/{key}", value) for key, value in item.items())
    return found


class _Row:
    """The old container: storages one after the other, each after its number of elements."""

    def __init__(self, path: Path, begin: int, storages: list[Storage]):
        self._path, self._places = path, {}
        for storage in storages:
            self._places[storage.key] = begin
            begin += 8 + storage.numel * storage.dtype.itemsize
        if begin > path.stat().st_size:
            missing = begin - path.stat().st_size
            raise Refused(f"it is cut short: {missing} bytes of its tensors are missing")

    def read(self, storage: Storage) -> np.ndarray:
        with open(self._path, "rb") as file:
            file.seek(self._places[storage.key])
            numel = int.from_bytes(file.read(8), "little")
            if numel != storage.numel:
                raise ValueError(f"{self._path} is damaged at storage {storage.key!r}")
            return np.fromfile(file, storage.dtype, numel)


def save(path: Path, tensors: Mapping[str, np.ndarray], under: str | None = "state_dict") -> None:
    """Writes `{under: tensors}`, or the tensors themselves, for `torch.load`; float32.

    Each tensor is written as it comes, so memory holds no second copy.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        archive.writestr(f"{path.stem}/data.pkl", _pickle(shapes, under))
        archive.writestr(f"{path.stem}/byteorder", b"little")
        for index, tensor in enumerate(tensors.values()):
            data: Any = np.ascontiguousarray(tensor, "<f4").reshape(-1)
            with archive.open(f"{path.stem}/data/{index}", "w", force_zip64=True) as record:
                record.write(memoryview(data).cast("B"))
        archive.writestr(f"{path.stem}/version", b"3\n")


def _pickle(shapes: Mapping[str, tuple[int, ...]], under: str | None) -> bytes:
    """The pickle, protocol 2, of `{name: a float32 tensor of that shape}`, perhaps in a dict."""
    out = io.BytesIO()
    out.write(b"\x80\x02" + (b"}" + _text(under) if under else b"") + b"}(")
    for index, (name, shape) in enumerate(shapes.items()):
        strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
        numel = int(np.prod(shape, dtype=np.int64))
        out.write(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(")
        out.write(b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(index)))
        out.write(_text("cpu") + _int(numel) + b"tQ")
        out.write(_int(0) + _ints(shape) + _ints(strides))
        out.write(b"\x89ccollections\nOrderedDict\n)RtR")
    out.write(b"us." if under else b"u.")
    return out.getvalue()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _int(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _ints(values: Any) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
