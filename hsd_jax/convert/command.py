"""`hsd convert`: a checkpoint's networks into a folder of our weights, and with `--to` back."""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax import convert, weights
from hsd_jax.convert import compvis, diffusers, export, places
from hsd_jax.convert.state import State, read, read_config, under
from hsd_jax.diffusion.solvers import SOLVERS
from hsd_jax.labels import get_label_set

Tell = Callable[[str], None]
_SWAP_PARTS = ("autoencoder", "unet", "condition", "layout_generator", "parser")
# Given by --set, but about the use of the networks, not about their sizes.
_FACTS = ("labels", "size", "steps", "prediction", "schedule", "latent_mean", "latent_std")


def run(args: argparse.Namespace, tell: Tell) -> list[str]:
    """`hsd convert`; `tell` shows what is going on. Returns the lines to print."""
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file: give a folder")
    if args.to:
        if args.config or args.set or args.fill:
            raise ValueError("--config, --set and --fill are for reading: leave them out with --to")
        source, names = export.find(str(args.src), args.part)
        with _staged(args.output) as folder:
            return export.write(source, names, args.to, folder, tell)
    return _import(args, tell)


def _import(args: argparse.Namespace, tell: Tell) -> list[str]:
    given, facts = _settings(args.set or [])
    tell(f"reading {args.src} ...")
    states = _states(args, str(given.pop("prefix", "")))
    _check_used(given, states)
    lines = []
    with _staged(args.output) as folder:
        for part, state in states.items():
            allowed = convert.settings_of(convert.kind_of(state.tensors, part), part)
            own = {key: value for key, value in given.items() if key in allowed}
            tell(f"converting {part} ...")
            module, params = convert.load(state, part, own)
            extra = _extra(part, module, args.src, state, facts)
            _check_labels(part, params, extra)
            tell(f"writing {part} ...")
            weights.save_part(folder, part, module, params, extra, np.float32)
            millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
            lines.append(f"wrote {part}: {millions:.1f} M parameters")
        if args.fill:
            lines += _fill(folder, args.output, args.fill)
    return [*lines, *_advice(args.output)]


def _states(args: argparse.Namespace, prefix: str) -> dict[str, State]:
    """The checkpoint that each wanted part is read from: in a pipeline's folder, its own.

    Of tensors only those whose names begin with `prefix`, without it.
    """

    def find(part: str | None = None) -> State:
        state = read(args.src, part)
        tensors = under(state.tensors, prefix)
        if not tensors:
            raise ValueError(f"{state.source} has no tensor whose name begins with {prefix!r}")
        return replace(state, tensors=tensors)

    wanted = tuple(args.part or ())
    config = read_config(args.config) if args.config else None
    if wanted or (args.src.is_dir() and (args.src / "model_index.json").is_file()):
        states = {part: find(part) for part in wanted or ("autoencoder", "unet")}
        states = {part: places.of_part(state, part) for part, state in states.items()}
    else:
        state = find()
        states = places.parts_in(state)
        if not states:
            raise ValueError(
                f"{state.source} is no checkpoint of CompVis, diffusers or U-2-Net (its first "
                f"tensor is {next(iter(state.tensors), None)!r}): name its network with --part"
            )
    for part, state in states.items():
        _check_kind(args.kind, part, state)
    if config is not None:
        states = {part: replace(state, config=config) for part, state in states.items()}
    return states


def _check_kind(kind: str, part: str, state: State) -> None:
    found = convert.kind_of(state.tensors, part)
    wanted = "compvis" if kind == "taming" else kind
    if wanted not in ("auto", found) or (kind == "taming" and part != "autoencoder"):
        raise ValueError(f"{state.source} holds a {part} of {found}, not of {kind}")


def _settings(pairs: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set KEY=VALUE` as (settings of networks, facts); values are JSON, or text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {pair!r}: give KEY=VALUE, such as num_heads=8")
        try:
            settings[key] = json.loads(text)
        except ValueError:
            settings[key] = text
    facts = {key: settings.pop(key) for key in _FACTS if key in settings}
    if "labels" in facts:
        get_label_set(facts["labels"])
    return settings, facts


def _check_used(given: Mapping[str, Any], states: Mapping[str, State]) -> None:
    """Raises ValueError for a setting that no part of the checkpoint takes."""
    allowed = {
        key for part, state in states.items()
        for key in convert.settings_of(convert.kind_of(state.tensors, part), part)
    }  # fmt: skip
    unused = sorted(set(given) - allowed)
    if unused:
        names = ", ".join(sorted(allowed | set(_FACTS)))
        raise ValueError(f"--set {unused[0]}: {', '.join(states)} can be given {names}")


def _extra(
    part: str, module: Any, source: Path, state: State, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts to write with a part; `HeadSwapper` reads them."""
    keys = {
        "unet": list(_FACTS),
        "condition": ["labels"],
        "layout_generator": ["labels", "size"],
    }
    told = {key: known[key] for key in keys.get(part, ()) if key in known}
    if part != "unet":
        return told
    found = {"known": False, "steps": SOLVERS["dpmpp"].num_steps}
    if convert.kind_of(state.tensors) != "diffusers":
        return found | compvis.facts(state, module.out_channels) | told
    return found | diffusers.facts(source, module.out_channels) | told


def _check_labels(part: str, params: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    if part != "condition" or "labels" not in extra:
        return
    classes = params["channel_mapper"]["kernel"].shape[2]
    labels = get_label_set(extra["labels"])
    if classes != labels.num_classes:
        raise ValueError(
            f"condition: it takes {classes} classes, {labels.name} has {labels.num_classes}"
        )


def _fill(folder: Path, output: Path, source: str) -> list[str]:
    """Copies the networks of a swap that are neither new nor in DIR from other weights."""
    origin, lines = weights.find(source), []
    for part in _SWAP_PARTS:
        if (folder / f"{part}.json").exists() or (output / f"{part}.json").exists():
            continue
        record = read_config(origin / f"{part}.json")
        for name in (f"{part}.json", *record.get("files", [f"{part}.safetensors"])):
            shutil.copyfile(origin / Path(name).name, folder / Path(name).name)
        lines.append(f"copied {part} from {source}")
    return lines


def _advice(output: Path) -> list[str]:
    """What the folder lacks for a swap."""
    missing = [part for part in _SWAP_PARTS if not (output / f"{part}.json").exists()]
    if len(missing) == len(_SWAP_PARTS):
        return []  # a network of training and evaluation alone
    if missing:
        return [f"for `hsd swap --weights {output}` it lacks {', '.join(missing)} (see --fill)"]
    extra = read_config(output / "unet.json")["extra"]
    needed = ("labels", "schedule", "prediction", "latent_mean", "latent_std", "steps")
    return [f"for a swap it lacks facts: --set {key}=..." for key in needed if key not in extra]


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder whose files move into `output` when all went well; else nothing stays."""
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".convert-", dir=output))
    try:
        yield work
        # The jsons last: without its json a network is not there.
        files = (path for path in work.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: path.suffix == ".json"):
            target = output / file.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not any(output.iterdir()):
            output.rmdir()
