"""Parity with PyTorch, from checkpoints on disk: outputs, gradients, samples, and the way back.

The references are `torch_reference` (CompVis and U^2-Net, written anew) and, where it is installed,
diffusers. Weights are random, layers that begin at zero included.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from hsd_jax.convert import compvis_names, from_torch, to_torch, u2net
from hsd_jax.convert.tensors import Leaf, Share, param_shapes, to_params, to_state
from hsd_jax.diffusion.schedule import Schedule, denoiser
from hsd_jax.diffusion.solvers import ddim, ddim_tables
from hsd_jax.models import apply
from hsd_jax.models.layout_generator import LayoutGenerator, U2Net

torch = pytest.importorskip("torch")
import parity  # noqa: E402
import torch_reference as reference  # noqa: E402
from parity import (  # noqa: E402
    assert_close,
    compiled,
    latent_diffusion,
    nchw,
    nhwc,
    normal,
    plain_convolutions,
    same_state,
    save,
)

AUTOENCODERS = {
    "vq": dict(n_embed=16, attends=(1,)),
    "kl": dict(embed_dim=4, z_channels=4, ch_mult=(1, 2)),
    "vq without attention": dict(n_embed=16, mid_attention=False, num_res_blocks=2),
}
UNETS = {
    "heads first": dict(num_heads=4, attention_resolutions=(2,)),
    "q, k, v first": dict(
        num_head_channels=16, use_scale_shift_norm=True, resblock_updown=True,
        attention_resolutions=(1,), use_new_attention_order=True,
    ),
}  # fmt: skip
HEADS = ("num_heads", "num_head_channels", "use_new_attention_order")


@pytest.fixture(autouse=True)
def plain(request, monkeypatch):
    plain_convolutions(request, monkeypatch)
    # The same draws in any order of tests: some put a gradient at three times its bound.
    monkeypatch.setattr(parity, "RNG", np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return latent_diffusion(tmp_path_factory.mktemp("ldm"))


def assert_same_gradients(ours, module, table, shapes):
    """Per leaf; one whose gradient is all but zero is held to the size of the others."""
    state = {
        name: value.grad if value.grad is not None else torch.zeros_like(value)
        for name, value in module.named_parameters()
    }
    state |= {name: torch.zeros_like(value) for name, value in module.named_buffers()}
    theirs = flatten_dict(to_params(state, table, shapes, "gradients", (r".*tracked",)), sep="/")
    ours = flatten_dict(ours, sep="/")
    overall = np.sqrt(np.mean([np.square(leaf).mean() for leaf in theirs.values()]))
    for path, leaf in theirs.items():
        size = max(leaf.std(), 0.1 * overall)
        assert np.abs(np.asarray(ours[path]) - leaf).max() < 1e-4 * size, path


@pytest.mark.parametrize(
    "case, with_gradients",
    [
        ("vq", True), ("kl", False), ("vq without attention", False),
        pytest.param("kl", True, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_autoencoder(tmp_path, case, with_gradients):
    torch_net = reference.randomize(reference.Autoencoder(**AUTOENCODERS[case]))
    path = save(tmp_path, {"state_dict": torch_net.state_dict()})
    module, params = from_torch(path, "autoencoder")
    x, weight = normal(2, 8, 8, 3), normal(2, 8, 8, 3)
    same_state(to_torch(module, params, "autoencoder", "compvis"), torch_net)

    def loss(params):
        h = apply(module, params, x, method="encode")
        h = jnp.concatenate(h, -1) if isinstance(h, tuple) else h
        out = apply(module, params, h[..., : module.embed_dim], method="decode")
        return (out * weight).sum() + jnp.square(h).sum(), (h, out)

    run = jax.value_and_grad(loss, has_aux=True) if with_gradients else lambda p: (loss(p), None)
    (_, (h, out)), gradients = compiled(run)(params)
    torch_h = torch_net.encode(nchw(x))
    torch_out = torch_net.decode(torch_h[:, : module.embed_dim])
    assert_close(h, nhwc(torch_h))
    assert_close(out, nhwc(torch_out))
    if not with_gradients:
        return
    ((torch_out * nchw(weight)).sum() + torch_h.square().sum()).backward()
    shapes = param_shapes(module, x.shape)
    table = compvis_names.autoencoder_table(shapes)
    assert_same_gradients(gradients, torch_net, table, shapes)


@pytest.mark.parametrize(
    "case, with_gradients",
    [
        ("heads first", True), ("q, k, v first", False),
        pytest.param("q, k, v first", True, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_unet(tmp_path, case, with_gradients):
    settings = UNETS[case]
    torch_net = reference.randomize(reference.UNet(6, 3, 32, **settings))
    path = save(tmp_path, {"state_dict": torch_net.state_dict()})
    heads = {key: value for key, value in settings.items() if key in HEADS}
    module, params = from_torch(path, "unet", heads)
    z, s, t, weight = normal(2, 4, 4, 3), normal(2, 4, 4, 3), np.array([3, 700]), normal(2, 4, 4, 3)

    def loss(params):
        eps = apply(module, params, z, t, s)
        return (eps * weight).sum(), eps

    run = jax.value_and_grad(loss, has_aux=True) if with_gradients else lambda p: (loss(p), None)
    (_, eps), gradients = compiled(run)(params)
    torch_eps = torch_net(nchw(z), torch.tensor(t), nchw(s))
    assert_close(eps, nhwc(torch_eps))
    same_state(to_torch(module, params, "unet", "compvis"), torch_net)
    if not with_gradients:
        return
    (torch_eps * nchw(weight)).sum().backward()
    shapes = param_shapes(module, (1, 4, 4, 6), (1,), None)
    assert_same_gradients(gradients, torch_net, compvis_names.unet_table(shapes), shapes)


def test_unet_by_its_yaml_is_the_unet_by_its_shapes(tmp_path):
    settings = dict(UNETS["heads first"], channel_mult=(1, 2, 2), num_res_blocks=2)
    torch_net = reference.UNet(6, 3, 32, **settings)
    path = save(tmp_path, torch_net.state_dict())
    yaml = {
        "model": {"params": {"unet_config": {"target": "ldm.UNetModel", "params": {
            "image_size": 64, "in_channels": 6, "out_channels": 3, "model_channels": 32,
            "num_res_blocks": 2, "channel_mult": [1, 2, 2], "num_heads": 4,
            "attention_resolutions": [2, 16, 8], "use_checkpoint": True, "legacy": True,
        }}}}
    }  # fmt: skip
    config = tmp_path / "other.yaml"
    config.write_text(json.dumps(yaml))
    told, _ = from_torch(path, "unet", config)
    seen, _ = from_torch(path, "unet", {"num_heads": 4})
    assert told == seen and told.attention_factors == (2,)
    section = yaml["model"]["params"]["unet_config"]
    for part_of_it in (section, section["params"], {"unet_config": section}, yaml["model"]):
        assert from_torch(path, "unet", part_of_it)[0] == told
    (tmp_path / "model.yaml").write_text(config.read_text())
    assert from_torch(path, "unet")[0] == told  # found beside it


def test_condition(tmp_path):
    torch_net = reference.randomize(reference.SpatialRescaler(2, 5, 3, bias=True))
    path = save(tmp_path, {"cond_stage_model." + k: v for k, v in torch_net.state_dict().items()})
    with pytest.raises(ValueError, match="give n_stages"):
        from_torch(path, "condition")
    module, params = from_torch(path, "condition", {"n_stages": 2})
    x = normal(2, 8, 12, 5)
    assert_close(apply(module, params, x), nhwc(torch_net(nchw(x))))
    same_state(to_torch(module, params, "condition", "compvis"), torch_net)


def small_u2net(inputs=3, outputs=1):
    narrow = tuple([(height, 2, 4) for height, _, _ in row] for row in reference.U2NETP)
    return reference.randomize(reference.U2Net(narrow, inputs, outputs))


def test_u2net(tmp_path):
    torch_net = small_u2net()
    module, params = from_torch(save(tmp_path, torch_net.state_dict()), "layout_generator")
    assert isinstance(module, U2Net) and module.stages.decoder[1].kind == "4"
    x = normal(1, 38, 33, 3)
    out = compiled(lambda p: apply(module, p, x))(params)
    for ours, theirs in zip((out.fused, *out.sides), torch_net(nchw(x)), strict=True):
        assert_close(ours, nhwc(theirs))
    same_state(to_torch(module, params, "layout_generator", "compvis"), torch_net)


@pytest.mark.slow
def test_gradients_of_u2net(tmp_path):
    torch_net = small_u2net()
    module, params = from_torch(save(tmp_path, torch_net.state_dict()), "layout_generator")
    x, weight = normal(1, 38, 33, 3), normal(1, 38, 33, 1)
    gradients = compiled(jax.grad(lambda p: (apply(module, p, x).fused * weight).sum()))(params)
    (torch_net(nchw(x))[0] * nchw(weight)).sum().backward()
    shapes = param_shapes(module, x.shape)
    assert_same_gradients(gradients, torch_net, u2net.names_table(shapes), shapes)


def test_layout_generator_of_a_u2net_over_classes(tmp_path):
    narrow = tuple([(h, mid // 8, out // 8) for h, mid, out in row] for row in reference.U2NETP)
    torch_net = reference.randomize(reference.U2Net(narrow, 4, 5))
    path = save(tmp_path, torch_net.state_dict(), "u2netp.pth")
    module, params = from_torch(path, "layout_generator", {"num_classes": 4})
    assert module == LayoutGenerator(4, "small", 1 / 8)
    same_state(to_torch(module, params, "layout_generator", "compvis"), torch_net)
    with pytest.raises(ValueError, match="4 channels in and 5 out.*num_classes=3"):
        from_torch(path, "layout_generator", {"num_classes": 3})


def test_averages_are_preferred(model):
    path, averages, first_stage = model
    same_state(to_torch(*from_torch(path, "unet"), "unet", "compvis"), averages)
    ours = to_torch(*from_torch(path, "autoencoder"), "autoencoder", "compvis")
    same_state(ours, first_stage)


def test_fifty_steps_of_ddim(model):
    path, averages, _ = model
    module, params = from_torch(path, "unet")
    z, s = normal(1, 8, 8, 3), normal(1, 8, 8, 3)
    schedule = Schedule()

    @compiled
    def sample(params, z, s):
        denoise = denoiser(lambda z, t: apply(module, params, z, t, s), schedule)
        return ddim(denoise, ddim_tables(schedule, 50), z, jax.random.split(jax.random.key(0), 1))

    theirs = nhwc(reference.ddim(averages, nchw(z), nchw(s), 50))
    assert np.abs(np.asarray(sample(params, z, s)) - theirs).max() < 1e-3


def test_shares_of_a_leaf_are_put_where_they_belong():
    q, k, v = (np.full((4, 2), value, np.float32) for value in (1, 2, 3))
    for blocks, columns in ((1, [1] * 4 + [2] * 4 + [3] * 4), (2, [1, 1, 2, 2, 3, 3] * 2)):
        table = {
            name: Leaf("qkv/kernel", "dense_as_conv", Share(index, 3, blocks))
            for index, name in enumerate("qkv")
        }
        state = dict(zip("qkv", (q, k, v), strict=True))
        params = to_params(state, table, {"qkv/kernel": (1, 1, 2, 12)}, "test")
        assert params["qkv"]["kernel"][0, 0, 0].tolist() == columns
        jax.tree.map(np.testing.assert_array_equal, to_state(params, table), state)


def full_autoencoder():
    settings = dict(n_embed=8192, ch=128, ch_mult=(1, 2, 4), num_res_blocks=2)
    return reference.Autoencoder(**settings), "autoencoder", {}


def full_unet():
    settings = dict(num_heads=8, channel_mult=(1, 4, 8), num_res_blocks=2)
    return reference.UNet(6, 3, 128, **settings), "unet", {"num_heads": 8}


@pytest.mark.slow
@pytest.mark.parametrize("build", [full_autoencoder, full_unet])
def test_the_papers_sizes(tmp_path, build):
    torch_net, part, config = build()
    reference.randomize(torch_net)
    module, params = from_torch(save(tmp_path, torch_net.state_dict()), part, config)
    if part == "unet":
        z, t = normal(1, 32, 32, 6), np.array([500])
        ours = jax.jit(lambda p: apply(module, p, z, t, None))(params)
        with torch.no_grad():
            return assert_close(ours, nhwc(torch_net(nchw(z), torch.tensor(t))))
    x, z = normal(1, 128, 128, 3), normal(1, 32, 32, 3)
    h = jax.jit(lambda p: apply(module, p, x, method="encode"))(params)
    out = jax.jit(lambda p: apply(module, p, z, method="decode"))(params)
    with torch.no_grad():
        assert_close(h, nhwc(torch_net.encode(nchw(x))))
        return assert_close(out, nhwc(torch_net.decode(nchw(z))))


@pytest.mark.slow
def test_the_full_u2net(tmp_path):
    torch_net = reference.randomize(reference.U2Net(reference.U2NET))
    module, params = from_torch(save(tmp_path, torch_net.state_dict()), "layout_generator")
    x = normal(1, 64, 64, 3)
    out = jax.jit(lambda p: apply(module, p, x))(params)
    with torch.no_grad():
        for ours, theirs in zip((out.fused, *out.sides), torch_net(nchw(x)), strict=True):
            assert_close(ours, nhwc(theirs))
