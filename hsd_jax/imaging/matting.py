"""Image matting: alpha mattes and foreground colours.

The alpha is by closed-form matting (Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural
Image Matting", IEEE TPAMI 2008), which assumes that in small windows alpha is an affine function of
the colours and so solves one sparse linear system. Foreground colours are by blur fusion (Forte,
"Approximate Fast Foreground Colour Estimation", ICIP 2021).
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage, sparse

_EPS = 1e-6  # regularises the windows' covariance, for colours in [0, 1]
_STEPS, _TOLERANCE = 400, 1e-4  # of the solver; the tolerance is of the residual's norm
_FUSION = ((45, 1), (3, 1))  # (radius, rounds) of blur fusion for a crop of 256, coarse then fine


def closed_form(
    image: UInt8[np.ndarray, "h w 3"],
    foreground: Bool[np.ndarray, "h w"],
    background: Bool[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Estimates the alpha of an image from a trimap.

    Args:
      image: sRGB.
      foreground: pixels that are certainly foreground.
      background: pixels that are certainly background; alpha is solved for the remaining ones.

    Returns:
      The alpha matte, float32 in [0, 1].
    """
    unknown = ~(foreground | background)
    alpha = foreground.astype(np.float32)
    if not unknown.any():
        return alpha
    # Only windows that hold an unknown pixel matter: pixels within two of one.
    near = ndimage.binary_dilation(unknown, np.ones((5, 5)))
    rows, columns = np.nonzero(near)
    frame = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    part = image[frame].astype(np.float64) / 255
    solved = _solve(part, unknown[frame], alpha[frame])
    alpha[frame] = np.where(unknown[frame], np.clip(solved, 0, 1), alpha[frame])
    return alpha


def _solve(image: np.ndarray, unknown: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    height, width = unknown.shape
    laplacian = _laplacian(image, ndimage.binary_dilation(unknown, np.ones((3, 3))))
    known = (~unknown).ravel()
    places = np.flatnonzero(~known)
    rows = laplacian[places]
    right = -rows[:, known] @ alpha.ravel()[known]
    system = (rows[:, places] + sparse.identity(len(places)) * 1e-8).tocsr()
    start = ndimage.gaussian_filter(alpha.astype(np.float64), 2).ravel()[places]
    result = alpha.astype(np.float64).ravel()
    result[places] = _conjugate_gradients(system, right, start)
    return result.reshape(height, width)


def _conjugate_gradients(system: Any, right: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Solves `system @ x = right` from a start, with the diagonal for a preconditioner.

    scipy's takes its inner products from BLAS, whose threads wait for each other, and whose number
    changes the result.
    """
    inverse = 1 / np.maximum(system.diagonal(), 1e-8)
    residual = right - system @ x
    towards, before = np.zeros_like(x), 1.0
    enough = _TOLERANCE**2 * _dot(right, right)
    for _ in range(_STEPS):
        if _dot(residual, residual) <= enough:
            break
        preconditioned = inverse * residual
        now = _dot(residual, preconditioned)
        towards = preconditioned + now / before * towards
        moved = system @ towards
        step = now / _dot(towards, moved)
        x = x + step * towards
        residual -= step * moved
        before = now
    return x


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("i,i", a, b))


def _laplacian(image: np.ndarray, centres: np.ndarray) -> Any:
    """The matting Laplacian of the 3 x 3 windows around `centres` inside the frame."""
    height, width = centres.shape
    inside = centres.copy()
    inside[[0, -1]] = inside[:, [0, -1]] = False
    rows, columns = np.nonzero(inside)
    offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    indices = np.stack([(rows + i) * width + columns + j for i, j in offsets], 1)
    colours = image.reshape(-1, 3)[indices]
    centred = colours - colours.mean(1, keepdims=True)
    covariance = centred.transpose(0, 2, 1) @ centred / 9 + _EPS / 9 * np.eye(3)
    affinity = (1 + centred @ np.linalg.solve(covariance, centred.transpose(0, 2, 1))) / 9
    values = np.eye(9) - affinity
    count = height * width
    first, second = indices.repeat(9, 1).ravel(), np.tile(indices, (1, 9)).ravel()
    return sparse.coo_matrix((values.ravel(), (first, second)), (count, count)).tocsr()


def colours_apart(
    image: UInt8[np.ndarray, "h w 3"], alpha: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
    """Estimates the colours of the foreground and of what is behind it, everywhere."""
    image_ = image.astype(np.float32)
    front, back = image_, image_
    for radius, rounds in _FUSION:
        size = 2 * max(1, round(radius * len(image) / 256)) + 1
        for _ in range(rounds):
            front, back = _fused(image_, front, back, alpha[..., None], size)
    return front, back


def _fused(
    image: np.ndarray, front: np.ndarray, back: np.ndarray, alpha: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One round: local means of front and back, corrected so that they compose the image."""

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(x, size, mode="nearest", axes=(0, 1))

    weight = mean(alpha)
    fore = mean(front * alpha) / (weight + 1e-5)
    behind = mean(back * (1 - alpha)) / (1 - weight + 1e-5)
    return foreground(image, fore, behind, alpha), behind


def foreground(
    image: Float[np.ndarray, "h w 3"],
    front: Float[np.ndarray, "h w 3"],
    back: Float[np.ndarray, "h w 3"],
    alpha: Float[np.ndarray, "h w 1"],
) -> Float[np.ndarray, "h w 3"]:
    """The foreground's colours, corrected so that with `back` they compose the image."""
    return front + alpha * (image - alpha * front - (1 - alpha) * back)
