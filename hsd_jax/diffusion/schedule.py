"""Noise schedules and what follows from them: q(z_t | z_0), parameterisations, time grids.

Notation: alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t) and z_t = alpha z_0 + sigma eps
(DDPM, arXiv 2006.11239, equation 4). Tables are float64 numpy, cast to float32 only where they meet
an array: 1 - alpha_bar_t loses digits in float32 near t = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Prediction = Literal["eps", "x0", "v"]
Predict = Callable[[Array, Array], Array]
Denoise = Callable[[Array, Array], tuple[Array, Array]]

PREDICTIONS = ("eps", "x0", "v")


@dataclass(frozen=True)
class Schedule:
    """A noise schedule; frozen and hashable, so it can be a static argument of a jitted function.

    "linear" is CompVis latent-diffusion's (util.py): the *roots* of the betas are linear from
    sqrt(start) to sqrt(end). The defaults are those of its semantic_synthesis256 configuration; the
    paper (HS-Diffusion, arXiv 2212.06458) does not state its own. "cosine" is Nichol and Dhariwal's
    (arXiv 2102.09672, equation 17, s = 0.008, betas at most 0.999); it ignores start and end.

    Raises ValueError for another kind, fewer than 2 timesteps, or betas outside (0, 1) or falling.
    """

    kind: Literal["linear", "cosine"] = "linear"
    num_timesteps: int = 1000
    start: float = 0.0015
    end: float = 0.0205

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "cosine"):
            raise ValueError(f"unknown schedule kind {self.kind!r}: use 'linear' or 'cosine'")
        if self.num_timesteps < 2:
            raise ValueError(f"num_timesteps is {self.num_timesteps}: use at least 2")
        if not 0 < self.start <= self.end < 1:
            raise ValueError(f"betas from {self.start} to {self.end}: use 0 < start <= end < 1")

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """float64 [num_timesteps], falling within (0, 1): the product of 1 - beta up to t."""
        if self.kind == "linear":
            betas = np.linspace(self.start**0.5, self.end**0.5, self.num_timesteps) ** 2
        else:
            time = np.arange(self.num_timesteps + 1) / self.num_timesteps
            f = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        return _read_only(np.cumprod(1 - betas))

    @cached_property
    def alpha(self) -> np.ndarray:
        """float64 [num_timesteps]: sqrt(alpha_bar), the share of the signal."""
        return _read_only(np.sqrt(self.alpha_bar))

    @cached_property
    def sigma(self) -> np.ndarray:
        """float64 [num_timesteps]: sqrt(1 - alpha_bar), the share of the noise."""
        return _read_only(np.sqrt(1 - self.alpha_bar))


def _read_only(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)  # the cached table is shared by everyone who asks for it
    return table


def alpha_sigma(
    schedule: Schedule, t: Int[Array, " b"], ndim: int
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """(alpha, sigma) at timesteps `t` in 0 .. num_timesteps - 1, shaped [b, 1, ...] of `ndim` axes.

    As everywhere under jit, a timestep outside the range is not an error but is clamped into it.
    """
    shape = t.shape + (1,) * (ndim - 1)
    alpha = jnp.asarray(schedule.alpha, jnp.float32)[t]
    sigma = jnp.asarray(schedule.sigma, jnp.float32)[t]
    return alpha.reshape(shape), sigma.reshape(shape)


def q_sample(
    z0: Float[Array, "b ..."], t: Int[Array, " b"], eps: Float[Array, "b ..."], schedule: Schedule
) -> Float[Array, "b ..."]:
    """A draw of q(z_t | z_0), given its noise `eps` ~ N(0, I): alpha z_0 + sigma eps."""
    alpha, sigma = alpha_sigma(schedule, t, z0.ndim)
    return alpha * z0 + sigma * eps


def target(
    kind: Prediction,
    z0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    alpha: Float[Array, "b ..."],
    sigma: Float[Array, "b ..."],
) -> Float[Array, "b ..."]:
    """What a network of this parameterisation learns to give for z_t = alpha z0 + sigma eps.

    "eps" is the paper's (equation 4); "v" = alpha eps - sigma z0 is Salimans and Ho's (arXiv
    2202.00512, appendix D). `alpha` and `sigma` come from `alpha_sigma`.
    """
    if kind == "eps":
        return eps
    if kind == "x0":
        return z0
    if kind == "v":
        return alpha * eps - sigma * z0
    raise ValueError(f"unknown prediction {kind!r}: use one of {PREDICTIONS}")


def to_x0_eps(
    kind: Prediction,
    output: Float[Array, "b ..."],
    z: Float[Array, "b ..."],
    alpha: Float[Array, "b ..."],
    sigma: Float[Array, "b ..."],
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """The (x0, eps) that a network's `output` at `z` stands for: z = alpha x0 + sigma eps holds."""
    if kind == "eps":
        return (z - sigma * output) / alpha, output
    if kind == "x0":
        return output, (z - alpha * output) / sigma
    if kind == "v":
        return alpha * z - sigma * output, sigma * z + alpha * output
    raise ValueError(f"unknown prediction {kind!r}: use one of {PREDICTIONS}")


def denoiser(predict: Predict, schedule: Schedule, kind: Prediction = "eps") -> Denoise:
    """The `denoise(z, t) -> (x0, eps)` that solvers take, from a network `predict(z, t) -> output`.

    z is float32 [b, ...], t int32 [b]; a condition is bound into `predict`. The output is cast to
    float32 here, whatever the network computes in.
    """

    def denoise(z: Array, t: Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma = alpha_sigma(schedule, t, z.ndim)
        return to_x0_eps(kind, predict(z, t).astype(jnp.float32), z, alpha, sigma)

    return denoise


def timesteps(
    schedule: Schedule, num_steps: int, spacing: Literal["uniform", "quadratic"] = "uniform"
) -> np.ndarray:
    """`num_steps` distinct timesteps, int64, rising; a solver walks them backwards.

    "uniform": floor(i T / S) + 1, which for S dividing T is CompVis's range(0, T, T // S) + 1
    (util.py). Deviation: where S does not divide T theirs has more than S entries (16 for S = 15),
    ours has S; and for S = T theirs runs past the table, ours is every timestep, 0 .. T - 1.
    "quadratic": sqrt(t) is linear from 1 to T - 1 (DDIM, arXiv 2010.02502, appendix D.2, with both
    ends included); it puts more steps where there is little noise.

    Raises ValueError unless 2 <= num_steps <= num_timesteps.
    """
    total = schedule.num_timesteps
    if not 2 <= num_steps <= total:
        raise ValueError(f"{num_steps} steps of {total} timesteps: use 2 to {total} steps")
    if spacing not in ("uniform", "quadratic"):
        raise ValueError(f"unknown spacing {spacing!r}: use 'uniform' or 'quadratic'")
    index = np.arange(num_steps)
    if num_steps == total:
        return index
    if spacing == "uniform":
        return index * total // num_steps + 1
    squares = np.linspace(1, (total - 1) ** 0.5, num_steps) ** 2
    # Near t = 1 many squares round to the same timestep; one apart is as dense as it can be.
    return np.maximum(np.rint(squares).astype(np.int64), index + 1)
