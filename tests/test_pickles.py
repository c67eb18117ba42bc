"""Files of torch.save without torch: what is there is read, and nothing else is done with it."""

import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from hsd_jax.convert import pickles, torch_files
from hsd_jax.convert.state import read

torch = pytest.importorskip("torch")

WRITERS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
}


def tensors():
    """Tensors in all the ways in which checkpoints hold them."""
    base = torch.arange(48.0).reshape(6, 8)
    return OrderedDict(
        plain=torch.randn(3, 4),
        transposed=torch.randn(4, 5).t(),
        half=torch.randn(3).half(),
        bfloat=torch.randn(3).bfloat16(),
        double=torch.randn(2, 2).double(),
        counter=torch.tensor(5),
        shared_rows=base[:3],
        shared_inner=base[3:, 2:7:2],
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 1, 3)),
        channels_last=torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_every_kind_of_tensor_is_read(tmp_path, writer):
    saved = tensors()
    torch.save(saved, tmp_path / "x.pth", **WRITERS[writer])
    loaded = torch_files.load(tmp_path / "x.pth")
    assert list(loaded) == list(saved)
    for name, tensor in saved.items():
        got = np.asarray(loaded[name])
        assert got.shape == loaded[name].shape == tuple(tensor.shape)
        assert str(got.dtype) == str(loaded[name].dtype) == str(tensor.dtype).split(".")[1]
        want = tensor.detach().double().numpy()
        np.testing.assert_array_equal(got.astype(np.float64), want)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_trainers_checkpoint_gives_its_state_dict(tmp_path, writer):
    net = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 3, "global_step": 10**12, "lr": 4.5e-6, "version": "1.4.2", "none": None,
        "state_dict": net.state_dict(), "optimizer_states": [optimizer.state_dict()],
        "best": np.float32(3), "table": np.arange(3), "size": torch.Size([1, 2]),
        "dtype": torch.float32, "device": torch.device("cpu"), "set": {1, 2}, "flags": [True, "x"],
    }  # fmt: skip
    torch.save(saved, tmp_path / "last.ckpt", **WRITERS[writer])
    loaded = torch_files.load(tmp_path / "last.ckpt")
    assert loaded["global_step"] == 10**12 and loaded["lr"] == 4.5e-6
    assert loaded["size"] == (1, 2) and loaded["flags"] == [True, "x"]
    state = read(tmp_path / "last.ckpt").tensors
    assert sorted(state) == ["bias", "weight"]
    np.testing.assert_array_equal(np.asarray(state["bias"]), net.bias.detach().numpy())


def test_data_parallel_names_lose_their_prefix(tmp_path):
    torch.save({"module.a": torch.ones(2), "module.b": torch.ones(2)}, tmp_path / "x.pth")
    assert sorted(read(tmp_path / "x.pth").tensors) == ["a", "b"]


def test_a_tensor_with_attributes_is_read(tmp_path):
    tensor = torch.arange(3.0)
    tensor.note = "mine"
    torch.save({"x": tensor}, tmp_path / "x.pth")
    np.testing.assert_array_equal(np.asarray(torch_files.load(tmp_path / "x.pth")["x"]), [0, 1, 2])


def test_what_we_write_torch_reads(tmp_path):
    saved = {"a.b": np.float32([[1, 2], [3, 4]]), "c": np.float32(5), "d": np.zeros((0, 2), "f4")}
    torch_files.save(tmp_path / "model.ckpt", saved)
    loaded = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    for name, value in saved.items():
        assert loaded[name].shape == value.shape
        np.testing.assert_array_equal(loaded[name].numpy(), value)
        ours = torch_files.load(tmp_path / "model.ckpt")["state_dict"][name]
        np.testing.assert_array_equal(np.asarray(ours), value)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "evil, named",
    [
        (Calls(os.system, "touch {marker}"), "system"),
        (Calls(eval, "open('{marker}', 'w')"), "eval"),
        (Calls(subprocess.check_output, "touch {marker}"), "check_output"),
    ],
)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_pickle_that_asks_for_more_is_refused_by_name(tmp_path, evil, named, writer):
    marker = tmp_path / "marker"
    if isinstance(evil, Calls):
        function, args = evil.call
        filled = (a.format(marker=marker) if isinstance(a, str) else a for a in args)
        evil = Calls(function, *filled)
    saved = {"state_dict": {"w": torch.ones(2)}, "x": evil}
    torch.save(saved, tmp_path / "x.pt", **WRITERS[writer])
    with pytest.raises(ValueError, match=f"({named}).*nothing of it was run") as caught:
        torch_files.load(tmp_path / "x.pt")
    assert "\n" not in str(caught.value) and not marker.exists()


def assemble(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor_pickle(numel=4, offset=0, shape=(2, 2), strides=(2, 1), kind=b"FloatStorage"):
    """A dict with one tensor, its numbers as told."""

    def ints(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu"
    storage += b"J" + struct.pack("<i", numel) + b"tQ"
    args = b"(" + storage + b"J" + struct.pack("<i", offset) + ints(shape) + ints(strides)
    return assemble(b"}X\x01\0\0\0w" + REBUILD + args + b"\x89Nt" + b"Rs")


def archive(path, data, numbers=b"\0" * 16, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", data)
        file.writestr("x/data/0", numbers)
        for name, value in records.items():
            file.writestr(f"x/{name}", value)
    return path


def test_the_assembled_pickle_is_well_formed(tmp_path):
    loaded = torch_files.load(archive(tmp_path / "x.pt", tensor_pickle()))
    np.testing.assert_array_equal(np.asarray(loaded["w"]), np.zeros((2, 2)))


@pytest.mark.parametrize(
    "numbers, problem",
    [
        ({"strides": (-2, 1)}, "no whole number"),
        ({"shape": (2, -2)}, "no whole number"),
        ({"offset": -1}, "no whole number"),
        ({"offset": 1}, "reaches outside"),
        ({"strides": (2, 2)}, "reaches outside"),
        ({"shape": (3, 2)}, "reaches outside"),
        ({"shape": (30000, 30000), "strides": (0, 0)}, "reaches outside"),
        ({"shape": (2,)}, "1 sizes and 2 strides"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "40 sizes"),
        ({"kind": b"os"}, "torch.os"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, numbers, problem):
    with pytest.raises(ValueError, match=problem):
        torch_files.load(archive(tmp_path / "x.pt", tensor_pickle(**numbers)))


def test_a_storage_beyond_its_record_is_refused(tmp_path):
    claims = tensor_pickle(numel=2**30, shape=(2**30,), strides=(1,))
    loaded = torch_files.load(archive(tmp_path / "x.pt", claims))
    with pytest.raises(ValueError, match="storage '0': it has 16 bytes of 4294967296"):
        np.asarray(loaded["w"])


@pytest.mark.parametrize(
    "data, problem",
    [
        (assemble(b"cos\nsystem\n(X\x04\0\0\0truetR"), "os.system"),
        (assemble(b"X\x02\0\0\0osX\x06\0\0\0system\x93"), "os.system"),
        (assemble(b"X\x03\0\0\0o\nsX\x06\0\0\0sys\ntm\x93"), r"o\\ns"),
        (assemble(b"(X\x04\0\0\0trueios\nsystem\n"), "os.system"),
        (assemble(b"ctorch._utils\n_rebuild_qtensor\n)R"), "_rebuild_qtensor"),
        (assemble(b"}(K\x01K\x01tR"), "a call of a value"),
        (assemble(b"\x82\x01"), "the instruction EXT1"),
        # A state given to a function of ours would change what it does.
        (assemble(REBUILD + b"}X\x01\0\0\0ais0b"), "Name|damaged"),
        (assemble(b"}" + b")" + b"\x85" * 2000 + b"K\x01s"), "a key of type tuple"),
        (assemble(b"0"), "damaged"),
        (assemble(b"h\x05"), "damaged"),
        (assemble(b"X\xff\xff\xff\x7fabc"), "damaged"),
        (b"\x80\x02}", "damaged|too early"),
        (b"", "damaged"),
    ],
)
def test_hostile_and_damaged_pickles_are_refused_in_one_line(data, problem):
    with pytest.raises(pickles.Refused, match=problem) as caught:
        pickles.loads(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nX\x08\0\0\0fromkeystR(tR",
        b"ccallbacks\nModelCheckpoint\n)R}b",
        b"cargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x01sb",
        b"cmine\nDict\n)\x81(X\x01\0\0\0aK\x01u",
        b"cmine\nList\n)\x81(K\x01K\x02e",
        b"cmine\nKeyword\n)}\x92",
        b"(K\x01imine\nOld\n",
        b"(cmine\nOld\nK\x01o",
    ],
)
def test_objects_beside_the_tensors_are_never_made(program):
    read = pickles.loads(assemble(b"}X\x01\0\0\0x", program, b"s"))
    assert isinstance(read["x"], pickles.Unread)


def test_classes_may_be_keys():
    key = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    assert list(pickles.loads(assemble(b"}" + key + b"K\x01s")).values()) == [1]


def test_a_short_file_asks_for_no_copies_of_a_long_list():
    """Each call takes five bytes of the file, and would make as much as the whole list again."""
    pairs = b"](" + b"K\1K\2\x86" * 20000 + b"eq\1"
    assert pickles.loads(assemble(pairs, b"ccollections\nOrderedDict\n(h\1tR" * 3000)) == {}
    with pytest.raises(pickles.Refused, match="20000 sizes"):
        pickles.loads(assemble(pairs, b"ctorch\nSize\n(h\1tR"))


def test_zip_bombs_and_other_zips_are_refused(tmp_path):
    data = tensor_pickle() + b"\0" * 10**6
    bomb = archive(tmp_path / "b.pt", data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed, which torch never does"):
        torch_files.load(bomb)
    with pytest.raises(ValueError, match="big-endian"):
        torch_files.load(archive(tmp_path / "e.pt", tensor_pickle(), byteorder="big"))
    script = archive(tmp_path / "s.pt", tensor_pickle(), **{"constants.pkl": b"x"})
    with pytest.raises(ValueError, match="TorchScript"):
        torch_files.load(script)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="none that torch.save wrote"):
        torch_files.load(tmp_path / "other.zip")


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path, writer):
    torch.save(tensors(), tmp_path / "x.pt", **WRITERS[writer])
    data = (tmp_path / "x.pt").read_bytes()
    cuts = {0, 1, 4, 8, len(data) - 1, *range(16, len(data), len(data) // 24)}
    for cut in cuts:
        (tmp_path / "cut.pt").write_bytes(data[:cut])
        with pytest.raises(ValueError) as caught:
            torch_files.load(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def test_a_flipped_byte_of_a_tensor_is_noticed(tmp_path):
    torch.save({"w": torch.full((64,), 1.0)}, tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 8) + 5] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ValueError, match="damaged at storage '0'"):
        np.asarray(torch_files.load(tmp_path / "x.pt")["w"])


def test_random_damage_never_gets_past_the_reader(tmp_path):
    """Whatever bytes a pickle has: a value, or a refusal in one line."""
    torch.save(tensors(), tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as file:
        good = file.read("x/data.pkl")
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            pickles.loads(bytes(data))
        except pickles.Refused as error:
            assert "\n" not in str(error)


def test_other_pickles_and_files_are_told(tmp_path):
    for name, data in (
        ("plain.pth", pickle.dumps({"a": 1}, protocol=2)),
        ("text.pth", b"<html>not found</html>"),
        ("empty.pth", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name) as caught:
            torch_files.load(tmp_path / name)
        assert "\n" not in str(caught.value)
