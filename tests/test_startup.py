"""What makes a second process start fast, and that it changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax import weights
from hsd_jax.runtime.programs import Program
from hsd_jax.swapping.networks import Plan
from hsd_jax.swapping.runner import BUCKETS, SwapPrograms, _bucket

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


def test_a_damaged_program_is_traced_again(kept):
    Program("double", _double)(*ARGUMENTS)
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(Program("double", _double)(*ARGUMENTS)["y"], [0, 2, 4])
    np.testing.assert_array_equal(Program("double", _never)(*ARGUMENTS)["y"], [0, 2, 4])


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


def test_samples_come_in_buckets_and_in_order():
    asked = []

    class Painted(SwapPrograms):
        def __init__(self):
            self._params = dict.fromkeys(("autoencoder", "unet", "condition"))
            self._large = False
            self._encode = lambda params, pictures: pictures[:, 0, 0, :1]
            self._decode = lambda params, z: np.broadcast_to(
                np.asarray(z).astype(np.uint8)[:, None, None], (len(z), 4, 4, 3)
            )

        def _sample(self, samples, *options):
            def program(params, z, plan, seed, first):
                asked.append((samples, int(first)))
                z0 = np.arange(first, first + samples, dtype=np.float32)[:, None]
                return z0, np.stack([z0, z0 + 100])

            return program

    picture = np.zeros((4, 4, 3), np.uint8)
    plan = Plan(*[np.zeros((4, 4), bool)] * 4)
    options = dict(seed=0, solver="dpmpp", num_steps=2, keep=True)
    pictures, history = Painted().paint(picture, picture, plan, samples=6, **options)
    assert asked == [(4, 0), (4, 4)]
    np.testing.assert_array_equal(pictures[:, 0, 0, 0], np.arange(6))
    np.testing.assert_array_equal(history[..., 3, 3, 2], [np.arange(6), np.arange(6) + 100])
    asked.clear()
    assert Painted().paint(picture, picture, plan, samples=1, **options)[0].shape == (1, 4, 4, 3)
    Painted().paint(picture, picture, plan, samples=1, first=7, **options)
    assert asked == [(1, 0), (1, 7)]
