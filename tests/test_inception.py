"""InceptionV3 equals a torch reference of FID's network, its input and its import included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, to_torch

from hsd_jax.convert.inception import load
from hsd_jax.models.inception import TAPS, InceptionV3, preprocess


class Reference:
    """FID's network as torch calls; `state` has random weights, made when a layer is first used."""

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        self.functional = self.torch.nn.functional
        self.generator = self.torch.Generator().manual_seed(0)
        self.state = {}

    def weight(self, name, *shape, std=1.0, mean=0.0):
        if name not in self.state:
            value = self.torch.randn(*shape, generator=self.generator) * std + mean
            self.state[name] = value.abs() if name.endswith("var") else value
        return self.state[name]

    def cell(self, name, x, width, kernel=(1, 1), stride=1, padding=(0, 0)):
        inputs, (height, breadth) = x.shape[1], kernel
        std = (2 / (inputs * height * breadth)) ** 0.5
        weight = self.weight(f"{name}.conv.weight", width, inputs, height, breadth, std=std)
        y = self.functional.conv2d(x, weight, None, stride, padding)
        mean = self.weight(f"{name}.bn.running_mean", width, std=0.1)
        var = self.weight(f"{name}.bn.running_var", width, std=0.2, mean=1)
        scale = self.weight(f"{name}.bn.weight", width, std=0.2, mean=1)
        bias = self.weight(f"{name}.bn.bias", width, std=0.1)
        return self.functional.batch_norm(y, mean, var, scale, bias, eps=0.001).relu()

    def chain(self, name, x, *cells):
        """Cells `(suffix, width, side or (height, width))`, padded to keep the size."""
        for suffix, width, kernel in cells:
            kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
            x = self.cell(name + suffix, x, width, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
        return x

    def pooled(self, name, x, width, pool=None):
        average = functools.partial(self.functional.avg_pool2d, count_include_pad=False)
        return self.cell(f"{name}branch_pool", (pool or average)(x, 3, 1, 1), width)

    def a(self, name, x, width):
        return [
            self.chain(name, x, ("branch1x1", 64, 1)),
            self.chain(name, x, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            self.chain(f"{name}branch3x3dbl_", x, ("1", 64, 1), ("2", 96, 3), ("3", 96, 3)),
            self.pooled(name, x, width),
        ]

    def b(self, name, x):
        y = self.chain(f"{name}branch3x3dbl_", x, ("1", 64, 1), ("2", 96, 3))
        return [
            self.cell(f"{name}branch3x3", x, 384, (3, 3), 2),
            self.cell(f"{name}branch3x3dbl_3", y, 96, (3, 3), 2),
            self.functional.max_pool2d(x, 3, 2),
        ]

    def c(self, name, x, n):
        wide, high = (1, 7), (7, 1)
        double = (("1", n, 1), ("2", n, high), ("3", n, wide), ("4", n, high), ("5", 192, wide))
        return [
            self.chain(name, x, ("branch1x1", 192, 1)),
            self.chain(f"{name}branch7x7_", x, ("1", n, 1), ("2", n, wide), ("3", 192, high)),
            self.chain(f"{name}branch7x7dbl_", x, *double),
            self.pooled(name, x, 192),
        ]

    def d(self, name, x):
        y = self.chain(name, x, ("branch3x3_1", 192, 1))
        seven = (("1", 192, 1), ("2", 192, (1, 7)), ("3", 192, (7, 1)))
        z = self.chain(f"{name}branch7x7x3_", x, *seven)
        return [
            self.cell(f"{name}branch3x3_2", y, 320, (3, 3), 2),
            self.cell(f"{name}branch7x7x3_4", z, 192, (3, 3), 2),
            self.functional.max_pool2d(x, 3, 2),
        ]

    def e(self, name, x, pool=None):
        y = self.chain(name, x, ("branch3x3_1", 384, 1))
        z = self.chain(name, x, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        return [
            self.chain(name, x, ("branch1x1", 320, 1)),
            self.chain(name, y, ("branch3x3_2a", 384, (1, 3))),
            self.chain(name, y, ("branch3x3_2b", 384, (3, 1))),
            self.chain(name, z, ("branch3x3dbl_3a", 384, (1, 3))),
            self.chain(name, z, ("branch3x3dbl_3b", 384, (3, 1))),
            self.pooled(name, x, 192, pool),
        ]

    def __call__(self, x):
        """`[B, 3, H, W]` in the network's range -> taps by name."""
        taps, max_pool = {}, self.functional.max_pool2d
        x = self.cell("Conv2d_1a_3x3", x, 32, (3, 3), 2)
        x = self.cell("Conv2d_2a_3x3", x, 32, (3, 3))
        x = taps["64"] = max_pool(self.cell("Conv2d_2b_3x3", x, 64, (3, 3), 1, (1, 1)), 3, 2)
        x = self.cell("Conv2d_3b_1x1", x, 80)
        x = taps["192"] = max_pool(self.cell("Conv2d_4a_3x3", x, 192, (3, 3)), 3, 2)
        for letter, width in (("b", 32), ("c", 64), ("d", 64)):
            x = self.torch.cat(self.a(f"Mixed_5{letter}.", x, width), 1)
        x = self.torch.cat(self.b("Mixed_6a.", x), 1)
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = self.torch.cat(self.c(f"Mixed_6{letter}.", x, width), 1)
        taps["768"] = x
        x = self.torch.cat(self.d("Mixed_7a.", x), 1)
        x = self.torch.cat(self.e("Mixed_7b.", x), 1)
        taps["2048"] = self.torch.cat(self.e("Mixed_7c.", x, max_pool), 1)
        taps = {name: tap.mean((2, 3)) for name, tap in taps.items()}
        weight = self.weight("fc.weight", 1008, 2048, std=0.02)
        bias = self.weight("fc.bias", 1008)
        return taps | {"logits": taps["2048"] @ weight.T + bias}


def net_input(side):
    return np.random.default_rng(0).uniform(-1, 1, (3, side, side, 3)).astype(np.float32)


@functools.cache
def reference():
    """(the torch network, its taps of `net_input(107)`, its state as numpy)."""
    net = Reference()
    taps = net(to_torch(net_input(107)))
    return net, taps, {name: value.numpy() for name, value in net.state.items()}


def test_every_tap_equals_torch():
    _, want, state = reference()
    module, params = load(state, {"preprocessing": "none"})
    x = net_input(107)
    got = jax.jit(lambda params: module.apply({"params": params}, x, method="taps"))(params)
    assert set(got) == set(want) == set(TAPS)
    for name in TAPS:
        assert_close(got[name], want[name])


def test_the_net_is_run_no_further_than_asked():
    module, params = load(reference()[2], {"preprocessing": "none"})
    del params["Mixed_5b"], params["fc"]
    taps = functools.partial(module.apply, {"params": params}, net_input(75), method="taps")
    got = jax.eval_shape(lambda: taps(("192", "64")))
    assert {name: value.shape for name, value in got.items()} == {"64": (3, 64), "192": (3, 192)}
    for names in ((), ("pool3",)):
        with pytest.raises(ValueError, match="name some of 64, 192, 768, 2048, logits"):
            taps(names)


def bytes_of(height, width):
    return np.random.default_rng(1).integers(0, 256, (2, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (320, 299)])
def test_pytorch_fids_input(size):
    torch = pytest.importorskip("torch")
    images = bytes_of(*size)
    given, resize = to_torch(images).float() / 255, torch.nn.functional.interpolate
    want = 2 * resize(given, (299, 299), mode="bilinear", align_corners=False) - 1
    got = preprocess(jnp.asarray(images), "pytorch-fid")
    # Torch fuses the products of a position: its last bit is worth this much between two pixels.
    np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), atol=5e-5)


def tensorflow_1(images):
    """Two lookups an axis and a straight line between them, from the pixels' corners."""
    x = images.astype(np.float64)
    for axis in (1, 2):
        n = x.shape[axis]
        at = np.arange(299, dtype=np.float32) * np.float32(n / 299)
        low = np.floor(at).astype(int)
        share = np.expand_dims(at - low, [i for i in range(4) if i != axis])
        first, second = x.take(low, axis), x.take(np.minimum(low + 1, n - 1), axis)
        x = first + (second - first) * share
    return (x - 128) / 128


@pytest.mark.parametrize("size", [(64, 48), (320, 299)])
def test_torch_fidelitys_input(size):
    images = bytes_of(*size)
    got = preprocess(jnp.asarray(images), "torch-fidelity")
    np.testing.assert_allclose(got, tensorflow_1(images), atol=2e-6)


@pytest.mark.parametrize("kind", ["pytorch-fid", "torch-fidelity"])
def test_bytes_and_floats_are_the_same_image(kind):
    images = jnp.asarray(bytes_of(32, 32))
    floats = images.astype(jnp.float32) / 127.5 - 1
    np.testing.assert_allclose(preprocess(floats, kind), preprocess(images, kind), atol=1e-6)


@pytest.mark.parametrize(
    "shape, dtype, kind, message",
    [
        ((1, 74, 99, 3), jnp.float32, "none", "99 x 74 pixels are too few"),
        ((1, 99, 99, 3), jnp.uint8, "none", "give floats"),
        ((1, 99, 99, 3), jnp.int32, "pytorch-fid", "images of int32"),
        ((1, 99, 99, 3), jnp.uint8, "clean-fid", "unknown preprocessing 'clean-fid'"),
    ],
)
def test_other_images_are_refused(shape, dtype, kind, message):
    with pytest.raises(ValueError, match=message):
        preprocess(jnp.zeros(shape, dtype), kind)


def test_the_whole_module_gives_pool3_from_bytes():
    module, images = InceptionV3(), jnp.zeros((2, 32, 48, 3), jnp.uint8)
    out, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images))
    assert (out.shape, out.dtype) == ((2, 2048), jnp.float32)
    assert variables["params"]["fc"]["kernel"].shape == (2048, 1008)


def changed(**changes):
    """The state's names and shapes, with some tensors of other shapes (None: gone)."""
    state = {name: np.broadcast_to(np.float32(0), v.shape) for name, v in reference()[2].items()}
    for name, shape in changes.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = np.zeros(shape, np.float32)
    return state


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Mixed_7c.branch_pool.bn.running_var": None}, "'Mixed_7c.branch_pool.bn.running_var'"),
        ({"Mixed_6a.branch7x7.conv.weight": (3,)}, "'Mixed_6a.branch7x7.conv.weight'"),
        ({"Mixed_5b.branch_pool.conv.weight": (64, 192, 1, 1)}, r"\[64, 192, 1, 1\].*\[32, 192"),
        ({"fc.weight": (1000, 2048)}, "1000 classes .* torchvision's"),
        ({"AuxLogits.fc.bias": (1008,)}, "AuxLogits: this is torchvision's"),
    ],
)
def test_other_checkpoints_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        load(changed(**changes))


def test_counters_are_ignored_and_settings_are_not():
    state = changed(**{"Conv2d_1a_3x3.bn.num_batches_tracked": ()})
    assert load(state, {"preprocessing": "torch-fidelity"})[0] == InceptionV3("torch-fidelity")
    with pytest.raises(ValueError, match="unknown settings"):
        load(state, {"resize": True})


def package_net(kind, state, monkeypatch, tmp_path):
    """bytes -> pool3 by the package itself, on our random weights."""
    torch = pytest.importorskip("torch")
    if kind == "torch-fidelity":
        package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
        torch.save(state, tmp_path / "weights.pth")
        path = str(tmp_path / "weights.pth")
        net = package.FeatureExtractorInceptionV3("fid", ["2048"], path)
        return lambda x: net(x)[0]
    package = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(package, "load_state_dict_from_url", lambda *a, **b: state)
    net = package.InceptionV3().eval()
    return lambda x: net(x.float() / 255)[0][:, :, 0, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["pytorch-fid", "torch-fidelity"])
def test_equals_the_package(kind, monkeypatch, tmp_path):
    net, _, state = reference()
    judge = package_net(kind, net.state, monkeypatch, tmp_path)
    module, params = load(state, {"preprocessing": kind})
    images = bytes_of(96, 128)
    got = jax.jit(module.apply)({"params": params}, images)
    assert_close(got, judge(to_torch(images)).detach())
