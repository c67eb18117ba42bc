"""`hsd export`: writes the programs of a swap as StableHLO, which runs without this package.

Each program and bucket becomes DIR/PLATFORM/NAME.stablehlo, a `jax.export` artifact that takes
parameters and arrays; DIR/export.json lists what each takes and returns. Parameters are not
included: they are the tensors of the weights' safetensors, as float32, nested by their paths.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The names of `jax.export`, and those of our convolutions.
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
_INDEX = "export.json"


def add_export(subparsers: Any) -> None:
    """Adds the command to `hsd`."""
    command = subparsers.add_parser(
        "export",
        help="export the programs of a swap",
        description="Write the parser, the layout generator, the encoder, the sampler and the "
        "decoder as StableHLO (jax.export), which JAX or any StableHLO runtime runs without "
        "tracing or this package.",
        allow_abbrev=False,
    )
    command.add_argument("-o", "--output", type=Path, metavar="DIR", required=True)
    command.add_argument("--weights", default="embedded", metavar="NAME|DIR")
    command.add_argument(
        "--platform",
        action="append",
        choices=tuple(PLATFORMS),
        help="may be repeated; this machine need not have it (default: cpu)",
    )
    command.add_argument("--solver", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp")
    command.add_argument("--steps", type=int, metavar="N", help="default: the solver's")
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file: give a folder")
    from hsd_jax import weights
    from hsd_jax.parsing.photo_parser import PhotoParser
    from hsd_jax.swapping.networks import SwapNetworks
    from hsd_jax.swapping.runner import BUCKETS, Runner
    from hsd_jax.swapping.spec import Sampling

    folder, sampling = weights.find(args.weights), Sampling(args.solver, args.steps)
    runner = Runner(SwapNetworks.load(folder))
    programs = dict(_named(PhotoParser.load(folder).programs()))
    for size in BUCKETS:
        programs |= dict(_named(runner.programs(size, sampling), size))
    written = write(programs, args.output, args.platform or ["cpu"])
    if args.json:
        print(json.dumps({"output": str(args.output), "files": [str(path) for path in written]}))
    else:
        print(f"wrote {len(written)} programs to {args.output}")


def _named(programs: Any, size: int | None = None) -> Any:
    """Yields programs by name; those that depend on the bucket's size are named after it."""
    for program, arguments in programs:
        sized = size is not None and program.name in ("sample", "decode")
        yield (f"{program.name}-{size}" if sized else program.name), (program, arguments)


def write(programs: dict[str, Any], folder: Path, platforms: list[str]) -> list[Path]:
    """Writes programs for each platform, and the index last.

    Args:
      programs: by name, a `hsd_jax.runtime.programs.Program` and its arguments or their shapes.
      folder: where to; created if missing.
      platforms: keys of `PLATFORMS`.

    Returns:
      The files written, without the index.

    Raises:
      ValueError: if `flatbuffers` is not installed.
    """
    import jax

    from hsd_jax.models.conv import compiled_for
    from hsd_jax.runtime.programs import can_serialize

    if not can_serialize():
        raise ValueError("jax.export needs flatbuffers: pip install flatbuffers")
    index: dict[str, Any] = {"jax": jax.__version__, "programs": {}}
    written = []
    for platform in platforms:
        (folder / platform).mkdir(parents=True, exist_ok=True)
        for name, (program, arguments) in programs.items():
            with compiled_for(PLATFORMS[platform]):
                exported = program.exported(*arguments, platforms=(platform,))
            path = folder / platform / f"{name}.stablehlo"
            path.write_bytes(exported.serialize())
            written.append(path)
            index["programs"][name] = {
                "arguments": [_shape(x) for x in jax.tree.leaves(arguments)],
                "results": [_shape(x) for x in exported.out_avals],
            }
    (folder / _INDEX).write_text(json.dumps(index | {"platforms": platforms}, indent=1) + "\n")
    return written


def _shape(x: Any) -> str:
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def load(folder: Path, platform: str = "cpu") -> dict[str, Callable[..., Any]]:
    """Loads the programs of a folder as jitted functions, by name.

    Raises:
      ValueError: if the folder holds no export, or none for this platform.
    """
    import jax
    from jax import export

    # Registers `Plan`, the only argument type that is not JAX's own.
    import hsd_jax.swapping.runner  # noqa: F401

    try:
        index = json.loads((folder / _INDEX).read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {_INDEX}: make it with hsd export") from error
    if platform not in index["platforms"]:
        raise ValueError(f"{folder} is for {', '.join(index['platforms'])}, not for {platform}")
    return {
        name: jax.jit(
            export.deserialize(
                bytearray((folder / platform / f"{name}.stablehlo").read_bytes())
            ).call
        )
        for name in index["programs"]
    }
