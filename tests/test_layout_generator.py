import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.models import layout_generator as lg
from hsd_jax.models.norm import BatchNorm, make_norm, merge_stats

K = 5
SHAPE = (4, 13, 10)
TINY = lg.Stages((lg.Stage("3", 2, 4), lg.Stage("4F", 2, 4)), (lg.Stage("2", 2, 4),))


def random_params(module, x):
    """Parameters as `init` would shape them, drawn by numpy: nothing to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        else:
            value = np.full(leaf.shape, name in ("scale", "var"))
        return jnp.asarray(value, jnp.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def tiny():
    """A generator of few levels, its parameters, one-hot input and compiled inference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lg.PRESETS, "tiny", TINY)
        net = lg.LayoutGenerator(K, "tiny")
        x = jnp.asarray(np.eye(K, dtype=np.float32)[np.random.default_rng(1).integers(0, K, SHAPE)])
        yield net, random_params(net, x), x, jax.jit(lambda p, x: net.apply({"params": p}, x))


def with_focus_bias(params, bias):
    net = params["net"]
    conv = {**net["outconv"], "bias": jnp.zeros(K + 1).at[K].set(bias)}
    return {"net": {**net, "outconv": conv}}


def names_and_shapes(module, channels=3):
    tree = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return {".".join(k.key for k in path): leaf.shape for path, leaf in leaves}


def published(table):
    """Names and sizes of the reference (u2net.py, one output channel) from its constructor calls.

    `table` has (height, in, mid, out) of the six encoder and the five decoder stages.
    """
    counts = {}

    def conv(name, i, o):
        counts[f"{name}.conv_s1.kernel"], counts[f"{name}.conv_s1.bias"] = 9 * i * o, o
        counts.update({f"{name}.bn_s1.{v}": o for v in ("scale", "bias", "mean", "var")})

    stages = [f"stage{i}" for i in range(1, 7)] + [f"stage{i}d" for i in range(5, 0, -1)]
    for stage, (height, i, mid, o) in zip(stages, table, strict=True):
        conv(f"{stage}.rebnconvin", i, o)
        conv(f"{stage}.rebnconv1", o, mid)
        for level in range(2, height + 1):
            conv(f"{stage}.rebnconv{level}", mid, mid)
        for level in range(1, height):
            conv(f"{stage}.rebnconv{level}d", 2 * mid, o if level == 1 else mid)
    side_inputs = [row[3] for row in reversed(table[6:])] + [table[5][3]]
    for level, i in enumerate(side_inputs, 1):
        counts[f"side{level}.kernel"], counts[f"side{level}.bias"] = 9 * i, 1
    counts["outconv.kernel"], counts["outconv.bias"] = 6, 1
    return counts


U2NET = [
    (7, 3, 32, 64),
    (6, 64, 32, 128),
    (5, 128, 64, 256),
    (4, 256, 128, 512),
    (4, 512, 256, 512),
    (4, 512, 256, 512),
    (4, 1024, 256, 512),
    (4, 1024, 128, 256),
    (5, 512, 64, 128),
    (6, 256, 32, 64),
    (7, 128, 16, 64),
]
HEIGHTS = (7, 6, 5, 4, 4, 4, 4, 4, 5, 6, 7)
U2NETP = [(h, i, 16, 64) for h, i in zip(HEIGHTS, (3, *[64] * 5, *[128] * 5), strict=True)]


@pytest.mark.parametrize(
    "preset, table, trainable", [("full", U2NET, 44_009_869), ("small", U2NETP, 1_131_181)]
)
def test_structure_is_the_reference(preset, table, trainable):
    ours = {
        name: int(np.prod(shape))
        for name, shape in names_and_shapes(lg.U2Net(1, lg.stages(preset))).items()
    }
    assert ours == published(table)
    assert sum(n for k, n in ours.items() if not k.endswith((".mean", ".var"))) == trainable


def test_width_scales_channels():
    assert lg.stages("small", 0.5).encoder[0] == lg.Stage("7", 8, 32)
    assert lg.stages("full", 0.001).decoder[-1] == lg.Stage("7", 1, 1)
    with pytest.raises(ValueError, match="huge"):
        lg.stages("huge")
    with pytest.raises(ValueError, match="width"):
        lg.stages("full", 0)


@pytest.mark.parametrize("size", [(128, 128), (75, 97), (1, 3)])
def test_presets_at_any_size(size):
    net = lg.LayoutGenerator(K, "small", 0.25)
    x = jnp.zeros((2, *size, K))
    out = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x)[0])
    assert out.probs.shape == out.logits.shape == (2, *size, K)
    assert out.focus.shape == (2, *size, 1)


def interpolate(x, size):
    """`F.interpolate(mode="bilinear", align_corners=False)` as torch documents it, by loops."""
    rows = []
    for axis, n in zip((1, 2), size, strict=True):
        matrix = np.zeros((n, x.shape[axis]))
        for i in range(n):
            source = max((i + 0.5) * x.shape[axis] / n - 0.5, 0)
            low = int(source)
            matrix[i, low] += 1 - (source - low)
            matrix[i, min(low + 1, x.shape[axis] - 1)] += source - low
        rows.append(matrix)
    return np.einsum("ih,jw,bhwc->bijc", *rows, x)


@pytest.mark.parametrize("size", [(6, 10), (24, 40), (5, 9), (6, 9)])
def test_upsample_is_torch_bilinear(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(
        lg.upsample_to(jnp.asarray(x), size), interpolate(x, size), atol=1e-6
    )


def test_max_pool_ceil_mode():
    # All negative: padding with zeros would win.
    x = -1 - jnp.arange(15.0).reshape(1, 3, 5, 1)
    expected = [[-1, -3, -5], [-11, -13, -15]]
    np.testing.assert_array_equal(lg.max_pool(x)[0, :, :, 0], expected)
    gradient = jax.grad(lambda x: lg.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0, 1], [0] * 5, [1, 0, 1, 0, 1]])


def test_dilated_block_keeps_the_size_and_sees_far():
    block = lg.ResidualUBlock(lg.Stage("4F", 1, 1), norm="none")
    x = jnp.zeros((1, 65, 65, 1))
    params = jax.tree.map(jnp.ones_like, random_params(block, x))
    gradient = jax.jit(jax.grad(lambda x: block.apply({"params": params}, x)[0, 32, 32, 0]))(x)
    # in 1, down 1 + 2 + 4 + 8, up 4 + 2 + 1: 23 pixels on each side.
    seen = np.flatnonzero(np.asarray(gradient)[0, 32, :, 0])
    assert seen.tolist() == list(range(32 - 23, 32 + 24))


def test_generator_blends_by_its_focus(tiny):
    _, params, x, apply = tiny
    out = apply(params, x)
    np.testing.assert_allclose(out.probs.sum(-1), 1, atol=1e-6)
    predicted = jax.nn.softmax(out.logits)
    np.testing.assert_allclose(out.probs, out.focus * predicted + (1 - out.focus) * x, atol=1e-6)
    assert out.focus.min() < 0.3 and out.focus.max() > 0.7
    np.testing.assert_array_equal(apply(with_focus_bias(params, -100), x).probs, x)
    replaced = apply(with_focus_bias(params, 100), x)
    np.testing.assert_allclose(replaced.probs, jax.nn.softmax(replaced.logits), atol=1e-7)


def test_focus_sharpness_is_council_gans(tiny):
    _, params, x, apply = tiny
    zeros = jax.tree.map(jnp.zeros_like, params)
    focus = apply(with_focus_bias(zeros, 0.1), x).focus
    np.testing.assert_allclose(focus, (np.tanh(1.0) + 1) / 2, rtol=1e-6)


def test_inpaint_gives_indices(tiny):
    net, params, x, apply = tiny
    layout = x.argmax(-1)
    inpaint = jax.jit(lambda p, x: net.apply({"params": p}, x, method="inpaint"))
    filled = inpaint(params, layout)
    assert filled.dtype == layout.dtype
    np.testing.assert_array_equal(filled, apply(params, x).probs.argmax(-1))
    assert (filled != layout).any()


def test_generator_names_wrong_channels():
    with pytest.raises(ValueError, match="expected 5 channels"):
        lg.LayoutGenerator(K, "small").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_group_norm_and_half_precision_keep_outputs_float32(tiny):
    net = tiny[0].clone(norm="group", dtype=jnp.bfloat16)
    out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), tiny[2])
    assert {v.dtype for v in jax.tree.leaves((out, variables))} == {jnp.dtype("float32")}
    assert set(variables) == {"params"}


def test_log_probs_is_finite_with_finite_gradient():
    p = jnp.array([0.0, 1e-9, 0.5, 1.0])
    np.testing.assert_allclose(lg.log_probs(p), np.log([1e-6, 1e-6, 0.5, 1]), atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda p: lg.log_probs(p).sum())(p), [0, 0, 2, 1])


def test_gumbel_softmax():
    probs = np.array([0.5, 0.3, 0.2], np.float32)
    logits = jnp.broadcast_to(jnp.log(probs)[None], (9_000, 3))
    hard = lg.gumbel_softmax(logits, jax.random.key(0), tau=0.5)
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_array_equal(hard.sum(-1), 1)
    np.testing.assert_allclose(hard.mean(0), probs, atol=0.02)
    soft = lg.gumbel_softmax(logits, jax.random.key(0), tau=0.5, hard=False)
    np.testing.assert_array_equal(soft.argmax(-1), hard.argmax(-1))
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)

    def first(hard):
        return jax.grad(lambda x: lg.gumbel_softmax(x, jax.random.key(1), hard=hard)[:, 0].sum())

    gradient = first(True)(logits)
    assert jnp.all(gradient[:, 0] > 0) and jnp.all(gradient[:, 1:] < 0)
    np.testing.assert_allclose(gradient, first(False)(logits), atol=1e-7)


def test_batch_norm_by_hand():
    x = jnp.array([[1.0, 10.0], [2.0, 10.0], [3.0, 40.0], [6.0, 40.0]])[None, None]
    params = {
        "scale": jnp.array([2.0, 1.0]),
        "bias": jnp.array([0.5, 0.0]),
        "mean": jnp.array([1.0, 0.0]),
        "var": jnp.array([4.0, 1.0]),
    }
    y = BatchNorm().apply({"params": params}, x)
    np.testing.assert_allclose(y[0, 0, :, 0], [0.5, 1.5, 2.5, 5.5], atol=1e-4)
    y, new = BatchNorm(train=True).apply({"params": params}, x, mutable=["stats"])
    # mean 3, biased variance (4 + 1 + 0 + 9) / 4 = 3.5; mean 25, biased variance 225
    np.testing.assert_allclose(
        y[0, 0, :, 0], 2 * np.array([-2, -1, 0, 3]) / 3.5**0.5 + 0.5, atol=1e-4
    )
    np.testing.assert_allclose(y[0, 0, :, 1], [-1, -1, 1, 1], atol=1e-4)
    merged = merge_stats(params, new["stats"])
    np.testing.assert_allclose(merged["mean"], [0.9 + 0.3, 2.5], rtol=1e-6)
    np.testing.assert_allclose(merged["var"], [3.6 + 0.1 * 14 / 3, 0.9 + 30], rtol=1e-6)
    np.testing.assert_array_equal(merged["scale"], params["scale"])
    with pytest.raises(ValueError, match="more than one value"):
        BatchNorm(train=True).apply({"params": params}, x[:, :, :1], mutable=["stats"])


def test_merged_statistics_make_evaluation_equal_training(tiny):
    net, params, x, apply = tiny

    @jax.jit
    def step(params):
        out, new = net.apply({"params": params}, x, train=True, mutable=["stats"])
        return out.logits, merge_stats(params, new["stats"])

    logits, merged = step(params)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    for _ in range(150):  # 0.9^150 is 1e-7: the running values have arrived at the batch's
        merged = step(merged)[1]

    def distance(params):
        return jnp.abs(apply(params, x).logits - logits).mean() / logits.std()

    # Only the unbiased variance still sets the two apart, by 1 / 520 or, a level down, 1 / 140.
    assert distance(merged) < 0.02
    assert distance(params) > 0.1


def test_running_values_get_no_gradient():
    params = random_params(BatchNorm(), jnp.ones((1, 2)))
    x = jnp.array([[1.0, 2.0], [4.0, 3.0]])
    gradient = jax.grad(lambda p: BatchNorm().apply({"params": p}, x).std())(params)
    assert not gradient["mean"].any() and not gradient["var"].any() and gradient["scale"].all()


def test_errors_of_norms():
    with pytest.raises(ValueError, match="layer"):
        make_norm("layer", 4, train=False, dtype=None, name="n")
    with pytest.raises(ValueError, match="stage9"):
        merge_stats({"stage1": {}}, {"stage9": {"mean": jnp.zeros(1)}})


def test_a_patch_tells_the_pixels_of_a_tile_apart(monkeypatch):
    """Where the focus map is 0 the input comes back pixel by pixel; elsewhere, the prediction."""
    monkeypatch.setitem(lg.PRESETS, "tiny", TINY)
    net = lg.LayoutGenerator(K, "tiny", patch=2)
    labels = np.random.default_rng(1).integers(0, K, (1, 12, 8))
    x = jnp.asarray(np.eye(K, dtype=np.float32)[labels])
    params = random_params(net, x)
    bias = params["net"]["outconv"]["bias"].reshape(2, 2, K + 1)
    wanted = np.zeros((2, 2, K + 1), np.float32)
    wanted[..., -1] = [[-50, 50], [-50, -50]]  # the upper right pixel of every tile is predicted
    wanted[0, 1, 3] = 100
    out_bias = jnp.asarray(wanted).reshape(bias.size)
    params["net"]["outconv"] = params["net"]["outconv"] | {"bias": out_bias}
    out = jax.jit(lambda p, x: net.apply({"params": p}, x))(params, x)
    got = np.asarray(out.probs.argmax(-1))
    labels[:, ::2, 1::2] = 3
    np.testing.assert_array_equal(got, labels)
