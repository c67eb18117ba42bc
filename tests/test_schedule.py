"""Noise schedules, parameterisations and time grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.diffusion.schedule import (
    Schedule,
    alpha_sigma,
    denoiser,
    q_sample,
    target,
    timesteps,
    to_x0_eps,
)

LINEAR = Schedule()
COSINE = Schedule("cosine")


def test_linear_alpha_bar_is_compvis_s():
    # The first beta is 0.0015 itself; the last product by a plain loop over squared roots.
    product = 1.0
    for i in range(1000):
        root = 0.0015**0.5 + (0.0205**0.5 - 0.0015**0.5) * i / 999
        product *= 1 - root**2
    assert LINEAR.alpha_bar.dtype == np.float64
    assert LINEAR.alpha_bar[0] == pytest.approx(0.9985, rel=1e-12)
    assert LINEAR.alpha_bar[-1] == pytest.approx(product, rel=1e-10)
    assert LINEAR.alpha_bar[-1] == pytest.approx(9.6910866811e-05, rel=1e-9)
    assert LINEAR.alpha_bar[500] == pytest.approx(0.1076767539, rel=1e-9)


def test_cosine_alpha_bar_is_its_formula_until_betas_are_clipped():
    t = np.arange(1, 990)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(COSINE.alpha_bar[:989], f, rtol=1e-9)
    assert COSINE.alpha_bar[-1] / COSINE.alpha_bar[-2] == pytest.approx(1e-3)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, Schedule(num_timesteps=10)])
def test_tables_are_consistent_falling_and_read_only(schedule):
    assert schedule.alpha_bar.shape == (schedule.num_timesteps,)
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    np.testing.assert_allclose(schedule.alpha**2 + schedule.sigma**2, 1, rtol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        schedule.alpha_bar[0] = 1


def test_schedule_is_a_static_argument():
    assert hash(Schedule()) == hash(Schedule("linear", 1000, 0.0015, 0.0205))
    assert Schedule() == Schedule("linear") != COSINE
    alpha, sigma = jax.jit(alpha_sigma, static_argnums=(0, 2))(LINEAR, jnp.array([0, 999]), 4)
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
    np.testing.assert_allclose(alpha.ravel(), [0.9985**0.5, 9.6910866811e-05**0.5], rtol=1e-6)
    np.testing.assert_allclose(sigma.ravel(), [0.0015**0.5, (1 - 9.691e-05) ** 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"kind": "sqrt"}, {"num_timesteps": 1}, {"start": 0.0}, {"start": 0.1}, {"end": 1.0}],
)
@pytest.mark.untyped
def test_bad_schedules_are_refused(options):
    with pytest.raises(ValueError, match="use"):
        Schedule(**options)


def test_uniform_timesteps_are_compvis_s():
    assert timesteps(LINEAR, 50).tolist() == [
        1, 21, 41, 61, 81, 101, 121, 141, 161, 181, 201, 221, 241, 261, 281, 301, 321, 341, 361,
        381, 401, 421, 441, 461, 481, 501, 521, 541, 561, 581, 601, 621, 641, 661, 681, 701, 721,
        741, 761, 781, 801, 821, 841, 861, 881, 901, 921, 941, 961, 981,
    ]  # fmt: skip
    assert timesteps(LINEAR, 20).tolist() == [
        1, 51, 101, 151, 201, 251, 301, 351, 401, 451, 501, 551, 601, 651, 701, 751, 801, 851, 901,
        951,
    ]  # fmt: skip
    for steps in (2, 4, 5, 8, 10, 25, 40, 100, 125, 200, 250, 500):
        want = list(range(0, 1000, 1000 // steps))
        assert timesteps(LINEAR, steps).tolist() == [t + 1 for t in want]


def test_quadratic_timesteps_are_pinned():
    assert timesteps(LINEAR, 15, "quadratic").tolist() == [
        1, 10, 29, 57, 95, 142, 199, 266, 342, 427, 523, 627, 742, 866, 999,
    ]  # fmt: skip


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("total", [2, 3, 10, 101, 1000])
def test_any_number_of_steps_gives_as_many_distinct_timesteps(spacing, total):
    schedule = Schedule(num_timesteps=total)
    for steps in range(2, total + 1):
        t = timesteps(schedule, steps, spacing)
        assert len(t) == steps
        assert np.all(np.diff(t) > 0) and t[0] >= 0 and t[-1] <= total - 1
        if spacing == "quadratic":
            assert t[-1] == total - 1
    assert t.tolist() == list(range(total))


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} steps of 1000"):
        timesteps(LINEAR, steps)


@pytest.mark.untyped
def test_unknown_names_are_refused():
    x = jnp.ones((1, 1))
    with pytest.raises(ValueError, match="'cubic'"):
        timesteps(LINEAR, 5, "cubic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'score'"):
        target("score", x, x, x, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'score'"):
        to_x0_eps("score", x, x, x, x)  # pyright: ignore[reportArgumentType]


def test_q_sample_has_its_moments():
    t = jnp.array([0, 300, 999])
    eps = np.random.default_rng(0).standard_normal((3, 64, 64, 1)).astype(np.float32)
    z = q_sample(jnp.full(eps.shape, 2.0), t, jnp.asarray(eps), LINEAR)
    mean, std = np.mean(z, axis=(1, 2, 3)), np.std(z, axis=(1, 2, 3))
    np.testing.assert_allclose(mean, 2 * LINEAR.alpha[t], atol=0.05)
    np.testing.assert_allclose(std, LINEAR.sigma[t], rtol=0.05)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_perfect_prediction_gives_back_x0_and_eps(kind):
    t = jnp.array([0, 1, 250, 700, 999])
    z0, eps = np.random.default_rng(1).standard_normal((2, 5, 4, 4, 3)).astype(np.float32)

    @jax.jit
    def there_and_back(z0, eps):
        output = target(kind, z0, eps, *alpha_sigma(LINEAR, t, 4))
        return denoiser(lambda z, t: output, LINEAR, kind)(q_sample(z0, t, eps, LINEAR), t)

    x0, noise = there_and_back(z0, eps)
    # float32's 1e-7, divided by alpha = 0.01 ("eps") or sigma = 0.04 ("x0") at the ends.
    np.testing.assert_allclose(x0, z0, atol=1e-4)
    np.testing.assert_allclose(noise, eps, atol=1e-4)


def test_v_is_its_formula():
    value = target("v", *(jnp.full((1, 1), v) for v in (2.0, 3.0, 0.6, 0.8)))
    assert float(value[0, 0]) == pytest.approx(0.6 * 3 - 0.8 * 2)


def test_denoiser_hands_on_float32_whatever_the_network_gives():
    denoise = denoiser(lambda z, t: z.astype(jnp.bfloat16), LINEAR)
    x0, eps = denoise(jnp.ones((2, 3, 3, 1)), jnp.array([5, 900], jnp.int32))
    assert x0.dtype == eps.dtype == jnp.float32
