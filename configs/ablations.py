"""The rows of the paper's table 3, and the LDMs that they need.

    hsd eval ablation --config configs/ablations.py --data DATA --pairs PAIRS.csv -o DIR \\
        --weights plain=DIR cover=DIR

measures the rows whose weights are given. Each DIR holds the four networks of a swap. Rows differ
in the LDM and in whether the layout generator fills the condition's holes. The LDMs differ in the
head-cover that they were trained with:

    python -m hsd_jax.train --config configs/ablations.py:plain --workdir runs/ldm-plain
    python -m hsd_jax.train --config configs/ablations.py:cover --workdir runs/ldm-cover
    python -m hsd_jax.train --config configs/ablations.py:cover_no_neck --workdir runs/ldm-no-neck

`small_plain`, `small_cover` and `small_cover_no_neck` are the same with the paper's loss and a UNet
of a quarter of the parameters, for two hours of one core each: they test the order of the rows, not
their quality.
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
SMALL = "small_"
# Probability of the head-cover, and whether necks go.
_SEEN = {"plain": (0.0, False), "cover": (1.0, False), "cover_no_neck": (1.0, True)}


def get_config(ldm: str = "") -> ConfigDict:
    """The rows; or, with an LDM's name, its training at the embedded size or (small_) smaller."""
    if ldm:
        return _training(ldm)
    config = ConfigDict()
    config.rows = [
        dict(name=name, weights=weights, inpaint=inpaint, paper=paper, needs=NEEDS[weights])
        for name, weights, inpaint, paper in ROWS
    ]
    return config


def _training(name: str) -> ConfigDict:
    from configs import embedded  # only a training runs from the checkout's root

    ldm = name.removeprefix(SMALL)
    if ldm not in _SEEN:
        known = ", ".join([*_SEEN, *(SMALL + each for each in _SEEN)])
        raise ValueError(f"no training {name!r} here: use one of {known}")
    config = embedded.get_config("diffusion")
    config.data.cover, config.data.remove_neck = _SEEN[ldm]
    if name != ldm:
        _make_small(config)
    return config


def _make_small(config: ConfigDict) -> None:
    """The paper's loss (equation 4: eps, every cell and time alike) and a narrow network."""
    config.steps, config.batch_size = 8_000, 4
    config.model.update(dict(model_channels=32, num_head_channels=32, dropout=0.0))
    config.loss.update(dict(prediction="eps", known=False, known_weight=1.0, shift=1.0))
    config.sampling_steps = 10
    config.save_every, config.eval_every = 500, 2000
