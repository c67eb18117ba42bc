"""The UNet and the condition: published sizes, CompVis' conventions, and the traps of parity."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import count, drawn, normal
from flax import linen as nn
from flax.traverse_util import flatten_dict

from hsd_jax.diffusion.conditioning import predictor
from hsd_jax.models import forms
from hsd_jax.models.blocks import (
    AttentionBlock,
    GroupNorm,
    split_heads,
    timestep_embedding,
)
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.models.conv import Conv
from hsd_jax.models.unet import TimestepResBlock, UNet, bind

TINY = UNet(model_channels=8, channel_mult=(1, 2), num_res_blocks=1, num_heads=2)
FANCY = TINY.clone(
    use_scale_shift_norm=True, resblock_updown=True, attention_factors=(2,), num_head_channels=4
)


def inputs(batch=2, size=4):
    t = np.arange(batch, dtype=np.int32) * 300 + 7
    return normal(batch, size, size, 3), t, normal(batch, size, size, 3, seed=1)


def shapes(module, *args):
    args = args or inputs(1, 32)
    return jax.eval_shape(module.init, jax.random.key(0), *args)["params"]


@functools.cache
def tiny_params(module=TINY):
    return drawn(shapes(module))


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, z, t, s):
    return module.apply({"params": params}, z, t, s)


def test_sizes_of_the_published_networks():
    params = shapes(UNet(attention_factors=(32, 16, 8)))
    assert count(params) == 215_229_315  # semantic_synthesis256
    # Its attention_resolutions are factors that three levels never reach.
    assert [name for name in params if "qkv" in params[name]] == ["middle_block_1"]
    ffhq = UNet(
        model_channels=224, channel_mult=(1, 2, 3, 4), attention_factors=(8, 4, 2),
        num_head_channels=32,
    )
    z, t, _ = inputs(1, 32)
    params = shapes(ffhq, z, t, None)
    assert count(params) == 274_056_163  # ffhq256
    assert sum("qkv" in params[name] for name in params) == 16


def test_modules_are_numbered_like_compvis():
    params = shapes(UNet(channel_mult=(1, 2), model_channels=32, attention_factors=(2,)))
    down = {"0_0", "1_0", "2_0", "3_0", "4_0", "4_1", "5_0", "5_1"}
    up = {"0_0", "0_1", "1_0", "1_1", "2_0", "2_1", "2_2", "3_0", "4_0", "5_0"}
    assert set(params) == {
        *(f"input_blocks_{n}" for n in down),
        *(f"middle_block_{n}" for n in range(3)),
        *(f"output_blocks_{n}" for n in up),
        "time_embed_0", "time_embed_2", "norm_out", "conv_out",
    }
    assert set(params["input_blocks_3_0"]) == {"kernel", "bias"}  # the downsampling
    assert set(params["output_blocks_2_2"]) == {"kernel", "bias"}  # the upsampling
    assert params["time_embed_0"]["kernel"].shape == (32, 128)
    # A block without change of width has no shortcut, one behind a concatenation always has.
    assert "skip_connection" not in params["input_blocks_1_0"]
    assert params["output_blocks_5_0"]["skip_connection"]["kernel"].shape == (1, 1, 64, 32)


def calls(module):
    """Every convolution and norm that a call of `module` passes through."""
    seen = []

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, (Conv, GroupNorm)):
            seen.append(context.module)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(module, *inputs())
    return seen


def test_what_ends_a_branch_starts_at_zero():
    for conv in calls(FANCY):
        if isinstance(conv, Conv):
            ends = conv.name in ("conv2", "proj_out", "conv_out")
            kernel = conv.kernel_init(jax.random.key(0), (1, 1, 4, 4), jnp.float32)
            assert bool(kernel.any()) != ends, conv.path


@pytest.mark.parametrize("module", [TINY, FANCY])
def test_inputs_matter_each_within_its_example(module):
    z, t, s = inputs()
    params = tiny_params(module)
    eps = apply(module, params, z, t, s)
    assert eps.shape == z.shape and eps.dtype == jnp.float32
    first = np.arange(2) == 0
    image = first[:, None, None, None]
    for other in ((z + image, t, s), (z, t + 50 * first, s), (z, t, s * (1 + image))):
        change = jnp.abs(apply(module, params, *other) - eps)
        assert float(change[0].max()) > 1e-2
        assert float(change[1].max()) < 1e-5


def test_condition_follows_the_latents_in_the_channels():
    z, t, s = inputs()
    params = tiny_params()
    first = params["input_blocks_0_0"]
    deaf = {**first, "kernel": first["kernel"] * (np.arange(6) < 3)[:, None]}
    params = {**params, "input_blocks_0_0": deaf}
    np.testing.assert_array_equal(
        apply(TINY, params, z, t, s), apply(TINY, params, z, t, s + 1)
    )


def test_bfloat16_is_close_and_gives_float32():
    args = (tiny_params(), *inputs())
    half = apply(TINY.clone(dtype=jnp.bfloat16), *args)
    assert half.dtype == jnp.float32
    assert 0 < float(jnp.abs(half - apply(TINY, *args)).mean()) < 0.05


def test_every_norm_and_downsampling_has_the_unet_conventions():
    seen = calls(FANCY.clone(resblock_updown=False))
    assert {module.eps for module in seen if isinstance(module, GroupNorm)} == {1e-5}
    strided = [m.padding for m in seen if isinstance(m, Conv) and m.stride == 2]
    assert strided == [None]  # torch's padding of 1 on all sides


def test_wrong_use_is_an_error():
    z, t, s = inputs(size=5)
    with pytest.raises(ValueError, match="5 x 5.*multiples of 2"):
        apply(TINY, tiny_params(), z, t, s)
    with pytest.raises(ValueError, match="16 channels.*heads of 5"):
        shapes(TINY.clone(num_head_channels=5))
    with pytest.raises(ValueError, match="16 channels.*5 heads"):
        shapes(TINY.clone(num_heads=5))


def test_middle_attention_can_be_left_out():
    assert "middle_block_1" not in shapes(TINY.clone(mid_attention=False))


def test_timestep_embedding_golden():
    want = [[1, 1, 0, 0, 0], [-0.83907153, 0.99500417, -0.54402111, 0.09983342, 0]]
    for t in (np.array([0, 10]), np.array([0.0, 10.0])):
        np.testing.assert_allclose(timestep_embedding(jnp.asarray(t), 5), want, atol=1e-6)


@pytest.mark.parametrize(
    ("scale_shift", "resample"), [(False, None), (True, "up"), (False, "down")]
)
def test_residual_block_by_hand(scale_shift, resample):
    x, emb = normal(1, 4, 4, 4), normal(1, 5, seed=1)
    width = 8 if scale_shift else 4
    identity = np.zeros((3, 3, 4, 4), np.float32)
    identity[1, 1] = np.eye(4)
    params = {
        "emb_proj": {"kernel": normal(5, width, seed=2), "bias": normal(width, seed=3)},
        **{f"norm{i}": {"scale": np.ones(4), "bias": np.zeros(4)} for i in (1, 2)},
        **{f"conv{i}": {"kernel": identity, "bias": np.zeros(4)} for i in (1, 2)},
    }

    def norm(x):  # four channels are one group
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    def swish(x):
        return x / (1 + np.exp(-x))

    def resampled(x):
        if resample == "up":
            return x.repeat(2, axis=1).repeat(2, axis=2)
        return x if resample is None else x.reshape(1, 2, 2, 2, 2, 4).mean((2, 4))

    told = swish(emb) @ params["emb_proj"]["kernel"] + params["emb_proj"]["bias"]
    h = resampled(swish(norm(x)))
    h = norm(h) * (1 + told[:, :4]) + told[:, 4:] if scale_shift else norm(h + told)
    want = resampled(x) + swish(h)
    block = TimestepResBlock(4, scale_shift=scale_shift, resample=resample)
    apply_block = jax.jit(lambda *args: block.apply(*args, False))
    np.testing.assert_allclose(apply_block({"params": params}, x, emb), want, atol=1e-4)


def test_heads_are_split_before_qkv_in_the_legacy_order():
    qkv = jnp.arange(12.0).reshape(1, 1, 12)
    legacy = [np.asarray(part)[0, 0].tolist() for part in split_heads(qkv, 2, legacy=True)]
    assert legacy == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    new = [np.asarray(part)[0, 0].tolist() for part in split_heads(qkv, 2, legacy=False)]
    assert new == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]


@pytest.mark.parametrize("legacy", [True, False])
def test_attention_by_hand(legacy):
    x = normal(1, 2, 3, 4)
    params = {
        "norm": {"scale": np.ones(4), "bias": np.zeros(4)},
        "qkv": {"kernel": normal(1, 1, 4, 12, seed=1), "bias": normal(12, seed=2)},
        "proj_out": {"kernel": normal(1, 1, 4, 4, seed=3), "bias": normal(4, seed=4)},
    }
    flat = x.reshape(6, 4)
    y = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-5)  # four channels are one group
    qkv = y @ params["qkv"]["kernel"][0, 0] + params["qkv"]["bias"]
    # Where q, k and v of either head begin.
    starts = [[0, 2, 4], [6, 8, 10]] if legacy else [[0, 4, 8], [2, 6, 10]]
    heads = []
    for head in starts:
        q, k, v = (qkv[:, start : start + 2] for start in head)
        weights = np.exp(q @ k.T / np.sqrt(2))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    mixed = np.concatenate(heads, -1) @ params["proj_out"]["kernel"][0, 0]
    block = AttentionBlock(num_heads=2, legacy=legacy)
    got = jax.jit(block.apply)({"params": params}, x).reshape(6, 4)
    np.testing.assert_allclose(got, flat + mixed + params["proj_out"]["bias"], atol=1e-4)


def test_condition_is_bilinear_halving_and_a_projection():
    layout = np.random.default_rng(0).integers(0, 9, (2, 8, 12))
    onehot = np.eye(9, dtype=np.float32)[layout]
    kernel = normal(1, 1, 9, 3)

    @jax.jit
    def both(onehot, kernel):
        small = onehot
        for size in ((4, 6), (2, 3)):
            small = jax.image.resize(small, (2, *size, 9), "bilinear", antialias=False)
        params = {"channel_mapper": {"kernel": kernel}}
        return SpatialRescaler().apply({"params": params}, onehot), small @ kernel

    np.testing.assert_allclose(*both(onehot, kernel), atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 4"):
        shapes(SpatialRescaler(), onehot[:, :6])


def test_size_of_the_published_condition():
    assert count(shapes(SpatialRescaler(), jnp.zeros((1, 4, 4, 182)))) == 546


def test_remat_changes_what_is_kept_and_nothing_else():
    plain = TINY.clone(dropout=0.1, mid_attention=False)
    params = tiny_params(TINY.clone(mid_attention=False))
    z, t, s = (jnp.asarray(x) for x in inputs())

    def loss(params, remat):
        model = plain.clone(remat=remat)
        rngs = {"dropout": jax.random.key(0)}
        return jnp.mean(model.apply({"params": params}, z, t, s, True, rngs=rngs) ** 2)

    def blocks_again(remat):
        return str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, remat)).count("remat")

    assert 0 == blocks_again(()) < blocks_again((0,)) < blocks_again((0, 1))
    assert shapes(plain.clone(remat=(0, 1))) == shapes(plain)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_bound_network_gives_the_same(scale_shift):
    net = UNet(
        out_channels=3, model_channels=32, channel_mult=(1,), num_res_blocks=1, num_heads=2,
        use_scale_shift_norm=scale_shift,
    )  # fmt: skip
    z, s = normal(2, 8, 8, 3), jnp.asarray(normal(2, 8, 8, 5, seed=1))
    params = random_params(net, z, np.zeros(2), s)
    times = np.array([900, 400, 3], np.int32)

    @jax.jit
    def both(z, t):
        return predictor(net, params, s)(z, t), predictor(net, params, s, times)(z, t)

    for t in (np.array([900, 900]), np.array([3, 400])):  # one a sample, in any order
        plain, bound = both(z, t)
        np.testing.assert_allclose(bound, plain, atol=1e-5 * float(jnp.abs(plain).max()))
    assert jnp.isnan(both(z, np.array([900, 5]))[1][1]).all()  # it was not bound to step 5


def random_params(net, *arguments):
    shapes = jax.eval_shape(net.init, jax.random.key(0), *arguments)["params"]
    return jax.tree.map(lambda x: jnp.asarray(normal(*x.shape, seed=x.size) / 10), shapes)


def test_what_a_bound_network_computes_in_is_cast_once():
    net = UNet(out_channels=3, model_channels=32, channel_mult=(1,), num_res_blocks=1,
               dtype=jnp.bfloat16)  # fmt: skip
    z, s = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 2))
    params = random_params(net, z, np.zeros(1), s)
    with forms.always(forms.NATIVE):
        own, _, table = jax.eval_shape(partial(bind, net), params, s, jnp.arange(4))
    assert own["input_blocks_0_0"]["kernel"].shape == (3, 3, 3, 32)
    types = {
        "/".join(path): x.dtype
        for path, x in flatten_dict(own).items()
        if path[-1] in ("kernel", "bias")
    }
    wide = ("norm", "emb_proj", "time_embed", "conv_out", "bias")
    for name, dtype in types.items():
        own_type = any(part.startswith(wide) for part in name.split("/"))
        assert dtype == (jnp.float32 if own_type else jnp.bfloat16), name
    assert set(table) == {name for name in own if "emb_proj" in own[name]}


def test_the_condition_is_a_look_up_in_its_kernel():
    layout = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 16, 8)))
    for use_bias in (False, True):
        stem = SpatialRescaler(out_channels=3, n_stages=2, use_bias=use_bias)
        params = random_params(stem, np.zeros((1, 4, 4, 7), np.float32))
        whole = stem.apply({"params": params}, jax.nn.one_hot(layout, 7))
        np.testing.assert_allclose(stem.apply({"params": params}, layout), whole, atol=1e-6)
