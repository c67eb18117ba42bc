"""The demo's photos, which packages of the extra ship, and the strip of a swap's stages."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hsd_jax.imaging.sheets import captioned

if TYPE_CHECKING:
    from hsd_jax.labels import LabelSet

# Both are in the public domain: portraits of Grace Hopper (US Navy) and Eileen Collins (NASA).
_HEAD = ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
_BODY = ("skimage", "data/astronaut.png")


def find_photos() -> tuple[Path, Path]:
    """Finds the files of the head photo and the body photo, without importing their packages.

    Raises:
      ValueError: if the extra `demo` is not installed.
    """
    return _find(*_HEAD), _find(*_BODY)


def _find(package: str, name: str) -> Path:
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise ValueError(f"the demo's photo in {package} is missing: pip install 'hsd-jax[demo]'")


def strip(stages: Mapping[str, np.ndarray], labels: "LabelSet") -> np.ndarray:
    """Draws the stages of a swap side by side with captions, uint8 `[H, W, 3]`.

    Args:
      stages: those of a `SwapResult`; images uint8 `[256, 256, 3]`, layouts int32 `[256, 256]`.
      labels: the label set of the layouts.
    """
    from hsd_jax.labels import colorize  # not at the top: photos are found before JAX starts

    tiles = [
        ("head", stages["head"]),
        ("body", stages["body"]),
        ("layout of the head", colorize(stages["head_layout"], labels)),
        ("layout of the body", colorize(stages["body_layout"], labels)),
        ("layouts mixed", colorize(stages["blended"], labels)),
        ("holes inpainted", colorize(stages["inpainted"], labels)),
        ("result", stages["result"]),
    ]
    return captioned([tiles])
