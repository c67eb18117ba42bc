"""Encode a data set once, so that the diffusion stage trains on latents.

    python -m hsd_jax.training.latents --weights DIR --data DIR --out DIR [--views N]

Each training picture gives `views` random views (place, size, mirror, colour, backdrop), each test
picture one, as it is. OUT/SPLIT holds latents.npy (float16), layouts.npy (uint8) and names.json;
OUT/stats.json the mean and standard deviation of each channel over the training latents.
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
                f"no latents in {path}: make them with python -m hsd_jax.training.latents"
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
    encode: Any, source: Any, folder: Path, views: int, augmented: bool, batch_size: int = 8
) -> np.ndarray:
    """Writes one split; returns its latents (memory-mapped)."""
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


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m hsd_jax.training.latents")
    parser.add_argument("--weights", default=weights.DEFAULT, help="folder with the autoencoder")
    parser.add_argument("--data", required=True, help="the built data set's folder")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--views", type=int, default=2, help="random views of a training picture")
    options = parser.parse_args(argv)
    try:
        part = weights.load_part(weights.find(options.weights), "autoencoder")
        sources = {split: load_source(options.data, split) for split in ("train", "test")}
    except ValueError as error:
        sys.exit(f"hsd_jax.training.latents: {error}")

    @jax.jit
    def encode(images: jax.Array) -> jax.Array:
        x = images.astype(np.float32) / 127.5 - 1
        h = apply(part.module, part.params, x, method="encode")
        return h[0] if isinstance(h, tuple) else h

    out = Path(options.out)
    encode_split(encode, sources["test"], out / "test", 1, augmented=False)
    latents = encode_split(encode, sources["train"], out / "train", options.views, augmented=True)
    z = np.asarray(latents, np.float32)
    stats = {"mean": z.mean((0, 1, 2)).tolist(), "std": z.std((0, 1, 2)).tolist()}
    (out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")


if __name__ == "__main__":
    main()
