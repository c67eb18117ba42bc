"""Planning: the real step compiled for hardware that is not here."""

from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from configs.embedded import get_config
from hsd_jax.training import dryrun, parallel

pytestmark = pytest.mark.usefixtures("quick_compiles")


def tiny(part: str = "parser", **changes) -> dict:
    config = get_config(part).to_dict()
    model = dict(widths=(16,), depths=(1,))
    if part == "diffusion":
        model = dict(model_channels=16, channel_mult=(1,), num_res_blocks=1, num_heads=2)
        config["data"]["window"] = 8
    config |= dict(model=model, batch_size=16, eval_batch_size=16) | changes
    config["data"] |= dict(dir="absent", latents="absent", size=64)
    return config


@pytest.mark.parametrize("part", ["parser", "diffusion"])
def test_a_step_is_planned_without_data(part: str):
    made = dryrun.dry_run(tiny(part), "cpu:8")
    assert (made.devices, made.mesh) == (8, {"data": 8, "fsdp": 1})
    assert made.flops and made.flops > 1e6 and made.temporary_bytes > 0
    # Data parallel alone: everything is summed, nothing else moves.
    assert list(made.collectives) == ["all-reduce"]
    text = dryrun.describe(made, 0.4)
    assert "8 x cpu, mesh data 8 x fsdp 1, batch 16" in text and "all-reduce" in text
    assert "MFU" not in text  # a CPU's peak is unknown


def test_state_is_counted_where_it_lies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "MIN_SHARD_SIZE", 1)
    monkeypatch.setattr(dryrun, "make_task", toy.ToyTask)
    config = toy.config(task="toy")
    whole = dryrun.dry_run(config, "cpu:1")
    split = dryrun.dry_run(config | dict(mesh=dict(data=1, fsdp=8)), "cpu:8")
    assert whole.state_bytes / 8 < split.state_bytes < whole.state_bytes / 6
    assert split.collectives
    np.testing.assert_allclose(split.flops, whole.flops)
    assert whole.collectives == {} and "collectives: none" in dryrun.describe(whole, 0.4)


def test_peaks_of_known_hardware():
    made = dryrun.DryRun(
        device_kind="TPU v5 lite", devices=16, mesh={"data": 16}, batch_size=160, state_bytes=2**30,
        batch_bytes=0, temporary_bytes=2**30, flops=16 * 197e12 * 0.1, collectives={},
    )  # fmt: skip
    assert made.seconds(0.5) == pytest.approx(0.2)
    text = dryrun.describe(made, 0.5)
    assert "2.000 GiB of 16" in text and "step at 50 % MFU: 0.2000 s, 800 images/s" in text


def test_collectives_are_read_from_the_program():
    text = """
    %all-reduce = (f32[4,2]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={}
    %ag = bf16[8,8]{1,0} all-gather(bf16[1,8]{1,0} %c), dimensions={0}
    %s = (f32[10]{0}, f32[10]{0}) all-reduce-start(%d)
    %e = f32[10]{0} all-reduce-done(%s)
    %f = f32[2]{0} add(%all-reduce.1, %g)
    """
    assert dryrun.count_collectives(text) == {"all-reduce": (2, 116), "all-gather": (1, 128)}


def test_errors(tmp_path: Path):
    for topology in ("v5e", "cpu", "gpu:8", "v5e:four"):
        with pytest.raises(ValueError, match=f"no topology '{topology}': use cpu:8"):
            dryrun.topology_devices(topology)
    with pytest.raises(ValueError, match="started with 8 CPU devices; set JAX_NUM_CPU_DEVICES=16"):
        dryrun.topology_devices("cpu:16")
    with pytest.raises(ValueError, match="batch_size 12 does not divide over 8 devices"):
        dryrun.dry_run(tiny(batch_size=12), "cpu:8")
    with pytest.raises(ValueError, match="only the sharded step"):
        dryrun.dry_run(tiny(parallel="pmap"), "cpu:8")


def test_a_tpu_is_planned_or_asked_for():
    """Where libtpu is installed, the step compiles for sixteen chips."""
    try:
        dryrun.topology_devices("v5e:4x4")
    except ValueError as error:
        assert "pip install 'hsd-jax[tpu]'" in str(error)
        return
    effort = jax.config.jax_optimization_level
    made = dryrun.dry_run(tiny(), "v5e:4x4")
    assert jax.config.jax_optimization_level == effort  # little for the plan alone
    assert made.device_kind == "TPU v5 lite" and set(made.collectives) == {"all-reduce"}
    assert jax.devices()[0].platform == "cpu"
