"""The paper's half-body SHHQ512 (HS-Diffusion, arXiv 2212.06458, section 4.1 and appendix B.1).

    python -m data.build shhq --size 512 --source SHHQ-1.0 --out data_built
    python -m hsd_jax.train --config configs/shhq512.py:autoencoder --workdir runs/512_autoencoder
    python -m hsd_jax.training.tools.latents --weights runs/512_autoencoder/weights \\
        --data data_built --out data_built/latents_512 \\
        --name shhq/bg_white_512 --eval-split test --views 0 \\
        --unscaled
    python -m hsd_jax.train --config configs/shhq512.py:diffusion --workdir runs/512_diffusion

Networks, losses and everything that the paper leaves open are those of `shhq256.py`; batch sizes
and lengths are the paper's. The paper trains the layout generator at 256 only and uses it at 512
too: `layout` is the same training on every second pixel of these data, for those who have not built
the smaller set. `parser` learns from 256-pixel views.

Hardware and cost, as in `shhq256.py` (sums, not measurements):

    part         batch  images  paper               FLOPs an image  one H100  v5e-16
    autoencoder  8      7.2 M   8 V100, 16 d 8 h    12e12 + D       61 h      8 does not divide
    diffusion    48     5.5 M   8 V100, 3 d 11 h    2.4e12          9 h       2.9 h

Expected, from the paper's Table 2 with neck alignment: IDs .9913, head SSIM .9813 and LPIPS .0125,
body SSIM .9545 and LPIPS .0354, FID 10.73, Mask-FID 21.26, Focal-FID 11.42. Not reproduced here.
"""

from ml_collections import ConfigDict

from configs import shhq256

PARTS = shhq256.PARTS


def get_config(part: str) -> ConfigDict:
    """The config of one of the four networks."""
    config = shhq256.get_config(part, 512)
    if part == "autoencoder":
        config.batch_size, config.steps, config.eval_batch_size = 8, 7_200_000 // 8, 8
        config.optimizer.learning_rate = 4.5e-6 * 8
    if part == "diffusion":
        config.batch_size, config.steps, config.eval_batch_size = 48, 5_500_000 // 48, 48
        config.optimizer.learning_rate = 1e-6 * 48
    if part == "layout":
        config.data.update(dict(size=256, scale=(0.5, 0.5)))
    return config
