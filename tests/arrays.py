"""What tests of ported nets share, and what needs PyTorch only where it is called."""

import numpy as np
import pytest


def to_torch(x):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def assert_close(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-4 * want.std()
