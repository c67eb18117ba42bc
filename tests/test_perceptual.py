"""LPIPS equals a torch reference, and its weights come from the files that people have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, to_torch

from hsd_jax.convert.perceptual import load, names_table
from hsd_jax.convert.tensors import param_shapes, torch_shape
from hsd_jax.models import apply, conv, perceptual
from hsd_jax.models.perceptual import LPIPS

# torchvision's `features`: channels of 3 x 3 convolutions, pools, and the modules that are taps.
VGG16 = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]
TAPS = {"vgg16": (3, 8, 15, 22, 29), "alexnet": (1, 4, 7, 9, 11)}
WIDTHS = {"vgg16": (64, 128, 256, 512, 512), "alexnet": (64, 192, 384, 256, 256)}
BACKBONES = list(TAPS)


@pytest.fixture(autouse=True)
def plain_convolutions(monkeypatch):
    """Winograd's form, held to the plain one by its own tests, takes long to compile."""
    monkeypatch.setattr(conv, "_MIN_WINOGRAD_CHANNELS", 10**6)


def torch_features(backbone):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    if backbone == "vgg16":
        layers, before = [], 3
        for width in VGG16:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else []
            layers += [] if width else [nn.MaxPool2d(2)]
            before = width or before
        return nn.Sequential(*layers)
    pool = functools.partial(nn.MaxPool2d, 3, 2)
    first = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool()]
    second = [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool()]
    pairs = ((192, 384), (384, 256), (256, 256))
    rest = [layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*first, *second, *rest)


def torch_model(backbone):
    """(features, lins), the weights random but of a size that keeps the activations'."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    features = torch_features(backbone)
    for weight in features.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
        else:
            torch.nn.init.normal_(weight, std=0.1)
    return features, [torch.rand(1, width, 1, 1) for width in WIDTHS[backbone]]


def torch_taps(features, backbone, x):
    torch = pytest.importorskip("torch")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, taps = (x - shift[:, None, None]) / scale[:, None, None], []
    for i, layer in enumerate(features):
        x = layer(x)
        taps += [x] if i in TAPS[backbone] else []
    return taps


def torch_distances(features, backbone, x, y, lins=None):
    """(distances, maps)."""
    torch = pytest.importorskip("torch")
    maps = []
    pairs = zip(*(torch_taps(features, backbone, image) for image in (x, y)), strict=True)
    for i, pair in enumerate(pairs):
        a, b = (tap / (tap.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for tap in pair)
        maps.append(((a - b) ** 2 * (1 if lins is None else lins[i])).sum(1, keepdim=True))
    size, resize = x.shape[2:], torch.nn.functional.interpolate
    large = [resize(m, size, mode="bilinear", align_corners=False)[:, 0] for m in maps]
    return torch.stack([m.mean((1, 2, 3)) for m in maps]).sum(0), torch.stack(large).sum(0)


def as_state(features, lins=()):
    state = {f"features.{name}": value.numpy() for name, value in features.state_dict().items()}
    return state | {f"lin{i}.model.1.weight": lin.numpy() for i, lin in enumerate(lins)}


def images(side=64):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (3, side, side, 3)).astype(np.float32)
    noise = np.array([0.05, 0.3, 1.0], np.float32)[:, None, None, None]
    y = np.clip(x + noise * rng.normal(size=x.shape), -1, 1).astype(np.float32)
    return x, y


@functools.cache
def judged(backbone):
    """(x, y, params) -> the gradient of the distances' sum with respect to x, distances."""
    module = LPIPS(backbone)

    def total(x, y, params):
        distances = apply(module, params, x, y)
        return distances.sum(), distances

    return jax.jit(jax.grad(total, has_aux=True))


@functools.cache
def mapped(backbone):
    """(x, y, params) -> maps, and the taps of x."""
    module = LPIPS(backbone)

    @jax.jit
    def judge(x, y, params):
        variables = {"params": params}
        maps = module.apply(variables, x, y, spatial=True)
        return maps, module.apply(variables, x, method="features")

    return judge


@pytest.mark.parametrize("backbone, side", [("vgg16", 32), ("alexnet", 64)])
def test_distance_and_gradient_equal_torch(backbone, side):
    features, lins = torch_model(backbone)
    module, params = load(as_state(features, lins))
    assert module == LPIPS(backbone)
    x, y = images(side)
    gradient, distances = judged(backbone)(x, y, params)
    given = to_torch(x).requires_grad_()
    want, _ = torch_distances(features, backbone, given, to_torch(y), lins)
    want.sum().backward()
    assert_close(distances, want.detach())
    want = given.grad.numpy().transpose(0, 2, 3, 1)
    errors = sorted(np.abs(a - b).max() / b.std() for a, b in zip(gradient, want, strict=True))
    # Now and then a ReLU's input is 0 but for rounding, and the slope of its image another.
    assert errors[1] < 1e-4 and errors[2] < 0.1


def test_maps_and_features_equal_torch():
    features, lins = torch_model("alexnet")
    module, params = load(as_state(features, lins))
    x, y = images(67)
    maps, taps = mapped("alexnet")(x, y, params)
    given, other = to_torch(x), to_torch(y)
    assert_close(maps, torch_distances(features, "alexnet", given, other, lins)[1].detach())
    for tap, want in zip(taps, torch_taps(features, "alexnet", given), strict=True):
        assert_close(tap, want.detach().numpy().transpose(0, 2, 3, 1))


def test_without_learnt_weights_all_channels_count_the_same():
    features, _ = torch_model("alexnet")
    module, params = load(as_state(features) | {"classifier.1.weight": np.zeros((4096, 9216))})
    assert module == LPIPS("alexnet", calibrated=False)
    x, y = images()
    want, _ = torch_distances(features, "alexnet", to_torch(x), to_torch(y))
    assert_close(jax.jit(module.apply)({"params": params}, x, y), want.detach())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_equals_the_lpips_package_with_its_own_weights(backbone):
    package = pytest.importorskip("lpips")
    net = package.LPIPS(net=backbone[:4].strip("1"), pnet_rand=True, verbose=False)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    module, params = load(state)
    x, y = images()
    _, distances = judged(backbone)(x, y, params)
    assert_close(distances, net(to_torch(x), to_torch(y)).detach()[:, 0, 0, 0])
    net.spatial = True
    maps, _ = mapped(backbone)(x, y, params)
    assert_close(maps, net(to_torch(x), to_torch(y)).detach()[:, 0])


def test_pooling_and_its_gradient_equal_torchs_where_values_are_equal():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).integers(0, 3, (2, 9, 7, 4)).astype(np.float32)
    dy = np.random.default_rng(2).normal(size=(2, 4, 3, 4)).astype(np.float32)
    y, pullback = jax.vjp(perceptual._halve, x)
    given = to_torch(x).requires_grad_()
    want = torch.nn.functional.max_pool2d(given, 2)
    want.backward(to_torch(dy))
    np.testing.assert_array_equal(y, want.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pullback(dy)[0], given.grad.numpy().transpose(0, 2, 3, 1))


def test_features_that_are_all_zero_have_a_gradient_of_zero():
    # The norm's slope is infinite there; the ReLU before it must keep that in.
    features, lins = torch_model("alexnet")
    module, params = load(as_state(features, lins))
    dead = params | {"net": jax.tree.map(np.zeros_like, params["net"])}
    gradient, distances = judged("alexnet")(*images(), dead)
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("backbone, side", [("vgg16", 16), ("alexnet", 31)])
def test_the_least_size_is_the_least(backbone, side):
    module = LPIPS(backbone)
    shapes = param_shapes(module, (1, side, side, 3), (1, side, side, 3))
    assert shapes["lin_4/kernel"] == (1, 1, WIDTHS[backbone][4], 1)
    last = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, method="features")[0][-1],
        jnp.zeros((1, side, side, 3)),
    )
    assert last.shape == (1, 1, 1, WIDTHS[backbone][4])
    with pytest.raises(ValueError, match=f"{side - 1} x {side} pixels .* {side} or more"):
        param_shapes(module, (1, side, side - 1, 3), (1, side, side - 1, 3))


def test_bfloat16_convolutions_give_float32_distances():
    module = LPIPS("alexnet", dtype=jnp.bfloat16)
    x = jnp.zeros((1, 31, 31, 3))
    out, _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, x))
    assert out.dtype == jnp.float32


@functools.cache
def zeros(backbone, sliced):
    """An LPIPS state of one number, broadcast: files' names and shapes without their size."""
    module = LPIPS(backbone)
    shapes = param_shapes(module, (1, 64, 64, 3), (1, 64, 64, 3))
    table = names_table(module, sliced)
    return {
        name: np.broadcast_to(np.float32(0), torch_shape(leaf, shapes[leaf.path]))
        for name, leaf in table.items()
    }


def lins_of(state):
    return {name: value for name, value in state.items() if name.startswith("lin")}


def backbone_of(state):
    return {name: value for name, value in state.items() if not name.startswith("lin")}


SCALING = {
    "scaling_layer.shift": np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 3, 1, 1),
    "scaling_layer.scale": np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 3, 1, 1),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_packages_file_and_a_backbone_make_one(backbone):
    state = zeros(backbone, False)
    module, _ = load(lins_of(state), {"backbone": backbone_of(state)})
    assert module == LPIPS(backbone)
    copies = {name.replace("lin", "lins.", 1): value for name, value in lins_of(state).items()}
    whole = zeros(backbone, True) | copies | SCALING
    assert load(whole)[0] == module


def test_a_backbone_may_be_a_file(tmp_path):
    torch = pytest.importorskip("torch")
    features, lins = torch_model("alexnet")
    state = as_state(features, lins)
    path = tmp_path / "alexnet.pth"
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, path)
    _, params = load(lins_of(state), {"backbone": path})
    jax.tree.map(np.testing.assert_array_equal, params, load(state)[1])


def test_the_loss_inside_a_trainers_checkpoint_is_found():
    whole = zeros("vgg16", True) | SCALING
    state = {f"loss.perceptual_loss.{name}": value for name, value in whole.items()}
    module, _ = load(state | {"encoder.conv_in.weight": np.zeros((128, 3, 3, 3))})
    assert module == LPIPS("vgg16")


def without(state, name):
    return {other: value for other, value in state.items() if other != name}


VGG, ALEX = (functools.partial(zeros, name) for name in BACKBONES)


@pytest.mark.parametrize(
    "state, config, message",
    [
        (lambda: lins_of(VGG(False)), None, "'features.0.weight' is missing.*only the weights"),
        (lambda: without(VGG(False), "features.12.bias"), None, "'features.12.bias'.* is missing"),
        (lambda: without(ALEX(True), "lin3.model.1.weight"), None, "'lin3.model.1.weight'"),
        (lambda: VGG(False) | {"features.29.weight": np.zeros(3)}, None, "'features.29.weight'"),
        (lambda: lins_of(ALEX(True)) | backbone_of(VGG(True)), None, "'lin1.model.1.weight'"),
        (lambda: VGG(True), {"backbone": {}}, "'backbone' out"),
        (lambda: VGG(True) | {"scaling_layer.shift": np.zeros(3)}, None, "'scaling_layer.shift'"),
        (lambda: {"features.0.weight": np.zeros((64, 3, 7, 7))}, None, r"\[64, 3, 7, 7\]"),
        (lambda: VGG(True), {"lpips": True}, "unknown settings"),
        (lambda: {}, None, "'features.0.weight' is missing"),
    ],
)
def test_other_checkpoints_are_refused_by_name(state, config, message):
    with pytest.raises(ValueError, match=message):
        load(state(), config)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'squeeze'"):
        param_shapes(LPIPS("squeeze"), (1, 64, 64, 3), (1, 64, 64, 3))
