"""Semantic mixing: the paper's Algorithm 1, lines 3 to 5 (HS-Diffusion, arXiv 2212.06458)."""

from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hsd_jax.diffusion.schedule import Denoise, Schedule
from hsd_jax.diffusion.solvers import IDENTITY, SOLVERS, Mix, Solver, Step, fold_keys, normal

Mixing = Literal["every", "first_only", "last_only", "none"]
Mixed = Literal["both", "z", "x0"]
Draws = Literal["fresh", "one"]


@runtime_checkable
class LatentRegions(Protocol):
    """Masks at the latents' size, float32 0/1, disjoint, with sum 1 (as `mixing.Regions`)."""

    @property
    def head(self) -> Float[Array, "b h w 1"]: ...
    @property
    def body(self) -> Float[Array, "b h w 1"]: ...
    @property
    def rest(self) -> Float[Array, "b h w 1"]: ...


def fuse(
    denoise: Denoise,
    schedule: Schedule,
    z_head: Float[Array, "b h w c"],
    z_body: Float[Array, "b h w c"],
    masks: LatentRegions,
    keys: Key[Array, " b"],
    *,
    solver: str = "dpmpp",
    num_steps: int | None = None,
    mixing: Mixing = "every",
    mixed: Mixed = "both",
    draws: Draws = "fresh",
    keep: bool = False,
    noise: Float[Array, "b h w c"] | None = None,
) -> Array | tuple[Array, Array]:
    """Samples latents that show the head of one image on the body of another.

    From z_T ~ N(0, I), before every denoising z := m_H q(z_head, t) + m_B q(z_body, t) + m_r z,
    with noise drawn afresh at every step; after the last, the same with the clean latents.

    denoise: `(z, t) -> (x0, eps)`, with the condition bound in (see `schedule.denoiser`).
    z_head, z_body: float32 latents, aligned; the result equals them where their mask is 1.
    masks: their regions; `rest` is what is generated.
    keys: one typed key per sample; a sample depends on its own key only, not on the batch.
    solver: a name in `SOLVERS`; num_steps: 2 to T, or None for the solver's own default.
    mixing: at "every" step (the paper), or for ablations at the "first_only" (before the first
        denoising, never after), at the "last_only" (the clean latents after the last denoising), or
        "none".
    mixed: what is mixed at these steps, for ablations: "z", as the paper's line 4; "x0", the
        predictions; "both", whose result is that of "z". After the last denoising the latents are
        mixed whichever it is.
    draws: the noise of q: "fresh" at every step, or "one", z_T's, for all.
    keep: whether to return (z0, history), where history is the x0 of every step after mixing,
        float32 [num_steps, b, h, w, c].
    noise: z_T; drawn if None.

    Pure, with memory independent of num_steps unless `keep`. Under jit, `denoise`, `schedule`,
    `solver`, `num_steps`, `mixing`, `mixed`, `draws` and `keep` are static. Raises
    ValueError on shapes that do not belong together, on keys that are not one typed key per sample,
    and on unknown names.

    Two things differ from the paper's text, but not the result. The masks are disjoint, so one draw
    of noise serves head and body. Predictions of x0 are mixed with the clean latents too, which
    keeps the history of a multistep solver (and of `keep`) exact in the known regions.
    """
    _check(z_head, z_body, masks, keys, noise)
    chosen, num_steps = _solver(solver, num_steps)
    tables = chosen.tables(schedule, num_steps)
    switch = _switch(mixing, len(tables.t))
    known = masks.head * z_head + masks.body * z_body
    if noise is None:
        noise = normal(fold_keys(keys, 0), z_head.shape[1:])
    mix = _mix(known, masks.rest, switch, noise if _one(draws) else None, mixed)
    sampled = chosen.sample(denoise, tables, noise, keys, mix, keep)
    z, history = sampled if keep else (sampled, None)
    z = _blend(known, z, switch[-1] * (1 - masks.rest))
    return z if history is None else (z, history)


class Progress(NamedTuple):
    """A fusion between two steps, float32 `[b, h, w, c]` each; its values before the first are not
    used, but must be finite."""

    z: Array
    x0: Array


def fuse_step(
    denoise: Denoise,
    schedule: Schedule,
    z_head: Float[Array, "b h w c"],
    z_body: Float[Array, "b h w c"],
    masks: LatentRegions,
    keys: Key[Array, " b"],
    before: Progress,
    index: Int[Array, ""],
    *,
    solver: str = "dpmpp",
    num_steps: int | None = None,
) -> Progress:
    """Step `index` (0 for the first) of `fuse` with mixing at every step, for those who watch it.

    Started from zeros, `num_steps` calls give the z0 and the history of `fuse`, up to float32
    rounding. Other arguments and errors are those of `fuse`.
    """
    _check(z_head, z_body, masks, keys, None)
    chosen, num_steps = _solver(solver, num_steps)
    tables = chosen.tables(schedule, num_steps)
    row = jax.tree.map(lambda column: jnp.asarray(column)[index][None], tables)
    known = masks.head * z_head + masks.body * z_body
    z = jnp.where(index == 0, normal(fold_keys(keys, 0), z_head.shape[1:]), before.z)
    mix = _mix(known, masks.rest, _switch("every", num_steps))
    z, history = chosen.sample(denoise, row, z, keys, mix, True, before.x0)
    z = jnp.where(index == num_steps - 1, _blend(known, z, 1 - masks.rest), z)
    return Progress(z, history[0])


def step_times(schedule: Schedule, solver: str, num_steps: int | None = None) -> np.ndarray:
    """int32 [num_steps]: the decreasing timesteps at which `fuse` calls the denoiser.

    Raises ValueError as `fuse` does.
    """
    chosen, num_steps = _solver(solver, num_steps)
    return chosen.tables(schedule, num_steps).t


def _solver(name: str, num_steps: int | None) -> tuple[Solver, int]:
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}: use one of {sorted(SOLVERS)}")
    chosen = SOLVERS[name]
    return chosen, chosen.num_steps if num_steps is None else num_steps


def _mix(
    known: Array,
    rest: Array,
    switch: np.ndarray,
    eps: Array | None = None,
    mixed: Mixed = "both",
) -> Mix:
    """The projection of line 4, which puts known latents at the step's noise level into z.

    `eps` is the noise of all steps; None draws it afresh.
    """
    if mixed not in get_args(Mixed):
        raise ValueError(f"unknown mixed {mixed!r}: use one of {list(get_args(Mixed))}")
    inside = 1 - rest

    def kept(step: Step) -> Array:
        return jnp.asarray(switch)[step.index] * inside

    def noised(z: Array, step: Step, keys: Array) -> Array:
        drawn = normal(keys, z.shape[1:]) if eps is None else eps
        return _blend(step.alpha * known + step.sigma * drawn, z, kept(step))

    def clean(x0: Array, step: Step) -> Array:
        return _blend(known, x0, kept(step))

    return Mix(
        IDENTITY.noised if mixed == "x0" else noised, IDENTITY.clean if mixed == "z" else clean
    )


def _one(draws: Draws) -> bool:
    if draws not in get_args(Draws):
        raise ValueError(f"unknown draws {draws!r}: use one of {list(get_args(Draws))}")
    return draws == "one"


def _blend(inside: Array, outside: Array, mask: Array) -> Array:
    return mask * inside + (1 - mask) * outside


def _switch(mixing: Mixing, num_steps: int) -> np.ndarray:
    """float32 [num_steps + 1], 1 where mixing is on: before each denoising, and after the last."""
    on = np.zeros(num_steps + 1, np.float32)
    where = {"every": slice(None), "first_only": 0, "last_only": -1, "none": slice(0)}
    if mixing not in where:
        raise ValueError(f"unknown mixing {mixing!r}: use one of {list(where)}")
    on[where[mixing]] = 1
    return on


def _check(
    z_head: Array, z_body: Array, masks: LatentRegions, keys: Array, noise: Array | None
) -> None:
    for name, z in {"z_body": z_body, "noise": z_head if noise is None else noise}.items():
        if z.shape != z_head.shape:
            raise ValueError(f"{name} is {z.shape} and z_head {z_head.shape}: give equal shapes")
    want = (*z_head.shape[:-1], 1)
    for name in ("head", "body", "rest"):
        if (shape := getattr(masks, name).shape) != want:
            raise ValueError(f"masks.{name} is {shape}: give {want}, at the latents' size")
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != z_head.shape[:1]:
        raise ValueError(
            f"keys are {keys.dtype} {keys.shape}: give one typed key per sample, for example "
            f"jax.random.split(jax.random.key(0), {z_head.shape[0]})"
        )
