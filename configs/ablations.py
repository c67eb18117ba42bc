"""The rows of the paper's table 3, and the LDMs that they need.

    hsd eval ablation --config configs/ablations.py --data DATA --pairs PAIRS.csv -o DIR \\
        --weights plain=DIR cover=DIR

measures the rows whose weights are given. Each DIR holds the four networks of a swap. Rows differ
in the LDM and in whether the layout generator fills the condition's holes. The LDMs differ in the
head-cover that they were trained with:

    python -m hsd_jax.train --config configs/ablations.py:plain --workdir runs/ldm-plain
    python -m hsd_jax.train --config configs/ablations.py:cover --workdir runs/ldm-cover
    python -m hsd_jax.train --config configs/ablations.py:cover_no_neck --workdir runs/ldm-no-neck
"""

from ml_collections import ConfigDict

# Name, LDM, whether the layout is inpainted; FID, Mask-FID and Focal-FID in the paper (SHHQ256, all
# neck-aligned and with semantic mixing).
ROWS = (
    ("LDM", "plain", False, (35.36, 57.85, 55.26)),
    ("+ Head-cover", "cover_no_neck", False, (14.43, 26.51, 16.82)),
    ("+ G_layout", "plain", True, (12.24, 20.74, 14.20)),
    ("+ Head-cover + G_layout", "cover", True, (11.24, 18.57, 11.80)),
)
NEEDS = {
    "plain": "an LDM trained without head-cover: configs/ablations.py:plain",
    "cover": "an LDM trained with head-cover, necks kept: configs/ablations.py:cover",
    # Section 4.3: without a layout generator, the LDM must learn to draw the neck too.
    "cover_no_neck": "an LDM trained with head-cover and without necks in its condition: "
    "configs/ablations.py:cover_no_neck",
}
# Probability of the head-cover, and whether necks go.
_SEEN = {"plain": (0.0, False), "cover": (1.0, False), "cover_no_neck": (1.0, True)}


def get_config(ldm: str = "") -> ConfigDict:
    """The rows; or, with an LDM's name, its training at the embedded size."""
    if ldm:
        return _training(ldm)
    config = ConfigDict()
    config.rows = [
        dict(name=name, weights=weights, inpaint=inpaint, paper=paper, needs=NEEDS[weights])
        for name, weights, inpaint, paper in ROWS
    ]
    return config


def _training(ldm: str) -> ConfigDict:
    from configs import embedded  # only a training runs from the checkout's root

    if ldm not in _SEEN:
        raise ValueError(f"no training {ldm!r} here: use one of {', '.join(_SEEN)}")
    config = embedded.get_config("diffusion")
    config.data.cover, config.data.remove_neck = _SEEN[ldm]
    return config
