"""Convolutions, NHWC: one `Conv` whose 3 x 3 algorithm is chosen by device, shape and type.

On GPU and TPU a convolution is `lax.conv_general_dilated`. On CPU, XLA runs 2-D matmuls near the
machine's peak but convolutions, and especially their gradients, well below it; there a 3 x 3
convolution becomes matmuls (see `winograd`, and `forms` for the measured choice). Parameters,
results and gradients are those of the plain convolution up to float32 rounding: the relative error
of a convolution or gradient is below 1e-5 (tested).
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hsd_jax.models import forms
from hsd_jax.models.forms import NATIVE, compiled_for
from hsd_jax.models.winograd import F2, F4, UP2, convolve, transform_kernel, winograd

__all__ = [
    "Conv", "Filters", "UpsampleConv", "compiled_for", "conv2d", "transform_kernels",
    "upsample_conv", "upsample_nearest",
]  # fmt: skip

Padding = tuple[tuple[int, int], tuple[int, int]]
_SAME = ((1, 1), (1, 1))
_ALGORITHMS = {"f2": F2, "f4": F4, "f2_bf16": F2, "up2": UP2, "up2_bf16": UP2}

# Below this, the memory-bound transforms cost more than the matmuls save.
_MIN_WINOGRAD_CHANNELS = 64
# The share of tiles outside the image above which too much work is wasted.
_MAX_WASTE = 1.3


@functools.partial(jax.tree_util.register_dataclass, data_fields=["grid"], meta_fields=["form"])
@dataclass(frozen=True)
class Filters:
    """A transformed kernel, in place of the parameter `kernel`."""

    grid: Any
    form: str


def _stored(dtype: Any) -> Any:
    """The type of a convolution's result: on CPU the float32 of its sums, rounded by the next."""
    return jnp.float32 if forms.on_cpu() else dtype


def _dot_type(form: str) -> Any:
    return jnp.bfloat16 if form.endswith("bf16") else jnp.float32


def _choice(
    op: str, use: str, x: jax.Array | jax.ShapeDtypeStruct, cin: int, cout: int
) -> str:
    """The table's choice, or the next simpler algorithm if that does not suit the shape."""
    b, h, w, _ = x.shape
    form = forms.choose(op, use, math.sqrt(b * h * w), cin, cout, x.dtype)
    if form not in _ALGORITHMS:
        return form
    if min(cin, cout) < _MIN_WINOGRAD_CHANNELS:
        return NATIVE
    for candidate in (form, "f2") if form == "f4" else (form,):
        step = _ALGORITHMS[candidate].step
        if math.prod(-(-n // step) * step for n in (h, w)) <= _MAX_WASTE * h * w:
            return candidate
    return NATIVE


def _native(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int
) -> jax.Array:
    stored = _stored(x.dtype)  # XLA's convolution on CPU computes in it anyway
    return lax.conv_general_dilated(
        x.astype(stored),
        kernel.astype(x.dtype).astype(stored),
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _im2col(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Every window as a row of one matmul: for few input channels, and for strides."""
    size, _, cin, cout = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    b, h, w, _ = x.shape
    h, w = (h - size) // stride + 1, (w - size) // stride + 1
    views = [
        lax.slice(
            x,
            (0, i, j, 0),
            (b, i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, cin),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]
    columns = jnp.concatenate(views, -1).reshape(-1, size * size * cin)
    return _dot(columns, kernel.reshape(-1, cout)).reshape(b, h, w, cout)


def _col2im(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One matmul whose results for nine taps are shifted and summed: for few output channels."""
    b, h, w, cin = x.shape
    cout = kernel.shape[-1]
    taps = _dot(x.reshape(-1, cin), kernel.transpose(2, 0, 1, 3).reshape(cin, 9 * cout))
    taps = jnp.pad(taps.reshape(b, h, w, 9 * cout), ((0, 0), *_SAME, (0, 0)))
    total = None
    for index in range(9):
        i, j = divmod(index, 3)
        view = taps[:, i : i + h, j : j + w, index * cout : (index + 1) * cout]
        total = view if total is None else total + view
    return jnp.asarray(total)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(
        x, y.astype(x.dtype), dimensions, preferred_element_type=_stored(x.dtype)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mixed(x: jax.Array, kernel: jax.Array, forward: str, backward: str) -> jax.Array:
    """A stride-1 convolution with separate algorithms for values and gradients."""
    return _one_form(x, kernel, forward)


def _mixed_fwd(x: jax.Array, kernel: jax.Array, forward: str, backward: str):
    return _one_form(x, kernel, forward), (x, kernel)


def _mixed_bwd(forward: str, backward: str, residuals: tuple[jax.Array, jax.Array], dy: jax.Array):
    return jax.vjp(functools.partial(_one_form, form=backward), *residuals)[1](dy)


_mixed.defvjp(_mixed_fwd, _mixed_bwd)


def _one_form(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    if form in _ALGORITHMS:
        return winograd(x, kernel, _ALGORITHMS[form], _dot_type(form))
    if form == "im2col":
        return _im2col(x, kernel, 1, _SAME)
    if form == "col2im":
        return _col2im(x, kernel)
    return _native(x, kernel, 1, _SAME, 1)


def _apply_filters(x: jax.Array, filters: Filters) -> jax.Array:
    """The convolution in float32, to be rounded once after the bias."""
    dtype = _dot_type(filters.form)
    return convolve(x, filters.grid, _ALGORITHMS[filters.form], cin_last=True, dtype=dtype)


def conv2d(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None,
    dilation: int = 1,
) -> jax.Array:
    """Convolution `[B, H, W, Cin] x [k, k, Cin, Cout]`; `padding` None is torch's symmetric one.

    The kernel may be more precise than x; it is rounded if products are in x's type. The result has
    x's type on accelerators and is float32 on CPU.
    """
    reach = dilation * (kernel.shape[0] // 2)
    padding = padding or ((reach, reach), (reach, reach))
    cin, cout = kernel.shape[2:]
    if kernel.shape[:2] == (3, 3) and dilation == 1:
        if stride == 1 and padding == _SAME:
            use = {use: _choice("conv", use, x, cin, cout) for use in ("once", "grad")}
            if use["once"] == use["grad"]:
                return _one_form(x, kernel, use["once"])
            return _mixed(x, kernel, use["once"], use["grad"])
        if stride == 2 and _choice("down", "once", x, cin, cout) == "im2col":
            return _im2col(x, kernel, stride, padding)
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == ((0, 0), (0, 0)):
        return _dot(x, kernel[0, 0])
    return _native(x, kernel, stride, padding, dilation)


def upsample_nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest-neighbour enlargement of `[B, H, W, C]` by an integer factor."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv2d(upsample_nearest(x), kernel)`, 3 x 3, computed at x's size if that is faster."""
    form = _choice("up", "once", x, *kernel.shape[2:])
    return conv2d(upsample_nearest(x), kernel) if form == NATIVE else _one_form(x, kernel, form)


def transform_kernels(module: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
    """Transforms kernels once for many calls.

    Where a convolution's form transforms its kernel, `Filters` take the kernel's place, up to four
    times its size. For loops of inference, before the loop: XLA takes most transforms out of a
    `lax.scan` by itself, but does not put filters into the order that few rows are fastest in.

    Args:
      module: the network.
      params: its parameters.
      args, options: as in `module.apply({"params": params}, ...)`: the shapes decide.

    Returns:
      What `module.apply` takes as parameters for the same shapes; not for gradients.
    """
    found: dict[tuple[str, ...], tuple[Conv | UpsampleConv, jax.Array]] = {}

    def look(call: Any, args: Any, options: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, Conv | UpsampleConv) and context.method_name == "__call__":
            found[layer.path] = layer, args[0]
        return call(*args, **options)

    def run(params: Any, *args: Any) -> Any:
        with nn.intercept_methods(look), forms.always(NATIVE):
            return module.apply({"params": params}, *args, **options)

    jax.eval_shape(run, params, *args)
    return _replaced(params, {path: layer.form_of(x) for path, (layer, x) in found.items()})


def _replaced(params: Any, found: dict[tuple[str, ...], str], path: tuple[str, ...] = ()) -> Any:
    if not isinstance(params, dict):
        return params
    new = {name: _replaced(value, found, (*path, name)) for name, value in params.items()}
    form = found.get(path, NATIVE)
    if form in _ALGORITHMS and "kernel" in params:
        grid = transform_kernel(params["kernel"], _ALGORITHMS[form])
        new["kernel"] = Filters([[u.T.astype(_dot_type(form)) for u in row] for row in grid], form)
    return new


class Conv(nn.Module):
    """2-D convolution with torch's usual padding, `dilation * (kernel_size // 2)` per side.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: same in both directions.
      padding: None, or explicit `((top, bottom), (left, right))`.
      dilation: spacing of the kernel's taps.
      use_bias: adds a bias per output channel.
      dtype: compute type, None for float32; parameters are always float32, and so are results on
        CPU, which is closer to the truth and no slower.
      kernel_init: initialiser of the kernel `[k, k, Cin, Cout]`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding | None = None
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def form_of(self, x: jax.Array) -> str:
        """The form for an input like `x` once its kernel is fixed."""
        plain = self.kernel_size == 3 and self.stride == self.dilation == 1
        if not plain or self.padding not in (None, _SAME):
            return NATIVE
        like = jax.ShapeDtypeStruct(x.shape, self.dtype or jnp.float32)
        return _choice("conv", "fixed", like, x.shape[-1], self.features)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, H', W', features]`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        dtype = self.dtype or jnp.float32
        x = x.astype(dtype)
        kernel = _kernel(self, shape)
        if isinstance(kernel, Filters):
            y = _apply_filters(x, kernel)
        else:
            y = conv2d(x, kernel, self.stride, self.padding, self.dilation)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias[None, None, None, :]
        return y.astype(_stored(dtype))


class UpsampleConv(nn.Module):
    """Nearest-neighbour x 2, then a 3 x 3 convolution (CompVis latent-diffusion, `Upsample`)."""

    features: int
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def form_of(self, x: jax.Array) -> str:
        """The form for an input like `x` once its kernel is fixed."""
        like = jax.ShapeDtypeStruct(x.shape, self.dtype or jnp.float32)
        return _choice("up", "fixed", like, x.shape[-1], self.features)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, Cin]` -> `[B, 2H, 2W, features]`."""
        dtype = self.dtype or jnp.float32
        x = x.astype(dtype)
        kernel = _kernel(self, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        if isinstance(kernel, Filters):
            y = _apply_filters(x, kernel)
        else:
            y = upsample_conv(x, kernel)
        return (y + bias[None, None, None, :]).astype(_stored(dtype))


def _kernel(layer: Conv | UpsampleConv, shape: tuple[int, ...]) -> Any:
    """The parameter, or the `Filters` in its place."""
    if layer.has_variable("params", "kernel"):
        kernel = layer.get_variable("params", "kernel")
        if isinstance(kernel, Filters):
            return kernel
    return layer.param("kernel", layer.kernel_init, shape, jnp.float32)
