"""Encode a data set once, so that the diffusion stage trains on latents.

    python -m hsd_jax.training.tools.latents --weights DIR --data DIR --out DIR
        [--name NAME] [--views N] [--unscaled]

Each training picture gives `views` random views (place, size, mirror, colour, backdrop), or with 0
itself; each test picture itself. OUT/SPLIT holds latents.npy (float16), layouts.npy (uint8) and
names.json; OUT/stats.json the mean and standard deviation of each channel over the training
latents, or with --unscaled 0 and 1 (the scale factor 1 of the paper's VQ latents).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hsd_jax import weights
from hsd_jax.models import apply
from hsd_jax.runtime.console import status_of
from hsd_jax.training import augment
from hsd_jax.training.input import load_source


class LatentSource:
    """Random access to encoded views, in the form of `hsd_jax.training.input.Source`."""

    def __init__(self, folder: str, split: str):
        """Opens FOLDER/SPLIT without reading it.

        Raises:
          ValueError: nothing encoded there.
        """
        path = Path(folder) / split
        if not (path / "names.json").exists():
            raise ValueError(
                f"no latents in {path}: make them with python -m hsd_jax.training.tools.latents"
            )
        self._latents = np.load(path / "latents.npy", mmap_mode="r")
        self._layouts = np.load(path / "layouts.npy", mmap_mode="r")
        self.names: list[str] = json.loads((path / "names.json").read_text())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`latents` float16 [h, w, c], `layout` uint8 [H, W], `source`."""
        return {
            "latents": np.asarray(self._latents[index]),
            "layout": self.layout(index),
            "source": self.names[index],
        }

    def layout(self, index: int) -> np.ndarray:
        """The layout alone."""
        return np.asarray(self._layouts[index])


def encode_split(
    encode: Any, source: Any, folder: Path, views: int, batch_size: int = 8
) -> np.ndarray:
    """Writes one split, `views` views of each picture or, with 0, the pictures; its latents."""
    augmented, views = views > 0, max(views, 1)
    total = len(source) * views
    folder.mkdir(parents=True, exist_ok=True)
    latents = layouts = None
    names: list[str] = []
    for start in range(0, total, batch_size):
        indices = range(start, min(start + batch_size, total))
        pairs = [_view(source[i // views], i, augmented) for i in indices]
        names += [source[i // views]["source"] for i in indices]
        images = np.stack([image for image, _ in pairs])
        images = np.concatenate([images, images[:1].repeat(batch_size - len(images), 0)])
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
        if start // batch_size % 20 == 0:
            print(f"{folder.name}: {start}/{total}", file=sys.stderr, flush=True)
    assert latents is not None
    # Last, so that a folder that was cut off does not look finished.
    (folder / "names.json").write_text(json.dumps(names))
    return latents


def _view(example: dict[str, Any], index: int, augmented: bool) -> tuple[np.ndarray, np.ndarray]:
    image, layout = example["image"], example["layout"]
    if not augmented:
        return image, layout
    rng = np.random.default_rng(index)
    image, layout = augment.random_window(image, layout, rng, layout.shape[0], (1.0, 1.3), 4.0)
    if rng.random() < 0.15:
        image = augment.change_backdrop(image, layout, rng)
    return augment.jitter_colour(image, rng, strength=0.6), layout


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m hsd_jax.training.tools.latents")
    add = parser.add_argument
    add("--weights", default=weights.DEFAULT, help="folder with the autoencoder")
    add("--data", required=True, help="the built data set's folder")
    add("--out", required=True, help="folder to write")
    add("--name", default="halfbody", help="the data set (default: %(default)s)")
    add("--views", type=int, default=2, help="random views of a training picture; 0: as it is")
    add("--unscaled", action="store_true", help="leave the latents' scale as it is")
    options = parser.parse_args(argv)
    return status_of("hsd_jax.training.tools.latents", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.views < 0:
        raise ValueError(f"--views is {options.views}: give 0 or more")
    part = weights.load_part(weights.find(options.weights), "autoencoder")
    sources = {
        split: load_source(options.data, split, name=options.name) for split in ("train", "test")
    }

    @jax.jit
    def encode(images: jax.Array) -> jax.Array:
        x = images.astype(np.float32) / 127.5 - 1
        h = apply(part.module, part.params, x, method="encode")
        return h[0] if isinstance(h, tuple) else h

    out = Path(options.out)
    encode_split(encode, sources["test"], out / "test", 0)
    latents = encode_split(encode, sources["train"], out / "train", options.views)
    stats = statistics(latents)
    if options.unscaled:
        stats = {name: [value] * latents.shape[-1] for name, value in (("mean", 0.0), ("std", 1.0))}
    (out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")


def statistics(latents: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, in one pass over `[N, h, w, c]`."""
    total = np.zeros((2, latents.shape[-1]))
    for batch in np.array_split(latents, max(1, len(latents) // 256)):
        z = np.asarray(batch, np.float64)
        total += [z.sum((0, 1, 2)), (z**2).sum((0, 1, 2))]
    mean, square = total / (latents.size // latents.shape[-1])
    return {"mean": mean.tolist(), "std": np.sqrt(square - mean**2).tolist()}


if __name__ == "__main__":
    sys.exit(main())
