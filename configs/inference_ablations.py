"""Rows that the paper lacks: one set of weights, swapped with in other ways.

    hsd eval ablation --config configs/inference_ablations.py --data DATA --pairs PAIRS.csv \\
        -o DIR --weights ldm=embedded
    hsd eval collect DIR/report.json -o DIR --y FD-hsd

The first row is the baseline, DPM-Solver++ with 10 calls; each other one differs from it in what
its name says. Other rows: write a config with a `get_config` as here; `evaluation.benchmark.Row`
lists the keys.
"""

from typing import Any

from ml_collections import ConfigDict

SOLVERS, CALLS = ("ddpm", "ddim", "dpmpp"), (5, 10, 20, 50)
ROWS = (
    dict(name="baseline"),
    dict(name="mixing first only", mixing="first_only"),
    dict(name="mixing last only", mixing="last_only"),
    dict(name="no mixing", mixing="none"),
    dict(name="one noise", draws="one"),
    dict(name="only x0 mixed", mixed="x0"),
    dict(name="unaligned", aligned=False),
    dict(name="necks aligned", aligned="necks"),
    dict(name="margin 3", margin=3),
    dict(name="margin 8", margin=8),
    dict(name="photo kept", preserve="photo"),
)


def get_config() -> ConfigDict:
    """The rows; DPM-Solver++ with 10 calls unless they say otherwise."""
    config = ConfigDict()
    baseline: dict[str, Any] = dict(weights="ldm", solver="dpmpp", steps=10)
    calls = [
        dict(name=f"{solver} {steps}", solver=solver, steps=steps)
        for solver in SOLVERS
        for steps in CALLS
        if (solver, steps) != (baseline["solver"], baseline["steps"])
    ]
    config.rows = [baseline | row for row in (*ROWS, *calls)]
    return config
