"""The five trainings, end to end on drawn people: they run, resume to the bit, release weights."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faces import write_faces
from PIL import Image, ImageDraw

from configs.embedded import get_config
from data import build
from hsd_jax import weights
from hsd_jax.evaluation import during_training
from hsd_jax.labels import HALFBODY9
from hsd_jax.training import augment, loop
from hsd_jax.training.tasks import parser
from hsd_jax.training.tools import latents

SIZE = 64


pytestmark = pytest.mark.usefixtures("quick_compiles")


def draw_person(seed: int) -> tuple[Image.Image, Image.Image]:
    """A face, hair, a neck and a body of random colours and places, and their layout."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (SIZE, SIZE), tuple(rng.integers(0, 256, 3).tolist()))
    layout = Image.new("L", (SIZE, SIZE), 0)
    x, y = rng.integers(24, 40), rng.integers(18, 26)
    shapes = [
        ("clothes", (x - 22, y + 18, x + 22, 90)),
        ("neck", (x - 5, y + 6, x + 5, y + 24)),
        ("hair", (x - 12, y - 14, x + 12, y + 12)),
        ("face", (x - 8, y - 9, x + 8, y + 12)),
    ]
    for name, box in shapes:
        box = [int(v) for v in box]
        ImageDraw.Draw(picture).ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        ImageDraw.Draw(layout).ellipse(box, fill=HALFBODY9.index(name))
    return picture, layout


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    rows = ["source,name,split"]
    for kind in ("image", "layout"):
        (folder / "ccp_gt" / kind).mkdir(parents=True)
    for i in range(14):  # 4 and 6 are built into the validation split
        picture, layout = draw_person(i)
        picture.save(folder / "ccp_gt" / "image" / f"{i}.jpg")
        layout.save(folder / "ccp_gt" / "layout" / f"{i}.png")
        rows.append(f"ccp_gt,{i},{'test' if i >= 10 else 'train'}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    out = folder / "built"
    assert build.main(["halfbody", "--source", str(folder), "--out", str(out)]) == 0
    write_faces(out)
    return out


TINY = {
    "parser": dict(widths=(16, 32), depths=(1, 1)),
    "autoencoder": dict(
        kind="kl", embed_dim=4, z_channels=4, ch=16, ch_mult=(1,), num_res_blocks=1, patch=4,
        mid_attention=False,
    ),
    "layout": dict(preset="small", width=0.125, norm="group"),
    "diffusion": dict(
        model_channels=16, channel_mult=(1, 2), num_res_blocks=1, num_heads=2, dropout=0.1
    ),
    "landmarks": dict(widths=(16, 16, 16), depths=(1, 1, 1), hidden=8),
}


def tiny_config(part: str, data_dir: Path, steps: int) -> dict:
    config = get_config(part).to_dict()
    config |= dict(
        model=TINY[part], steps=steps, batch_size=4, eval_batch_size=4, log_every=1, save_every=2,
        eval_every=steps, mesh=dict(data=1, fsdp=1),
    )
    config["optimizer"] |= dict(warmup=1, decay="constant")
    config["data"] |= dict(dir=str(data_dir), latents=str(data_dir / "latents"))
    if part == "layout":  # the paper's adversarial term, which the embedded config leaves out
        config["loss"]["adversarial"] = 0.2
        config["discriminator"] = dict(ndf=8, n_layers=2, norm="batch")
    config["data"] |= {"parser": dict(size=64), "autoencoder": dict(size=32),
                       "layout": dict(size=32), "diffusion": dict(window=8),
                       "landmarks": {}}[part]
    return config


@pytest.fixture(scope="module")
def latent_dir(data_dir: Path) -> Path:
    config = tiny_config("autoencoder", data_dir, 2)
    loop.train(config, data_dir / "autoencoder")
    latents.main(
        ["--weights", str(data_dir / "autoencoder" / "weights"), "--data", str(data_dir),
         "--out", str(data_dir / "latents"), "--views", "2"]
    )
    return data_dir / "latents"


def metrics_of(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timeless = [json.loads(line) for line in lines]
    for line in timeless:
        line.pop("images_per_second", None)
    return timeless


# U^2-Net has a hundred convolutions: its step compiles for minutes. `lite_parser` is the parser's
# task with another network, which tests/test_lite_parser.py knows. All tasks share one loop.
_QUICK = ("parser", "diffusion")


@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=() if p in _QUICK else pytest.mark.slow) for p in TINY]
)
def test_resumed_training_is_the_same_training(
    part: str, data_dir: Path, latent_dir: Path, tmp_path: Path
):
    whole = loop.train(tiny_config(part, data_dir, 4), tmp_path / "whole")
    loop.train(tiny_config(part, data_dir, 2), tmp_path / "parts")
    # A killed run has logged steps that no checkpoint holds, and half a line.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.0}\n{"step": 4, "lo')
    resumed = loop.train(tiny_config(part, data_dir, 4), tmp_path / "parts")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    last = [line for line in metrics_of(tmp_path / "whole") if line["step"] > 2]
    assert last == [line for line in metrics_of(tmp_path / "parts") if line["step"] > 2]
    assert list((tmp_path / "whole" / "samples").glob("*.png"))
    for path in (tmp_path / "whole" / "weights").glob("*.json"):
        loaded = weights.load_part(path.parent, path.stem)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params))


def test_parser_learns_drawn_people(data_dir: Path, tmp_path: Path):
    config = tiny_config("parser", data_dir, 120)
    config |= dict(log_every=120, save_every=120, batch_size=8)
    config["optimizer"] |= dict(learning_rate=3e-3, warmup=10)
    loop.train(config, tmp_path)
    first_guess = 1 / 3  # all background, clothes or hair: no class is half of the image
    found = metrics_of(tmp_path)[-1]
    assert found["validation/iou/person"] > first_guess + 0.2
    assert found["validation/iou/clothes"] > first_guess


def test_a_run_starts_from_released_weights(data_dir: Path, tmp_path: Path):
    loop.train(tiny_config("parser", data_dir, 2), tmp_path / "first")
    released = tmp_path / "first" / "weights"
    config = tiny_config("parser", data_dir, 0)
    config |= dict(init_from=str(released), seed=1, eval_every=1)
    state = loop.train(config, tmp_path / "second")
    wanted = weights.load_part(released, "parser").params
    for tree in (state.params["parser"], state.ema["parser"]):
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow  # two sets of networks compile
def test_the_benchmarks_distance_during_training(
    data_dir: Path, latent_dir: Path, tmp_path: Path
):
    config = tiny_config("diffusion", data_dir, 3)
    config |= dict(
        eval_every=1, eval_metrics=("pd",), eval_weights=str(data_dir / "trained"),
        best="validation/pd", best_mode="min",
    )  # fmt: skip
    coder = weights.load_part(data_dir / "autoencoder" / "weights", "autoencoder")
    own = weights.load_part(weights.find(), "parser")
    for name, part in (("autoencoder", coder), ("parser", own)):
        weights.save_part(data_dir / "trained", name, part.module, part.params, part.extra)
    extra = during_training.resolve(loop.DEFAULTS | config)
    state = loop.train(config, tmp_path, extra_metrics=extra)
    told = [line["validation/pd"] for line in metrics_of(tmp_path) if "validation/pd" in line]
    assert len(told) == 3 and all(0 < value < 4 for value in told) and len(set(told)) == 3
    assert extra["pd"](jax.device_get(state.ema)) == {"pd": told[-1]}  # the same noise each time
    assert (tmp_path / "weights_best").is_dir()


def test_extra_metrics_that_cannot_be_are_refused(data_dir: Path, latent_dir: Path, tmp_path: Path):
    config = loop.DEFAULTS | tiny_config("diffusion", data_dir, 1)
    with pytest.raises(ValueError, match=r"^no eval_metrics 'fid': use some of pd$"):
        during_training.resolve(config | dict(eval_metrics=("pd", "fid")))
    with pytest.raises(ValueError, match="eval_metrics pd is for task diffusion, not parser"):
        during_training.resolve(
            loop.DEFAULTS | tiny_config("parser", data_dir, 1) | dict(eval_metrics=("pd",))
        )
    with pytest.raises(ValueError, match="eval_metrics names 'pd', which was not given"):
        loop.train(config | dict(eval_metrics=("pd",)), tmp_path)
    stats = json.loads((latent_dir / "stats.json").read_text())
    (tmp_path / "stats.json").write_text(json.dumps({k: v[:3] for k, v in stats.items()}))
    config["data"] = config["data"] | dict(latents=str(tmp_path))
    with pytest.raises(ValueError, match=r"latents of 4 channels, the data 3: give --config"):
        during_training.resolve(config | dict(eval_metrics=("pd",)))


def test_a_diffusion_run_without_latents_says_how_to_make_them(data_dir: Path, tmp_path: Path):
    config = tiny_config("diffusion", data_dir, 1)
    config["data"]["latents"] = str(tmp_path)
    with pytest.raises(ValueError, match="no latents in .*: make them with python -m hsd_jax"):
        loop.train(config, tmp_path / "run")


def test_nan_stops_the_run_and_leaves_the_checkpoint(data_dir: Path, tmp_path: Path):
    loop.train(tiny_config("parser", data_dir, 2), tmp_path)
    config = tiny_config("parser", data_dir, 6)
    config["optimizer"] |= dict(learning_rate=float("inf"))
    with pytest.raises(FloatingPointError, match=r"step \d: lower the learning rate"):
        loop.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    loop.train(tiny_config("parser", data_dir, 2), tmp_path, export_only=True)
    weights.load_part(tmp_path / "weights", "parser")


def test_window_keeps_image_and_layout_together():
    layout = np.zeros((64, 64), np.uint8)
    layout[20:40, 10:30] = 4
    image = np.repeat(layout[..., None] * 40, 3, axis=-1)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        view, labels = augment.random_window(image, layout, rng, 48, (0.5, 1.5), 15.0, 0.1)
        assert view.shape == (48, 48, 3) and labels.shape == (48, 48)
        agree = (view[..., 0] > 80) == (labels == 4)
        assert agree.mean() > 0.93  # edges are blurred in one and sharp in the other


def test_merged_classes_count_as_one_where_labels_are_automatic():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 3, 4)).astype(np.float32)
    layout = rng.integers(0, 4, (2, 3, 3))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    of_label = np.take_along_axis(log_p, layout[..., None], -1)[..., 0]
    drawn = np.array([True, False])
    given = [jnp.asarray(x) for x in (logits, layout, drawn)]
    plain = parser.log_likelihood(*given, ())
    np.testing.assert_allclose(plain, of_label, rtol=1e-6)
    merged = np.asarray(parser.log_likelihood(*given, (1, 3)))
    np.testing.assert_allclose(merged[0], of_label[0], rtol=1e-6)  # a person told them apart
    group = np.log(np.exp(log_p[..., [1, 3]]).sum(-1))
    wanted = np.where(np.isin(layout, [1, 3]), group, of_label)
    np.testing.assert_allclose(merged[1], wanted[1], rtol=1e-5)


def test_fitted_partner_has_this_faces_size_and_place():
    face = HALFBODY9.face
    mine, theirs = np.zeros((2, 96, 96), np.uint8)
    mine[30:50, 40:60] = face
    theirs[10:50, 5:45] = face
    fitted = augment.fit_partner(theirs, mine, face, np.random.default_rng(0), jitter=0.0)
    rows, columns = np.nonzero(fitted == face)
    assert abs(rows.mean() - 39.5) < 1 and abs(columns.mean() - 49.5) < 1
    assert abs(np.sqrt(len(rows)) - 20) < 1
