"""The first stage's losses: CompVis' numbers, from gradients taken one by one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs.shhq256 import get_config
from hsd_jax.convert.perceptual import names_table
from hsd_jax.convert.tensors import param_shapes, torch_shape
from hsd_jax.models import apply
from hsd_jax.models.autoencoder import Autoencoder
from hsd_jax.models.discriminator import PatchDiscriminator, hinge_d, hinge_g
from hsd_jax.models.perceptual import LPIPS
from hsd_jax.training.reconstruction import detail_loss, sharpness
from hsd_jax.training.rng import per_example
from hsd_jax.training.tasks import make_task
from hsd_jax.training.tasks.autoencoder import sample_latents

BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)),
    "index": jnp.arange(2, dtype=jnp.int32),
}
KEY = jax.random.key(3)


pytestmark = pytest.mark.usefixtures("quick_compiles")


def tiny(**loss) -> dict:
    config = get_config("autoencoder").to_dict()
    config["model"] = dict(
        kind="vq", ch=8, ch_mult=(1,), patch=4, num_res_blocks=1, n_embed=16, mid_attention=False,
        num_groups=2,
    )
    config["discriminator"] = dict(ndf=4, n_layers=1, norm="batch")
    config["loss"] |= loss
    return config


def norm(tree) -> float:
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


def close(got, wanted, rtol: float):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def test_each_net_moves_by_its_own_terms_and_the_generators_is_weighed():
    config = tiny(disc_start=5, disc_factor=0.5, detail=0.3)
    task = make_task(config)
    params = jax.jit(task.init)(jax.random.key(0))
    model, critic = Autoencoder(**config["model"]), PatchDiscriminator(**config["discriminator"])
    x = jnp.asarray(BATCH["image"], jnp.float32) / 127.5 - 1

    def logits(critic_params, image):
        return apply(critic, critic_params, image, train=True)

    @jax.jit
    def one_by_one(params):
        """Gradients of the reconstruction's, generator's, regulariser's, discriminator's losses."""

        def picture(net):
            z, regulariser = sample_latents(model, net, x, per_example(KEY, BATCH))
            return apply(model, net, z, True, method="decode"), regulariser

        (y, _), pull = jax.vjp(picture, params["autoencoder"])
        of_pictures = (
            lambda y: jnp.mean(jnp.abs(x - y)) + 0.3 * detail_loss(x, y),
            lambda y: hinge_g(logits(params["discriminator"], y)),
        )
        of_net = [pull((jax.grad(f)(y), jnp.zeros(())))[0] for f in of_pictures]
        of_net.append(pull((jnp.zeros_like(y), jnp.ones(())))[0])
        of_d = jax.grad(lambda p: hinge_d(logits(p, x), logits(p, y)))(params["discriminator"])
        return *of_net, of_d

    of_nll, of_g, of_rest, of_d = one_by_one(params)
    last = [tree["decoder"]["conv_out"]["kernel"] for tree in (of_nll, of_g)]
    weight = 0.75 * 0.5 * norm(last[0]) / (norm(last[1]) + 1e-4)
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))

    got, aux = gradient(params, BATCH, KEY, jnp.int32(5))
    np.testing.assert_allclose(aux.metrics["adaptive"], weight, rtol=1e-4)
    wanted = jax.tree.map(lambda a, b, c: a + weight * b + c, of_nll, of_g, of_rest)
    close(got["autoencoder"], wanted, 1e-3)
    close(got["discriminator"], jax.tree.map(lambda b: 0.5 * b, of_d), 1e-4)

    early, aux = gradient(params, BATCH, KEY, jnp.int32(4))  # before disc_start
    assert float(aux.metrics["adaptive"]) == 0 == norm(early["discriminator"])
    close(early["autoencoder"], jax.tree.map(jnp.add, of_nll, of_rest), 1e-4)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS in a random AlexNet, as a file."""
    rng, module = np.random.default_rng(0), LPIPS("alexnet")
    shapes = param_shapes(module, (1, 64, 64, 3), (1, 64, 64, 3))
    state = {}
    for name, leaf in names_table(module, True).items():
        shape = torch_shape(leaf, shapes[leaf.path])
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        state[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
        if name.startswith("lin"):
            state[name] = np.abs(state[name])
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(state, path)
    return path


def test_lpips_from_a_file_takes_the_stand_ins_place(weights_file: Path):
    task = make_task(tiny(perceptual=str(weights_file), perceptual_weight=2.0, disc_weight=0.0))
    assert task.note == ""
    params = jax.jit(task.init)(jax.random.key(0))
    assert set(params) == {"autoencoder"}  # its weights are no part of the run's state
    value, aux = jax.jit(task.loss)(params, BATCH, KEY, jnp.int32(0))
    parts = {name: float(metric) for name, metric in aux.metrics.items()}
    assert set(parts) == {"loss", "l1", "perceptual", "regulariser"} and parts["perceptual"] > 0
    wanted = parts["l1"] + 2 * parts["perceptual"] + parts["regulariser"]
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    found = jax.eval_shape(task.evaluate, params, BATCH | {"mask": np.float32([1, 0])}, KEY)
    assert set(found) == {"psnr", "lpips", "sharpness"}


def test_a_program_holds_lpips_once(weights_file: Path):
    task = make_task(tiny(perceptual=str(weights_file)))
    params = jax.eval_shape(task.init, jax.random.key(0))
    step = jax.jit(jax.grad(lambda *given: task.loss(*given)[0]))
    text = step.lower(params, BATCH, KEY, jnp.int32(0)).as_text()
    kernel = [line for line in text.splitlines() if "tensor<3x3x256x256xf32>" in line]
    assert sum("constant dense" in line for line in kernel) == 1


def test_without_a_file_it_says_so(tmp_path: Path):
    assert "loss.detail" in make_task(tiny()).note
    with pytest.raises(ValueError, match="no such file"):
        make_task(tiny(perceptual=str(tmp_path / "absent.pth")))


def test_sharpness_is_the_spread_of_second_differences():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 16, 16, 3)).astype(np.float32))
    ramp = jnp.linspace(-1, 1, 16)[None, :, None, None]  # its Laplacian is 0
    np.testing.assert_allclose(sharpness(x, x + ramp), 1, rtol=1e-4)
    np.testing.assert_allclose(sharpness(x, 0.3 * x), 0.3, rtol=1e-4)
    blurred = (x + jnp.roll(x, 1, 1) + jnp.roll(x, 1, 2)) / 3
    assert (sharpness(x, blurred) < 0.8).all()
