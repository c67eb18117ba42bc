"""Encode a data set once, so that the diffusion stage trains on latents.

    python -m hsd_jax.training.tools.latents --weights DIR --data DIR --out DIR
        [--name NAME] [--eval-split SPLIT] [--views N] [--unscaled]

Each training image gives N random views (position, scale, mirror, colour, backdrop) or, with N = 0,
itself; images of the split that training evaluates on are encoded as they are. OUT/SPLIT holds
latents.npy (float16), layouts.npy (uint8) and names.json; OUT/stats.json holds the mean and
standard deviation of each channel over the training latents or, with --unscaled, 0 and 1 (the scale
factor 1 of the paper's VQ latents). `hsd_jax.training.input.LatentSource` reads them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.models import apply
from hsd_jax.runtime import files
from hsd_jax.runtime.console import Progress, module_parser, status_of
from hsd_jax.training import augment
from hsd_jax.training.input import EVAL_SPLIT, load_source

_NAME = "hsd_jax.training.tools.latents"
_BATCH = 8


def encode_split(
    encode: Callable[[np.ndarray], Any], source: Any, folder: Path, views: int
) -> np.ndarray:
    """Writes one split into `folder` and returns its latents.

    Args:
      encode: uint8 images `[8, H, W, 3]` -> latents `[8, h, w, c]`.
      source: the records, see `input.Source`.
      folder: created if missing.
      views: the number of random views per image; 0 for the image itself.
    """
    each = max(views, 1)
    total = len(source) * each
    folder.mkdir(parents=True, exist_ok=True)
    latents = layouts = None
    with Progress(total) as progress:
        progress.stage(folder.name)
        for start in range(0, total, _BATCH):
            indices = range(start, min(start + _BATCH, total))
            pairs = [_view(source[i // each], i, views > 0) for i in indices]
            images = np.stack([image for image, _ in pairs])
            images = np.concatenate([images, images[:1].repeat(_BATCH - len(images), 0)])
            z = np.asarray(encode(images))[: len(pairs)]
            if latents is None or layouts is None:
                latents, layouts = (
                    np.lib.format.open_memmap(folder / name, "w+", dtype, (total, *shape))
                    for name, dtype, shape in (
                        ("latents.npy", np.float16, z.shape[1:]),
                        ("layouts.npy", np.uint8, pairs[0][1].shape),
                    )
                )
            latents[start : start + len(pairs)] = z
            layouts[start : start + len(pairs)] = [layout for _, layout in pairs]
            progress.update(len(pairs))
    assert latents is not None
    # Written last, so that an interrupted folder does not look finished.
    names = [name for name in source.names for _ in range(each)]
    files.write_text(folder / "names.json", json.dumps(names))
    return latents


def _view(example: dict[str, Any], index: int, augmented: bool) -> tuple[np.ndarray, np.ndarray]:
    image, layout = example["image"], example["layout"]
    if not augmented:
        return image, layout
    rng = np.random.default_rng(index)
    image, layout = augment.random_window(image, layout, rng, layout.shape[0], (1.0, 1.3), 4.0)
    image = augment.recolour(image, layout, rng, {"backdrop": 0.15, "colour": 0.6})
    return image, layout


def statistics(latents: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, in one pass over `[N, h, w, c]`."""
    total = np.zeros((2, latents.shape[-1]))
    for batch in np.array_split(latents, max(1, len(latents) // 256)):
        z = np.asarray(batch, np.float64)
        total += [z.sum((0, 1, 2)), (z**2).sum((0, 1, 2))]
    mean, square = total / (latents.size // latents.shape[-1])
    return {"mean": mean.tolist(), "std": np.sqrt(square - mean**2).tolist()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after one line on stderr."""
    parser = module_parser(_NAME, __doc__)
    add = parser.add_argument
    add("--weights", default=weights.DEFAULT, metavar="DIR", help="folder with the autoencoder")
    add("--data", required=True, metavar="DIR", help="folder of the built data set")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--name", default="halfbody", help="the data set, default: %(default)s")
    add("--eval-split", default=EVAL_SPLIT, metavar="SPLIT",
        help="the split that training evaluates on (default: %(default)s)")  # fmt: skip
    add("--views", type=int, default=2, metavar="N", help="views of a training image; 0: as it is")
    add("--unscaled", action="store_true", help="leave the latents' scale as it is")
    options = parser.parse_args(argv)
    return status_of(_NAME, lambda: _run(options), extras="train")


def _run(options: argparse.Namespace) -> None:
    if options.views < 0:
        raise ValueError(f"--views is {options.views}: give 0 or more")
    part = weights.load_part(weights.find(options.weights), "autoencoder")
    train, held_out = (
        load_source(options.data, split, name=options.name)
        for split in ("train", options.eval_split)
    )

    @jax.jit
    def encode(images: jax.Array) -> jax.Array:
        x = images.astype(np.float32) / 127.5 - 1
        h = apply(part.module, part.params, x, method="encode")
        return h[0] if isinstance(h, tuple) else h

    encode_split(encode, held_out, options.out / options.eval_split, 0)
    latents = encode_split(encode, train, options.out / "train", options.views)
    stats = statistics(latents)
    if options.unscaled:
        stats = {name: [value] * latents.shape[-1] for name, value in (("mean", 0.0), ("std", 1.0))}
    files.write_text(options.out / "stats.json", json.dumps(stats, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
