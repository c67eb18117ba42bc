"""The guided filter: edges of the guide are kept, everything else is smoothed."""

import jax
import jax.numpy as jnp
import numpy as np

from hsd_jax.parsing.guided_filter import guided_filter

RNG = np.random.default_rng(0)
_filter = jax.jit(guided_filter, static_argnums=(2, 3, 4))


def run(guide, values, radius=3, eps=1e-3, reduce=1):
    arrays = (jnp.asarray(x, jnp.float32) for x in (guide, values))
    return np.asarray(_filter(*arrays, radius, eps, reduce))


def slowly(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Equations 5, 6 and 8 of the paper, in its colour form, window by window; `[h, w, c]`."""
    h, w, c = guide.shape
    slopes = np.zeros((h, w, c, values.shape[-1]))
    offsets = np.zeros((h, w, values.shape[-1]))

    def window(i: int, j: int) -> tuple[slice, slice]:
        rows = slice(max(0, i - radius), i + radius + 1)
        return rows, slice(max(0, j - radius), j + radius + 1)

    for i in range(h):
        for j in range(w):
            x, y = (a[window(i, j)].reshape(-1, a.shape[-1]) for a in (guide, values))
            joint = x.T @ y / len(x) - np.outer(x.mean(0), y.mean(0))
            matrix = np.cov(x.T, bias=True).reshape(c, c) + eps * np.eye(c)
            slopes[i, j] = np.linalg.solve(matrix, joint)
            offsets[i, j] = y.mean(0) - x.mean(0) @ slopes[i, j]
    result = np.zeros_like(values)
    for i in range(h):
        for j in range(w):
            slope = slopes[window(i, j)].mean((0, 1))
            result[i, j] = guide[i, j] @ slope + offsets[window(i, j)].mean((0, 1))
    return result


def test_it_is_the_papers_filter():
    guide, values = RNG.random((12, 10, 3)), RNG.random((12, 10, 2))
    want = slowly(guide, values, 2, 0.01)
    np.testing.assert_allclose(run(guide[None], values[None], 2, 0.01)[0], want, atol=2e-5)


def test_an_edge_moves_to_the_guides_edge():
    guide = np.zeros((1, 32, 32, 3))
    guide[:, :, 16:] = 0.8
    values = np.zeros((1, 32, 32, 1))
    values[:, :, 18:] = 1  # two pixels off
    result = run(guide, values, 4)[0, 16, :, 0]
    assert result[15] < 0.05 and result[16] - result[15] > 0.4


def test_probabilities_still_sum_to_one():
    values = RNG.dirichlet(np.ones(5), (2, 16, 16))
    result = run(RNG.random((2, 16, 16, 3)), values)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_a_flat_guide_leaves_a_plain_mean():
    values = RNG.random((1, 16, 16, 1))
    result = run(np.full((1, 16, 16, 3), 0.4), values, 1)
    block = np.mean([values[0, 8 + i, 8 + j, 0] for i in range(-2, 3) for j in range(-2, 3)])
    assert abs(result[0, 8, 8, 0] - block) < 0.1
    assert result.std() < 0.6 * values.std()


def test_a_reduced_fit_is_near_the_full_one():
    rows, columns = np.indices((64, 64)) / 64
    guide = np.stack([rows, columns, (rows > columns) * 0.7], -1)[None]
    values = (rows + 0.1 > columns)[None, ..., None].astype(float)
    full, reduced = run(guide, values, 8), run(guide, values, 2, reduce=4)
    assert np.abs(full - reduced).mean() < 0.03
