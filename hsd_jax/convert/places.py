"""Where in a checkpoint a network lies: the prefix under which the names of its tensors begin.

People save models within models: "model.", "ema_model.", "vae.", each perhaps twice. A network is
found by a tensor that it has always, wherever that stands.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from hsd_jax.convert import compvis, diffusers, u2net
from hsd_jax.convert.state import State, under

_FIRSTS: dict[str, Sequence[str]] = {
    "unet": (*compvis.FIRSTS["unet"], diffusers.FIRSTS["unet"]),
    "autoencoder": (*compvis.FIRSTS["autoencoder"], diffusers.FIRSTS["autoencoder"]),
    "condition": compvis.FIRSTS["condition"],
    "layout_generator": u2net.FIRSTS,
    "perceptual": ("net.slice1.0.weight", "lin0.model.1.weight", "features.0.weight"),
    "inception": ("Conv2d_1a_3x3.conv.weight",),
}
_FOUND_BY_NAME = ("autoencoder", "unet", "condition", "layout_generator")
# Of a network that was kept twice, the moving average is taken.
_AVERAGE = re.compile(r"(?i)(^|[._/])(ema|averaged?)[._/]")


def parts_in(state: State) -> dict[str, State]:
    """The networks of a checkpoint by part, each with the tensors beside which it lies.

    Raises:
      ValueError: one is there several times.
    """
    named = {part: prefix_of(state, part) for part in _FOUND_BY_NAME}
    return {
        part: replace(state, tensors=under(state.tensors, prefix))
        for part, prefix in named.items()
        if prefix is not None
    }


def of_part(state: State, part: str) -> State:
    """The tensors beside which a part lies; all of them where it is not found."""
    prefix = prefix_of(state, part)
    return replace(state, tensors=under(state.tensors, prefix)) if prefix else state


def prefix_of(state: State, part: str) -> str | None:
    """The prefix of a part, "" where its names stand as they are; None where it is not there.

    Raises:
      ValueError: it is there several times, and none of them alone is a moving average.
    """
    prefixes = sorted(set(_prefixes(state.tensors, part)))
    # What lies within another that was found belongs to it: a condition may be an autoencoder.
    outer = [p for p in prefixes if not any(p != q and p.startswith(q) for q in prefixes)]
    averages = [prefix for prefix in outer if _AVERAGE.search(prefix)]
    found = averages if len(averages) == 1 else outer
    if len(found) > 1:
        raise ValueError(
            f"{state.source} holds several networks for {part}, under {_listed(found)}: name one "
            f"with --set prefix={found[0]}"
        )
    return found[0] if found else None


def _prefixes(names: Mapping[str, object], part: str) -> Iterator[str]:
    """What stands before each first tensor of a part; of another part's, none."""
    firsts = sorted({f for firsts in _FIRSTS.values() for f in firsts}, key=len, reverse=True)
    for name in names:
        first = next((f for f in firsts if name == f or name.endswith(("." + f, "/" + f))), "")
        if first in _FIRSTS[part]:
            yield name.removesuffix(first)


def _listed(prefixes: Iterable[str]) -> str:
    return ", ".join(repr(prefix) for prefix in list(prefixes)[:4])
