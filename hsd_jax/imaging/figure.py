"""The figure that explains one swap: masks, layouts, the fusion step by step, the result."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from hsd_jax.imaging.sheets import SIDE, captioned

if TYPE_CHECKING:
    from hsd_jax.labels import LabelSet

_SHOWN = 4  # steps of the solver
_GREY = 160


def explain(
    stages: Mapping[str, np.ndarray],
    steps: Sequence[np.ndarray],
    times: Sequence[int],
    labels: "LabelSet",
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws how a swap was made, after Figure 2 of the paper.

    Args:
      stages: those of a `SwapResult`.
      steps: the crops that each step predicts, uint8 `[s, s, 3]`.
      times: the timesteps of these steps, falling.
      labels: the label set of the layouts.
    """
    from hsd_jax.labels import colorize

    head, body = stages["kept_head"], stages["kept_body"]
    layouts = {name: colorize(stages[name], labels) for name in
               ("head_layout", "body_layout", "blended", "inpainted")}  # fmt: skip
    painted = np.repeat(np.where(head | body, 0, 255)[..., None], 3, -1).astype(np.uint8)
    chosen = np.unique(np.linspace(0, len(steps) - 1, _SHOWN).round().astype(int))
    return captioned([
        [
            ("head photo", stages["head"]), ("its layout", layouts["head_layout"]),
            ("kept: m_H", _kept(stages["head"], head)),
            ("body photo", stages["body"]), ("its layout", layouts["body_layout"]),
            ("kept: m_B", _kept(stages["body"], body)),
        ],
        [
            ("layouts mixed", layouts["blended"]), ("holes inpainted", layouts["inpainted"]),
            ("generated: m_r, white", painted), ("classes", _legend(labels)),
        ],
        [
            *((f"predicted at t = {times[n]}", steps[n]) for n in chosen),
            ("decoded", stages["decoded"]), ("result", stages["result"]),
        ],
    ])  # fmt: skip


def _kept(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], image, _GREY).astype(np.uint8)


def _legend(labels: "LabelSet") -> np.ndarray:
    """The label set's colours and names."""
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    step = SIDE / labels.num_classes
    font = ImageFont.load_default(size=min(18, round(0.8 * step)))
    for n, (name, colour) in enumerate(zip(labels.classes, labels.palette, strict=True)):
        top = n * step
        draw.rectangle((0, top + 2, 1.5 * step, top + step - 2), fill=colour)
        draw.text((2 * step, top + step / 2), name, "black", font, anchor="lm")
    return np.array(canvas)
