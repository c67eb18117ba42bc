"""The autoencoder: sizes of the published networks, quantisation, and its traps of parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import count, drawn, normal
from flax import linen as nn

from hsd_jax.models import blocks
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.blocks import (
    AttnBlock,
    GroupNorm,
    ResBlock,
    attend,
    depth_to_space,
    fitting_groups,
    space_to_depth,
)
from hsd_jax.models.conv import Conv, compiled_for

TINY = Autoencoder(ch=4, ch_mult=(1, 2), num_res_blocks=1, n_embed=16, attn_levels=(1,))
pytestmark = pytest.mark.usefixtures("quick_compiles")


def shapes(module, *args):
    args = args or (jnp.zeros((1, 32, 32, 3)),)
    return jax.eval_shape(module.init, jax.random.key(0), *args)["params"]


@functools.cache
def tiny_params(module=TINY):
    return {**drawn(shapes(module)), "codebook": normal(16, 3)}


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="force_not_quantize")
def apply(module, method, params, *args, **kwargs):
    return module.apply({"params": params}, *args, method=method, **kwargs)


def run(method, *args, module=TINY, params=None, **kwargs):
    return apply(module, method, params or tiny_params(), *args, **kwargs)


def calls_of(module_type, module, *args):
    """Every submodule of that type that a call of `module` passes through."""
    seen = []

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, module_type) and context.method_name == "__call__":
            seen.append(context.module)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(module.init, jax.random.key(0), *args)
    return seen


@pytest.mark.parametrize(
    ("kind", "mid_attention", "total", "encoder", "decoder", "quant_conv"),
    [
        ("vq", True, 55_322_782, 22_337_411, 32_960_771, 12),
        ("vq", False, 53_219_486, 21_285_763, 31_909_123, 12),
        ("kl", True, 55_312_063, 22_351_238, 32_960_771, 42),
    ],
)
def test_sizes_of_the_published_networks(
    kind, mid_attention, total, encoder, decoder, quant_conv
):
    params = shapes(Autoencoder(kind=kind, mid_attention=mid_attention))
    assert count(params) == total
    assert count(params["encoder"]) == encoder
    assert count(params["decoder"]) == decoder
    assert count(params["quant_conv"]) == quant_conv
    assert count(params["post_quant_conv"]) == 12
    assert count(params.get("codebook", ())) == (8192 * 3 if kind == "vq" else 0)


def test_size_of_a_network_with_attention_inside_the_levels():
    # CompVis' kl-f16: attn_resolutions [16] at 256 is level 4 of five.
    module = Autoencoder("kl", 16, z_channels=16, ch_mult=(1, 1, 2, 2, 4), attn_levels=(4,))
    params = shapes(module)
    attention = [k for part in ("encoder", "decoder") for k in params[part] if "attn" in k]
    assert sorted(attention) == [
        "down_4_attn_0", "down_4_attn_1", "up_4_attn_0", "up_4_attn_1", "up_4_attn_2",
    ]
    assert module.factor == 16


def test_output_is_independent_of_the_rest_of_the_batch():
    x = np.tanh(normal(3, 4, 8, 3))
    h = run("encode", x)
    image = run("decode", h)
    assert (h.shape, image.shape, TINY.factor) == ((3, 2, 4, 3), (3, 4, 8, 3), 2)
    assert h.dtype == image.dtype == jnp.float32
    x[0], x[2] = 0, -x[0]
    other = run("encode", x)
    np.testing.assert_allclose(other[1], h[1], atol=1e-6)
    np.testing.assert_allclose(run("decode", other)[1], image[1], atol=1e-5)
    assert float(jnp.abs(other - h).max()) > 1e-2


def test_latents_are_float32_and_close_in_bfloat16():
    x = np.tanh(normal(3, 4, 8, 3))
    half = run("encode", x, module=TINY.clone(dtype=jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert 0 < float(jnp.abs(half - run("encode", x)).max()) < 0.1


def test_quantize_finds_the_nearest_entry():
    h = normal(2, 3, 5, 3, seed=4)
    codebook = tiny_params()["codebook"]
    distance = ((h[..., None, :] - codebook) ** 2).sum(-1)
    quantized = run("vector_quantize", h)
    np.testing.assert_array_equal(quantized.indices, distance.argmin(-1))
    np.testing.assert_allclose(quantized.latents, codebook[distance.argmin(-1)], atol=1e-6)
    entries = np.concatenate([codebook, codebook[:14]]).reshape(h.shape)
    np.testing.assert_array_equal(run("quantize", entries), entries)


def test_gradients_of_quantisation():
    h, weights = normal(1, 2, 2, 3, seed=5), normal(1, 2, 2, 3, seed=6)

    @jax.jit
    def both(codebook, h):
        def passed(codebook, h):
            return (run("quantize", h, params={"codebook": codebook}) * weights).sum()

        def loss(codebook, h):
            return run("vector_quantize", h, params={"codebook": codebook}).loss

        return jax.grad(passed, (0, 1))(codebook, h), jax.value_and_grad(loss, (0, 1))(codebook, h)

    codebook = tiny_params()["codebook"]
    (d_codebook, d_h), (loss, (loss_d_codebook, loss_d_h)) = both(codebook, h)
    np.testing.assert_array_equal(d_h, weights)
    np.testing.assert_array_equal(d_codebook, 0.0)
    # legacy=True: weight 1 on the encoder's term, beta = 0.25 on the codebook's.
    nearest = ((h[..., None, :] - codebook) ** 2).sum(-1).argmin(-1).ravel()
    gap = h.reshape(-1, 3) - codebook[nearest]
    want = np.zeros_like(codebook)
    np.add.at(want, nearest, -0.25 * 2 * gap / h.size)
    np.testing.assert_allclose(loss_d_h.reshape(-1, 3), 2 * gap / h.size, atol=1e-6)
    np.testing.assert_allclose(loss_d_codebook, want, atol=1e-6)
    np.testing.assert_allclose(loss, 1.25 * (gap**2).mean(), rtol=1e-5)


def test_decode_quantises_first():
    module = TINY.clone(ch_mult=(1,), attn_levels=())
    params = tiny_params(module)
    h = normal(1, 2, 4, 3, seed=7)

    @jax.jit
    def both(params, h):
        bound = module.bind({"params": params})
        return bound.quantize(h), bound.decode(h), bound.decode(h, force_not_quantize=True)

    q, decoded, _ = both(params, h)
    _, again, forced = both(params, q)
    np.testing.assert_allclose(again, decoded, atol=1e-5)
    np.testing.assert_allclose(forced, decoded, atol=1e-5)
    assert float(jnp.abs(both(params, h)[2] - decoded).max()) > 1e-3


def test_kl_encodes_a_clipped_posterior_and_decodes_its_mean():
    module = Autoencoder("kl", 2, z_channels=3, ch=4, ch_mult=(1,), num_res_blocks=1)
    x = np.tanh(normal(1, 2, 2, 3))
    params = tiny_params(module)
    bias = np.array([0, 0, -99, 99], np.float32)
    params = {**params, "quant_conv": {**params["quant_conv"], "bias": bias}}

    @jax.jit
    def outputs(params, x):
        bound = module.bind({"params": params})
        mean, logvar = bound.encode(x)
        return mean, logvar, bound.quantize(mean), bound.decode(mean), bound(x)

    mean, logvar, quantized, decoded, reconstruction = outputs(params, x)
    assert mean.shape == logvar.shape == (1, 2, 2, 2)
    np.testing.assert_array_equal(logvar[..., 0], -30)
    np.testing.assert_array_equal(logvar[..., 1], 20)
    np.testing.assert_array_equal(quantized, mean)
    np.testing.assert_allclose(reconstruction, decoded, atol=1e-6)
    assert "codebook" not in shapes(module)
    with pytest.raises(ValueError, match="no codebook"):
        run("vector_quantize", mean, module=module, params=params)


def test_patch_multiplies_the_factor_and_is_a_rearrangement():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    packed = space_to_depth(x, 2)
    np.testing.assert_array_equal(packed[1, 1, 2, 3:6], x[1, 2, 5])
    np.testing.assert_array_equal(depth_to_space(packed, 2), x)
    module = TINY.clone(patch=2)
    assert module.factor == 4
    params = shapes(module)
    assert params["encoder"]["conv_in"]["kernel"].shape == (3, 3, 12, 4)
    assert params["decoder"]["conv_out"]["kernel"].shape == (3, 3, 4, 12)
    out = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 16, 8, 3)))
    assert out[0].shape == (1, 16, 8, 3)


def test_wrong_use_is_an_error():
    with pytest.raises(ValueError, match="5 x 4.*multiples of 2"):
        run("encode", jnp.zeros((1, 5, 4, 3)))
    with pytest.raises(ValueError, match="'vae'"):
        shapes(TINY.clone(kind="vae"))


def test_every_norm_and_downsampling_has_the_vae_conventions():
    x = jnp.zeros((1, 8, 8, 3))
    assert {norm.eps for norm in calls_of(GroupNorm, TINY, x)} == {1e-6}
    strided = [conv.padding for conv in calls_of(Conv, TINY, x) if conv.stride == 2]
    assert strided == [((0, 1), (0, 1))]


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (32, 32), (48, 12), (16, 4), (7, 1)])
def test_narrow_inputs_have_fewer_groups(channels, groups):
    assert fitting_groups(channels) == groups


def test_group_norm_normalises_groups_of_channels():
    x = 50 + normal(2, 3, 4, 48)
    grouped = x.astype(np.float64).reshape(2, 12, 12, 4)
    want = grouped - grouped.mean((1, 3), keepdims=True)
    want = want / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-3)
    params = {"scale": np.ones(48, np.float32), "bias": np.zeros(48, np.float32)}
    got = jax.jit(GroupNorm(eps=1e-3).apply)({"params": params}, x)
    np.testing.assert_allclose(got, want.reshape(x.shape), atol=1e-4)


def test_residual_block_is_the_identity_around_a_dead_branch():
    x = normal(1, 4, 4, 6)
    params = shapes(ResBlock(6), x)
    assert set(params) == {"norm1", "conv1", "norm2", "conv2"}
    dead = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    np.testing.assert_array_equal(jax.jit(ResBlock(6).apply)({"params": dead}, x), x)
    assert shapes(ResBlock(8), x)["nin_shortcut"]["kernel"].shape == (1, 1, 6, 8)


@pytest.mark.parametrize("length", [1031, 2304])
def test_attention_in_parts_is_attention(length, monkeypatch):
    q, k, v = (normal(2, length, 8, seed=seed) for seed in range(3))

    def run(q, k, v):
        y, back = jax.vjp(attend, q, k, v)
        return y, back(jnp.cos(y))

    text = jax.jit(attend).lower(q, k, v).as_text()
    assert ("stablehlo.while" in text) == (length == 2304)  # 1031 has no divisor
    parts = jax.jit(run)(q, k, v)
    monkeypatch.setattr(blocks, "_QUERIES", length)
    for got, want in zip(jax.tree.leaves(parts), jax.tree.leaves(run(q, k, v)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    with compiled_for("tpu"):
        assert "stablehlo.while" not in jax.jit(lambda *x: attend(*x)).lower(q, k, v).as_text()


def test_attention_of_the_autoencoder_by_hand():
    x = normal(1, 2, 3, 4)
    params = {"norm": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}}
    for seed, name in enumerate(("q", "k", "v", "proj_out")):
        params[name] = {"kernel": normal(1, 1, 4, 4, seed=seed), "bias": normal(4, seed=9)}
    flat = x.reshape(6, 4)
    y = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-6)  # four channels are one group

    def project(name, y):
        return y @ params[name]["kernel"][0, 0] + params[name]["bias"]

    weights = np.exp(project("q", y) @ project("k", y).T / np.sqrt(4))
    weights /= weights.sum(-1, keepdims=True)
    want = flat + project("proj_out", weights @ project("v", y))
    got = jax.jit(AttnBlock().apply)({"params": params}, x)
    np.testing.assert_allclose(got.reshape(6, 4), want, atol=1e-4)
