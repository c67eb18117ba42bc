"""The parser on EfficientNet-Lite2: depthwise convolutions, conversion of its encoder, shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hsd_jax.convert.efficientnet import encoder_params
from hsd_jax.models import apply
from hsd_jax.models.conv import compiled_for
from hsd_jax.models.depthwise import depthwise_conv2d, same_padding
from hsd_jax.models.lite_parser import STAGES, STEM, Encoder, LiteParser

EPS = 1e-3


def _conv(x, kernel, stride=1, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2)])
def test_a_depthwise_convolution_and_its_gradients_are_those_of_a_grouped_one(size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 10, 12, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 6)), jnp.float32)

    def ours(x, kernel):
        return jnp.sum(jnp.sin(depthwise_conv2d(x, kernel, stride)))

    def grouped(x, kernel):
        return jnp.sum(jnp.sin(_conv(x, kernel, stride, 6)))

    mine, true = (
        jax.tree.leaves(jax.jit(jax.value_and_grad(function, (0, 1)))(x, kernel))
        for function in (ours, grouped)
    )
    for a, b in zip(mine, true, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_accelerators_get_one_grouped_convolution():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    with compiled_for("gpu"):
        text = str(jax.make_jaxpr(lambda x, k: depthwise_conv2d(x, k, 2))(x, kernel))
    assert text.count("conv_general_dilated[") == 1


def test_padding_is_tensorflows():
    assert same_padding(8, 3, 2) == (0, 1)
    assert same_padding(8, 5, 2) == (1, 2)
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(8, 5, 1) == (2, 2)


def _random_state():
    """Tensors by torch's names, as EfficientNet-PyTorch has them, with batch norms."""
    rng = np.random.default_rng(1)
    state = {}

    def add(conv, norm, shape):
        state[f"{conv}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        state[f"{norm}.weight"] = rng.uniform(0.5, 2, shape[0])
        state[f"{norm}.bias"] = rng.normal(size=shape[0])
        state[f"{norm}.running_mean"] = rng.normal(size=shape[0])
        state[f"{norm}.running_var"] = rng.uniform(0.5, 2, shape[0])

    add("_conv_stem", "_bn0", (STEM, 3, 3, 3))
    width, block = STEM, 0
    for stage in STAGES:
        for _ in range(stage.blocks):
            wide, name = width * stage.expansion, f"_blocks.{block}"
            if stage.expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", (wide, width, 1, 1))
            shape = (wide, 1, stage.kernel_size, stage.kernel_size)
            add(f"{name}._depthwise_conv", f"{name}._bn1", shape)
            add(f"{name}._project_conv", f"{name}._bn2", (stage.features, wide, 1, 1))
            width, block = stage.features, block + 1
    return state


def _normed(state, x, conv, norm, stride=1, groups=1):
    """A convolution and the batch norm after it, by themselves."""
    y = _conv(x, state[f"{conv}.weight"].transpose(2, 3, 1, 0), stride, groups)
    scale, bias, mean, variance = (
        state[f"{norm}.{name}"][None, None, None]
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / np.sqrt(variance + EPS) * scale + bias


def test_a_folded_encoder_is_the_one_with_batch_norms():
    state = {name: value.astype(np.float32) for name, value in _random_state().items()}
    x = np.random.default_rng(2).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)

    def reference(x):
        h = jnp.clip(_normed(state, x, "_conv_stem", "_bn0", 2), 0, 6)
        levels, block = [], 0
        for stage in STAGES[:2]:
            for i in range(stage.blocks):
                before, name = h, f"_blocks.{block}"
                if stage.expansion > 1:
                    h = jnp.clip(_normed(state, h, f"{name}._expand_conv", f"{name}._bn0"), 0, 6)
                stride = stage.stride if i == 0 else 1
                h = _normed(
                    state, h, f"{name}._depthwise_conv", f"{name}._bn1", stride, h.shape[-1]
                )
                h = _normed(state, jnp.clip(h, 0, 6), f"{name}._project_conv", f"{name}._bn2")
                h, block = (h + before if i else h), block + 1
            levels.append(h)
        return levels

    params = encoder_params(state)
    assert len(params) == 22
    mine = jax.jit(lambda params, x: apply(Encoder(), params, x)[:2])(params, x)
    for ours, true in zip(mine, jax.jit(reference)(x), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-3, atol=1e-3 * np.abs(true).max())


def test_a_state_without_a_tensor_is_refused_by_its_name():
    state = _random_state()
    del state["_blocks.7._bn1.running_var"]
    with pytest.raises(ValueError, match=r"_blocks\.7\._bn1\.running_var"):
        encoder_params(state)


def test_logits_have_the_images_size_and_other_sides_are_refused():
    module = LiteParser(widths=(16, 16, 16))
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    init = functools.partial(module.init_with_output, features=True)
    (logits, levels), _ = jax.eval_shape(init, jax.random.key(0), x)
    assert logits.shape == (2, 64, 96, 9)
    assert [level.shape[1:] for level in levels] == [
        (16, 24, 24), (8, 12, 48), (4, 6, 120), (2, 3, 352)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="multiples of 32, not 64 x 80"):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 80, 3), float))
