"""The embedded weights: six small networks for a laptop, trained on half-body images of 256 px.

    python -m data.build halfbody --source IMAGES --out data_built
    python -m hsd_jax.training.tools.imagenet -o START efficientnet-lite2-9656183e.pth
    python -m hsd_jax.train --config configs/embedded.py:lite_parser --workdir runs/parser \\
        --config.init_from=START
    python -m hsd_jax.train --config configs/embedded.py:autoencoder --workdir runs/autoencoder
    python -m hsd_jax.training.tools.latents --weights runs/autoencoder/weights \\
        --data data_built --out data_built/latents
    python -m hsd_jax.train --config configs/embedded.py:layout --workdir runs/layout
    python -m hsd_jax.train --config configs/embedded.py:diffusion --workdir runs/diffusion
    python -m hsd_jax.train --config configs/embedded.py:landmarks --workdir runs/landmarks

`--config.data.dir` says where the built data lie; the landmarks' are another folder, which
`data/label_landmarks.py` writes. Hardware, cost and figures: MODEL_CARD.md.
"""

from ml_collections import ConfigDict

PARTS = ("parser", "lite_parser", "autoencoder", "layout", "diffusion", "landmarks")


def _base() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.labels = "halfbody9"
    config.crop_size = 256  # of swaps with these weights
    config.init_from = ""  # a folder or name of released weights to start from
    config.ema = 0.999
    config.keep = 2  # newest checkpoints that stay
    config.log_every = 50
    config.save_every = 250
    config.eval_every = 1000
    config.eval_batch_size = 16
    config.parallel, config.accumulate = "sharded", 1
    config.mesh = ConfigDict(dict(data=-1, fsdp=1))
    config.freeze = ()  # paths of parameters that stay: "autoencoder/encoder"
    config.best, config.best_mode = "", "max"  # a metric (SPLIT/NAME) whose best checkpoint stays
    config.eval_metrics, config.eval_weights = (), ""  # ("pd",): hsd_jax.evaluation.during_training
    config.profile = 0  # steps to trace
    config.optimizer = ConfigDict(
        dict(
            learning_rate=5e-4, warmup=200, decay="cosine", b1=0.9, b2=0.99, weight_decay=1e-4,
            clip=1.0,
        )
    )
    config.data = ConfigDict(
        dict(dir="data_built", sources=(), test_sources=(), eval_split="validation")
    )
    return config


def _parser(config: ConfigDict) -> None:
    config.steps, config.batch_size = 3400, 8
    config.model = ConfigDict(dict(widths=(64, 128, 192, 192), depths=(1, 2, 2, 2)))
    config.loss = ConfigDict(
        dict(
            class_weights=dict(
                background=1.0, hair=1.5, face=1.5, neck=2.5, clothes=1.0, skin=1.5, hat=3.0,
                glasses=3.0, accessory=1.0,
            )
        )
    )
    config.data.update(
        dict(
            size=192, scale=(0.3, 1.5), backdrop=0.35, rotation=20.0, jitter=0.25, mirror=0.5,
            colour=1.0,
            # Automatic labels call arms clothes: there the two count as one.
            trusted=("ccp_gt",), merged=("clothes", "skin", "accessory"),
        )
    )
    config.data.test_sources = ("ccp_gt",)


def _lite_parser(config: ConfigDict) -> None:
    """The parser of version 6, on EfficientNet-Lite2 (training/tools/imagenet.py)."""
    _parser(config)
    config.steps, config.task = 6000, "parser"
    config.model = ConfigDict(dict(kind="lite", widths=(64, 96, 128)))


def _autoencoder(config: ConfigDict) -> None:
    config.steps, config.batch_size = 1800, 4
    config.optimizer.learning_rate = 4e-4
    config.model = ConfigDict(
        dict(
            kind="kl", embed_dim=4, z_channels=4, ch=128, ch_mult=(1,), num_res_blocks=2, patch=4,
            mid_attention=False,
        )
    )
    # `perceptual`: LPIPS' weights, which then take the place of `detail` (docs/checkpoints.md).
    config.loss = ConfigDict(
        dict(detail=0.5, regulariser=1e-7, perceptual="", backbone="", perceptual_weight=0.5)
    )
    config.data.update(
        dict(
            size=128, scale=(0.6, 1.3), backdrop=0.1, rotation=10.0, jitter=0.0, mirror=0.5,
            colour=0.6,
        )
    )


def _layout(config: ConfigDict) -> None:
    config.steps, config.batch_size = 1300, 8
    config.optimizer.learning_rate = 1e-3
    config.model = ConfigDict(dict(preset="small", width=1.0, norm="group", patch=4))
    config.discriminator = ConfigDict(dict(ndf=32, n_layers=3, norm="group"))
    config.loss = ConfigDict(dict(logits=1.0, adversarial=0.0, overlap=1.0))
    config.data.update(
        dict(
            size=256, scale=(0.8, 1.28), rotation=10.0, jitter=0.1, mirror=0.5, fit_partner=True,
            visible_neck=0.7,
        )
    )
    config.data.test_sources = ("ccp_gt",)


def _diffusion(config: ConfigDict) -> None:
    config.steps, config.batch_size = 3300, 8
    config.optimizer.update(dict(learning_rate=4e-4, warmup=300))
    config.model = ConfigDict(
        dict(
            model_channels=64, channel_mult=(1, 2, 4), num_res_blocks=1, num_head_channels=64,
            use_scale_shift_norm=True, dropout=0.05,
        )
    )
    config.condition = ConfigDict(dict(out_channels=9, n_stages=2))
    config.schedule = ConfigDict(dict(kind="linear", start=0.0015, end=0.0205))
    config.loss = ConfigDict(
        dict(
            prediction="v", known=True, known_weight=0.1, shift=8.0, adversarial=0.0,
            # LPIPS' weights and whose decoder it looks through; none in the paper.
            perceptual="", perceptual_weight=0.5, autoencoder="embedded",
        )
    )
    config.discriminator = ConfigDict(dict(ndf=64, n_layers=2, norm="group"))
    # Few, for a network that has seen few images: more calls add noise that it cannot remove yet.
    config.sampling_steps = 2
    config.data.update(dict(latents="data_built/latents", window=32, cover=0.0))
    config.data.update(dict(fit_partner=True, remove_neck=False))


def _landmarks(config: ConfigDict) -> None:
    config.steps, config.batch_size = 2400, 24
    config.optimizer.update(dict(learning_rate=1e-3))
    config.model = ConfigDict(dict(widths=(48, 64, 96), depths=(1, 2, 2)))
    config.loss = ConfigDict(dict(heatmap=1.0, points=20.0, angles=2.0, face=0.5))
    config.data.update(
        dict(
            dir="data_landmarks", scale=(0.67, 1.43), rotation=30.0, jitter=0.18, mirror=0.5,
            colour=1.0, hidden=0.12, covered=0.25,
        )
    )


def get_config(part: str) -> ConfigDict:
    """The config of one of the networks."""
    if part not in PARTS:
        raise ValueError(f"no embedded config {part!r}: use one of {', '.join(PARTS)}")
    config = _base()
    config.task = part
    globals()[f"_{part}"](config)
    return config
