"""Frozen parameters stay to the bit, whatever the optimizer does to the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsd_jax.training.freeze import frozen, without_gradient, without_updates
from hsd_jax.training.state import Aux, create_state
from hsd_jax.training.step import TrainStep

PARAMS = {
    "net": {"in": {"kernel": jnp.ones(3)}, "inner": {"kernel": jnp.full(3, 2.0)}},
    "critic": {"in": {"kernel": jnp.ones(3)}},
}


def loss(params, batch, key, step):
    total = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) * jnp.mean(batch["x"])
    return total, Aux({"loss": total})


def test_prefixes_are_whole_names():
    mask = frozen(PARAMS, ["net/in"])
    assert mask["net"]["in"]["kernel"]
    assert not mask["net"]["inner"]["kernel"] and not mask["critic"]["in"]["kernel"]


def test_what_is_frozen_stays_and_the_rest_moves_as_it_did():
    optimizer = optax.adamw(0.1, weight_decay=0.5)  # whose decay moves what has no gradient
    still = ["net/in", "critic"]
    step = TrainStep(without_gradient(loss, still), without_updates(optimizer, still), 0.5, 0)
    batch = {"x": jnp.ones(2)}
    state = create_state(PARAMS, without_updates(optimizer, still))
    whole = create_state(PARAMS, optimizer)
    for _ in range(3):
        state, metrics = step(state, batch)
        whole, _ = TrainStep(loss, optimizer, 0.5, 0)(whole, batch)
    for tree in (state.params, state.ema):
        for name in ("net", "critic"):
            kernel = tree[name]["in"]["kernel"]
            np.testing.assert_array_equal(kernel, PARAMS[name]["in"]["kernel"])
    np.testing.assert_allclose(
        state.params["net"]["inner"]["kernel"], whole.params["net"]["inner"]["kernel"], rtol=1e-6
    )
    assert metrics["grad_norm"] > 0


def test_a_prefix_without_parameters():
    with pytest.raises(ValueError, match="freeze names 'net/out', .*: use some of critic/in, "):
        frozen(PARAMS, ["net/out"])
