"""Frechet and kernel distances against closed forms, and features on disk."""

from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from hsd_jax.evaluation.features import cached
from hsd_jax.evaluation.frechet import (
    Moments,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    resampled_frechet,
)
from hsd_jax.runtime import cache

RNG = np.random.default_rng(0)


def exactly(mean: np.ndarray, covariance: np.ndarray, count: int = 400) -> np.ndarray:
    """Features whose sample mean and covariance are exactly these."""
    x = RNG.normal(size=(count, len(mean)))
    x -= x.mean(0)
    whiten = np.linalg.inv(np.linalg.cholesky(x.T @ x / (count - 1)))
    return x @ whiten.T @ np.linalg.cholesky(covariance).T + mean


def spd(size: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(size, size))
    return a @ a.T + 0.1 * np.eye(size)


def test_the_closed_form_on_gaussians_whose_covariances_commute():
    # Then trace((C1 C2)^(1/2)) is the sum of the roots of the products of the eigenvalues.
    basis, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    first, second = np.array([4.0, 1, 0.5, 2, 9]), np.array([1.0, 3, 0.25, 2, 4])
    means = RNG.normal(size=(2, 5))
    a, b = (
        Moments.of(exactly(m, basis @ np.diag(v) @ basis.T))
        for m, v in zip(means, (first, second), strict=True)
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((first**0.5 - second**0.5) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_root_of_the_product_where_covariances_do_not_commute():
    first, second = spd(6, 1), spd(6, 2)
    zero = np.zeros(6)
    a, b = (Moments.of(exactly(zero, c)) for c in (first, second))
    # The eigenvalues of C1 C2, not symmetric but similar to a positive matrix.
    roots = np.sqrt(np.linalg.eigvals(first @ second).real)
    expected = np.trace(first) + np.trace(second) - 2 * roots.sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [5, 100])
def test_a_set_is_no_distance_from_itself(count: int):
    # Of five images the covariance has rank 4 of 40.
    a = Moments.of(1000 * RNG.normal(size=(count, 40)))
    assert frechet_distance(a, a) <= 1e-9 * np.trace(a.covariance)


def test_streams_and_shards_are_the_batch():
    x = 50 + RNG.normal(size=(101, 7)).astype(np.float32)
    whole = Moments.of(x)
    parts = [Moments.of(x[i : i + 8]) for i in range(0, len(x), 8)]
    forwards, backwards = reduce(Moments.merge, parts), reduce(Moments.merge, parts[::-1])
    for merged in (forwards, backwards):
        assert merged.count == 101
        np.testing.assert_allclose(merged.mean, x.mean(0, np.float64), rtol=1e-13)
        np.testing.assert_allclose(merged.covariance, np.cov(x.T.astype(np.float64)), atol=1e-12)
    assert frechet_distance(whole, forwards) < 1e-10


@pytest.mark.untyped
def test_moments_errors():
    with pytest.raises(ValueError, match="features of shape"):
        Moments.of(np.zeros(4))
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="no covariance"):
        frechet_distance(Moments.of(np.zeros((1, 3))), Moments.of(np.zeros((2, 3))))
    three, four = Moments.of(np.zeros((2, 3))), Moments.of(np.zeros((2, 4)))
    for call in (lambda: three.merge(four), lambda: frechet_distance(three, four)):
        with pytest.raises(ValueError, match="use one extractor"):
            call()


def plain_kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 3 of Gretton et al., term by term."""

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    own_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_a + own_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_is_its_definition_in_any_blocks():
    a, b = RNG.normal(size=(9, 4)), RNG.normal(0.5, 1, size=(7, 4))
    expected = plain_kernel_distance(a, b)
    for block in (2, 4, 100):
        found = kernel_distance(a, b, resamples=20, block=block)
        assert found.value == pytest.approx(expected, rel=1e-12)
        again = kernel_distance(a, b, resamples=20)
        np.testing.assert_allclose(found.resamples, again.resamples)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(1)
    same = [
        kernel_distance(rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), resamples=1).value
        for _ in range(600)
    ]
    error = np.std(same) / len(same) ** 0.5
    assert abs(np.mean(same)) < 3 * error  # the biased estimate has 0.3 here
    assert min(same) < 0 < max(same)


def test_kernel_distance_interval():
    a, b = RNG.normal(size=(150, 4)), RNG.normal(0.8, 1, size=(120, 4))
    found = kernel_distance(a, b)
    value, (low, high) = found.value, found.interval
    assert low is not None and high is not None
    assert 0 < low < value < high < 3 * value
    # It says how far other draws fall.
    others = [
        kernel_distance(RNG.normal(size=(150, 4)), RNG.normal(0.8, 1, (120, 4)), resamples=1).value
        for _ in range(60)
    ]
    assert np.std(others) == pytest.approx((high - low) / 3.92, rel=0.4)


def test_an_image_far_from_all_others_is_told():
    b = RNG.normal(size=(80, 4))
    a = np.concatenate([b[:3], RNG.normal(size=(40, 4))])
    a[7] = 6
    found = nearest_distance(a, b, nearest=3)
    assert found.argmax() == 7
    expected = np.sort(np.linalg.norm(a[:, None] - b[None], axis=-1), axis=1)[:, :3].mean(1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert nearest_distance(a[:3], b, nearest=1) == pytest.approx(0, abs=1e-6)
    assert nearest_distance(a[:3], b[:2]).shape == (3,)  # fewer than five


@pytest.mark.untyped
def test_kernel_distance_errors():
    for a, b in ((np.zeros((1, 3)), np.zeros((4, 3))), (np.zeros((4, 3)), np.zeros((4, 2)))):
        with pytest.raises(ValueError, match="two or more of one width"):
            kernel_distance(a, b)


def test_features_are_computed_once(tmp_path: Path):
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    for _ in range(2):
        np.testing.assert_array_equal(cached(tmp_path / "new", "key", compute), compute())
    assert len(calls) == 3  # two of them are the test's own
    (tmp_path / "new" / "features-key.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(cached(tmp_path / "new", "key", compute), compute())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["features-key.npy"]
    assert cached(None, "key", compute).shape == (2, 3)


def test_a_fingerprint_tells_facts_apart():
    marks = [cache.fingerprint(*f) for f in (("ab", "c"), ("a", "bc"), ("ab",), (b"ab", "c"), (1,))]
    assert len(set(marks)) == len(marks)
    assert cache.fingerprint("ab", 2) == cache.fingerprint("ab", 2)


def test_intervals_hold_the_distance_and_shrink_with_more_pairs():
    rng = np.random.default_rng(0)
    truth = Moments.of(rng.standard_normal((200, 4)))
    widths = []
    for n in (50, 400):
        features = rng.standard_normal((n, 4)) + 0.5
        found = resampled_frechet(features, truth, seed=1)
        value, (low, high) = found.value, found.interval
        assert value == frechet_distance(Moments.of(features), truth)
        assert low is not None and high is not None and low < value < high
        assert resampled_frechet(features, truth, seed=1).interval == (low, high)
        widths.append(high - low)
    # As 1 / sqrt(n): a third.
    assert widths[1] < 0.6 * widths[0]
    many = rng.standard_normal((501, 4))
    assert resampled_frechet(many, truth).interval == (None, None)


def test_a_difference_of_the_same_pairs_is_surer_than_its_ends():
    rng = np.random.default_rng(0)
    truth = Moments.of(rng.standard_normal((200, 4)))
    first = rng.standard_normal((50, 4)) + 3
    a, b = (resampled_frechet(x, truth) for x in (first, first + 0.1))
    (low, high), (_, worst), (least, _) = (x.interval for x in (b - a, a, b))
    assert low is not None and high is not None and least is not None and worst is not None
    # Each alone is so uncertain that their intervals overlap.
    assert 0 < low < (b - a).value == b.value - a.value < high and least < worst
    assert (a * 1000).interval == pytest.approx([1000 * x for x in a.interval if x is not None])
    assert (a - a).interval == (0, 0)
