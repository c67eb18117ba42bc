"""Solvers: the scan is the textbook's loop, the exact Gaussian case, goldens."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.diffusion.schedule import Schedule, denoiser, timesteps
from hsd_jax.diffusion.solvers import (
    IDENTITY,
    SOLVERS,
    Mix,
    ddim,
    ddim_tables,
    ddpm_tables,
    dpmpp,
    dpmpp_tables,
    fold_keys,
    normal,
)

SCHEDULE = Schedule()
SHAPE = (2, 4, 4, 3)
KEYS = jax.random.split(jax.random.key(7), 2)


def dummy(z, t):
    """A deterministic "network" of state and time, as in diffusers' scheduler tests."""
    t = t[:, None, None, None].astype(jnp.float32)
    return z * t / (t + 1)


DENOISE = denoiser(dummy, SCHEDULE)


def ramp():
    return np.linspace(-1, 1, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)


@jax.jit
def solver_noise(index):
    return normal(fold_keys(KEYS, 2 * index + 2), SHAPE[1:])


@cache
def compiled(name, num_steps, denoise=DENOISE, keep=False, **options):
    """The solver `name` as a compiled function of (z, keys)."""
    solver = SOLVERS[name]
    tables = solver.tables(SCHEDULE, num_steps, **options)
    return jax.jit(lambda z, keys: solver.sample(denoise, tables, z, keys, IDENTITY, keep))


def reference(name, num_steps, eta=0.0):
    """Float64 Python loops written from the papers' own equations, not from our tables."""
    ab = SCHEDULE.alpha_bar
    t = timesteps(SCHEDULE, num_steps, "quadratic" if name == "dpmpp" else "uniform")[::-1]
    z, before = ramp().astype(np.float64), None
    for i, now in enumerate(t):
        last = i + 1 == num_steps
        a, b = ab[now], (ab[0] if name == "ddim" else 1.0) if last else ab[t[i + 1]]
        eps = z * now / (now + 1)
        x0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        noise = np.asarray(solver_noise(i), np.float64)
        if name == "ddim":  # DDIM, equation 12
            s = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
            z = np.sqrt(b) * x0 + np.sqrt(1 - b - s**2) * eps + s * noise
        elif name == "ddpm":  # DDPM, equation 7, with beta of the stride
            beta = 1 - a / b
            mean = np.sqrt(b) * beta / (1 - a) * x0 + np.sqrt(a / b) * (1 - b) / (1 - a) * z
            z = mean + np.sqrt((1 - b) / (1 - a) * beta) * noise
        elif last:  # DPM-Solver++, equation 8 with h to infinity
            z = x0
        else:  # DPM-Solver++, algorithm 2
            lam = [0.5 * np.log(ab[s] / (1 - ab[s])) for s in (t[max(i - 1, 0)], now, t[i + 1])]
            h = lam[2] - lam[1]
            r = (lam[1] - lam[0]) / h
            d = x0 if before is None else (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
            z = np.sqrt((1 - b) / (1 - a)) * z - np.sqrt(b) * (np.exp(-h) - 1) * d
        before = x0
    return z


def absolute_sum(z):
    return float(np.abs(np.asarray(z, np.float64)).sum())


# The float64 loop's own sums, rounded: they pin loop and scan together over time.
GOLDENS = [
    ("ddim", 10, 22.668567),
    ("ddim", 50, 25.275144),
    ("ddpm", 10, 30.567028),
    ("dpmpp", 10, 26.130355),
    ("dpmpp", 15, 25.865157),
]


@pytest.mark.parametrize(("name", "num_steps", "golden"), GOLDENS)
def test_scan_is_the_loop_of_the_paper(name, num_steps, golden):
    z = compiled(name, num_steps)(ramp(), KEYS)
    want = reference(name, num_steps)
    np.testing.assert_allclose(z, want, atol=2e-5 * np.abs(want).max())
    assert absolute_sum(z) == pytest.approx(golden, rel=1e-4)


def test_noise_is_that_of_the_shape_and_of_each_key():
    draws = normal(KEYS, (3, 5))
    assert draws.shape == (2, 3, 5)
    for key, draw in zip(KEYS, draws, strict=True):
        np.testing.assert_allclose(draw, jax.random.normal(key, (3, 5)), rtol=1e-6)


def test_eta_between_is_the_loop_too():
    z = compiled("ddim", 10, eta=0.5)(ramp(), KEYS)
    np.testing.assert_allclose(z, reference("ddim", 10, eta=0.5), atol=1e-4)


def test_ddim_ends_as_compvis_s_and_the_others_clean():
    ab = SCHEDULE.alpha_bar
    weights = ddim_tables(SCHEDULE, 50).weights
    # alphas_prev = [alphas_cumprod[0]] + alphas_cumprod[ddim_timesteps[:-1]], walked backwards.
    previous = np.append(ab[0], ab[np.arange(1, 981, 20)])[::-1]
    np.testing.assert_allclose(weights["x0"], np.sqrt(previous), rtol=1e-6)
    np.testing.assert_allclose(weights["eps"], np.sqrt(1 - previous), rtol=1e-6)
    every = ddim_tables(SCHEDULE, 1000)
    for tables in (every, ddpm_tables(SCHEDULE, 50), dpmpp_tables(SCHEDULE, 15)):
        last = {name: float(weight[-1]) for name, weight in tables.weights.items()}
        assert last.pop("x0") == 1 and set(last.values()) == {0.0}


def test_every_registered_solver_has_float32_tables_of_its_default():
    for solver in SOLVERS.values():
        tables = solver.tables(SCHEDULE, solver.num_steps)
        rows = {name: np.asarray(weight) for name, weight in tables.weights.items()}
        for row in (tables.alpha, tables.sigma, *rows.values()):
            assert row.shape == (solver.num_steps,) and row.dtype == np.float32
            assert np.all(np.isfinite(row))
        assert tables.t.dtype == tables.index.dtype == np.int32
        assert np.all(np.diff(tables.t) < 0)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match=str(eta)):
        ddim_tables(SCHEDULE, 10, eta)


# Data N(MU, S^2): the ideal denoiser is linear, and the probability-flow ODE has a solution, along
# which (z_t - alpha MU) / sqrt(alpha^2 S^2 + sigma^2) is constant.
MU, S = 0.5, 0.3


def gaussian(z, t):
    alpha = jnp.asarray(SCHEDULE.alpha, jnp.float32)[t][:, None, None, None]
    sigma = jnp.asarray(SCHEDULE.sigma, jnp.float32)[t][:, None, None, None]
    return MU + alpha * S**2 / (alpha**2 * S**2 + sigma**2) * (z - alpha * MU)


GAUSSIAN = denoiser(gaussian, SCHEDULE, "x0")


def white():
    z = np.random.default_rng(0).standard_normal((2, 16, 16, 1))
    return ((z - z.mean()) / z.std()).astype(np.float32)


def exact(z, t_start, alpha_bar_end):
    def scale(alpha_bar):
        return np.sqrt(alpha_bar * S**2 + 1 - alpha_bar)

    start = SCHEDULE.alpha_bar[t_start]
    u = (z - np.sqrt(start) * MU) / scale(start)
    return np.sqrt(alpha_bar_end) * MU + scale(alpha_bar_end) * u


def gaussian_error(name, num_steps):
    z = np.asarray(compiled(name, num_steps, GAUSSIAN)(white(), KEYS))
    start = SOLVERS[name].tables(SCHEDULE, num_steps).t[0]
    end = SCHEDULE.alpha_bar[0] if name == "ddim" and num_steps < 1000 else 1.0
    return np.abs(z - exact(white(), start, end)).max(), z


@pytest.mark.parametrize(("name", "num_steps"), [("ddim", 1000), ("dpmpp", 15)])
def test_gaussian_data_come_out_with_their_moments(name, num_steps):
    error, z = gaussian_error(name, num_steps)
    assert abs(z.mean() - MU) < 0.01
    assert abs(z.std() - S) < 0.01
    assert error < 0.03


def test_ancestral_sampling_has_the_moments_of_gaussian_data_too():
    z = compiled("ddpm", 1000, GAUSSIAN)(white(), KEYS)
    # 512 samples: the standard errors are 0.013 and 0.009.
    assert abs(float(jnp.mean(z)) - MU) < 0.05
    assert abs(float(jnp.std(z)) - S) < 0.04


def test_dpmpp_is_nearer_to_the_exact_solution_than_ddim():
    multistep, _ = gaussian_error("dpmpp", 15)
    assert multistep < 0.2 * gaussian_error("ddim", 15)[0]
    default, _ = gaussian_error("dpmpp", SOLVERS["dpmpp"].num_steps)
    assert multistep < default < gaussian_error("ddim", 50)[0]


def test_deterministic_solvers_do_not_depend_on_the_keys():
    other = jax.random.split(jax.random.key(8), 2)
    for name in ("ddim", "dpmpp"):
        run = compiled(name, 10)
        np.testing.assert_array_equal(run(ramp(), KEYS), run(ramp(), other))
    run = compiled("ddpm", 10)
    assert not np.allclose(run(ramp(), KEYS), run(ramp(), other))


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_a_batch_is_its_samples(name):
    run = compiled(name, 10)
    both = run(ramp(), KEYS)
    for i in range(2):
        one = run(ramp()[i : i + 1], KEYS[i : i + 1])
        np.testing.assert_allclose(both[i : i + 1], one, rtol=1e-6, atol=1e-6)


def test_keep_gives_every_x0_and_changes_nothing():
    last, history = compiled("dpmpp", 10, keep=True)(ramp(), KEYS)
    np.testing.assert_allclose(last, compiled("dpmpp", 10)(ramp(), KEYS), rtol=1e-6)
    assert history.shape == (10, *SHAPE)
    np.testing.assert_array_equal(history[-1], last)  # the end is clean: the last x0 itself
    first, _ = DENOISE(jnp.asarray(ramp()), jnp.array([999, 999]))
    np.testing.assert_allclose(history[0], first, atol=1e-5)


def test_the_history_is_the_clean_x0_so_known_values_are_exact():
    known = ramp()[..., ::-1]
    left = jnp.zeros(SHAPE).at[:, :, :2].set(1)
    states = []

    def noised(z, step, keys):
        jax.debug.callback(lambda *row: states.append(row), z, step.alpha, step.sigma, ordered=True)
        return z

    mix = Mix(noised, clean=lambda x0, step: left * known + (1 - left) * x0)
    tables = dpmpp_tables(SCHEDULE, 6)
    z = jax.jit(lambda z: dpmpp(DENOISE, tables, z, KEYS, mix))(ramp())
    jax.effects_barrier()
    np.testing.assert_array_equal(z[:, :, :2], known[:, :, :2])
    # With a constant x0 every multistep update is exact: the noise that z holds never changes.
    _, alpha, sigma = states[0]
    eps = (ramp() - alpha * known) / sigma
    for z, alpha, sigma in states:
        want = alpha * known + sigma * eps
        np.testing.assert_allclose(z[:, :, :2], want[:, :, :2], atol=1e-5)
    assert len(states) == 6


def test_every_step_has_keys_of_its_own():
    seen = []

    def noised(z, step, keys):
        jax.debug.callback(lambda data: seen.append(np.asarray(data)), jax.random.key_data(keys))
        return z

    mix = IDENTITY._replace(noised=noised)
    tables = ddpm_tables(SCHEDULE, 6)
    with jax.debug_key_reuse(True):
        jax.jit(lambda z, keys: ddim(DENOISE, tables, z, keys, mix))(ramp(), KEYS)
    jax.effects_barrier()
    assert len(seen) == 6
    assert len(np.unique(np.concatenate(seen), axis=0)) == 12


def test_network_is_traced_once_a_shape_whatever_the_number_of_steps():
    calls = []

    def counted(z, t):
        calls.append(z.shape)
        return dummy(z, t)

    for num_steps in (5, 20):
        run = compiled("ddim", num_steps, denoiser(counted, SCHEDULE))
        calls.clear()
        for seed in range(3):
            run(ramp() * seed, jax.random.split(jax.random.key(seed), 2))
        assert calls == [SHAPE]
        run(ramp()[:1], KEYS[:1])
        assert calls == [SHAPE, (1, *SHAPE[1:])]


def test_memory_does_not_grow_with_the_steps():
    z = np.zeros((2, 16, 16, 3), np.float32)

    def temporary_bytes(num_steps):
        memory = compiled("dpmpp", num_steps).lower(z, KEYS).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    few, many = temporary_bytes(5), temporary_bytes(200)
    assert many - few < z.nbytes  # 195 states more would be 195 times that
