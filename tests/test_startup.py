"""What makes a second process start fast, and that it changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import write_weights

from hsd_jax import weights
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping.networks import SwapNetworks
from hsd_jax.swapping.plan import Plan
from hsd_jax.swapping.runner import BUCKETS, Runner, _bucket
from hsd_jax.swapping.spec import Sampling

pytest.importorskip("flatbuffers")  # what jax.export keeps programs with


@pytest.fixture
def kept(tmp_path):
    """A compilation cache of this test's own; gives the folder of lowered programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


def _double(params, x):
    return {"y": params["a"] * x, "none": None}


def _never(params, x):
    raise AssertionError("traced again")


ARGUMENTS = ({"a": np.float32(2)}, np.arange(3, dtype=np.float32))


def test_a_second_process_reads_what_the_first_traced(kept):
    first = Program("double", _double, "facts")(*ARGUMENTS)
    assert [path.suffix for path in kept.iterdir()] == [".stablehlo"]
    second = Program("double", _never, "facts")
    second.prepare(*ARGUMENTS)
    np.testing.assert_array_equal(second(*ARGUMENTS)["y"], first["y"])
    assert second(*ARGUMENTS)["none"] is None


def test_other_facts_shapes_and_types_are_other_programs(kept):
    program = Program("double", _double, "facts")
    program(*ARGUMENTS)
    for facts, arguments in (
        ("other", ARGUMENTS),
        ("facts", (ARGUMENTS[0], ARGUMENTS[1][:2])),
        ("facts", (ARGUMENTS[0], ARGUMENTS[1].astype(np.int32))),
    ):
        with pytest.raises(AssertionError, match="traced again"):
            Program("double", _never, facts)(*arguments)


def _flipped(whole: bytes) -> bytes:
    start = len(whole) // 2
    return whole[:start] + bytes(x ^ 85 for x in whole[start : start + 64]) + whole[start + 64 :]


DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "flipped": _flipped,
    "one bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    "emptied": lambda whole: b"",
    "without its digest, as once written": lambda whole: whole[32:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_traced_again(kept, damage):
    Program("double", _double)(*ARGUMENTS)
    (path,) = kept.iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(AssertionError, match="traced again"):
        Program("double", _never)(*ARGUMENTS)
    np.testing.assert_array_equal(Program("double", _double)(*ARGUMENTS)["y"], [0, 2, 4])
    np.testing.assert_array_equal(Program("double", _never)(*ARGUMENTS)["y"], [0, 2, 4])


def test_a_program_under_the_name_of_another_is_damaged(kept):
    Program("double", _double)(*ARGUMENTS)
    (double,) = kept.iterdir()
    Program("triple", lambda params, x: {"y": 3 * x})(*ARGUMENTS)
    (triple,) = set(kept.iterdir()) - {double}
    triple.write_bytes(double.read_bytes())
    with pytest.raises(AssertionError, match="traced again"):
        Program("triple", _never)(*ARGUMENTS)


def test_a_cache_that_cannot_be_written_is_none(kept):
    kept.write_text("a file where the folder should be")
    np.testing.assert_array_equal(Program("double", _double)(*ARGUMENTS)["y"], [0, 2, 4])
    kept.unlink()
    kept.mkdir()
    Program("double", _double)(*ARGUMENTS)
    (path,) = kept.iterdir()
    path.unlink()
    path.mkdir()  # nor can this file be replaced
    np.testing.assert_array_equal(Program("double", _double)(*ARGUMENTS)["y"], [0, 2, 4])


@pytest.mark.parametrize("setting", ["jax_disable_jit", "jax_transfer_guard"])
def test_a_users_debugging_does_not_stop_a_program(kept, setting):
    before = getattr(jax.config, setting)
    jax.config.update(setting, "disallow" if setting == "jax_transfer_guard" else True)
    try:
        doubled = np.asarray(Program("double", _double)(*ARGUMENTS)["y"])
    finally:
        jax.config.update(setting, before)
    np.testing.assert_array_equal(doubled, [0, 2, 4])


def test_nothing_is_kept_or_read_ahead_without_a_cache(kept):
    jax.config.update("jax_compilation_cache_dir", None)
    program = Program("double", _double)
    program.prepare(*ARGUMENTS)
    np.testing.assert_array_equal(program(*ARGUMENTS)["y"], [0, 2, 4])
    assert not kept.exists()


def test_what_cannot_be_exported_is_compiled_all_the_same(kept):
    def function(x):
        return jax.pure_callback(lambda x: x + np.float32(1), x, x)

    np.testing.assert_array_equal(Program("callback", function)(ARGUMENTS[1]), [1, 2, 3])
    assert not kept.exists()


def test_weights_are_read_without_compiling():
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    loaded = weights.load_part(weights.find(), "layout_generator")
    assert not events
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(loaded.params))
    jnp.square(jnp.ones((3, 1, 7))).block_until_ready()
    assert events  # the listener does hear of compiling


def test_sample_i_of_a_seed_has_one_key_in_every_bucket():
    key = jax.random.key(2**32 - 1)
    numbered = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(np.uint32(2**32 - 1)), jnp.arange(5, dtype=jnp.uint32)
    )
    split = jax.random.split(key, 5)
    np.testing.assert_array_equal(jax.random.key_data(numbered), jax.random.key_data(split))
    assert [_bucket(n) for n in (1, 2, 4, 9)] == [BUCKETS[0], *[BUCKETS[-1]] * 3]


def test_samples_come_in_buckets_and_in_order(tmp_path):
    runner, asked = Runner(SwapNetworks.load(write_weights(tmp_path, 64))), []
    sampler = runner._sample

    def watched(sampling):
        def program(params, z_head, z_body, plan, seeds, numbers):
            asked.append(np.asarray(numbers).tolist())
            return sampler(sampling)(params, z_head, z_body, plan, seeds, numbers)

        return program

    runner._sample = watched
    crops = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    upper = np.broadcast_to(np.arange(64)[None, :, None] < 24, (1, 64, 64))
    layout = upper.astype(np.int32)
    plan = Plan(layout, layout, upper, ~upper & False)
    seeds = np.zeros(1, np.uint32)

    def paint(numbers):
        wanted, options = np.array([numbers], np.uint32), Sampling(num_steps=2, keep=True)
        return runner.paint(crops, crops, plan, seeds=seeds, numbers=wanted, sampling=options)

    six = paint(range(6))
    assert asked == [[[0, 1, 2, 3]], [[4, 5, 5, 5]]]
    assert six.images.shape == (1, 6, 64, 64, 3) and six.history.shape == (2, 1, 6, 64, 64, 3)
    asked.clear()
    one, seventh = paint([0]), paint([7])
    assert asked == [[[0]], [[7]]] and one.images.shape == (1, 1, 64, 64, 3)
    difference = one.images[0, 0].astype(int) - six.images[0, 0]
    assert np.abs(difference).max() <= 1  # rounding of another bucket
    assert (seventh.images[0, 0] != one.images[0, 0]).any()
    np.testing.assert_array_equal(one.history[-1], one.images)
