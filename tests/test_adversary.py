"""The adversarial term: its length, whom it moves, and that it fools the critic the more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.models.discriminator import PatchDiscriminator
from hsd_jax.training.adversary import adversarial_terms

SHAPE = (3, 16, 16, 2)
pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    output, real, pull = (jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(3))
    s = jnp.asarray(rng.normal(size=(*SHAPE[:3], 3)), jnp.float32)
    hole = jnp.asarray(rng.random((*SHAPE[:3], 1)) < 0.4, jnp.float32)
    critic = PatchDiscriminator(ndf=8, n_layers=2, norm="group")
    params = jax.jit(critic.init)(jax.random.key(0), jnp.concatenate([real, s], -1))["params"]

    def terms(params, output, pull=pull):
        def latents_of(x):
            return (1 - hole) * real + hole * x

        return adversarial_terms(critic, params, output, latents_of, real, s, hole, pull)

    return params, output, pull, hole, jax.jit(terms)


def lengths(x):
    return np.sqrt(np.sum(np.asarray(x) ** 2, axis=(1, 2, 3)))


def test_the_generators_gradient_is_as_long_as_the_pull_and_lies_in_the_hole(case):
    params, output, pull, hole, terms = case
    gradient = jax.grad(lambda x: terms(params, x).generator)(output)
    np.testing.assert_allclose(lengths(gradient), lengths(pull), rtol=1e-4)
    assert not np.any(np.asarray(gradient) * (1 - np.asarray(hole)))
    shorter = jax.grad(lambda x: terms(params, x, 0.25 * pull).generator)(output)
    np.testing.assert_allclose(shorter, 0.25 * gradient, rtol=1e-4, atol=1e-7)


def test_each_term_moves_its_own_net_alone(case):
    params, output, _, _, terms = case
    by_params = jax.grad(lambda p: terms(p, output).generator)(params)
    assert all(not np.any(x) for x in jax.tree.leaves(by_params))
    by_output = jax.grad(lambda x: terms(params, x).discriminator)(output)
    assert not np.any(by_output)
    by_params = jax.grad(lambda p: terms(p, output).discriminator)(params)
    assert any(np.any(x) for x in jax.tree.leaves(by_params))


def test_a_step_along_the_generators_gradient_fools_the_critic_more(case):
    params, output, _, _, terms = case
    before, gradient = jax.value_and_grad(lambda x: terms(params, x).generator)(output)
    del before
    moved = output - 0.01 * gradient
    assert terms(params, moved).fake > terms(params, output).fake


def test_terms_are_sums_over_examples(case):
    params, output, pull, _, terms = case
    whole = terms(params, output)
    none = terms(params, output, 0 * pull)
    assert whole.discriminator == pytest.approx(float(none.discriminator))
    assert none.generator == 0
