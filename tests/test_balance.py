"""Class factors: what was said too often is brought back, and nothing is gained from noise."""

import numpy as np

from hsd_jax.parsing.iou import confusion, ious
from hsd_jax.training.tools.balance import fit


def posteriors(rng: np.random.Generator, priors: np.ndarray, weights: np.ndarray):
    """Layouts drawn by `priors`, and a network's posteriors after training with `weights`."""
    layouts = rng.choice(len(priors), size=(20, 32, 32), p=priors)
    sight = np.eye(len(priors))[layouts] + rng.normal(0, 0.6, (20, 32, 32, len(priors)))
    likelihood = np.exp(sight / 0.36)
    found = likelihood * priors * weights
    return layouts, found / found.sum(-1, keepdims=True)


def mean_iou(layouts, found):
    return np.mean(ious(confusion(layouts, found.argmax(-1), found.shape[-1])))


def test_a_class_that_was_weighed_up_is_brought_down_again():
    rng = np.random.default_rng(0)
    layouts, found = posteriors(rng, np.array([0.6, 0.3, 0.1]), np.array([1.0, 1.0, 12.0]))
    factors = fit(found, layouts)
    assert factors[2] / factors[0] < 0.5
    fresh, again = posteriors(rng, np.array([0.6, 0.3, 0.1]), np.array([1.0, 1.0, 12.0]))
    assert mean_iou(fresh, again * factors) > mean_iou(fresh, again) + 0.02


def test_sure_and_right_probabilities_stay_as_they_are():
    layouts = np.random.default_rng(0).integers(0, 3, (2, 16, 16))
    np.testing.assert_array_equal(fit(np.eye(3)[layouts], layouts), np.ones(3))
