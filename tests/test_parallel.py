"""One step, whatever it runs on: meshes, pmap, parts of a batch."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P

from configs import shhq256
from configs.embedded import PARTS, get_config
from hsd_jax.labels import HALFBODY9
from hsd_jax.models import apply, norm
from hsd_jax.models import layout_generator as lg
from hsd_jax.models.landmarks import POINTS, SIZE
from hsd_jax.training import parallel
from hsd_jax.training.dryrun import count_collectives
from hsd_jax.training.loop import DEFAULTS, Training
from hsd_jax.training.parallel import fsdp_spec, make_parallel
from hsd_jax.training.tasks import make_task

BATCH = 16
LAYOUTS = {  # data, fsdp, mode
    "8x1": (8, 1, "sharded"),
    "1x8": (1, 8, "sharded"),
    "4x2": (4, 2, "sharded"),
    "pmap": (8, 1, "pmap"),
}


@pytest.fixture(autouse=True)
def quick_compiles(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "MIN_SHARD_SIZE", 64)  # so that tiny networks are sharded at all
    # U^2-Net has a hundred convolutions, which compile for minutes; this has a tenth of them.
    rows = (lg.Stage("3", 2, 8), lg.Stage("4F", 2, 8)), (lg.Stage("2", 2, 8),)
    monkeypatch.setitem(lg.PRESETS, "tiny", lg.Stages(*rows))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def tiny_config(part: str, folder: Path, **changes: Any) -> dict:
    if part == "vqgan":
        return vqgan_config(**changes)
    config = DEFAULTS | get_config(part).to_dict()
    config["model"] = {
        "parser": dict(widths=(8, 16), depths=(1, 1)),
        "autoencoder": dict(
            kind="kl", embed_dim=4, z_channels=4, ch=16, ch_mult=(1,), num_res_blocks=1, patch=4,
            mid_attention=False,
        ),
        "layout": dict(preset="tiny", norm="batch"),
        "diffusion": dict(model_channels=16, channel_mult=(1,), num_res_blocks=1, num_heads=2,
                          mid_attention=False),
        "landmarks": dict(widths=(16, 16, 16), depths=(1, 1, 1), hidden=8),
    }[part]  # fmt: skip
    if part == "layout":  # the paper's adversarial term, which the embedded config leaves out
        config["loss"]["adversarial"] = 0.2
        config["discriminator"] = dict(ndf=8, n_layers=2, norm="batch")
    config["data"]["window"] = 8
    config["data"]["latents"] = str(folder)
    (folder / "stats.json").write_text(json.dumps({"mean": [0.0] * 4, "std": [1.0] * 4}))
    return config | dict(batch_size=BATCH, eval_batch_size=BATCH) | changes


def vqgan_config(**changes: Any) -> dict:
    """The paper's first stage and its discriminator, tiny."""
    config = DEFAULTS | shhq256.get_config("autoencoder").to_dict()
    config["model"] = dict(
        kind="vq", n_embed=16, ch=8, ch_mult=(1,), num_res_blocks=1, patch=4, mid_attention=False,
        num_groups=2,
    )
    config["discriminator"] = dict(ndf=8, n_layers=2, norm="batch")
    return config | dict(batch_size=BATCH, eval_batch_size=BATCH) | changes


def random_batch(part: str, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    if part == "toy":
        x = rng.random((BATCH, 4, 4, 8), np.float32)
        return {"x": x, "weight": 0.5 + rng.random(BATCH).astype(np.float32)}
    if part == "landmarks":
        return {
            "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
            "points": rng.random((BATCH, len(POINTS), 2), np.float32),
            "angles": rng.standard_normal((BATCH, 2), np.float32),
            "found": rng.integers(0, 2, BATCH) > 0,
        }
    side = 64 if part == "layout" else 32
    batch = {
        "image": rng.integers(0, 256, (BATCH, side, side, 3), np.uint8),
        "layout": rng.integers(0, HALFBODY9.num_classes, (BATCH, side, side)).astype(np.uint8),
        "partner": rng.integers(0, HALFBODY9.num_classes, (BATCH, side, side)).astype(np.uint8),
        "latents": rng.standard_normal((BATCH, 8, 8, 4), np.float32),
        "known": rng.integers(0, 2, (BATCH, 8, 8, 1)).astype(np.float32),
        "corner": np.zeros((BATCH, 2), np.int32),
        "drawn": rng.integers(0, 2, BATCH) > 0,
    }
    names = {
        "parser": ("image", "layout", "drawn"),
        "autoencoder": ("image",),
        "layout": ("layout", "partner"),
        "diffusion": ("latents", "layout", "known", "corner"),
    }[part]
    return {name: batch[name] for name in names}


def five_steps(config: dict, data: int = 1, fsdp: int = 1, mode: str = "sharded", make=make_task):
    """The losses of five steps, and the state after them."""
    config = config | dict(mesh=dict(data=data, fsdp=fsdp), parallel=mode)
    training = Training(config, make(config), make_parallel(config))
    state = training.parallel.create(training.create)
    run, losses = training.compile(state), []
    for step in range(5):
        batch = training.parallel.put(random_batch(config["task"], step))
        with jax.transfer_guard("disallow"):
            state, metrics = run(state, batch)
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 5
    return np.array(losses), state


def toy_config(**changes: Any) -> dict:
    return DEFAULTS | toy.config(task="toy", batch_size=BATCH, eval_batch_size=BATCH, **changes)


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    return five_steps(toy_config(), make=toy.ToyTask)[0]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_step_is_the_same_on_every_mesh_and_mapped(alone: np.ndarray, layout: tuple):
    losses, state = five_steps(toy_config(), *layout, make=toy.ToyTask)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    kernel = state.params["condition"]["channel_mapper"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (1, 1, 8, 16 // layout[1])


@pytest.mark.parametrize("layout", [(1, 1, "sharded"), LAYOUTS["4x2"], LAYOUTS["pmap"]])
def test_parts_of_a_batch_make_the_batch(alone: np.ndarray, layout: tuple):
    config = toy_config(accumulate=2)
    np.testing.assert_allclose(
        five_steps(config, *layout, make=toy.ToyTask)[0], alone, rtol=1e-5
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_reduced_once_however_many_the_parts(accumulate: int):
    """What the compiler made of it: nothing moves in the loop over the parts."""
    config = toy_config(accumulate=accumulate, mesh=dict(data=8, fsdp=1))
    training = Training(config, toy.ToyTask(config), make_parallel(config))
    batch = training.parallel.put(random_batch("toy", 0))
    state = training.parallel.abstract(training.create)
    text = training.compile(state).lower(state, batch).compile().as_text()
    outside = text[text.index("\nENTRY ") :]
    assert accumulate == 1 or "while(" in outside
    kernel = 8 * 16 * 4
    moved = count_collectives(text)
    assert list(moved) == ["all-reduce"] and kernel <= moved["all-reduce"][1] < kernel + 64
    assert count_collectives(outside) == moved


# Each of the real networks compiles for longer than everything else here together.
@pytest.mark.slow
@pytest.mark.parametrize("part", [*(x for x in PARTS if x != "lite_parser"), "vqgan"])
def test_five_steps_of_each_task_agree(part: str, tmp_path: Path):
    config = tiny_config(part, tmp_path)
    wanted, _ = five_steps(config)
    for name, layout in LAYOUTS.items():
        losses, _ = five_steps(config, *layout)
        np.testing.assert_allclose(losses, wanted, rtol=1e-5, err_msg=name)
    if part not in ("layout", "vqgan"):  # their batch norms see a part's statistics
        losses, _ = five_steps(config | dict(accumulate=4))
        np.testing.assert_allclose(losses, wanted, rtol=1e-5, err_msg="accumulate")


def test_batch_norm_sees_the_whole_batch_when_mapped():
    model = norm.BatchNorm(train=True)
    x = jax.random.normal(jax.random.key(0), (BATCH, 3, 3, 4)) * 3 + 1
    params = model.init(jax.random.key(1), x)["params"]

    def loss(params, x):
        y, new = apply(model, params, x, mutable=["stats"])
        return jnp.mean(jnp.sin(y) * x), new["stats"]

    def mapped(params, x):
        with norm.statistics_over("batch"):
            grads, stats = jax.grad(loss, has_aux=True)(params, x)
        return jax.lax.pmean((grads, stats), "batch")

    wanted = jax.grad(loss, has_aux=True)(params, x)
    parts = x.reshape(8, 2, 3, 3, 4)
    got = jax.pmap(mapped, "batch", in_axes=(None, 0), out_axes=None)(params, parts)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_shape_rule(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "MIN_SHARD_SIZE", 2**16)
    assert fsdp_spec((3, 3, 256, 512), 8) == P(None, None, None, "fsdp")
    assert fsdp_spec((3, 3, 512, 256), 8) == P(None, None, "fsdp")
    assert fsdp_spec((3, 3, 256, 256), 8) == P(None, None, None, "fsdp")  # the last of equals
    assert fsdp_spec((3, 3, 256, 252), 8) == P(None, None, "fsdp")  # 8 does not divide 252
    assert fsdp_spec((3, 3, 64, 64), 8) == P()  # small
    assert fsdp_spec((257, 1023), 8) == P()
    assert fsdp_spec((4096, 4096), 1) == P()
    assert fsdp_spec((), 8) == P()


@pytest.mark.parametrize(
    "mesh, sizes",
    [((-1, 1), (8, 1)), ((-1, 2), (4, 2)), ((2, -1), (2, 4)), ((2, 2), (2, 2)), ((1, 1), (1, 1))],
)
def test_mesh_sizes(mesh: tuple, sizes: tuple):
    made = make_parallel(toy_config(mesh=dict(data=mesh[0], fsdp=mesh[1])))
    assert tuple(made.mesh.shape.values()) == sizes


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(mesh=dict(data=-1, fsdp=-1)), "one of them may be -1"),
        (dict(mesh=dict(data=0, fsdp=1)), "sizes are positive"),
        (dict(mesh=dict(data=3, fsdp=-1)), "3 does not divide 8; name both"),
        (dict(mesh=dict(data=8, fsdp=2)), "data=8, fsdp=2 on 8 devices: there are too few"),
        (dict(parallel="tmap"), "parallel is 'tmap': use one of sharded, pmap"),
        (dict(parallel="pmap", mesh=dict(data=4, fsdp=2)), "mesh.fsdp must be 1, got 2"),
        (dict(accumulate=4), "batch_size 16 does not divide over 8 devices in 4 parts: use a mult"),
    ],
)
def test_errors(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_parallel(toy_config(**changes))
