"""Table 3 in small: the three LDMs of configs/ablations.py, with three seeds each.

    python -m hsd_jax.train --config configs/ablations.py:small_plain \\
        --sweep configs/sweeps/table3.py --workdir runs/table3

The config gives what the three share. Indices 0 to 2 are the first seed's plain, cover and
cover_no_neck, 3 to 5 the second's, so that the first three already make a table.
"""

from typing import Any

LDMS = {"plain": (0.0, False), "cover": (1.0, False), "cover_no_neck": (1.0, True)}
SEEDS = (0, 1, 2)


def get_sweep() -> list[dict[str, Any]]:
    """The overrides of each run."""
    return [
        {"seed": seed, "data.cover": cover, "data.remove_neck": remove_neck}
        for seed in SEEDS
        for cover, remove_neck in LDMS.values()
    ]
