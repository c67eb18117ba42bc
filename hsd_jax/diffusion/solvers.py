"""Solvers: functions `(denoise, tables, z, keys, mix) -> z` from noise to a sample, one scan each.

Everything that depends only on the schedule and the step is precomputed in float64 numpy, as a
table of float32 weights with one row per step. A solver is then a sum of arrays with these weights,
and its memory does not depend on the number of steps. No key is carried: step i folds 2 i + 1 (for
mixing) and 2 i + 2 (for its own noise) into the given keys; the caller may use 0 for the first
state. Mixing or inpainting is a pair of functions, `Mix`, that every solver calls at the same two
places and knows nothing about.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from hsd_jax.diffusion.schedule import Denoise, Schedule, timesteps


class Step(NamedTuple):
    """One step, all scalars; or, with a leading axis [num_steps], the tables of a run."""

    index: Any  # int32: 0 for the first, noisiest step
    t: Any  # int32: the timestep at which the network is called
    alpha: Any  # float32: sqrt(alpha_bar_t)
    sigma: Any  # float32: sqrt(1 - alpha_bar_t)
    weights: dict[str, Any]  # float32: the solver's own


class Mix(NamedTuple):
    """The projection of a state onto its known part."""

    # noised(z, step, keys) -> z, before every denoising; z is at noise level (alpha, sigma).
    noised: Callable[[Array, Step, Array], Array]
    # clean(x0, step) -> x0, on every prediction, before the solver uses or remembers it.
    clean: Callable[[Array, Step], Array]


IDENTITY = Mix(noised=lambda z, step, keys: z, clean=lambda x0, step: x0)

# update(z, x0, eps, x0_before, step, keys) -> the state at the next, less noisy step.
_Update = Callable[[Array, Array, Array, Array, Step, Array], Array]


def fold_keys(keys: Key[Array, " b"], data: int | Array) -> Key[Array, " b"]:
    """`jax.random.fold_in` of the same number into each sample's key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def normal(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """N(0, I), each sample [*shape] from its own key, so that a batch is its samples run singly."""
    # The same bits as for `shape` itself, and a third of the compile time.
    flat = jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),), jnp.float32))(keys)
    return flat.reshape(*keys.shape, *shape)


def _run(
    update: _Update,
    denoise: Denoise,
    tables: Step,
    z: Array,
    keys: Array,
    mix: Mix,
    keep: bool,
    x0_before: Array | None,
) -> Array | tuple[Array, Array]:
    """The scan of all solvers: mix, denoise, mix, update, for every row of the tables."""

    def body(carry: tuple[Array, Array], step: Step) -> tuple[tuple[Array, Array], Array | None]:
        z, x0_before = carry
        z = mix.noised(z, step, fold_keys(keys, 2 * step.index + 1))
        x0, eps = denoise(z, jnp.full(z.shape[:1], step.t))
        x0 = mix.clean(x0, step)
        z = update(z, x0, eps, x0_before, step, fold_keys(keys, 2 * step.index + 2))
        return (z, x0), x0 if keep else None

    first = jnp.zeros_like(z) if x0_before is None else x0_before
    (z, _), history = lax.scan(body, (z, first), tables)
    return z if history is None else (z, history)


def ddim(
    denoise: Denoise,
    tables: Step,
    z: Float[Array, "b ..."],
    keys: Key[Array, " b"],
    mix: Mix = IDENTITY,
    keep: bool = False,
    x0_before: Float[Array, "b ..."] | None = None,
) -> Array | tuple[Array, Array]:
    """DDIM (arXiv 2010.02502, equation 12), and with `ddpm_tables` DDPM.

    `z` ~ N(0, I) at the first row's noise level; the last state is returned, and with `keep` also
    the (mixed) x0 of every step, [num_steps, b, ...]. Noise is drawn only if the tables have it,
    so that with eta = 0 the result does not depend on `keys` unless `mix` uses them. `x0_before` is
    that of the step before the first row, where the tables are the rest of a run.
    """

    def update(z, x0, eps, x0_before, step, step_keys):
        new = step.weights["x0"] * x0 + step.weights["eps"] * eps
        if "noise" in step.weights:
            new = new + step.weights["noise"] * normal(step_keys, z.shape[1:])
        return new

    return _run(update, denoise, tables, z, keys, mix, keep, x0_before)


def dpmpp(
    denoise: Denoise,
    tables: Step,
    z: Float[Array, "b ..."],
    keys: Key[Array, " b"],
    mix: Mix = IDENTITY,
    keep: bool = False,
    x0_before: Float[Array, "b ..."] | None = None,
) -> Array | tuple[Array, Array]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), multistep in x0; arguments as for `ddim`.

    The history is the x0 after `mix.clean`, so that in a known region it is constant and every
    step there is exact, wherever `mix.noised` puts the state.
    """

    def update(z, x0, eps, x0_before, step, step_keys):
        weights = step.weights
        return weights["z"] * z + weights["x0"] * x0 + weights["x0_before"] * x0_before

    return _run(update, denoise, tables, z, keys, mix, keep, x0_before)


def ddim_tables(schedule: Schedule, num_steps: int, eta: float = 0.0) -> Step:
    """CompVis's DDIM (ddim.py) on the uniform grid; eta = 0 is deterministic, 1 is ancestral.

    As theirs, the last step ends at the noise level of t = 0, not at a clean sample (unless t = 0
    was itself a step). Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: use 0 (deterministic) to 1 (ancestral)")
    t = timesteps(schedule, num_steps)
    end = schedule.alpha_bar[0] if t[0] > 0 else 1.0
    return _ddim_tables(schedule, t[::-1], end, eta)


def ddpm_tables(schedule: Schedule, num_steps: int) -> Step:
    """Ancestral sampling (DDPM, arXiv 2006.11239, algorithm 2) on the uniform grid, ending clean.

    The posterior q(z_s | z_t, x0), with its own variance (the smaller of DDPM's two), is DDIM's
    step with eta = 1 (arXiv 2010.02502, section 4.1); hence the same solver.
    """
    return _ddim_tables(schedule, timesteps(schedule, num_steps)[::-1], 1.0, 1.0)


def _ddim_tables(schedule: Schedule, t: np.ndarray, end: float, eta: float) -> Step:
    """Rows for falling timesteps `t` and a last state at alpha_bar = `end`."""
    now = schedule.alpha_bar[t]
    after = np.append(now[1:], end)
    variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
    weights = {"x0": np.sqrt(after), "eps": np.sqrt(1 - after - variance)}
    if eta > 0:
        weights["noise"] = np.sqrt(variance)
    return _tables(schedule, t, weights)


def dpmpp_tables(schedule: Schedule, num_steps: int) -> Step:
    """2M's weights, steps h in lambda = log(alpha / sigma); the end is clean (lambda = infinity).

    The first step has no history, and the last no finite h: both are of first order. The grid is
    quadratic in t, from T - 1 to 1: with exact denoisers of Gaussian mixtures, 10 to 20 steps on it
    mostly came 2 to 6 times nearer to the exact samples than on grids uniform in t, and about as
    near as on one uniform in lambda, which spends few steps at high noise.
    """
    t = timesteps(schedule, num_steps, "quadratic")[::-1]
    alpha, sigma = schedule.alpha[t], schedule.sigma[t]
    alpha_after, sigma_after = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    h = np.diff(np.log(alpha / sigma))
    gain = alpha_after * np.append(-np.expm1(-h), 1.0)
    # The paper's 1 / (2 r), the share of the extrapolation from the x0 before.
    slope = np.zeros(num_steps)
    slope[1:-1] = h[1:] / (2 * h[:-1])
    weights = {"z": sigma_after / sigma, "x0": gain * (1 + slope), "x0_before": -gain * slope}
    return _tables(schedule, t, weights)


def _tables(schedule: Schedule, t: np.ndarray, weights: dict[str, np.ndarray]) -> Step:
    return Step(
        index=np.arange(len(t), dtype=np.int32),
        t=t.astype(np.int32),
        alpha=schedule.alpha[t].astype(np.float32),
        sigma=schedule.sigma[t].astype(np.float32),
        weights={name: weight.astype(np.float32) for name, weight in weights.items()},
    )


class Solver(NamedTuple):
    """A solver with what a caller needs to run it by name."""

    sample: Callable[..., Any]  # `(denoise, tables, z, keys, mix, keep, x0_before)`, as `ddim`
    tables: Callable[[Schedule, int], Step]
    num_steps: int  # the default


SOLVERS: dict[str, Solver] = {
    "ddpm": Solver(ddim, ddpm_tables, 250),
    "ddim": Solver(ddim, ddim_tables, 50),  # the paper's (appendix B.1)
    "dpmpp": Solver(dpmpp, dpmpp_tables, 10),  # as good as 50 of DDIM: docs/speed.md
}
