"""Folders of weights from anyone: what is wrong is told in one line, before anything is built."""

import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_weights

from hsd_jax import weights
from hsd_jax.cli import main
from hsd_jax.models import apply
from hsd_jax.parsing.segmenter import Segmenter
from hsd_jax.swapping.networks import SwapNetworks

PARTS = ("autoencoder", "unet", "condition", "layout_generator", "parser")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("good"), 128)


@pytest.fixture(scope="module")
def loaded(good):
    return {part: weights.load_part(good, part) for part in PARTS}


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good, tmp_path / "w")
    return tmp_path / "w"


def refused(folder, part="unet"):
    with pytest.raises(ValueError) as caught:
        weights.load_part(folder, part)
    error = str(caught.value)
    assert "\n" not in error and str(folder) in error
    return error


def changed(folder, part="unet", **changes):
    path = folder / f"{part}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"module": "os.system"}, "unknown module 'os.system'"),
        ({"module": ["UNet"]}, r"module is \['UNet'\]"),
        ({"fields": {"parent": 1}}, "has no field 'parent'"),
        ({"fields": {"dtype": "float64"}}, "has no field 'dtype'"),
        ({"fields": {"model_channels": 10**12}}, "model_channels is 1000000000000"),
        ({"fields": {"model_channels": -1}}, "model_channels is -1"),
        ({"fields": {"channel_mult": []}}, r"channel_mult is \[\]"),
        ({"fields": {"channel_mult": [1] * 10**4}}, r"channel_mult is \[1, 1"),
        ({"fields": {"dropout": True}}, "dropout is True"),
        ({"files": ["../unet.safetensors"]}, "which is not beside it"),
        ({"files": ["/etc/passwd"]}, "which is not beside it"),
        ({"files": ["none.safetensors"]}, "is missing"),
        ({"files": "unet.safetensors"}, "files is 'unet"),
        ({"parameters": 3}, "tells of 3 parameters"),
        ({"format": "1"}, "format is '1'"),
        ({"extra": []}, r"extra is \[\]"),
        ({"extra": {"steps": "ten"}}, "steps is 'ten'"),
        ({"extra": {"size": 1e300}}, r"size is 1e\+300"),
        ({"extra": {"schedule": {"num_timesteps": 10**12}}}, "num_timesteps is 1000000000000"),
        ({"extra": {"schedule": {"beta": 1}}}, "schedule has no 'beta'"),
        ({"extra": {"schedule": 5}}, "schedule is 5"),
        ({"extra": {"latent_std": [1, "a"]}}, "latent_std is"),
    ],
)
def test_what_a_json_may_not_say_is_refused_by_name(folder, changes, problem):
    changed(folder, **changes)
    assert re.search(problem, refused(folder))


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "damaged"),
        ("[]", "it is no object"),
        ("null", "it is no object"),
        ('{"format": 1, "format": 1}', "'format' is there twice"),
        ('{"extra": {"a": {"b": 1, "b": 2}}}', "'b' is there twice"),
        ('{"a": NaN}', "nan is no number|NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is no number"),
        ('{"a": ' + "9" * 5000 + "}", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"a": "\ud800"}', "damaged"),
        ('"' + "x" * 2**21, "over 1048576 bytes"),
    ],
)
def test_a_json_that_is_none_is_told(folder, text, problem):
    (folder / "unet.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert re.search(problem, refused(folder))


def test_files_that_are_no_files_are_refused(folder):
    (folder / "unet.json").unlink()
    (folder / "unet.json").symlink_to("/dev/zero")  # would be read without end
    assert "is missing" in refused(folder)
    (folder / "condition.safetensors").unlink()
    (folder / "condition.safetensors").symlink_to("/dev/zero")
    assert "condition.safetensors is missing" in refused(folder, "condition")
    os.mkfifo(folder / "fifo")
    (folder / "parser.safetensors").unlink()
    (folder / "parser.safetensors").symlink_to(folder / "fifo")
    assert "parser.safetensors is missing" in refused(folder, "parser")
    (folder / "autoencoder.safetensors").write_bytes(b"\xff" * 7 + b"\x7f{}")
    assert "damaged" in refused(folder, "autoencoder")


def test_a_tensor_cannot_claim_more_than_its_file_has(folder):
    header = {"x": {"dtype": "F32", "shape": [2**30, 2**10], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    (folder / "unet.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
    assert "damaged" in refused(folder)


def test_parameters_of_another_network_are_told(folder):
    changed(folder, "condition", fields={"out_channels": 5, "n_stages": 2, "use_bias": False})
    part, x = weights.load_part(folder, "condition"), jnp.zeros((1, 8, 8, 9))
    with pytest.raises(ValueError, match="the parameters are not of this SpatialRescaler"):
        jax.eval_shape(lambda p: apply(part.module, p, x), part.params)
    changed(folder, "parser", extra={"labels": "halfbody9", "size": 128, "balance": [1, 2]})
    with pytest.raises(ValueError, match="balance has 2 factors for 9 classes"):
        Segmenter(weights.load_part(folder, "parser"))


def test_a_refusal_is_one_line_of_the_command(folder, tmp_path, capsys):
    changed(folder, fields={"model_channels": 10**12})
    assert main(["info", "--weights", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "model_channels" in error and error.count("\n") == 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, -1, 2**16, 2**63, 1e308, "linear", "halfbody9", "v", "vq"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.untyped
@given(
    part=st.sampled_from(PARTS), place=st.sampled_from(["all", "fields", "extra", "schedule"]),
    number=st.integers(0, 30), value=ANYTHING,
)  # fmt: skip
def test_any_value_anywhere_in_a_json_is_weights_or_a_refusal(
    loaded, folder, part, place, number, value
):
    path = folder / f"{part}.json"
    original = path.read_text()
    record = json.loads(original)
    inside = {**record, **record["extra"], "all": record}.get(place, record)
    keys = [*inside, "other"]
    inside[keys[number % len(keys)]] = value
    path.write_text(json.dumps(record))
    try:
        parts = loaded | {part: weights.load_part(folder, part)}
        SwapNetworks(parts).spec.describe()
        Segmenter(parts["parser"])
    except ValueError as error:
        assert str(error)
    finally:
        path.write_text(original)
