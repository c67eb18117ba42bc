"""Parity with diffusers in both directions: its models in ours, ours in its `from_pretrained`."""

import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from hsd_jax import weights
from hsd_jax.cli import main
from hsd_jax.convert import from_torch, to_torch
from hsd_jax.models import apply

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, UNet2DModel, VQModel  # pyright: ignore[reportMissingImports]

import torch_reference as reference  # noqa: E402
from parity import (  # noqa: E402
    assert_close,
    compiled,
    nchw,
    nhwc,
    normal,
    plain_convolutions,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers

TRUNK = dict(layers_per_block=1, block_out_channels=(32, 64))
ENCODER = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
DECODER = ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
AUTOENCODERS = {
    "VQModel": (VQModel, dict(
        TRUNK, down_block_types=ENCODER, up_block_types=DECODER, num_vq_embeddings=16,
        vq_embed_dim=2, latent_channels=3,
    )),
    "AutoencoderKL": (AutoencoderKL, dict(
        TRUNK, down_block_types=ENCODER[:1] * 2, up_block_types=DECODER[1:] * 2,
        norm_num_groups=8, layers_per_block=2,
    )),
}  # fmt: skip
PLAIN = dict(
    TRUNK, in_channels=6, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
UNETS = {
    # As ldm-super-resolution-4x-openimages, only smaller.
    "ldm": dict(PLAIN, attention_head_dim=32),
    # As the DDPM checkpoints, only smaller: all that differs from CompVis.
    "ddpm": dict(
        PLAIN, attention_head_dim=None, freq_shift=1, flip_sin_to_cos=False, norm_eps=1e-6,
        downsample_padding=0, norm_num_groups=16,
    ),
    "scale_shift": dict(
        PLAIN, resnet_time_scale_shift="scale_shift", downsample_type="resnet",
        upsample_type="resnet", down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def plain(request, monkeypatch):
    plain_convolutions(request, monkeypatch)


def same_weights(state, module):
    assert state.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy())


def written_back(folder, part, module, params, extra=None):
    """Our network as `hsd convert --to diffusers` writes it: the folder of its models."""
    weights.save_part(folder / "ours", part, module, params, extra or {}, np.float32)
    out = folder / "theirs"
    assert main(["convert", str(folder / "ours"), "-o", str(out), "--to", "diffusers"]) == 0
    return out


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_autoencoder(tmp_path, case):
    model_class, config = AUTOENCODERS[case]
    model = reference.randomize(model_class(**config))
    model.save_pretrained(tmp_path / "model")
    module, params = from_torch(tmp_path / "model", "autoencoder")
    x = normal(1, 8, 12, 3)

    @compiled
    def run(params):
        h = apply(module, params, x, method="encode")
        h = h[0] if isinstance(h, tuple) else h
        return h, apply(module, params, h, method="decode")

    encoded = model.encode(nchw(x))
    latents = encoded.latents if case == "VQModel" else encoded.latent_dist.mean
    h, out = run(params)
    assert_close(h, nhwc(latents))
    assert_close(out, nhwc(model.decode(latents).sample))
    same_weights(to_torch(module, params, "autoencoder", "diffusers"), model)
    folder = {"VQModel": "vqvae", "AutoencoderKL": "vae"}[case]
    theirs = model_class.from_pretrained(
        written_back(tmp_path, "autoencoder", module, params), subfolder=folder
    )
    torch.testing.assert_close(theirs(nchw(x)).sample, model(nchw(x)).sample, rtol=0, atol=0)


@pytest.mark.parametrize("case", UNETS)
def test_unet(tmp_path, case):
    model = reference.randomize(UNet2DModel(**UNETS[case]))
    model.save_pretrained(tmp_path / "model", safe_serialization=case != "ddpm")
    module, params = from_torch(tmp_path / "model", "unet")
    z, s, t = normal(2, 4, 8, 3), normal(2, 4, 8, 3), np.array([3, 700])
    eps = compiled(lambda p: apply(module, p, z, t, s))(params)
    torch_in, torch_t = torch.cat([nchw(z), nchw(s)], 1), torch.tensor(t)
    assert_close(eps, nhwc(model(torch_in, torch_t).sample))
    same_weights(to_torch(module, params, "unet", "diffusers"), model)
    schedule = {"kind": "linear", "start": 0.0015, "end": 0.0205, "num_timesteps": 1000}
    out = written_back(tmp_path, "unet", module, params, {"schedule": schedule})
    theirs = UNet2DModel.from_pretrained(out, subfolder="unet")
    torch.testing.assert_close(
        theirs(torch_in, torch_t).sample, model(torch_in, torch_t).sample, rtol=0, atol=0
    )
    betas = diffusers.DDIMScheduler.from_pretrained(out, subfolder="scheduler").betas
    np.testing.assert_allclose(betas, reference.beta_table(0.0015, 0.0205, 1000), rtol=1e-5)


@pytest.mark.parametrize("new_order", [False, True])
def test_a_unet_of_compvis_in_diffusers(tmp_path, new_order):
    """q, k and v of each head come out of the joint tensor, whichever its order is."""
    settings = dict(num_heads=4, attention_resolutions=(2,), use_new_attention_order=new_order)
    theirs = reference.randomize(reference.UNet(6, 3, 32, **settings))
    torch.save(theirs.state_dict(), tmp_path / "model.ckpt")
    settings.pop("attention_resolutions")
    module, params = from_torch(tmp_path / "model.ckpt", "unet", settings)
    out = written_back(tmp_path, "unet", module, params)
    model = UNet2DModel.from_pretrained(out, subfolder="unet")
    z, t = torch.randn(2, 6, 8, 8), torch.tensor([5, 600])
    with torch.no_grad():
        want, got = theirs(z, t), model(z, t).sample
    assert (got - want).abs().max() < 1e-4 * want.std()


def test_old_names_shards_and_missing_settings(tmp_path):
    """Before diffusers 0.12 attention had other names; sizes can be read from the shapes."""
    model = reference.randomize(UNet2DModel(**UNETS["ldm"]))
    state = {}
    for name, value in model.state_dict().items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            name = name.replace(f".{new}.", f".{old}.")
        state[name.replace(".to_out.0.", ".proj_attn.")] = value.numpy()
    names, files = sorted(state), ("a.safetensors", "b.safetensors")
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {name: files[i % 2] for i, name in enumerate(names)}
    path = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match="give attention_head_dim"):
        from_torch(tmp_path, "unet")
    module, params = from_torch(tmp_path, "unet", {"attention_head_dim": 32})
    same_weights(to_torch(module, params, "unet", "diffusers"), model)
    path.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="not beside it"):
        from_torch(tmp_path, "unet")


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_autoencoders_are_seen_from_their_shapes(tmp_path, case):
    model_class, config = AUTOENCODERS[case]
    config = {**config, "norm_num_groups": 32}
    model_class(**config).save_pretrained(tmp_path)
    told, _ = from_torch(tmp_path, "autoencoder")
    (tmp_path / "config.json").unlink()
    assert from_torch(tmp_path, "autoencoder")[0] == told


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor is 2"),
        ({"block_out_channels": [32, 48]}, "no multiples of the 32"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "do not mirror"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "no block 'SkipDownBlock2D'"),
        ({"downsample_type": "resnet", "down_block_types": ["AttnDownBlock2D"] * 2,
          "up_block_types": ["AttnUpBlock2D"] * 2}, "resample by"),
        ({"_class_name": "UNet2DConditionModel"}, "the model is a UNet2DConditionModel"),
        ({"new_option": 3}, "new_option=3 is not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_named(tmp_path, change, problem):
    UNet2DModel(**UNETS["ldm"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=problem):
        from_torch(tmp_path, "unet")


def test_a_pipeline_gives_its_models_and_facts(tmp_path, capsys):
    pipeline = tmp_path / "pipeline"
    UNet2DModel(**UNETS["ldm"]).save_pretrained(pipeline / "unet")
    model_class, config = AUTOENCODERS["VQModel"]
    model_class(**config, scaling_factor=0.5).save_pretrained(pipeline / "vqvae")
    diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0155
    ).save_pretrained(pipeline / "scheduler")
    (pipeline / "model_index.json").write_text('{"_class_name": "LDMSuperResolutionPipeline"}')
    assert main(["convert", str(pipeline), "-o", str(tmp_path / "ours")]) == 0
    assert "wrote unet" in capsys.readouterr().out
    extra = weights.load_part(tmp_path / "ours", "unet").extra
    assert extra["schedule"]["end"] == 0.0155 and extra["prediction"] == "eps"
    assert extra["latent_std"] == [2.0] * 3
    assert weights.load_part(tmp_path / "ours", "autoencoder").module.n_embed == 16
