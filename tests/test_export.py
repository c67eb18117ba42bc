"""Programs ahead of time: what a folder of them gives is what the jitted functions give."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax import cli
from hsd_jax.models import apply
from hsd_jax.models.conv import Conv
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping import stablehlo
from hsd_jax.swapping.runner import Plan  # registers it for jax.export

pytest.importorskip("flatbuffers")

LAYER = Conv(64)
ARGUMENTS = (
    LAYER.init(jax.random.key(0), jnp.zeros((1, 8, 8, 64)))["params"],
    np.random.default_rng(0).normal(size=(1, 8, 8, 64)).astype(np.float32),
    Plan(*(np.full((2, 2), i, np.int32) for i in range(4))),
)


def _function(params, x, plan):
    return apply(LAYER, params, x), plan.layout + 1


def test_exported_programs_give_what_jitted_ones_give(tmp_path):
    programs = {"net": (Program("net", _function), ARGUMENTS)}
    paths = stablehlo.write(programs, tmp_path, ["cpu", "tpu"])
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "cpu/net.stablehlo",
        "tpu/net.stablehlo",
    ]
    loaded = stablehlo.load(tmp_path)["net"](*ARGUMENTS)
    for ours, theirs in zip(jax.jit(_function)(*ARGUMENTS), loaded, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    index = json.loads((tmp_path / "export.json").read_text())
    assert index["platforms"] == ["cpu", "tpu"]
    assert index["programs"]["net"]["results"] == ["float32[1,8,8,64]", "int32[2,2]"]
    assert "float32[3,3,64,64]" in index["programs"]["net"]["arguments"]


def test_convolutions_take_the_form_of_the_platform(tmp_path):
    large = jax.ShapeDtypeStruct((1, 64, 64, 64), np.float32)
    programs = {"net": (Program("net", _function), (ARGUMENTS[0], large, ARGUMENTS[2]))}
    stablehlo.write(programs, tmp_path, ["cpu", "cuda", "tpu"])

    def convolves(platform):
        data = (tmp_path / platform / "net.stablehlo").read_bytes()
        return "stablehlo.convolution" in jax.export.deserialize(bytearray(data)).mlir_module()

    assert convolves("cuda") and convolves("tpu")
    assert not convolves("cpu")  # products, see hsd_jax.models.conv


def test_what_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="holds no export.json"):
        stablehlo.load(tmp_path)
    stablehlo.write({}, tmp_path, ["tpu"])
    with pytest.raises(ValueError, match="is for tpu, not for cpu"):
        stablehlo.load(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main(["export", "-o", str(tmp_path / "file")]) == 2
    assert "give a folder" in capsys.readouterr().err
