"""Feature extractors: images to vectors, behind one protocol.

The extractor is part of every distance's name (`distance_names`). Only the InceptionV3 weights of
2015-12-05, checked by their checksum, give FID and KID; the embedded parser's features, which need
no download, give FD-hsd and KD-hsd, and the classifiers of LPIPS FD-vgg16, FD-alexnet.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from hsd_jax import weights
from hsd_jax.models import apply
from hsd_jax.runtime import cache
from hsd_jax.runtime.download import fetch
from hsd_jax.runtime.files import atomic

BATCH = 16
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_ENV = "HSD_INCEPTION"
# Fingerprints of torchvision's first weights for ImageNet, which LPIPS comes with.
CLASSIFIERS = {"vgg16": "9fd5934ac78f75f1", "alexnet": "52f921623ac2efba"}


class Extractor(Protocol):
    """Images to features.

    Attributes:
      name: part of the names of metrics.
      fingerprint: identifies the weights in the cache.
    """

    name: str
    fingerprint: str

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]: ...


class NetworkExtractor:
    """Runs a network on all devices in batches of one size, compiled once per shape."""

    def __init__(
        self,
        name: str,
        fingerprint: str,
        network: Callable[[Any, jax.Array], jax.Array],
        params: Any,
        batch: int = BATCH,
    ):
        """`network`: `(params, uint8 [B, H, W, 3]) -> float32 [B, D]`, each image for itself."""
        self.name, self.fingerprint = name, fingerprint
        devices = jax.devices()[:batch]
        mesh = Mesh(np.array(devices), ("data",))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._batch = -(-batch // len(devices)) * len(devices)
        self._network = jax.jit(network)

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Features of any number of images of one size."""
        found = []
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            fill = [(0, self._batch - len(part)), (0, 0), (0, 0), (0, 0)]
            full = jax.device_put(np.pad(part, fill, mode="edge"), self._split)
            # Otherwise TPUs, and GPUs with TF32, round float32 products.
            with jax.default_matmul_precision("float32"):
                found.append(np.asarray(self._network(self._params, full))[: len(part)])
        return np.concatenate(found)


def distance_names(extractor: Extractor) -> tuple[str, str]:
    """The names of the Frechet and the kernel distance of these features."""
    if extractor.name == "inception":
        return "FID", "KID"
    return f"FD-{extractor.name}", f"KD-{extractor.name}"


def kernel_scale(extractor: Extractor) -> float:
    """The factor of reported kernel distances: 1000 for Inception's, as usual for KID."""
    return 1000.0 if extractor.name.startswith("inception") else 1.0


def embedded(name_or_dir: str | Path = weights.DEFAULT, batch: int = BATCH) -> NetworkExtractor:
    """The embedded parser's encoder: `hsd`, or `hsd-XXXXXXXX` with other weights than the shipped.

    Features are the mean and standard deviation over the positions of each level's activations, so
    that both content and texture count (1,088 numbers with the shipped weights). Images are padded
    with their edge pixels to a size that the network takes.

    Raises:
      ValueError: no such weights.
    """
    folder = weights.find(name_or_dir)
    part = weights.load_part(folder, "parser")
    fingerprint = weights.fingerprint(folder, "parser")
    shipped = folder == weights.find()
    multiple = part.module.multiple

    def network(params: Any, images: jax.Array) -> jax.Array:
        rows, columns = (-side % multiple for side in images.shape[1:3])
        x = jnp.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
        x = x.astype(jnp.float32) / 127.5 - 1
        levels = apply(part.module, params, x, features=True)[1]
        pooled = [pool for h in levels for pool in (h.mean((1, 2)), h.std((1, 2)))]
        return jnp.concatenate(pooled, -1).astype(jnp.float32)

    name = "hsd" if shipped else f"hsd-{fingerprint[:8]}"
    return NetworkExtractor(name, fingerprint, network, part.params, batch)


def inception(
    path: str | Path | None = None, preprocessing: str = "pytorch-fid", batch: int = BATCH
) -> NetworkExtractor:
    """FID's InceptionV3, pool3.

    Its name is `inception` with the weights (by checksum) and preprocessing of pytorch-fid;
    anything else is part of the name: `inception-torch-fidelity`, `inception-1a2b3c4d`.

    Args:
      path: pt_inception-2015-12-05-6726825d.pth; None for `find_inception`.
      preprocessing: of `hsd_jax.models.inception.InceptionV3`, which resizes to 299 x 299.
      batch: images at once.

    Raises:
      ValueError: no such file, or not this network.
    """
    from hsd_jax.convert import from_torch

    file = Path(path) if path else find_inception()
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    fingerprint = cache.file_fingerprint(file)
    module, params = from_torch(file, "inception", {"preprocessing": preprocessing})
    name = "inception"
    if preprocessing != "pytorch-fid":
        name += f"-{preprocessing}"
    if fingerprint != INCEPTION_SHA256:
        name += f"-{fingerprint[:8]}"

    def network(params: Any, images: jax.Array) -> jax.Array:
        return apply(module, params, images)

    return NetworkExtractor(name, f"{fingerprint[:16]}-{preprocessing}", network, params, batch)


def classifier(name: str, path: str | Path, batch: int = BATCH) -> NetworkExtractor:
    """The last convolution of ImageNet's VGG16 or AlexNet, averaged over the positions.

    512 numbers (relu5_3) or 256 (relu5), as FID averages Inception's last layer; images are as
    large as they are given. The name is that of the network if its weights are those that LPIPS
    comes with, and has the first digits of their fingerprint otherwise.

    Args:
      name: "vgg16" or "alexnet".
      path: a file or folder of LPIPS, or torchvision's classifier; see `convert.perceptual`.
      batch: images at once.

    Raises:
      ValueError: no such file, or it is another network.
    """
    from hsd_jax.convert import from_torch

    module, params = from_torch(path, "perceptual")
    if module.backbone != name:
        raise ValueError(f"{path} is {module.backbone}, not {name}: give {module.backbone}=FILE")
    leaves = sorted(flatten_dict(params["net"], sep="/").items())
    mark = cache.fingerprint(*(f for key, x in leaves for f in (key, np.asarray(x).tobytes())))

    def network(params: Any, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 127.5 - 1
        return apply(module, params, x, method="features")[-1].mean((1, 2))

    shown = name if mark == CLASSIFIERS[name] else f"{name}-{mark[:8]}"
    return NetworkExtractor(shown, mark, network, params, batch)


def find_inception() -> Path:
    """Finds the weights: the file named by HSD_INCEPTION, the cached file, or a download.

    Raises:
      ValueError: none of these, or a download with another checksum.
    """
    given = os.environ.get(INCEPTION_ENV)
    if given:
        return Path(given)
    folder = cache.folder()
    if folder is None:
        raise ValueError("no folder for the weights of InceptionV3: name one in HSD_CACHE_DIR")
    path = folder / INCEPTION_URL.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        fetch(INCEPTION_URL, INCEPTION_SHA256, path)
    except OSError as error:
        raise ValueError(
            f"the weights of InceptionV3 cannot be downloaded ({error}): download {INCEPTION_URL} "
            f"elsewhere and give it as inception=FILE or in {INCEPTION_ENV}, or use the "
            "extractor hsd"
        ) from error
    return path


def make(spec: str) -> NetworkExtractor:
    """Makes the extractor `hsd`, `inception`, `inception-torch-fidelity` or `NAME=FILE`.

    `vgg16` and `alexnet` always need a file.

    Raises:
      ValueError: another name, or its weights cannot be had.
    """
    name, _, file = spec.partition("=")
    if name == "hsd":
        return embedded(file or weights.DEFAULT)
    if name in ("inception", "inception-torch-fidelity"):
        kind = "pytorch-fid" if name == "inception" else "torch-fidelity"
        return inception(file or None, kind)
    if name in CLASSIFIERS and file:
        return classifier(name, file)
    raise ValueError(
        f"no extractor {spec!r}: use hsd, inception or inception-torch-fidelity, with =FILE for "
        f"weights of your own, or {' or '.join(f'{known}=FILE' for known in CLASSIFIERS)}"
    )


def cached(
    folder: Path | None, key: str, compute: Callable[[], np.ndarray]
) -> Float[np.ndarray, "n d"]:
    """Returns `compute()`, cached in `folder` by `key`; None disables the cache.

    If the cache cannot be read or written, the features are computed.
    """
    if folder is None:
        return compute()
    path = folder / f"features-{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile):
        features = compute()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
    return features
