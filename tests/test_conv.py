"""Every form is the plain convolution: values, gradients and parameters."""

import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hsd_jax.models import conv, forms
from hsd_jax.models.conv import Conv, Filters, UpsampleConv, transform_kernels, upsample_nearest
from hsd_jax.models.winograd import F2, F4, UP2, winograd

BOUND = 1e-5
pytestmark = pytest.mark.usefixtures("quick_compiles")


def plain_conv(x, kernel, stride=1, padding=((1, 1), (1, 1))):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def relative_error(a, b):
    return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))


def with_gradients(convolution, x, kernel):
    """The value, and both gradients for one random cotangent; compiled quickly."""

    def run(x, kernel):
        y, pullback = jax.vjp(convolution, x, kernel)
        return y, *pullback(jax.random.normal(jax.random.key(9), y.shape).astype(y.dtype))

    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(x, kernel)


def random_case(b, h, w, cin, cout):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (b, h, w, cin)), jax.random.normal(keys[1], (3, 3, cin, cout))


def assert_equal_convolutions(got, want, bound=BOUND):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert relative_error(a, b) < bound


@pytest.mark.parametrize(
    ("algorithm", "shape"),
    [(F2, (2, 8, 12, 5, 7)), (F2, (1, 5, 3, 16, 1)), (F4, (2, 6, 9, 24, 16))],
)
def test_winograd_equals_the_plain_convolution_at_any_size(algorithm, shape):
    x, kernel = random_case(*shape)
    got = with_gradients(lambda x, kernel: winograd(x, kernel, algorithm), x, kernel)
    assert_equal_convolutions(got, with_gradients(plain_conv, x, kernel))


def test_the_fused_upsampling_is_nearest_and_then_the_plain_convolution():
    x, kernel = random_case(2, 3, 4, 6, 5)
    got = with_gradients(lambda x, kernel: winograd(x, kernel, UP2), x, kernel)
    want = with_gradients(lambda x, kernel: plain_conv(upsample_nearest(x), kernel), x, kernel)
    assert_equal_convolutions(got, want)


@pytest.mark.parametrize("form", ["im2col", "col2im"])
def test_thin_forms_equal_the_plain_convolution(form):
    x, kernel = random_case(2, 5, 7, 3, 4)
    with forms.always(form):
        got = with_gradients(conv.conv2d, x, kernel)
    assert_equal_convolutions(got, with_gradients(plain_conv, x, kernel))


@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (0, 1))])
def test_strides_as_one_dot_equal_the_plain_convolution(padding):
    x, kernel = random_case(1, 6, 7, 3, 4)
    with forms.always("im2col"):
        got = with_gradients(lambda x, kernel: conv.conv2d(x, kernel, 2, padding), x, kernel)
    want = with_gradients(lambda x, kernel: plain_conv(x, kernel, 2, padding), x, kernel)
    assert_equal_convolutions(got, want)


def test_values_and_gradients_may_take_different_forms(monkeypatch):
    monkeypatch.setattr(
        forms, "choose", lambda op, use, *_: "im2col" if use == "grad" else "col2im"
    )
    x, kernel = random_case(1, 5, 4, 3, 4)
    want = with_gradients(plain_conv, x, kernel)
    assert_equal_convolutions(with_gradients(conv.conv2d, x, kernel), want)


def test_bfloat16_stays_bfloat16_and_within_its_rounding():
    x, kernel = random_case(1, 2, 2, 64, 64)
    want = with_gradients(plain_conv, x, kernel)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    with forms.always("f2_bf16"):
        got = with_gradients(conv.conv2d, x, kernel)
    want = [value.astype(jnp.bfloat16) for value in want]
    assert_equal_convolutions([g.astype("float32") for g in got], [
        w.astype("float32") for w in want
    ], 2e-2)  # fmt: skip
    # Gradients have their operands' types; values are what the sums gave, on CPU.
    assert [g.dtype.name for g in got] == ["float32", "bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    ("layer", "names"), [(Conv(64), ("f2",)), (Conv(64), ("f4",)), (UpsampleConv(64), ("up2",))]
)
def test_fixed_filters_take_the_kernels_place(layer, names):
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 64))
    params = layer.init(jax.random.key(2), x)["params"]
    assert params["kernel"].shape == (3, 3, 64, 64)
    with forms.always(*names):
        fixed = transform_kernels(layer, params, x)
    assert isinstance(fixed["kernel"], Filters)
    run = jax.jit(
        lambda p: layer.apply({"params": p}, x),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    with forms.always("native"):
        want = layer.apply({"params": params}, x)
    assert relative_error(run(fixed), want) < BOUND


def test_kernels_whose_form_needs_no_filters_stay():
    layer = Conv(4)
    x = jnp.zeros((1, 8, 8, 3))
    params = layer.init(jax.random.key(2), x)["params"]
    with forms.always("f4"):
        assert transform_kernels(layer, params, x)["kernel"] is params["kernel"]


def test_small_and_narrow_maps_fall_back():
    with forms.always("f4"):
        assert conv._choice("conv", "once", jnp.zeros((1, 16, 16, 64)), 64, 64) == "f4"
        assert conv._choice("conv", "once", jnp.zeros((1, 6, 6, 64)), 64, 64) == "f2"
        assert conv._choice("conv", "once", jnp.zeros((1, 3, 3, 64)), 64, 64) == "native"
        assert conv._choice("conv", "once", jnp.zeros((1, 16, 16, 8)), 8, 64) == "native"


def test_a_batch_counts_as_a_larger_image(monkeypatch):
    sides = []
    monkeypatch.setattr(forms, "choose", lambda op, use, side, *_: sides.append(side) or "native")
    conv._choice("conv", "once", jnp.zeros((4, 8, 32, 64)), 64, 64)
    assert sides == [32]


def test_accelerators_keep_the_compute_type():
    layer, x = Conv(4, dtype=jnp.bfloat16), jnp.zeros((1, 8, 8, 3))
    params = layer.init(jax.random.key(2), x)["params"]

    def result():  # anew: JAX keeps traces by function
        return jax.eval_shape(lambda p: layer.apply({"params": p}, x), params).dtype

    assert result() == jnp.float32
    with forms.compiled_for("tpu"):
        assert result() == jnp.bfloat16


def test_accelerators_keep_the_plain_convolution_unless_measured():
    with forms.compiled_for("tpu"):
        assert forms.choose("conv", "once", 32, 512, 512, jnp.float32) == "native"


def test_the_table_names_forms_that_exist():
    table = json.loads(resources.files("hsd_jax.models").joinpath(forms.TABLE).read_text())
    for entry in table.values():
        for op, use, dtype, *sizes, form in entry["rows"]:
            assert form in forms.FORMS[op]
            assert use in ("once", "fixed", "grad")
            assert dtype in ("float32", "bfloat16")
            assert len(sizes) == 3


def test_stride_two_uses_symmetric_padding_like_torch():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    layer = Conv(1, stride=2, use_bias=False, kernel_init=jax.nn.initializers.ones)
    y = layer.apply(layer.init(jax.random.key(0), x), x)
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
