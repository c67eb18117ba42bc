"""`hsd convert` from PyTorch: a checkpoint's networks into a folder of our weights."""

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

import numpy as np
from flax.traverse_util import flatten_dict

from hsd_jax import weights
from hsd_jax.convert import facts
from hsd_jax.convert.dispatch import kind_of, load, parts_in, settings_of
from hsd_jax.convert.state import State, read, read_config
from hsd_jax.convert.tensors import Progress
from hsd_jax.labels import get_label_set

Tell = Callable[[str], None]
_SWAP_PARTS = ("autoencoder", "unet", "condition", "layout_generator", "parser")
# Given by --set, but about the use of the networks, not about their sizes.
_FACTS = ("labels", "size", "steps", "prediction", "schedule", "latent_mean", "latent_std")
_WIDTH = 24


def run(args: argparse.Namespace, tell: Tell) -> list[str]:
    """`hsd convert`; `tell` shows what is going on. Returns the lines to print."""
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file: give a folder")
    if args.to:
        from hsd_jax.convert.command_export import export

        return export(args, tell)
    return _import(args, tell)


def _import(args: argparse.Namespace, tell: Tell) -> list[str]:
    given, known_facts = _settings(args.set or [])
    tell(f"reading {args.src} ...")
    states = _states(args)
    _check_used(given, states)
    lines, extras = [], _extras(args.src, states, known_facts)
    with staged(args.output) as folder:
        for part, state in states.items():
            kind = kind_of(state.tensors, part)
            allowed = settings_of(kind, part)
            own = {key: value for key, value in given.items() if key in allowed}
            module, params = load(state, part, own, _bar(tell, part))
            extra = extras.get(part, {})
            _check_labels(part, params, extra)
            tell(f"writing {part} ...")
            weights.save_part(folder, part, module, params, extra, np.float32)
            lines.append(f"wrote {part}: {_count(params):.1f} M parameters")
        if args.fill:
            lines += _fill(folder, args.output, args.fill)
    return [*lines, *_advice(args.output)]


def _states(args: argparse.Namespace) -> dict[str, State]:
    """The checkpoint that each wanted part is read from: in a pipeline's folder, its own."""
    wanted = tuple(args.part or ())
    config = read_config(args.config) if args.config else None
    states: dict[str, State] = {}
    if wanted or (args.src.is_dir() and (args.src / "model_index.json").is_file()):
        for part in wanted or ("autoencoder", "unet"):
            states[part] = read(args.src, part)
    else:
        state = read(args.src)
        states = dict.fromkeys(parts_in(state.tensors), state)
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
    found = kind_of(state.tensors, part)
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
    known_facts = {key: settings.pop(key) for key in _FACTS if key in settings}
    if "labels" in known_facts:
        get_label_set(known_facts["labels"])
    return settings, known_facts


def _check_used(given: Mapping[str, Any], states: Mapping[str, State]) -> None:
    """Raises ValueError for a setting that no part of the checkpoint takes."""
    allowed = {
        key for part, state in states.items()
        for key in settings_of(kind_of(state.tensors, part), part)
    }  # fmt: skip
    unused = sorted(set(given) - allowed)
    if unused:
        names = ", ".join(sorted(allowed | set(_FACTS)))
        raise ValueError(f"--set {unused[0]}: {', '.join(states)} can be given {names}")


def _extras(
    source: Path, states: Mapping[str, State], known: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The facts to write with each part."""
    extras: dict[str, dict[str, Any]] = {}
    if "unet" in states:
        extras["unet"] = _unet_facts(source, states["unet"]) | {
            key: value for key, value in known.items() if key != "size"
        }
    labels = {key: known[key] for key in ("labels",) if key in known}
    extras["condition"] = labels
    extras["layout_generator"] = labels | {key: known[key] for key in ("size",) if key in known}
    return extras


def _unet_facts(source: Path, state: State) -> dict[str, Any]:
    out = next(
        value.shape[0]
        for suffix in ("out.2.bias", "conv_out.bias")
        for name, value in state.tensors.items()
        if name.endswith(suffix) and "first_stage" not in name
    )
    if kind_of(state.tensors) != "diffusers":
        return facts.of_compvis(state, state.config or {}, out)
    root = source if (source / "model_index.json").is_file() else source.parent
    found = [root / "scheduler" / "scheduler_config.json", root / "vqvae" / "config.json"]
    found.append(root / "vae" / "config.json")
    scheduler, *autoencoders = [read_config(path) if path.is_file() else {} for path in found]
    return facts.of_diffusers(scheduler, next(filter(None, autoencoders), {}), out)


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
    """Copies the nets of a swap that are neither new nor in DIR from other weights."""
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
    unknown = [key for key in needed if key not in extra]
    return [f"for a swap it lacks facts: --set {key}=..." for key in unknown]


def _bar(tell: Tell, part: str) -> Progress:
    def show(done: int, total: int) -> None:
        filled = done * _WIDTH // total
        tell(f"converting {part} [{'#' * filled}{'.' * (_WIDTH - filled)}] {done} of {total}")

    return show


def _count(params: Any) -> float:
    leaves: dict[Any, Any] = dict(flatten_dict(params))
    return sum(value.size for value in leaves.values()) / 1e6


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder whose files move into `output` when all went well; else nothing stays."""
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".convert-", dir=output))
    try:
        yield work
        # The jsons last: without its json a network is not there.
        files = sorted((p for p in work.rglob("*") if p.is_file()), key=_is_record)
        for file in files:
            target = output / file.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not any(output.iterdir()):
            output.rmdir()


def _is_record(path: Path) -> bool:
    return path.suffix == ".json"
