"""Colour spaces: sRGB and CIE L*a*b* (IEC 61966-2-1, CIE 15)."""

import numpy as np


def to_linear(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB, 0 to 255, to linear light, float32, 0 to 1."""
    if getattr(rgb, "dtype", None) == np.uint8:
        return to_linear(np.arange(256))[rgb]
    x = np.asarray(rgb, np.float32) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def from_linear(linear: np.ndarray) -> np.ndarray:
    """Inverts `to_linear`."""
    x = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (x * 255).astype(np.float32)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB, 0 to 255, to CIE L*a*b* under D65, float32 `[..., 3]`."""
    xyz = to_linear(rgb) @ _XYZ.T / _XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lightness = 116 * f[..., 1] - 16
    a, b = 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.stack([lightness, a, b], -1).astype(np.float32)


def to_rgb(lab: np.ndarray) -> np.ndarray:
    """Inverts `to_lab`; colours outside sRGB are clipped."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 0.008856 ** (1 / 3), f**3, (f - 16 / 116) / 7.787)
    return from_linear(np.clip((xyz * _XYZ.sum(1)) @ np.linalg.inv(_XYZ).T, 0, 1))


_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)
