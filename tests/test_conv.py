"""The Winograd form is the plain convolution: values, gradients and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hsd_jax.models.conv import Conv, UpsampleConv, upsample_nearest, winograd_conv


def plain_conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def relative_error(a, b):
    return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))


@pytest.mark.parametrize("shape", [(2, 8, 12, 5, 7), (1, 4, 4, 64, 96), (3, 2, 6, 1, 1)])
def test_winograd_equals_the_plain_convolution(shape):
    b, h, w, cin, cout = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (b, h, w, cin))
    kernel = jax.random.normal(keys[1], (3, 3, cin, cout))
    dy = jax.random.normal(keys[2], (b, h, w, cout))
    y, pullback = jax.vjp(winograd_conv, x, kernel)
    y_plain, pullback_plain = jax.vjp(plain_conv, x, kernel)
    assert relative_error(y, y_plain) < 1e-5
    for got, want in zip(pullback(dy), pullback_plain(dy), strict=True):
        assert relative_error(got, want) < 1e-5


def test_conv_gives_the_same_for_widths_on_both_sides_of_the_choice():
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 64))
    for features in (32, 64):
        conv = Conv(features)
        params = conv.init(jax.random.key(2), x)["params"]
        assert params["kernel"].shape == (3, 3, 64, features)
        want = plain_conv(x, params["kernel"]) + params["bias"][None, None, None, :]
        np.testing.assert_allclose(conv.apply({"params": params}, x), want, atol=2e-5)


def test_stride_two_uses_symmetric_padding_like_torch():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    conv = Conv(1, stride=2, use_bias=False, kernel_init=jax.nn.initializers.ones)
    y = conv.apply(conv.init(jax.random.key(0), x), x)
    # The first window of torch's padding 1 covers rows and columns -1, 0, 1.
    assert y.shape == (1, 2, 2, 1)
    assert float(y[0, 0, 0, 0]) == 0 + 1 + 4 + 5


def test_upsample_conv_is_nearest_then_convolution():
    x = jax.random.normal(jax.random.key(3), (2, 4, 6, 3))
    up = UpsampleConv(5)
    params = up.init(jax.random.key(4), x)["params"]
    big = upsample_nearest(x)
    np.testing.assert_array_equal(big[:, 1::2, ::2], x)
    want = plain_conv(big, params["kernel"]) + params["bias"][None, None, None, :]
    np.testing.assert_allclose(up.apply({"params": params}, x), want, atol=1e-5)
