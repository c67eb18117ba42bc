"""What goes with a checkpoint's networks beside their parameters: schedule, scale, prediction.

These are the facts that `HeadSwapper` reads with a UNet. What a checkpoint does not tell is left
out, never guessed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hsd_jax.convert.state import State
from hsd_jax.diffusion.schedule import Schedule
from hsd_jax.diffusion.solvers import SOLVERS

_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def of_compvis(state: State, config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Facts of a latent diffusion model: from its YAML, else from its buffers.

    Args:
      state: the whole checkpoint.
      config: its YAML, or what there is.
      channels: of the latents.
    """
    params = (config.get("model") or {}).get("params") or {}
    known = bool(params)
    facts: dict[str, Any] = {"known": False, "steps": SOLVERS["dpmpp"].num_steps}
    if known:
        facts["prediction"] = params.get("parameterization", "eps")
    schedule = _schedule_of_buffer(state.tensors.get("betas"))
    if known and params.get("beta_schedule", "linear") in ("linear", "cosine"):
        schedule = {
            "kind": params.get("beta_schedule", "linear"),
            "num_timesteps": int(params.get("timesteps", 1000)),
            "start": float(params.get("linear_start", 1e-4)),
            "end": float(params.get("linear_end", 2e-2)),
        }
    if schedule:
        facts["schedule"] = schedule
    scale = params.get("scale_factor", 1.0) if known else None
    if "scale_factor" in state.tensors:
        scale = np.asarray(state.tensors["scale_factor"])
    if scale is not None:
        facts |= latent_scale(float(scale), channels)
    return facts


def of_diffusers(config: Mapping[str, Any], autoencoder: Mapping[str, Any], channels: int) -> dict:
    """Facts of a pipeline: from the settings of its scheduler and of its autoencoder."""
    facts: dict[str, Any] = {"known": False, "steps": SOLVERS["dpmpp"].num_steps}
    if config:
        facts["prediction"] = _PREDICTIONS.get(config.get("prediction_type", "epsilon"), "eps")
    # What they call scaled_linear is linear in the roots, as ours; their linear we have not.
    if config.get("beta_schedule") == "scaled_linear":
        facts["schedule"] = {
            "kind": "linear",
            "num_timesteps": int(config.get("num_train_timesteps", 1000)),
            "start": float(config["beta_start"]),
            "end": float(config["beta_end"]),
        }
    if autoencoder:
        shift = float(autoencoder.get("shift_factor") or 0.0)
        facts |= latent_scale(float(autoencoder.get("scaling_factor") or 1.0), channels, shift)
    return facts


def latent_scale(factor: float, channels: int, mean: float = 0.0) -> dict[str, list[float]]:
    """Diffusion runs on (latents - mean) * factor: as the mean and deviation that ours divides by.

    Raises:
      ValueError: the factor is no positive number.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"the scale of the latents is {factor}: it must be positive")
    return {"latent_mean": [mean] * channels, "latent_std": [1 / factor] * channels}


def _schedule_of_buffer(betas: Any) -> dict[str, Any] | None:
    """The schedule whose betas a checkpoint carries, if it is one of CompVis' "linear" ones."""
    if betas is None or len(betas.shape) != 1 or betas.shape[0] < 2:
        return None
    table = np.asarray(betas).astype(np.float64)
    start, end = (float(f"{beta:.6g}") for beta in (table[0], table[-1]))
    if not 0 < start <= end < 1:
        return None
    schedule = Schedule("linear", len(table), start, end)
    if not np.allclose(np.cumprod(1 - table), schedule.alpha_bar, rtol=1e-4):
        return None
    return {"kind": "linear", "num_timesteps": len(table), "start": start, "end": end}
