"""Jitted functions that start fast: later processes load what one process has traced.

JAX caches compiled programs, but finds one only by its lowered form, and tracing and lowering our
networks takes longer than running them. So the lowered form (StableHLO, by `jax.export`) is cached
too, in a folder beside JAX's cache. Both need `jax_compilation_cache_dir`, which the command `hsd`
sets; without it, a `Program` is `jax.jit`.
"""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from hsd_jax.runtime import process
from hsd_jax.runtime.files import write_bytes
from hsd_jax.runtime.threads import cores

# What else the trace of a function depends on.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)


# XLA's CPU backend passes matmuls to YNNPACK, which takes 2 ms to set up each one when a process
# first runs it, and Winograd convolutions are hundreds of them. Without it, our sampler is ready in
# 1.0 instead of 2.0 s (two Zen 5 cores), and a call takes 0.24 instead of 0.21 s, which pays off
# for small networks.
_COMPILER_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}}


_DIGEST = 32  # bytes before each kept program
_LOG = logging.getLogger(__name__)


class Program:
    """A jitted function of arrays, lowered at most once per machine and shape of its arguments."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        facts: Any = (),
        *,
        here: Callable[..., Any] | None = None,
        large: bool = False,
    ):
        """Arguments of `function` and its results are trees of arrays.

        Args:
          name: the name of its files.
          function: a pure function that depends only on its arguments, `facts` and this package.
          facts: the modules, settings and options bound into it, identified by their `repr`.
          here: the same function in a form that suits this process, or None for `function`;
            `exported` always uses `function`.
          large: whether calls take seconds, so that their speed matters more than compilation.
        """
        self.name, self._facts = name, repr((facts, large, here is not None))
        self._product, self._function = function, here or function
        self._large = large
        self._ready: dict[Any, Future[Callable[..., Any]]] = {}

    def __call__(self, *args: Any) -> Any:
        key = _shapes(args)
        own: Future[Callable[..., Any]] = Future()
        ready = self._ready.setdefault(key, own)  # atomic: of several threads one compiles
        if ready is own:
            try:
                own.set_result(self._load(args))
            except BaseException as error:
                del self._ready[key]
                own.set_exception(error)
                raise
        with jax.transfer_guard("allow"):  # a user's guard is not meant for these
            return ready.result()(*args)

    def prepare(self, *args: Any) -> None:
        """Loads the program for arguments like these in the background, or compiles and keeps it.

        Args:
          args: arrays or `jax.ShapeDtypeStruct`s.
        """
        path = self._path(args)
        if path is not None and _shapes(args) not in self._ready:
            workers = _loaders() if path.is_file() else _compilers()
            self._ready[_shapes(args)] = workers.submit(self._load, args)

    def jitted(self) -> Any:
        """The function under `jax.jit`, to lower and inspect."""
        return jax.jit(self._function)

    def exported(self, *args: Any, platforms: tuple[str, ...] | None = None) -> export.Exported:
        """Exports the function for arguments like these.

        `platforms` None means the current platform.
        """
        return _exported(self._product, args, platforms)

    def _load(self, args: Any) -> Callable[..., Any]:
        path = self._path(args)
        if path is None:
            return self.jitted()
        _LOG.debug("loading the program %s", self.name)
        exported = _read(path)
        known = exported is not None
        if exported is None:
            try:
                exported = _exported(self._function, args)
            except (ValueError, NotImplementedError):
                # It cannot be exported (vendor-specific calls), or it fails, as the call will show.
                return self.jitted()
            _write(path, bytes(exported.serialize()))
        compiled = self._compile(jax.jit(exported.call).lower(*jax.tree.map(_spec, args)))
        if not known:
            process.trim()  # a compiler's memory is of no use to a swap
        return compiled

    def _compile(self, lowered: Any) -> Callable[..., Any]:
        options = {} if self._large else _COMPILER_OPTIONS.get(jax.default_backend())
        if options:
            try:
                return lowered.compile(compiler_options=options)
            except jax.errors.JaxRuntimeError as error:
                if not any(name in str(error) for name in options):
                    raise  # otherwise this XLA does not know the option
        return lowered.compile()

    def _path(self, args: Any) -> Path | None:
        folder: str | None = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
        if not folder or not can_serialize() or "://" in folder or _over_devices(args):
            return None
        if getattr(jax.config, "jax_disable_jit"):  # noqa: B009  # nothing is compiled then
            return None
        settings = [getattr(jax.config, name) for name in _SETTINGS]
        identity = (_package(), jax.__version__, jax.default_backend(), settings, self._facts)
        digest = hashlib.blake2b(repr((*identity, _shapes(args))).encode(), digest_size=16)
        return Path(folder, "traced", f"{self.name}-{digest.hexdigest()}.stablehlo")


def _exported(
    function: Callable[..., Any], args: Any, platforms: tuple[str, ...] | None = None
) -> export.Exported:
    # A new function: JAX would not trace the same one again for another platform.
    own = jax.jit(lambda *args: function(*args))
    return export.export(own, platforms=platforms)(*jax.tree.map(_spec, args))


def _spec(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype)


def _over_devices(args: Any) -> bool:
    """Whether arguments are on several devices; such programs are left to JAX's cache."""
    shardings = (getattr(x, "sharding", None) for x in jax.tree.leaves(args))
    return any(sharding and len(sharding.device_set) > 1 for sharding in shardings)


def _shapes(args: Any) -> Any:
    leaves, tree = jax.tree.flatten(args)
    return str(tree), tuple((np.shape(x), str(x.dtype)) for x in leaves)


@cache
def _loaders() -> ThreadPoolExecutor:
    # One: two would mostly wait for the allocator's lock and delay what is needed first.
    return ThreadPoolExecutor(1, thread_name_prefix="hsd-programs")


@cache
def _compilers() -> ThreadPoolExecutor:
    # XLA keeps one and a half cores busy with one program.
    return ThreadPoolExecutor(cores(), thread_name_prefix="hsd-compilers")


@cache
def can_serialize() -> bool:
    """Whether `jax.export` can write and read files here."""
    try:
        import flatbuffers  # noqa: F401  # which jax.export needs, and JAX does not install
    except ImportError:
        return False
    return True


@cache
def _package() -> str:
    """A fingerprint of this package without weights, so that any edit invalidates the cache."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".json") and "weights/" not in path.as_posix():
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> export.Exported | None:
    """Returns None for a file that is missing or damaged; it is then written again.

    A digest decides: a damaged program may be deserialized and fail later, or compute wrong values.
    """
    try:
        data = path.read_bytes()
        if data[:_DIGEST] == _digest(path, data[_DIGEST:]):
            return export.deserialize(bytearray(data[_DIGEST:]))
    except Exception:  # no such file, not readable, or of another version of JAX
        pass
    return None


def _write(path: Path, data: bytes) -> None:
    """Writes atomically, since processes may start together; ignores a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _digest(path, data) + data)
    except OSError:
        pass


def _digest(path: Path, data: bytes) -> bytes:
    """Of a program and its name: a copy under another name counts as damaged."""
    return hashlib.blake2b(data, digest_size=_DIGEST, key=path.stem.encode()[-64:]).digest()
