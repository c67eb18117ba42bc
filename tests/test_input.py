"""The input pipeline: batch k is one set of examples, whatever the processes and the start."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from data import build
from hsd_jax.training import input as input_lib

SIZE = 32
TRAIN = 8
TEST = 5


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Image i has layout i everywhere; sources "even" and "odd"; the test split is 0 to 4."""
    root = tmp_path_factory.mktemp("halfbody")
    rows = ["source,name,split"]
    for split, count in (("train", TRAIN), ("test", TEST)):
        for i in range(count):
            source, name = ("even", "odd")[i % 2], f"{split}{i}"
            for kind, mode, suffix in (("image", "RGB", "jpg"), ("layout", "L", "png")):
                (root / source / kind).mkdir(parents=True, exist_ok=True)
                colour = (i * 30,) * 3 if mode == "RGB" else i
                picture = Image.new(mode, (SIZE, SIZE), colour)
                picture.save(root / source / kind / f"{name}.{suffix}")
            rows.append(f"{source},{name},{split}")
    (root / "index.csv").write_text("\n".join(rows))
    assert build.main(["halfbody", "--source", str(root), "--out", str(root / "out")]) == 0
    return str(root / "out")


@pytest.fixture(scope="module", params=[False, True], ids=["files", "cache"])
def source(request: pytest.FixtureRequest, data_dir: str) -> input_lib.Source:
    return input_lib.load_source(data_dir, "train", cache=request.param)


def digest(example: input_lib.Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Which image, which partner (-1: none) and one random number."""
    partner = example["partner"][0, 0] if "partner" in example else -1
    values = {"id": example["layout"][0, 0], "partner": partner, "noise": rng.random()}
    return {key: np.asarray(value, np.float64) for key, value in values.items()}


def take(count: int, source: input_lib.Source, **options) -> list[input_lib.Batch]:
    options = {"seed": 1, "batch_size": 4, "transform": digest} | options
    return list(islice(input_lib.make_dataset(source, **options), count))


def rows(batch: input_lib.Batch) -> list[tuple]:
    return sorted(zip(*(batch[key].tolist() for key in sorted(batch)), strict=True))


def test_examples(source: input_lib.Source):
    assert len(source) == TRAIN
    for i, example in enumerate(source):
        number = int(example["layout"][0, 0])
        assert example["image"].shape == (SIZE, SIZE, 3)
        assert example["layout"].shape == (SIZE, SIZE)
        assert example["image"].dtype == example["layout"].dtype == np.uint8
        assert abs(int(example["image"][5, 5, 1]) - number * 30) <= 2
        assert example["source"] == source.names[i] == ("even", "odd")[number % 2]
        np.testing.assert_array_equal(source.layout(i), example["layout"])
        with pytest.raises(ValueError, match="read-only"):
            example["image"][0] = 0


def test_each_epoch_visits_every_example_once_in_a_new_order(source: input_lib.Source):
    ids = [np.concatenate([b["id"] for b in take(6, source)[i : i + 2]]) for i in (0, 2, 4)]
    for epoch in ids:
        assert sorted(epoch) == list(range(TRAIN))
    assert len({tuple(epoch) for epoch in ids}) == 3


def test_seed_decides_everything(source: input_lib.Source, data_dir: str):
    first = [rows(b) for b in take(4, source, partner=True)]
    assert first == [rows(b) for b in take(4, source, partner=True)]
    fresh = input_lib.load_source(data_dir, "train")
    assert first == [rows(b) for b in take(4, fresh, partner=True)]
    assert first != [rows(b) for b in take(4, source, partner=True, seed=2)]


def test_noise_differs_between_epochs_and_examples(source: input_lib.Source):
    noise = np.concatenate([batch["noise"] for batch in take(8, source)])
    assert len(set(noise.tolist())) == 32


@pytest.mark.parametrize("count", [2, 4])
def test_batch_k_is_the_same_for_any_number_of_processes(source: input_lib.Source, count: int):
    whole = take(5, source, partner=True, start_step=3)
    parts = [
        take(5, source, partner=True, start_step=3, process_index=p, process_count=count)
        for p in range(count)
    ]
    for k, batch in enumerate(whole):
        assert all(part[k]["id"].shape == (4 // count,) for part in parts)
        assert rows(batch) == sorted(row for part in parts for row in rows(part[k]))


def test_starting_at_k_is_skipping_k(source: input_lib.Source):
    batches = take(7, source, partner=True)
    for k in (1, 5):
        later = take(7 - k, source, partner=True, start_step=k)
        for expected, batch in zip(batches[k:], later, strict=True):
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value)


def test_partner_is_any_other_image(source: input_lib.Source):
    pairs = set()
    for batch in take(150, source, partner=True):
        pairs |= set(zip(batch["id"].tolist(), batch["partner"].tolist(), strict=True))
    assert pairs == {(i, j) for i in range(TRAIN) for j in range(TRAIN) if i != j}


def test_limited_to_a_source(source: input_lib.Source):
    batches = take(20, source, partner=True, sources=("odd",))
    for key in ("id", "partner"):
        assert {i for batch in batches for i in batch[key]} == {1, 3, 5, 7}


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_eval_visits_each_once_in_order_and_marks_the_padding(data_dir: str, batch_size: int):
    source = input_lib.load_source(data_dir, "test")
    expected = list(input_lib.eval_batches(source, 1, digest, seed=3, partner=True))
    batches = list(input_lib.eval_batches(source, batch_size, digest, seed=3, partner=True))
    assert {batch[key].shape for batch in batches for key in batch} == {(batch_size,)}
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.dtype == np.float32
    assert mask.tolist() == [1] * TEST + [0] * (-TEST % batch_size)
    for key in ("id", "partner", "noise"):
        values = np.concatenate([batch[key] for batch in batches])
        np.testing.assert_array_equal(
            values[:TEST], np.concatenate([batch[key] for batch in expected])
        )
        np.testing.assert_array_equal(values[TEST:], values[TEST - 1])
    ids = np.concatenate([batch["id"] for batch in batches])[:TEST]
    assert ids.tolist() == [example["layout"][0, 0] for example in source]


def test_eval_is_the_same_for_any_number_of_processes(data_dir: str):
    source = input_lib.load_source(data_dir, "test")
    whole = list(input_lib.eval_batches(source, 4, digest, partner=True))
    parts = [
        list(input_lib.eval_batches(
            source, 4, digest, partner=True, process_index=p, process_count=2
        ))
        for p in range(2)
    ]  # fmt: skip
    for k, batch in enumerate(whole):
        assert rows(batch) == sorted(row for part in parts for row in rows(part[k]))


def test_errors(source: input_lib.Source, data_dir: str):
    with pytest.raises(ValueError, match=r"no data set 'absent' .* python -m data.build absent"):
        input_lib.load_source(data_dir, "train", name="absent")
    with pytest.raises(ValueError, match=r"no split 'val\[:1\]'.*'test', 'train'"):
        input_lib.load_source(data_dir, "val[:1]")
    with pytest.raises(ValueError, match="batch_size 4 over 3 processes"):
        take(1, source, process_count=3)
    with pytest.raises(ValueError, match="process_index 2; use 0 to 1"):
        take(1, source, process_index=2, process_count=2)
    with pytest.raises(ValueError, match=r"no examples from \['neither'\]; use \['even', 'odd'\]"):
        take(1, source, sources=("even", "neither"))
    with pytest.raises(ValueError, match="partner needs two images"):
        take(1, input_lib.load_source(data_dir, "train[:1]"), partner=True)
