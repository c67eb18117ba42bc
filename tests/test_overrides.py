"""Any value for any key of a config, on the command line: a training, or one line that names it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags

from configs import embedded, shhq256
from hsd_jax import train as command
from hsd_jax.training import checks, loop
from hsd_jax.training.dryrun import _with_latents

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.untyped,
    # ml_collections loads the config's file by what Python 3.12 has no more; numpy warns of values.
    pytest.mark.filterwarnings("ignore"),
]
ODD = (
    "", "''", "x", "None", "True", "nan", "inf", "1e308", "-1", "0", "1", "2.0", "1e-9", "()", "[]",
    "{}", "(0,)", "(1,)", "(1, 2, 3)", "('x',)", "(0.5,)", "((1,),)", "1000000000000", "kl",
    "cosine",
)  # fmt: skip
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 300) | st.floats()
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
VALUES = st.sampled_from(ODD) | st.builds(
    repr, NUMBERS | WORDS | st.lists(NUMBERS, max_size=3).map(tuple)
) | WORDS  # fmt: skip


def keys(config: ConfigDict, before: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield from keys(value, f"{before}{key}.") if hasattr(value, "items") else [before + key]


def example_of(config: dict[str, Any]) -> dict[str, Any]:
    """A blank one, of the data set's size."""
    layout = np.zeros((256, 256), np.uint8)
    latents = np.zeros((64, 64, config["data"].get("channels", 3)), np.float16)
    return dict(
        image=layout[..., None].repeat(3, -1), layout=layout, partner=layout, latents=latents,
        source="ccp_gt",
    )  # fmt: skip


# Tuples that are given twice are joined.
_QUICK = {"parser": ("--config.model.widths=(16,16)", "--config.model.depths=(1,1)")}


def outcome(argument: str, file: str, part: str, folder: Path) -> str:
    """What comes of a start with it before data are read: the line that is told, or "accepted"."""
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=known, lock_config=True)
    argv = ["train", f"--config={ROOT}/configs/{file}.py:{part}", *_QUICK.get(part, ()), argument]
    said: list[str] = []
    with (
        mock.patch("sys.argv", argv),  # where ml_collections looks for the config's keys
        mock.patch("hsd_jax.runtime.console.tell", said.append),
    ):
        try:
            command._parse(argv, known)
        except SystemExit as ended:
            assert ended.code == 2
            (line,) = said
            return line
    config = {**loop.DEFAULTS, **known["config"].value.to_dict()}
    with mock.patch("sys.argv", argv), mock.patch("hsd_jax.runtime.console.tell", said.append):
        status = command._ended(lambda: start(config, folder))
    assert status == (2 if said else 0)
    return said[0] if said else "accepted"


def start(config: dict[str, Any], folder: Path) -> None:
    """What a start does before it writes, and the first example."""
    with suppress(Exception):  # where the key is one that this reads
        config = dict(_with_latents(config, folder))
    task = loop.prepare(config).task
    with checks.refused():
        task.transform(example_of(config), np.random.default_rng(0))


def check(argument: str, file: str, part: str, folder: Path) -> None:
    line, key = (
        outcome(argument, file, part, folder),
        argument.partition("=")[0][len("--config.") :],
    )
    if line != "accepted":
        assert "\n" not in line and "Traceback" not in line
        key = " ".join(key.split())  # as in the line
        names = {key, repr(key)[1:-1], key.rpartition(".")[2]}
        assert any(name in line for name in names)


@given(key=st.sampled_from(sorted(keys(embedded.get_config("parser")))), value=VALUES)
def test_any_value_of_the_parsers_config(tmp_path, key, value):
    check(f"--config.{key}={value}", "embedded", "parser", tmp_path)


@given(key=WORDS, value=VALUES)
def test_any_key(tmp_path, key, value):
    check(f"--config.{key}={value}", "embedded", "parser", tmp_path)


# The landmarks' examples are others, with points.
EVERY = [
    *(("embedded", part) for part in embedded.PARTS if part != "landmarks"),
    *(("shhq256", part) for part in shhq256.PARTS),
]


@pytest.mark.slow
@pytest.mark.parametrize("file, part", EVERY)
@given(data=st.data(), value=VALUES)
def test_any_value_of_any_config(tmp_path, data, value, file, part):
    module = {"embedded": embedded, "shhq256": shhq256}[file]
    key = data.draw(st.sampled_from(sorted(keys(module.get_config(part)))))
    check(f"--config.{key}={value}", file, part, tmp_path)


def test_a_value_that_only_jax_refuses_is_named(tmp_path):
    line = outcome("--config.data.scale=2.0", "embedded", "parser", tmp_path)
    assert line.endswith("--config.data.scale=2.0: give another value)")
    line = outcome("--config.model.widths=(16,100000)", "embedded", "parser", tmp_path)
    assert "model.widths is (16, 16, 16, 100000): it must be numbers up to 65536" in line
