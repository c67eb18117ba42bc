"""Sweeps: every override is one that the config takes, and each index is a run."""

from pathlib import Path

import pytest

from configs import ablations
from hsd_jax.training.sweep import variants

ROOT = Path(__file__).parents[1]
CONFIG = ablations.get_config("small_plain").lock()


def sweep(folder: Path, text: str) -> str:
    path = folder / "sweep.py"
    path.write_text(f"def get_sweep():\n    return {text}\n")
    return str(path)


def test_an_index_is_one_variant_and_the_config_stays(tmp_path: Path):
    file = sweep(tmp_path, '[{"seed": 5}, {"optimizer.learning_rate": 1e-3, "data.cover": 1}]')
    every = variants(CONFIG, file)
    assert [(x["seed"], x["optimizer"]["learning_rate"]) for x in every.values()] == [
        (5, CONFIG.optimizer.learning_rate),
        (CONFIG.seed, 1e-3),
    ]
    assert variants(CONFIG, f"{file}:1") == {1: every[1]}
    assert CONFIG.seed != 5 and every[1]["data"]["cover"] == 1


@pytest.mark.parametrize(
    ("text", "index", "what"),
    [
        ('[{"seed": 1}, {"sed": 1}]', ":0", r":1: the config has no key 'sed'"),
        ('[{"seed.x": 1}]', "", r":0: the config has no key 'seed.x'"),
        ('[{"optimizer.rate": 1}]', "", "no key 'optimizer.rate'"),
        ('[{"seed": "one"}]', "", "seed is 'one', not a int"),
        ('[{"seed": 1}]', ":1", "indices 0 to 0"),
        ('[{"seed": 1}]', ":x", "indices 0 to 0"),
        ("[]", "", "must return a list of dicts"),
        ("1 / 0", "", "failed: ZeroDivisionError"),
    ],
)
def test_mistakes_name_the_sweep_and_the_key(tmp_path: Path, text: str, index: str, what: str):
    file = sweep(tmp_path, text)
    with pytest.raises(ValueError, match=what) as error:
        variants(CONFIG, file + index)
    assert file in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        variants(CONFIG, str(tmp_path / "none.py"))


def test_shipped_sweeps_fit_their_configs():
    found = variants(CONFIG, str(ROOT / "configs/sweeps/table3.py"))
    names = ("small_plain", "small_cover", "small_cover_no_neck")
    want = [ablations.get_config(name).to_dict() for name in names]
    assert [found[i] for i in range(3)] == want
    assert [x["seed"] for x in found.values()] == [0] * 3 + [1] * 3 + [2] * 3
