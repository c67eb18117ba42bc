"""The command `hsd convert`, what it refuses, and what it writes."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from hsd_jax import weights
from hsd_jax.cli import main
from hsd_jax.convert import from_torch, to_torch
from hsd_jax.convert.tensors import param_shapes
from hsd_jax.models.layout_generator import LayoutGenerator

torch = pytest.importorskip("torch")
import torch_reference as reference  # noqa: E402
from parity import latent_diffusion, normal, same_state, save  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return latent_diffusion(tmp_path_factory.mktemp("ldm"))


def test_the_command_writes_weights_for_swaps_and_training(model, tmp_path, capsys):
    path, averages, _ = model
    out = tmp_path / "out"
    arguments = ["--set", "labels=halfbody9", "--fill", "embedded"]
    assert main(["convert", str(path), "-o", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "wrote unet" in printed and "copied parser from embedded" in printed
    unet = weights.load_part(out, "unet")
    assert unet.extra == {
        "known": False, "steps": 10, "prediction": "eps", "labels": "halfbody9",
        "schedule": {"kind": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0205},
        "latent_mean": [0.0] * 3, "latent_std": [2.0] * 3,
    }  # fmt: skip
    same_state(to_torch(unet.module, unet.params, "unet", "compvis"), averages)
    from hsd_jax import HeadSwapper

    HeadSwapper.from_pretrained(out)


def test_the_command_writes_back_what_it_read(model, tmp_path, capsys):
    path, averages, first_stage = model
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(path), "-o", str(ours), "--kind", "compvis"]) == 0
    assert main(["convert", str(ours), "-o", str(back), "--to", "compvis"]) == 0
    state = torch.load(back / "model.ckpt", weights_only=True)["state_dict"]
    for name, value in averages.state_dict().items():
        assert torch.equal(state[f"model.diffusion_model.{name}"], value)
    for part in ("unet", "autoencoder", "condition"):
        again, params = from_torch(back / "model.ckpt", part)
        first = weights.load_part(ours, part)
        assert again == first.module
        jax.tree.map(np.testing.assert_array_equal, params, first.params)
    alone = tmp_path / "alone"
    arguments = ["--part", "autoencoder", "--to", "compvis"]
    assert main(["convert", str(ours), "-o", str(alone), *arguments]) == 0
    state = torch.load(alone / "model.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == first_stage.state_dict().keys()


def test_facts_without_a_yaml_come_from_the_buffers(model, tmp_path, capsys):
    copy = tmp_path / "model.ckpt"
    copy.write_bytes(model[0].read_bytes())
    arguments = ["--set", "num_heads=4", "--set", "n_stages=2"]
    assert main(["convert", str(copy), "-o", str(tmp_path / "out"), *arguments]) == 0
    extra = weights.load_part(tmp_path / "out", "unet").extra
    assert extra["schedule"]["start"] == 0.0015 and extra["schedule"]["end"] == 0.0205
    assert extra["latent_std"] == [2.0] * 3 and "prediction" not in extra
    assert "lacks layout_generator, parser" in capsys.readouterr().out


def run_fails(capsys, *arguments):
    assert main(["convert", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hsd convert: ") and error.count("\n") == 1
    return error


def test_the_command_refuses_in_one_line_and_leaves_nothing(model, tmp_path, capsys):
    path, out = model[0], tmp_path / "out"
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:5000])

    class Evil:
        def __reduce__(self):
            import os

            return os.system, (f"touch {tmp_path / 'marker'}",)

    evil = save(tmp_path, {"state_dict": {"x": torch.ones(1)}, "y": Evil()}, "evil.ckpt")
    assert "cut short" in run_fails(capsys, tmp_path / "cut.ckpt", "-o", out)
    assert "system" in run_fails(capsys, evil, "-o", out)
    assert "no such file" in run_fails(capsys, tmp_path / "none.ckpt", "-o", out)
    assert "not of diffusers" in run_fails(capsys, path, "-o", out, "--kind", "diffusers")
    assert "not of taming" in run_fails(capsys, path, "-o", out, "--kind", "taming")
    assert "KEY=VALUE" in run_fails(capsys, path, "-o", out, "--set", "num_heads")
    assert "--set nothing" in run_fails(capsys, path, "-o", out, "--set", "nothing=1")
    assert "takes 9 classes" in run_fails(capsys, path, "-o", out, "--set", "labels=cihp20")
    assert "patch is 4" in run_fails(capsys, "embedded", "-o", out, "--to", "compvis")
    assert not out.exists() and not (tmp_path / "marker").exists()


def damaged(change):
    """The state of a small autoencoder after `change`, as a saved checkpoint's dict."""
    state = dict(reference.Autoencoder(n_embed=16).state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda s: s.pop("decoder.mid.block_1.conv2.bias"),
         r"'decoder.mid.block_1.conv2.bias' of shape \[64\] is missing"),
        (lambda s: s.update({"encoder.extra": torch.ones(3)}),
         r"'encoder.extra' of shape \[3\] has no place"),
        (lambda s: s.update({"decoder.norm_out.weight": torch.ones(5)}),
         r"'decoder.norm_out.weight' is \[5\].*needs \[32\]"),
        (lambda s: s.update({"quant_conv.bias": torch.ones(3, dtype=torch.int32)}),
         "'quant_conv.bias' holds int32"),
        (lambda s: s.pop("post_quant_conv.weight"), "'post_quant_conv.weight' is missing"),
        (lambda s: s.pop("encoder.conv_in.weight"), "'first_stage_model.encoder.conv_in.weight'"),
    ],
)  # fmt: skip
def test_missing_extra_and_misshapen_tensors_are_named(tmp_path, change, problem):
    path = save(tmp_path, damaged(change))
    with pytest.raises(ValueError, match=problem) as caught:
        from_torch(path, "autoencoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config, problem",
    [
        (None, "give num_heads or num_head_channels.*use_new_attention_order"),
        ({"num_heads": 4, "use_spatial_transformer": True}, "use_spatial_transformer is True"),
        ({"num_heads": 4, "num_classes": 10}, "num_classes is 10"),
        ({"num_heads": 4, "linear_attention": 7}, "linear_attention=7 is not known"),
        ({"num_heads": "many"}, "num_heads is 'many'"),
        ({"num_heads": 4, "num_heads_upsample": 2}, "num_heads_upsample is 2"),
        ("none.yaml", "no such configuration"),
    ],
)
def test_settings_that_are_open_or_cannot_be_followed_are_named(model, tmp_path, config, problem):
    copy = tmp_path / "model.ckpt"
    copy.write_bytes(model[0].read_bytes())
    with pytest.raises(ValueError, match=problem):
        from_torch(copy, "unet", config)


def test_large_networks_are_written_in_shards(tmp_path):
    module = LayoutGenerator(3, "small", 1 / 8)
    shapes = param_shapes(module, (1, 32, 32, 3))
    params = unflatten_dict({path: normal(*shape) for path, shape in shapes.items()}, sep="/")
    options = dict(extra={"a": 1}, dtype=np.float32, shard_bytes=30_000)
    weights.save_part(tmp_path, "net", module, params, **options)
    files = json.loads((tmp_path / "net.json").read_text())["files"]
    assert len(files) > 2 and files[0] == f"net-00001-of-{len(files):05}.safetensors"
    assert all((tmp_path / file).stat().st_size < 60_000 for file in files)
    loaded = weights.load_part(tmp_path, "net")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    (tmp_path / files[1]).unlink()
    with pytest.raises(ValueError, match="00002"):
        weights.load_part(tmp_path, "net")


def test_an_official_u2net_comes_back_from_our_folder(tmp_path, capsys):
    narrow = tuple([(height, 2, 4) for height, _, _ in row] for row in reference.U2NETP)
    torch_net = reference.randomize(reference.U2Net(narrow))
    path = save(tmp_path, torch_net.state_dict(), "u2netp.pth")
    assert main(["convert", str(path), "-o", str(tmp_path / "out"), "--kind", "u2net"]) == 0
    loaded = weights.load_part(tmp_path / "out", "layout_generator")
    shapes = param_shapes(loaded.module, (1, 32, 32, 3))  # builds from what the json says
    assert shapes["outconv/kernel"] == (1, 1, 6, 1)
    same_state(to_torch(loaded.module, loaded.params, "layout_generator", "compvis"), torch_net)
