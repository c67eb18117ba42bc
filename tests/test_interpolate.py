"""Interpolated weights: the ends and the middle are right; unlike networks are refused."""

import jax
import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.models.condition import SpatialRescaler
from hsd_jax.training.tools import interpolate


def write(folder, value, channels=3):
    module = SpatialRescaler(out_channels=channels, n_stages=1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 4, 4, 5), np.float32))
    params = jax.tree.map(lambda x: np.full(x.shape, value, np.float32), shapes["params"])
    weights.save_part(folder, "condition", module, params, {"from": value})


def test_a_share_of_the_way(tmp_path):
    write(tmp_path / "a", 1.0)
    write(tmp_path / "b", 3.0)
    for share, wanted in ((0.0, 1.0), (0.25, 1.5), (1.0, 3.0)):
        out = tmp_path / str(share)
        interpolate.interpolate(tmp_path / "a", tmp_path / "b", out, share, ["condition"])
        part = weights.load_part(out, "condition")
        assert part.extra == {"from": 3.0}
        assert all(np.all(np.asarray(x) == wanted) for x in jax.tree.leaves(part.params))


def test_what_has_no_way_between_is_refused(tmp_path, capsys):
    write(tmp_path / "a", 1.0)
    write(tmp_path / "b", 3.0, channels=4)
    folders = [str(tmp_path / name) for name in ("a", "b")]
    command = [*folders, "-o", str(tmp_path / "out"), "--parts", "condition"]
    assert interpolate.main(command) == 2
    assert "is another network" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        interpolate.interpolate(tmp_path / "a", tmp_path / "a", tmp_path / "out", 1.5, [])
    assert not (tmp_path / "out").exists()
