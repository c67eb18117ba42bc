"""Released weights: what is written comes back, and what is wrong is refused in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.models.parser import Parser


@pytest.fixture
def saved(tmp_path):
    module = Parser(num_classes=3, widths=(16, 32), depths=(1, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    weights.save_part(tmp_path, "parser", module, params, {"labels": "x"})
    return tmp_path, module, params


def test_a_net_comes_back_in_half_precision(saved):
    folder, module, params = saved
    loaded = weights.load_part(folder, "parser")
    assert loaded.module == module and loaded.extra == {"labels": "x"}
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def test_missing_damaged_and_foreign_files_are_refused(saved):
    folder, _, _ = saved
    with pytest.raises(ValueError, match="holds no unet"):
        weights.load_part(folder, "unet")
    record = json.loads((folder / "parser.json").read_text())
    (folder / "parser.json").write_text(json.dumps(record | {"module": "os.system"}))
    with pytest.raises(ValueError, match="unknown module 'os.system'"):
        weights.load_part(folder, "parser")
    (folder / "parser.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        weights.load_part(folder, "parser")
    (folder / "parser.json").write_text(json.dumps(record))
    data = (folder / "parser.safetensors").read_bytes()
    (folder / "parser.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged"):
        weights.load_part(folder, "parser")


def test_parameters_that_overflow_half_precision_are_not_written(tmp_path, saved):
    _, module, params = saved
    params = jax.tree.map(lambda x: x + 1e6, params)
    with pytest.raises(ValueError, match="not finite as float16"):
        weights.save_part(tmp_path / "new", "parser", module, params, {})


def test_names_and_folders(tmp_path):
    assert weights.find(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="no weights 'nothing'"):
        weights.find("nothing")


def test_shipped_weights_are_within_their_budget():
    files = list(weights.find("embedded").glob("*.safetensors"))
    assert len(files) == 6
    assert sum(file.stat().st_size for file in files) <= 60e6
