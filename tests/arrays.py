"""What tests of networks share: arrays, parameters, comparisons; PyTorch where it is called."""

import math

import jax
import numpy as np
import pytest


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def drawn(shapes):
    """Random parameters: nothing to compile, and none of the zeros of `init`, which hide much."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = math.prod(leaf.shape[:-1]) ** -0.5
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def to_torch(x):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def assert_close(got, want, tolerance=1e-4):
    """Maximal error below `tolerance` of the standard deviation."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < tolerance * want.std()
