"""How the full-size networks lie on eight devices: every array that is split, and along which axis.

`python tests/test_partitions.py` writes the golden file anew; look at its difference before you
keep it, for runs that are going on will be laid out so.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shhq256
from hsd_jax.training.loop import DEFAULTS, Training
from hsd_jax.training.parallel import AXES, make_parallel
from hsd_jax.training.tasks import make_task

GOLDEN = Path(__file__).parent / "partitions.json"
FSDP = 8


def state_of(part: str, folder: Path):
    """Shapes and shardings of a run's whole state."""
    config = shhq256.get_config(part).to_dict()
    if part == "diffusion":
        (folder / "stats.json").write_text(json.dumps({"mean": [0.0] * 3, "std": [1.0] * 3}))
        config["data"]["latents"] = str(folder)
    config = {**DEFAULTS, **config, "mesh": {"data": 1, "fsdp": FSDP}}
    training = Training(config, make_task(config), make_parallel(config))
    return training.parallel.abstract(training.create)


def lines_of(tree) -> dict[str, str]:
    """Path -> shape, the axis that is split in brackets; for arrays that are split."""
    lines = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        spec = leaf.sharding.spec
        if any(spec):
            sizes = [f"[{n}]" if i < len(spec) and spec[i] else str(n)
                     for i, n in enumerate(leaf.shape)]  # fmt: skip
            lines["/".join(str(key.key) for key in path)] = " ".join(sizes)
    return lines


def share(tree) -> float:
    """Bytes that a device holds, of those that there are."""
    leaves = jax.tree.leaves(tree)
    held = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
               for leaf in leaves)  # fmt: skip
    return float(held / sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))


@pytest.mark.parametrize("part", shhq256.PARTS)
def test_the_full_size_nets_lie_as_they_did(part: str, tmp_path: Path):
    state = state_of(part, tmp_path)
    wanted = json.loads(GOLDEN.read_text())[part]
    assert lines_of(state.params) == wanted
    # Averages and both moments lie as their parameters do.
    assert lines_of(state.ema) == wanted
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    specs = [leaf.sharding.spec for leaf in jax.tree.leaves(state.params)]
    assert [leaf.sharding.spec for leaf in moments] == 2 * specs
    # What is copied is little: an eighth would be 0.125.
    assert share(state) < (0.15 if part != "parser" else 0.2)


def test_only_the_axis_fsdp_splits(tmp_path: Path):
    state = state_of("parser", tmp_path)
    names = {name for leaf in jax.tree.leaves(state) for name in leaf.sharding.spec if name}
    assert names == {AXES[1]}
    assert state.step.dtype == jnp.int32 and not any(state.step.sharding.spec)


if __name__ == "__main__":
    import tempfile

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", FSDP)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as folder:
        found = {part: lines_of(state_of(part, Path(folder)).params) for part in shhq256.PARTS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
