"""The paper's own figures (HS-Diffusion, arXiv 2212.06458), to stand beside ours.

Other pictures, other extractors' weights and other choices: they tell what the paper's tables say,
and are no baseline for numbers of other data.
"""

COLUMNS = (
    *("IDs", "head SSIM", "head LPIPS", "body SSIM", "body LPIPS"),
    *("FID", "Mask-FID", "Focal-FID"),
)
_SAME = (None,) * 5

Row = tuple[float | None, ...]
TABLE_1: dict[str, Row] = {
    "Cut-and-Paste": (*_SAME, 26.22, None, 31.48),
    "Cut-and-Paste, aligned": (*_SAME, 26.17, None, 31.18),
    "PDGAN": (0.9826, 0.9906, 0.0095, 0.9702, 0.0413, 23.83, 56.68, 37.98),
    "PDGAN, aligned": (0.9885, 0.9941, 0.0081, 0.9697, 0.0422, 23.72, 57.15, 38.66),
    "MAT": (0.9883, 0.9968, 0.0008, 0.9719, 0.0372, 16.64, 35.05, 19.51),
    "MAT, aligned": (0.9899, 0.9979, 0.0007, 0.9713, 0.0383, 16.11, 33.28, 18.74),
    "StyleMapGAN": (0.7553, 0.8956, 0.0638, 0.8170, 0.1295, 32.25, 25.51, 32.88),
    "StyleMapGAN, aligned": (0.7567, 0.8992, 0.0606, 0.8166, 0.1278, 31.51, 24.44, 31.94),
    "InsetGAN": (0.8235, 0.8670, 0.0936, 0.8085, 0.1157, 28.18, 47.91, 25.58),
    "InsetGAN, aligned": (0.8227, 0.8673, 0.0962, 0.8097, 0.1144, 28.39, 48.46, 25.78),
    "HS-Diffusion": (0.9783, 0.9686, 0.0237, 0.9308, 0.0518, 11.45, 19.86, 12.34),
    "HS-Diffusion, aligned": (0.9812, 0.9689, 0.0233, 0.9310, 0.0517, 11.24, 18.57, 11.80),
}
"""Half-body SHHQ256, 2,000 pairs; LPIPS is AlexNet's."""

TABLE_2: dict[str, Row] = {
    "Cut-and-Paste, aligned": (*_SAME, 26.22, None, 31.48),
    "PDGAN, aligned": (0.9828, 0.9957, 0.0236, 0.9546, 0.0605, 38.05, 77.43, 37.02),
    "MAT, aligned": (0.9917, 0.9959, 0.0006, 0.9710, 0.0299, 12.84, 33.96, 18.53),
    "StyleMapGAN, aligned": (0.8368, 0.9145, 0.0416, 0.8332, 0.1068, 30.38, 35.05, 35.71),
    "InsetGAN": (0.8247, 0.8712, 0.0963, 0.8096, 0.1153, 29.96, 49.88, 27.98),
    "HS-Diffusion, aligned": (0.9913, 0.9813, 0.0125, 0.9545, 0.0354, 10.73, 21.26, 11.42),
}
"""Half-body SHHQ512."""

LAYOUT = {"mIoU": (0.9135, 0.0023), "neck IoU": (0.9319, 0.0016)}
"""The layout generator, mean and spread over ten seeds (section 5.3)."""
