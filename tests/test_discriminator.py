import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsd_jax.models import discriminator as d
from hsd_jax.models.norm import merge_stats

pytestmark = pytest.mark.usefixtures("quick_compiles")


def trainable(module, channels):
    tree = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, channels)))
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return sum(v.size for path, v in leaves if path[-1].key not in ("mean", "var"))


@pytest.mark.parametrize(
    "norm, channels, count",
    [
        # pix2pix prints 2.769 M for six channels with batch norm, CycleGAN 2.765 M for three with
        # biases in place of affine norms.
        ("batch", 6, 2_768_705),
        ("batch", 3, 2_765_633),
        ("none", 3, 2_764_737),
        ("group", 3, 2_765_633),
    ],
)
def test_parameter_count(norm, channels, count):
    assert trainable(d.PatchDiscriminator(norm=norm), channels) == count


@pytest.mark.parametrize("n_layers, field", [(1, 16), (3, 70)])
def test_receptive_field(n_layers, field):
    net = d.PatchDiscriminator(ndf=1, n_layers=n_layers, norm="none")
    x = jnp.ones((1, 96, 96, 1))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    params = jax.tree.map(lambda v: jnp.ones(v.shape), shapes)

    def middle(x):
        logits = net.apply(params, x)
        return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

    gradient = np.asarray(jax.jit(jax.grad(middle))(x))[0, :, :, 0]
    rows, columns = (np.flatnonzero(gradient.any(axis)) for axis in (1, 0))
    assert len(rows) == len(columns) == field
    assert rows[-1] - rows[0] + 1 == field


def test_output_shape_and_type():
    for size, logits in ((256, 30), (128, 14)):
        net = d.PatchDiscriminator(ndf=4, dtype=jnp.bfloat16)
        out = jax.eval_shape(
            lambda net=net, size=size: net.init_with_output(
                jax.random.key(0), jnp.zeros((2, size, size, 9))
            )[0]
        )
        assert out.shape == (2, logits, logits, 1) and out.dtype == jnp.float32


def test_batch_statistics_return_to_params():
    net = d.PatchDiscriminator(ndf=2, n_layers=1)
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    params = jax.jit(net.init)(jax.random.key(1), x)["params"]
    _, new = net.apply({"params": params}, x, train=True, mutable=["stats"])
    assert set(new["stats"]) == {"norm1"}
    merged = merge_stats(params, new["stats"])
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert not np.allclose(merged["norm1"]["var"], params["norm1"]["var"])


def test_losses_by_hand():
    real, fake = jnp.array([2.0, 0.0]), jnp.array([-3.0, 1.0])
    assert d.hinge_d(real, fake) == 0.5 * (0.5 + 1.0)
    assert d.hinge_g(fake) == 1.0
    assert d.lsgan_d(real, fake) == 0.5 * (1.0 + 5.0)
    assert d.lsgan_g(fake) == 8.0
