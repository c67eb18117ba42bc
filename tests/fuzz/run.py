"""Fuzzes the readers of files that come from anyone, one target at a time, by Atheris (libFuzzer).

    python tests/fuzz/run.py photo --seconds 150    # one of photo, pickle, safetensors, layout

A reader gives a value or raises ValueError in one line. Any other exception, more than 5 s for one
input, or more than 2 GiB of memory ends the run with status 1, and the input is left in
tests/fuzz/found/. What is new to a target is kept in tests/fuzz/.corpus/, beside the seeds of
tests/fuzz/corpus/. `make fuzz` runs all targets.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
HANG_SECONDS = 5
MEMORY_MB = 2048
_LARGEST = 65536  # bytes of an input


def photo(path: Path) -> None:
    """Every image that a person gives."""
    from hsd_jax.imaging.files import open_photo

    open_photo(path)


def pickle(path: Path) -> None:
    """Checkpoints of torch, zip and older, and plain pickles; every tensor is read."""
    import numpy as np

    from hsd_jax.convert import pickles
    from hsd_jax.convert.state import read

    with contextlib.suppress(pickles.Refused):
        pickles.loads(path.read_bytes())  # by itself too: a changed archive fails its checksums
    for tensor in read(path).tensors.values():
        np.asarray(tensor)


safetensors = pickle  # by its content


def layout(path: Path) -> None:
    """Layouts of data sets: indices, palettes, colours."""
    from data.shhq import read_layout

    folder = path.parent / "parsing"
    folder.mkdir(exist_ok=True)
    os.replace(path, folder / "x.png")
    read_layout(path.parent, "x", 512, "shhq17")


TARGETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "photo": (photo, "photo.jpg"),
    "pickle": (pickle, "x.ckpt"),
    "safetensors": (safetensors, "x.safetensors"),
    "layout": (layout, "layout.png"),
}


def check(name: str, data: bytes, folder: Path) -> None:
    """One input; raises what is no refusal in one line."""
    function, file = TARGETS[name]
    path = folder / file
    path.write_bytes(data)
    try:
        function(path)
    except ValueError as error:
        if "\n" in str(error) or not str(error):
            raise AssertionError(f"a refusal is no line: {str(error)!r}") from error


def main() -> None:
    """Runs one target; never returns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=150)
    arguments = parser.parse_args()
    import atheris

    seen = ["hsd_jax.imaging", "hsd_jax.convert", "data", "PIL", "pickletools", "zipfile"]
    with atheris.instrument_imports(include=seen):
        from PIL import Image

        from hsd_jax.convert import pickles, state, torch_files  # noqa: F401
        from hsd_jax.imaging import files  # noqa: F401

    Image.init()
    warnings.simplefilter("ignore")
    name, folder = arguments.target, Path(tempfile.mkdtemp(prefix="hsd_fuzz_"))
    grown, found = HERE / ".corpus" / name, HERE / "found"
    for made in (grown, found):
        made.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={arguments.seconds}", f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}", f"-max_len={_LARGEST}", f"-artifact_prefix={found}/{name}-",
        "-print_final_stats=1", "-use_value_profile=1",
    ]  # fmt: skip
    corpora = [str(grown), str(HERE / "corpus" / name)]

    def one(data: bytes) -> None:
        # Decoders say on stderr what they think of a file.
        with contextlib.redirect_stderr(None):
            check(name, data, folder)

    atheris.Setup([sys.argv[0], *options, *corpora], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
