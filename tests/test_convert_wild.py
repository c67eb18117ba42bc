"""Checkpoints as people have them: wrapped, nested, sharded, mislabelled, with objects beside."""

import argparse
import collections
import datetime
import io
import json
import math
import pathlib
import pickle
import tarfile
from functools import partial

import numpy as np
import pytest

from hsd_jax.cli import main
from hsd_jax.convert import places
from hsd_jax.convert.state import read

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

# Names of an autoencoder's and a UNet's tensors; what matters here is where they stand.
VAE = {
    "encoder.conv_in.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
    "decoder.conv_out.bias": torch.tensor([1.5, -2.0]),
}
UNET = {
    "input_blocks.0.0.weight": torch.arange(8.0).reshape(2, 4, 1, 1),
    "out.2.bias": torch.tensor([0.25]),
}


def named(prefix: str, tensors=VAE):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def found(path, part="autoencoder", want=VAE):
    """Asserts that exactly the tensors of `want` lie where `part` is found."""
    tensors = places.of_part(read(path), part).tensors
    assert tensors.keys() == want.keys()
    for name, tensor in want.items():
        got = np.asarray(tensors[name])
        assert got.dtype == tensors[name].dtype and got.shape == tensors[name].shape
        np.testing.assert_array_equal(got.astype(np.float64), tensor.double().numpy())


PREFIXES = [
    "", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.",
    "model.", "model.model.", "model.module.", "ema.", "ema_model.module.", "vae._orig_mod.",
    "first_stage_model._orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module.",
    "_forward_module.net.", "generator.vae.",
]  # fmt: skip


@pytest.mark.parametrize("ending", ["ckpt", "pt", "bin", "safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_network_is_found_under_any_prefix(tmp_path, prefix, ending):
    state, path = named(prefix), tmp_path / f"x.{ending}"
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if ending == "ckpt" else state, path)
    want = VAE if not prefix.startswith("first") else named("first_stage_model.")
    found(path, want=want)


def test_a_wrapper_within_the_names_is_taken_out(tmp_path):
    state = {"encoder.module.conv_in._orig_mod.weight": VAE["encoder.conv_in.weight"]}
    save_file(state, tmp_path / "x.safetensors")
    assert list(read(tmp_path / "x.safetensors").tensors) == ["encoder.conv_in.weight"]
    torch.save(named("") | named("_orig_mod."), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="'_orig_mod.encoder.*in another wrapper: save one"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "saved",
    [
        {"model": VAE},
        {"module": VAE, "buffer_names": [], "optimizer": {"state": {0: {"exp_avg": VAE}}}},
        {"model": named("module."), "step": torch.tensor(3)},
        {"state": {"model": VAE, "rank": 0}},
        {"model": {k: v + 1 for k, v in VAE.items()}, "ema": VAE},
        {"params": {k: v + 1 for k, v in VAE.items()}, "params_ema": VAE},
        {"state_dict": VAE, "teacher": {k: v + 1 for k, v in VAE.items()}},
        {"autoencoder": VAE, "unet": UNET},
        named("net.") | named("discriminator.", {"conv.weight": torch.ones(1)}),
        named("ema_model.") | {k: v + 1 for k, v in named("online_model.").items()},
        collections.OrderedDict(VAE) | {"_extra": 3},
        {key: value.numpy() for key, value in VAE.items()},
    ],
)
def test_a_network_is_found_in_any_dict(tmp_path, saved):
    torch.save(saved, tmp_path / "x.pt")
    found(tmp_path / "x.pt")


def test_the_averages_of_a_compiled_latent_diffusion_model_are_taken(tmp_path):
    from hsd_jax.convert import compvis

    state = named("model.diffusion_model._orig_mod.", UNET) | {
        "model_ema.diffusion_model_orig_modinput_blocks00weight": torch.ones(2, 4, 1, 1),
        "model_ema.diffusion_model_orig_modout2bias": torch.ones(1),
    }
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    tensors = places.of_part(read(tmp_path / "x.ckpt"), "unet").tensors
    kept = compvis._averages(tensors, UNET)
    assert kept is not None and kept.keys() == UNET.keys()


def test_two_of_one_kind_are_told_and_chosen(tmp_path, capsys):
    torch.save({"student": VAE, "teacher": dict(VAE)}, tmp_path / "x.pt")
    out = ["-o", str(tmp_path / "out")]
    assert main(["convert", str(tmp_path / "x.pt"), *out]) == 2
    error = capsys.readouterr().err
    assert "several networks for autoencoder, under 'student.', 'teacher.'" in error
    assert "--set prefix=student." in error
    assert main(["convert", str(tmp_path / "x.pt"), *out, "--set", "prefix=tutor."]) == 2
    assert "no tensor whose name begins with 'tutor.'" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "x.pt"), *out, "--set", "prefix=teacher."]) == 2
    assert "is missing" in capsys.readouterr().err  # a whole network would be converted


class Callback:
    def __init__(self):
        self.best = 3.0


class Config(dict):
    """As omegaconf's and Lightning's containers: a dict of a class of its own."""


class Level(int):
    pass


def touch(path):
    pathlib.Path(path).touch()
    return {}


class Runs:
    """Would touch a file where it is made."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_beside_the_tensors_are_passed_over(tmp_path, zipped, protocol):
    beside = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("/runs/x")),
        "when": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
        "took": datetime.timedelta(seconds=3),
        "best": np.float64(0.5), "step": np.int64(7), "rng": np.random.default_rng(0),
        "state": np.random.get_state(), "torch_rng": torch.get_rng_state(),
        "callbacks": {Callback: {"best": 1}, "x": Callback()},
        "hyper_parameters": Config(a=1, b=Config(c=2)), "level": Level(3),
        "part": partial(int, base=2), "names": frozenset({"a"}), "count": collections.Counter("ab"),
        "lists": collections.defaultdict(list, a=[1]), "deque": collections.deque([1]),
        pathlib.PurePosixPath("key"): 1, "complex": 1j, "range": range(3),
        "method": Callback().__init__,
        "runs": Runs(tmp_path / "marker"), "module": torch.nn.Linear(1, 1), "raw": bytearray(b"x"),
        "scheduler": torch.optim.lr_scheduler.LambdaLR(
            torch.optim.SGD([torch.zeros(1)]), lr_lambda=math.sqrt),
    }  # fmt: skip
    path = tmp_path / "last.ckpt"
    torch.save(
        {"state_dict": VAE, **beside}, path, pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    found(path)
    assert not (tmp_path / "marker").exists()


def test_a_model_saved_whole_is_told(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds a torch.nn.modules.linear.Linear.*state dict"):
        read(tmp_path / "x.pt")


ELEMENTS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "uint16", "int8"
)  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize("writer", ["zip", "legacy", "safetensors"])
def test_every_type_of_numbers_is_read_exactly(tmp_path, name, writer):
    state = {k: v.abs().to(getattr(torch, name)) for k, v in VAE.items()}
    path = tmp_path / "x.safetensors"
    if writer == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=writer == "zip")
    found(path, want=state)


def test_shared_and_strided_tensors_are_read(tmp_path):
    base = torch.arange(48.0).reshape(4, 12)
    state = {
        "encoder.conv_in.weight": base[1:3, ::2], "tied": base[1:3, ::2],
        "expanded": torch.ones(1).expand(4), "t": base.t(),
        "view": base.to(torch.float8_e4m3fn)[2:, 3:],
    }  # fmt: skip
    torch.save({"module." + name: tensor for name, tensor in state.items()}, tmp_path / "x.pt")
    found(tmp_path / "x.pt", want=state)


def shards(folder, kind):
    """A folder in the hub's layout: two shards of wrapped names with their index."""
    ending, stem = {"bin": ("bin", "pytorch_model"), "st": ("safetensors", "model")}[kind]
    names, state = {}, named("model._orig_mod.")
    for n, (name, tensor) in enumerate(state.items(), 1):
        file = f"{stem}-{n:05}-of-00002.{ending}"
        save = torch.save if kind == "bin" else save_file
        save({name: tensor}, folder / file)
        names[name] = file
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 104}, "weight_map": names}))
    return index


@pytest.mark.parametrize("kind", ["bin", "st"])
def test_shards_are_read_by_their_index_or_folder(tmp_path, kind):
    index = shards(tmp_path, kind)
    found(index)
    found(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match="holds shards .* without their .index.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda m: m | {"x": "../secret.bin"}, "'../secret.bin', which is not beside it"),
        (lambda m: m | {"x": "/etc/passwd"}, "'/etc/passwd', which is not beside it"),
        (lambda m: m | {"x": "none.bin"}, "'none.bin', which is not beside it"),
        (lambda m: m | {"x": next(iter(m.values()))}, "'x', which its files lack"),
        (lambda m: {}, "has no weight_map"),
        (lambda m: [1], "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, change, problem):
    index = shards(tmp_path, "bin")
    record = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": change(record["weight_map"])}))
    with pytest.raises(ValueError, match=problem):
        read(index)


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    return out.getvalue()


WRONG = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS"),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "html with a mark": (b"\xef\xbb\xbf\n <HTML>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "a web page"),
    "json": (b'{"error":"Repository not found"}', "JSON and no weights"),
    "empty": (b"", "is empty"),
    "zeros": (b"\0" * 4096, "bytes are zeros"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 30, "compressed"),
    "tar": (archive(), "tar archive"),
    "text": (b"Entry not found", "no file of torch.save"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 64, "GGUF"),
    "cut": (b"PK\x03\x04" + b"\0" * 30, "damaged or cut short"),
    "pickle": (pickle.dumps({"a": 1}), "no file of torch.save"),
}


@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "bin"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_checkpoint_is_told_as_what_it_is(tmp_path, capsys, name, ending):
    data, problem = WRONG[name]
    path = tmp_path / f"model.{ending}"
    path.write_bytes(data)
    assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert problem in error and str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_and_parts_that_are_not_there_are_told(tmp_path, capsys):
    def fails(*arguments):
        assert main(["convert", *map(str, arguments), "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in fails(tmp_path / "empty")
    (tmp_path / "empty" / "model.bin").mkdir()
    assert "holds no checkpoint" in fails(tmp_path / "empty")
    torch.save(VAE, tmp_path / "x.pt")
    assert "no unet is in it" in fails(tmp_path / "x.pt", "--part", "unet")
    assert "'stage1" in fails(tmp_path / "x.pt", "--part", "layout_generator")
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "name its network with --part" in fails(tmp_path / "x.safetensors")


def test_damaged_safetensors_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(VAE, path)
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    first = next(iter(header))

    def written(change):
        text = json.dumps(header | {first: header[first] | change}).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    for data in (
        good[:-1], good[: length // 2], b"\xff" * 7 + b"\x7f{" + good[9:],
        written({"shape": [2**62, 4]}), written({"data_offsets": [0, 2**40]}),
        written({"dtype": "F99"}), written({"shape": [-1]}), b"\x08" + b"\0" * 7 + b"{" * 8,
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged|cannot be read") as caught:
            read(path)
        assert "\n" not in str(caught.value)
