"""The bench: what it counts, what it writes, and how it refuses. Its timings are nobody's test."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import write_weights

from hsd_jax import cli
from hsd_jax.bench import batch, conv, plan, timing
from hsd_jax.bench import cli as bench_cli
from hsd_jax.bench.report import Report, Table
from hsd_jax.bench.unet import table_rows
from hsd_jax.bench.weights import random_params, relative_error
from hsd_jax.models import apply, forms
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.blocks import ResBlock
from hsd_jax.models.unet import UNet
from hsd_jax.swapping.spec import Sampling


def compiled(function):
    """`jax.jit`, its compilation cheap: everything here runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def test_contenders_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.interleaved(runs, rounds=3, seconds=0)
    assert order == ["a", "b"] * 5  # two rounds that do not count
    assert [len(values) for values in times.values()] == [3, 3]


def test_a_ratio_is_taken_within_rounds():
    times = {"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 1.0]}
    assert timing.ratio(times, "slow", "fast") == 2.0
    assert timing.medians(times) == {"slow": 4.0, "fast": 1.0}


def test_a_call_is_timed_to_its_end():
    times = timing.interleaved({"sleep": lambda: time.sleep(0.01)}, rounds=1, seconds=0)
    assert 0.01 <= times["sleep"][0] < 1


def test_a_budget_begins_nothing_that_would_end_late(capsys):
    budget = timing.Budget(seconds=0.05)
    seen = []
    for case in budget.cases(["first", "second", "third"], str):
        seen.append(case)
        time.sleep(0.03)
    assert seen == ["first"] and budget.left_out == ["second", "third"]
    assert "second; third" in budget.notes()[0]
    assert not timing.Budget().notes()
    times = timing.interleaved({"hsd": lambda: None}, rounds=1, seconds=0, tell=budget.tell)
    told = capsys.readouterr().err  # also where it is no terminal
    assert "first" in told and "hsd: " in told and len(times["hsd"]) == 1


def test_rows_hold_speed_ratio_and_error():
    rows = table_rows({"hsd": [0.5, 0.5], "eager": [1.0, 1.0]}, 2e9, {"hsd": 1e-6})
    assert rows == [["hsd", 500.0, 4.0, None, 1.0, 1e-6], ["eager", 1000.0, 2.0, None, 2.0, None]]


def test_reports_are_markdown_and_json():
    report = Report("x", [Table("T", ("form", "ms"), [["a", 1.25], ["b", None]])], ["n"], {"m": 1})
    assert "| form | ms   |\n|------|------|\n| a    | 1.25 |" in report.text()
    loaded = json.loads(report.json())
    assert loaded["tables"][0]["rows"] == [{"form": "a", "ms": 1.25}, {"form": "b", "ms": None}]
    assert loaded["machine"] == {"m": 1}


def test_the_machine_names_its_versions_and_no_path():
    facts = Report("x", []).machine
    assert facts["jax"] == jax.__version__
    assert "cpu" in facts["device"]
    assert not any("/" in str(value) for value in facts.values())


def test_cases_have_only_forms_that_exist_and_a_native_one():
    for case in conv.cases():
        names = conv.candidates(case)
        assert "native" in names
        assert len(names) > 1
        assert set(names) <= set(forms.FORMS[case.op])


@pytest.mark.parametrize("use", ["once", "grad"])
def test_a_case_runs_all_its_forms(use):
    runs = conv.runs(conv.Case("conv", use, "float32", 4, 3, 8))
    assert set(runs) == {"native", "im2col"}
    if use == "once":
        assert relative_error(runs["im2col"](), runs["native"]()) < 1e-5


def test_the_table_keeps_other_devices(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"gpu X": {"rows": []}}')
    row = ["conv", "once", "float32", 4, 8, 8, "native"]
    conv.update_table(path, {"measured": {"jax": "1"}, "rows": [row]})
    table = json.loads(path.read_text())
    assert table["gpu X"]["rows"] == []
    assert table[forms.device_name()] == {"measured": {"jax": "1"}, "rows": [row]}


def test_random_parameters_give_outputs_of_about_unit_size():
    net, x = ResBlock(32), jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    y = compiled(lambda p: apply(net, p, x))(random_params(net, x))
    assert 0.1 < float(jnp.std(y)) < 10


def test_collectives_of_a_loop_are_told_from_others():
    text = """HloModule m

%body (p: f32[2]) -> f32[2] {
  %x = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
}

%inner (p: f32[2]) -> f32[2] {
  %y = f32[2]{0} all-gather(%p), dimensions={0}
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %b = f32[2]{0} all-reduce(%a), to_apply=%sum
  %c = f32[2]{0} while(%b), condition=%cond, body=%body
}
"""
    assert batch._total(text) == 2
    assert batch._total(batch._loops(text)) == 1


def test_it_refuses_in_one_line(capsys, monkeypatch):
    assert cli.main(["bench", "batch", "--vs", "torch"]) == 2
    assert "no peer" in capsys.readouterr().err
    assert cli.main(["bench", "train", "--vs", "diffusers"]) == 2
    assert "no peer" in capsys.readouterr().err
    assert cli.main(["bench", "input"]) == 2
    assert "--config" in capsys.readouterr().err
    assert cli.main(["bench", "unet", "--minutes", "0"]) == 2
    assert "more than 0" in capsys.readouterr().err
    monkeypatch.setattr(bench_cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", "unet", "--vs", "torch"]) == 2
    assert "pip install torch" in capsys.readouterr().err


def test_peers_in_pytorch_are_the_same_networks():
    torch = pytest.importorskip("torch")
    from hsd_jax.bench import torch_peer as peer

    x = np.random.default_rng(2).standard_normal((1, 8, 8, 6), np.float32)
    t = np.array([7], np.int32)
    unet = UNet(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=2)
    params = random_params(unet, x[..., :3], t, x[..., 3:])
    with torch.no_grad():
        theirs = peer.array(
            peer.unet_peer(unet, params, 6)(peer.tensor(x), peer.tensor(t, torch.int32))
        )
    ours = compiled(lambda p: apply(unet, p, x[..., :3], t, x[..., 3:]))(params)
    assert relative_error(ours, theirs) < 1e-5

    embedded = UNet(
        model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_head_channels=32,
        use_scale_shift_norm=True,
    )  # fmt: skip
    params = random_params(embedded, x[..., :3], t, x[..., 3:])
    with torch.no_grad():
        theirs = peer.array(
            peer.unet_peer(embedded, params, 6)(peer.tensor(x), peer.tensor(t, torch.int32))
        )
    ours = compiled(lambda p: apply(embedded, p, x[..., :3], t, x[..., 3:]))(params)
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "net",
    [
        Autoencoder(n_embed=8, ch=32, ch_mult=(1, 2), num_res_blocks=1),
        Autoencoder(
            kind="kl", ch=32, ch_mult=(1,), num_res_blocks=1, patch=4, mid_attention=False,
            embed_dim=3,
        ),
    ],
    ids=["paper", "embedded"],
)  # fmt: skip
def test_autoencoders_in_pytorch_are_the_same_networks(net):
    torch = pytest.importorskip("torch")
    from hsd_jax.bench import torch_peer as peer

    x = np.random.default_rng(2).standard_normal((1, 16, 16, 3), np.float32)
    params = random_params(net, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    encode, decode = peer.autoencoder_peers(net, params)
    z = x[:, :8, :8]
    with torch.no_grad():
        encoded, decoded = encode(peer.tensor(x)), decode(peer.tensor(z))
    ours = compiled(lambda p: apply(net, p, x, method="encode"))(params)
    ours = ours[0] if isinstance(ours, tuple) else ours
    assert relative_error(ours, peer.array(encoded)) < 1e-5
    run = compiled(lambda p: apply(net, p, z, force_not_quantize=True, method="decode"))
    assert relative_error(run(params), peer.array(decoded)) < 1e-5


@pytest.mark.parametrize("patch", [1, 4])
def test_diffusers_is_given_the_same_networks(patch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from hsd_jax.bench import diffusers_peer, torch_peer
    from hsd_jax.weights import Loaded

    x = np.random.default_rng(3).standard_normal((1, 16, 16, 3), np.float32)
    unet = UNet(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=2)
    net = Autoencoder(
        kind="kl" if patch > 1 else "vq", n_embed=8, ch=32, ch_mult=(1, 2), num_res_blocks=1,
        patch=patch, mid_attention=patch == 1,
    )  # fmt: skip
    t = np.array([7], np.int32)
    parts = [
        Loaded(unet, random_params(unet, x, t, x), {}),
        Loaded(net, random_params(net, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)), {}),
    ]
    theirs, encode, decode = (module.eval() for module in diffusers_peer.modules(*parts))
    wide = np.concatenate([x, x], -1)
    with torch.no_grad():
        found = torch_peer.array(theirs(torch_peer.tensor(wide), torch.tensor(t)))
        own, own_encode, own_decode = (
            torch_peer.unet_peer(unet, parts[0].params, 6),
            *torch_peer.autoencoder_peers(net, parts[1].params),
        )
        image = torch_peer.tensor(np.repeat(np.repeat(x, 2, 1), 2, 2))
        z = own_encode(image)
        wanted = torch_peer.array(own(torch_peer.tensor(wide), torch.tensor(t)))
        assert relative_error(found, wanted) < 1e-5
        assert relative_error(torch_peer.array(encode(image)), torch_peer.array(z)) < 1e-5
        decoded = torch_peer.array(decode(z)), torch_peer.array(own_decode(z))
        assert relative_error(*decoded) < 1e-5


def test_diffusers_denoises_by_its_own_schedulers():
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from hsd_jax.bench import diffusers_peer

    extra = {"schedule": {"kind": "linear", "start": 0.0015, "end": 0.0195}, "prediction": "eps"}
    known, rest = torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    asked = []

    def unet(x, t):
        asked.append(int(t[0]))
        return torch.zeros(1, 3, 4, 4)

    for solver in ("ddim", "dpmpp"):
        asked.clear()
        z = diffusers_peer.stepper(extra, solver, 10)(unet, known, rest, known, torch.float32)
        assert asked == sorted(asked, reverse=True) and len(asked) == 10
        assert z.shape == known.shape and bool(torch.isfinite(z).all())


def test_a_planned_batch_needs_no_collectives(tmp_path):
    """Of tiny weights, on two CPU devices, which have no roofline."""
    rows = plan.plan(str(write_weights(tmp_path, 64)), "cpu:2", [1], Sampling()).tables[0].rows
    found = {row[1]: row for row in rows}
    assert list(found) == ["encoder", "sampler", "UNet", "decoder"]
    assert all(row[7] == 0 for row in rows)  # collectives
    assert found["UNet"][2] == 2 and found["UNet"][5] > 0 and found["UNet"][8] is None
    with pytest.raises(ValueError, match="no topology"):
        plan.plan("embedded", "v5e", [1], Sampling())


def test_the_roofline_is_the_longer_of_two():
    class V5e:
        device_kind = "TPU v5 lite"

    assert plan._roofline([V5e(), V5e()], 2 * 197e12, 8.19e9) == (1.0, "FLOPs")
    assert plan._roofline([V5e(), V5e()], 2e9, 8.19e11) == (1.0, "memory")
    assert plan._roofline([V5e()], None, 1.0) == (None, None)
