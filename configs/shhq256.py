"""The paper's half-body SHHQ256 (HS-Diffusion, arXiv 2212.06458, section 4.1 and appendix B.1).

    python -m data.build shhq --source SHHQ-1.0 --out data_built           # docs/data.md
    python -m hsd_jax.train --config configs/shhq256.py:autoencoder --workdir runs/256_autoencoder
    python -m hsd_jax.training.tools.latents --weights runs/256_autoencoder/weights \\
        --data data_built --out data_built/latents_256 \\
        --name shhq/bg_white_256 --eval-split test --views 0 \\
        --unscaled
    python -m hsd_jax.train --config configs/shhq256.py:diffusion --workdir runs/256_diffusion
    python -m hsd_jax.train --config configs/shhq256.py:layout --workdir runs/256_layout
    python -m hsd_jax.train --config configs/shhq256.py:parser --workdir runs/256_parser

The order of the paper: autoencoder, diffusion; layout and parser need neither. It trains no parser
(SCHP's is ready): ours learns SCHP's layouts, so that swapping needs nothing else.

Hardware and cost. "Paper" is its Table 4; the FLOPs are ours (forward pass as XLA counts it, times
three), the hours those FLOPs at 40 % of bfloat16 peak (989 TFLOP/s an H100, 197 a v5e chip): sums,
not measurements. `--plan v5e:4x4` says more for nothing.

    part         batch  images  paper               FLOPs an image  one H100  v5e-16
    autoencoder  64     14.7 M  8 V100, 6 d 3 h     3.0e12 + D      31 h      10 h
    diffusion    160    10.1 M  8 V100, 1 d 8 h     0.59e12         4 h       1.3 h
    layout       24     1.4 M   1 V100, 2 d 14 h    0.27e12         16 min    24 does not divide
    parser       64     1.9 M   not trained         0.016e12        2 min     0.5 min

Expected, from the paper's Table 1 with neck alignment (whole system, 2,000 pairs): IDs .9812, head
SSIM .9689 and LPIPS .0233, body SSIM .9310 and LPIPS .0517, FID 11.24, Mask-FID 18.57, Focal-FID
11.80; layout (section 5.3): mIoU .9135, IoU of the neck (class skin) .9319. No figures of the
autoencoder alone; `vq-f4` before fine-tuning has PSNR 27.4 on OpenImages (CompVis). None of these
has been reproduced here.

Not in the paper, and chosen: learning rates (CompVis' base rate times the batch), EMA (CompVis'
0.9999 for diffusion, none else), the UNet, tau and the schedule (CompVis semantic_synthesis256),
size of the layout generator (the full U2-Net) and its discriminator (70 x 70 PatchGAN), bfloat16
(`--config.model.dtype=float32`), the parser, and that nothing is mirrored. Other than in the
paper: a second cross-entropy of the layout generator (`loss.logits`; without it holes can have no
gradient).

The autoencoder's losses are those of CompVis' vq-f4: L1 + LPIPS + codebook + hinge GAN with the
adaptive weight. LPIPS' weights are not ours to ship: give the file that holds VGG16's and the
channels', `--config.loss.perceptual=FILE` (a checkpoint of CompVis' autoencoders does; or
taming's vgg.pth, with torchvision's vgg16-397923af.pth as `--config.loss.backbone=FILE`). Without,
the run says so and compares edges in their place. The paper fine-tunes vq-f4 (OpenImages):
convert it and give the folder as `--config.init_from`; from random weights expect to need more
steps.
"""

from ml_collections import ConfigDict

PARTS = ("autoencoder", "diffusion", "layout", "parser")
# The paper tells of no augmentation but head-cover: its images are aligned already.
AS_THEY_ARE = dict(rotation=0.0, jitter=0.0, mirror=0.0)


def base(size: int) -> ConfigDict:
    """What the four parts share."""
    config = ConfigDict()
    config.seed = 0
    config.labels = "cihp20"
    config.crop_size = size  # of swaps with these weights
    config.init_from = ""  # a folder or name of released weights to start from
    config.ema = 0.0
    config.keep = 3  # newest checkpoints that stay
    config.log_every = 100
    config.save_every = 1000
    config.eval_every = 10_000
    config.eval_batch_size = 32
    config.parallel = "sharded"
    config.mesh = ConfigDict(dict(data=-1, fsdp=1))
    config.accumulate = 1
    config.freeze = ()
    config.best = ""
    config.best_mode = "max"
    config.eval_metrics = ()
    config.eval_weights = ""
    config.profile = 0
    # Adam(0.5, 0.999) for all networks (section 4.1).
    config.optimizer = ConfigDict(
        dict(
            learning_rate=2e-4, warmup=0, decay="constant", b1=0.5, b2=0.999, weight_decay=0.0,
            clip=0.0,
        )
    )
    config.data = ConfigDict(
        dict(
            dir="data_built", name=f"shhq/bg_white_{size}", cache=False, sources=(),
            test_sources=(), size=size,
            eval_split="test",  # the builder cuts no validation split; nothing is chosen by it
        )
    )
    return config


def _autoencoder(config: ConfigDict) -> None:
    config.batch_size, config.steps = 64, 14_700_000 // 64
    config.optimizer.learning_rate = 4.5e-6 * 64
    config.model = ConfigDict(
        dict(
            kind="vq", embed_dim=3, n_embed=8192, z_channels=3, ch=128, ch_mult=(1, 2, 4),
            num_res_blocks=2, dtype="bfloat16",
        )
    )
    # CompVis' for vq-f4. `perceptual`: a file of LPIPS' weights; without, `detail` stands in.
    config.loss = ConfigDict(
        dict(
            perceptual="", backbone="", perceptual_weight=1.0, detail=1.0, regulariser=1.0,
            disc_weight=0.75, disc_factor=1.0, disc_start=0,
        )
    )
    config.discriminator = ConfigDict(dict(ndf=64, n_layers=3, norm="batch", dtype="bfloat16"))
    config.data.update(dict(scale=(1.0, 1.0), backdrop=0.0, colour=0.0, **AS_THEY_ARE))


def _diffusion(config: ConfigDict) -> None:
    config.batch_size, config.steps = 160, 10_100_000 // 160
    config.optimizer.learning_rate = 1e-6 * 160
    config.ema = 0.9999
    config.model = ConfigDict(
        dict(
            model_channels=128, channel_mult=(1, 4, 8), num_res_blocks=2, num_heads=8,
            dtype="bfloat16",
        )
    )
    config.condition = ConfigDict(dict(out_channels=3, n_stages=2))
    config.schedule = ConfigDict(dict(kind="linear", start=0.0015, end=0.0205))
    config.loss = ConfigDict(
        dict(prediction="eps", known=False, known_weight=1.0, shift=1.0, adversarial=0.0)
    )
    config.discriminator = ConfigDict(dict(ndf=64, n_layers=2, norm="group"))  # not trained
    # DPM-Solver++(2M), as good as the 50 of DDIM (appendix B.1): docs/speed.md.
    config.sampling_steps = 10
    config.data.update(
        dict(
            latents=f"data_built/latents_{config.data.size}", channels=3,
            window=config.data.size // 4, cover=1.0, remove_neck=False, fit_partner=False,
        )
    )


def _layout(config: ConfigDict) -> None:
    config.batch_size, config.steps = 24, 1_400_000 // 24
    config.eval_batch_size = 24
    config.model = ConfigDict(dict(preset="full", width=1.0, norm="batch", dtype="bfloat16"))
    config.discriminator = ConfigDict(dict(ndf=64, n_layers=3, norm="batch"))
    # lambda_1 = 1 is implied; lambda_2 = 0.2 (section 4.1).
    config.loss = ConfigDict(dict(logits=1.0, adversarial=0.2, overlap=0.0))
    config.data.update(dict(scale=(1.0, 1.0), fit_partner=False, **AS_THEY_ARE))


def _parser(config: ConfigDict) -> None:
    config.batch_size, config.steps = 64, 30_000
    config.crop_size = 256  # also where the others work at 512
    config.ema = 0.999
    config.optimizer.update(
        dict(learning_rate=5e-4, warmup=500, decay="cosine", b1=0.9, b2=0.99, weight_decay=1e-4,
             clip=1.0)
    )  # fmt: skip
    config.model = ConfigDict(
        dict(widths=(64, 128, 192, 192), depths=(1, 2, 2, 2), dtype="bfloat16")
    )
    names = (
        "background", "hat", "hair", "glove", "sunglasses", "upper_clothes", "dress", "coat",
        "socks", "pants", "skin", "scarf", "skirt", "face", "left_arm", "right_arm", "left_leg",
        "right_leg", "left_shoe", "right_shoe",
    )  # fmt: skip
    config.loss = ConfigDict(dict(class_weights=dict.fromkeys(names, 1.0)))
    config.data.update(
        dict(
            size=256, scale=(0.3, 1.5), backdrop=0.35, rotation=20.0, jitter=0.25, mirror=0.5,
            colour=1.0,
            trusted=("shhq",), merged=(),  # every layout counts as drawn
        )
    )


def get_config(part: str, size: int = 256) -> ConfigDict:
    """The config of one of the four networks, for half-body squares of `size` pixels."""
    if part not in PARTS:
        raise ValueError(f"no SHHQ config {part!r}: use one of {', '.join(PARTS)}")
    config = base(size)
    config.task = part
    globals()[f"_{part}"](config)
    return config
