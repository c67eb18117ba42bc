"""Semantic mixing: what is known stays exact, what is not is generated, each sample on its own."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hsd_jax.diffusion.conditioning import predictor
from hsd_jax.diffusion.fusion import Progress, fuse, fuse_step, step_times
from hsd_jax.diffusion.schedule import Schedule, denoiser, timesteps
from hsd_jax.diffusion.solvers import SOLVERS, fold_keys, normal
from hsd_jax.models import forms
from hsd_jax.models.unet import UNet

SCHEDULE = Schedule()
SHAPE = (3, 6, 4, 2)
KEYS = jax.random.split(jax.random.key(3), 3)
NAMES = sorted(SOLVERS)


class Regions(NamedTuple):
    head: Any
    body: Any
    rest: Any


def network(z, t):
    """Couples neighbours, so that the free region sees the known ones."""
    t = t[:, None, None, None].astype(jnp.float32)
    near = jnp.roll(z, 1, axis=1) + jnp.roll(z, -1, axis=1)
    return (0.6 * z + 0.2 * near) * t / (t + 1)


DENOISE = denoiser(network, SCHEDULE)
STATIC = ("solver", "num_steps", "mixing", "mixed", "draws", "keep")
FUSE = jax.jit(partial(fuse, DENOISE, SCHEDULE), static_argnames=STATIC)


def rows(head, body):
    """Masks by rows of the six: the first `head`, the last `body`, the rest between."""
    index = np.broadcast_to(np.arange(6)[None, :, None, None], (3, 6, 4, 1))
    first = (index < head).astype(np.float32)
    last = (index >= 6 - body).astype(np.float32)
    return Regions(first, last, 1 - first - last)


MASKS = rows(2, 2)
Z_HEAD, Z_BODY, JUNK = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)


@jax.jit
def drawn(number):
    """0: z_T as the samples' keys give it; 2 i + 1: the noise of the mixing before step i."""
    return normal(fold_keys(KEYS, number), SHAPE[1:])


NOISE = drawn(0)


def run(z_head, z_body, masks, keys, noise=NOISE, solver="dpmpp", mixing="every"):
    """(z0, history) of four steps; always the same arguments, so that tests share programs."""
    noise = noise[: len(z_head)]
    options = {"solver": solver, "num_steps": 4, "mixing": mixing, "keep": True}
    return FUSE(z_head, z_body, masks, keys, noise=noise, **options)


def reference(num_steps):
    """Algorithm 1, lines 3 to 5, with CompVis's deterministic DDIM: a float64 Python loop."""
    ab = SCHEDULE.alpha_bar
    t = timesteps(SCHEDULE, num_steps)
    before = np.append(ab[0], ab[t[:-1]])
    z = np.asarray(NOISE, np.float64)
    for i, (now, prev) in enumerate(zip(t[::-1], before[::-1], strict=True)):
        fresh = np.asarray(drawn(2 * i + 1), np.float64)
        noisy_head = np.sqrt(ab[now]) * Z_HEAD + np.sqrt(1 - ab[now]) * fresh
        noisy_body = np.sqrt(ab[now]) * Z_BODY + np.sqrt(1 - ab[now]) * fresh
        z = noisy_head * MASKS.head + noisy_body * MASKS.body + z * MASKS.rest
        eps = 0.6 * z + 0.2 * (np.roll(z, 1, axis=1) + np.roll(z, -1, axis=1))
        eps = eps * now / (now + 1)
        x0 = (z - np.sqrt(1 - ab[now]) * eps) / np.sqrt(ab[now])
        z = np.sqrt(prev) * x0 + np.sqrt(1 - prev) * eps
    return Z_HEAD * MASKS.head + Z_BODY * MASKS.body + z * MASKS.rest


def test_is_algorithm_1_as_a_loop():
    z, _ = run(Z_HEAD, Z_BODY, MASKS, KEYS, solver="ddim")
    want = reference(4)
    np.testing.assert_allclose(z, want, atol=2e-5 * np.abs(want).max())
    # The float64 loop's own sum, rounded.
    assert np.abs(want).sum() == pytest.approx(214.205864, rel=1e-5)


@pytest.mark.parametrize("solver", NAMES)
def test_known_regions_are_exact_and_the_rest_sees_both(solver):
    z, history = run(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver)
    assert history.shape == (4, *SHAPE) and np.all(np.isfinite(history))
    for latents in (z, *history):
        np.testing.assert_array_equal(latents[:, :2], Z_HEAD[:, :2])
        np.testing.assert_array_equal(latents[:, 4:], Z_BODY[:, 4:])
    for pair in ((JUNK, Z_BODY), (Z_HEAD, JUNK)):
        other, _ = run(*pair, MASKS, KEYS, solver=solver)
        assert np.abs(other - z)[:, 2:4].max() > 1e-3


@pytest.mark.parametrize("solver", NAMES)
def test_a_batch_is_its_pairs(solver):
    batch, _ = run(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver)
    for i in range(3):
        pick = slice(i, i + 1)
        masks = Regions(*(mask[pick] for mask in MASKS))
        one, _ = run(Z_HEAD[pick], Z_BODY[pick], masks, KEYS[pick], NOISE[pick], solver=solver)
        np.testing.assert_allclose(batch[pick], one, rtol=1e-6, atol=1e-6 * np.abs(batch).max())


def test_a_full_mask_gives_its_source():
    for masks, want in ((rows(6, 0), Z_HEAD), (rows(0, 6), Z_BODY)):
        z, _ = run(Z_HEAD, Z_BODY, masks, KEYS)
        np.testing.assert_array_equal(z, want)


def test_what_lies_outside_the_masks_has_no_influence():
    z, _ = run(Z_HEAD, Z_BODY, MASKS, KEYS)
    head = np.where(MASKS.head > 0, Z_HEAD, JUNK)
    body = np.where(MASKS.body > 0, Z_BODY, -JUNK)
    np.testing.assert_array_equal(z, run(head, body, MASKS, KEYS)[0])


@pytest.mark.parametrize("solver", NAMES)
def test_step_by_step_it_is_the_same_fusion(solver):
    z, history = run(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver)
    options = {"solver": solver, "num_steps": 4}
    step = jax.jit(partial(fuse_step, DENOISE, SCHEDULE, **options))
    state = Progress(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32))
    for index, x0 in enumerate(history):
        state = step(Z_HEAD, Z_BODY, MASKS, KEYS, state, np.int32(index))
        np.testing.assert_allclose(state.x0, x0, atol=2e-5)
    np.testing.assert_allclose(state.z, z, atol=2e-5)
    np.testing.assert_array_equal(state.z[:, :2], Z_HEAD[:, :2])


def test_noise_and_history_are_there_only_when_asked_for():
    z, _ = run(Z_HEAD, Z_BODY, MASKS, KEYS)
    # The given noise was the one that the keys give.
    plain = FUSE(Z_HEAD, Z_BODY, MASKS, KEYS, num_steps=4)
    np.testing.assert_allclose(plain, z, rtol=1e-5, atol=1e-5)


def test_a_sample_follows_from_its_key_and_its_noise():
    z_head, z_body, noise = (np.repeat(z[:1], 3, axis=0) for z in (Z_HEAD, Z_BODY, NOISE))
    keys = KEYS[jnp.array([0, 1, 0])]
    z, _ = run(z_head, z_body, MASKS, keys, noise)
    np.testing.assert_array_equal(z[0], z[2])
    assert np.abs(z[0] - z[1])[2:4].max() > 1e-3
    # With nothing known, a deterministic solver leaves all to the noise.
    z, _ = run(z_head, z_body, rows(0, 0), keys, noise)
    np.testing.assert_array_equal(z[0], z[1])
    other, _ = run(z_head, z_body, rows(0, 0), keys, JUNK)
    assert np.abs(other - z).max() > 1e-3


def test_ablations_of_mixing_switch_it_where_they_say():
    every, _ = run(Z_HEAD, Z_BODY, MASKS, KEYS)
    first, first_x0 = run(Z_HEAD, Z_BODY, MASKS, KEYS, mixing="first_only")
    last, last_x0 = run(Z_HEAD, Z_BODY, MASKS, KEYS, mixing="last_only")
    none, none_x0 = run(Z_HEAD, Z_BODY, MASKS, KEYS, mixing="none")
    # "none" never sees the sources; "last_only" is the same sample with the sources put in.
    np.testing.assert_array_equal(none, run(JUNK, JUNK, MASKS, KEYS, mixing="none")[0])
    np.testing.assert_allclose(last_x0, none_x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last[:, 2:4], none[:, 2:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(last[:, :2], Z_HEAD[:, :2])
    np.testing.assert_array_equal(last[:, 4:], Z_BODY[:, 4:])
    # "first_only" begins as "every" does and ends without a last mix.
    np.testing.assert_array_equal(first_x0[0, :, :2], Z_HEAD[:, :2])
    assert np.abs(first_x0[1, :, :2] - Z_HEAD[:, :2]).max() > 1e-3
    assert np.abs(first[:, :2] - Z_HEAD[:, :2]).max() > 1e-3
    assert np.abs(first[:, 2:4] - every[:, 2:4]).max() > 1e-3


def test_compiles_once_a_shape():
    calls = []

    def counted(z, t):
        calls.append(z.shape)
        return network(z, t)

    once = jax.jit(partial(fuse, denoiser(counted, SCHEDULE), SCHEDULE), static_argnames=STATIC)
    for seed, masks in enumerate((MASKS, rows(1, 3), rows(0, 0))):
        keys = jax.random.split(jax.random.key(seed), 3)
        once(seed * Z_HEAD, Z_BODY, masks, keys, num_steps=4)
    assert calls == [SHAPE]


def test_few_multistep_steps_fill_in_as_many_small_ones_do():
    """Two correlated values, x known: y as found by 15 steps of 2M and by 250 of DDIM.

    Data (x, y) ~ N(0, [[1, c], [c, 1]]) with the ideal denoiser. The common limit is the method's:
    replacing the known region is no exact conditioning (which would give y the mean c x).
    """
    c, x = 0.9, 1.5
    cov = jnp.array([[1, c], [c, 1]], jnp.float32)

    def ideal(z, t):
        a = jnp.asarray(SCHEDULE.alpha_bar, jnp.float32)[t[0]]
        gain = jnp.sqrt(a) * cov @ jnp.linalg.inv(a * cov + (1 - a) * jnp.eye(2))
        return jnp.einsum("ij,bhjc->bhic", gain, z)

    known = np.zeros((2, 4096, 2, 1), np.float32)
    known[:, :, 0] = 1
    masks = Regions(known, np.zeros_like(known), 1 - known)
    fill = jax.jit(partial(fuse, denoiser(ideal, SCHEDULE, "x0"), SCHEDULE), static_argnames=STATIC)
    multistep, small = (
        np.asarray(fill(x * known, known, masks, KEYS[:2], solver=name, num_steps=steps))[:, :, 1]
        for name, steps in (("dpmpp", 15), ("ddim", 250))
    )
    # The standard error of either mean is 0.007; without mixing the mean would be 0, the spread 1.
    assert 0.6 < small.mean() < c * x and small.std() < 0.7
    assert abs(multistep.mean() - small.mean()) < 0.04
    assert abs(multistep.std() - small.std()) < 0.06


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_body": Z_BODY[:2]}, "z_body is"),
        ({"noise": Z_HEAD[:2]}, "noise is"),
        ({"masks": MASKS._replace(rest=MASKS.rest[..., 0])}, "masks.rest is"),
        ({"keys": KEYS[:2]}, "one typed key per sample"),
        ({"keys": KEYS[0]}, "one typed key per sample"),
        ({"keys": np.zeros(3, np.uint32)}, "one typed key per sample"),
        ({"solver": "euler"}, "unknown solver 'euler'"),
        ({"mixing": "twice"}, "unknown mixing 'twice'"),
        ({"mixed": "eps"}, "unknown mixed 'eps'"),
        ({"draws": "two"}, "unknown draws 'two'"),
        ({"num_steps": 1}, "1 steps"),
    ],
)
@pytest.mark.untyped
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments: dict[str, Any] = {"z_head": Z_HEAD, "z_body": Z_BODY, "masks": MASKS, "keys": KEYS}
    with pytest.raises(ValueError, match=message):
        fuse(DENOISE, SCHEDULE, **(arguments | change))


# With a network whose parts that no step changes are computed before the scan


NET = UNet(out_channels=2, model_channels=64, channel_mult=(1,), num_res_blocks=1, num_heads=2)
CONDITION = jnp.asarray(np.random.default_rng(2).normal(size=(8, 8, 8, 3)), jnp.float32)
PARAMS = jax.eval_shape(
    lambda: NET.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)), jnp.zeros(1), CONDITION[:1])
)["params"]
PARAMS = jax.tree.map(
    lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32) / 20, PARAMS
)


def sample(params, s, z, masks, keys, bound=True, num_steps=8):
    times = step_times(SCHEDULE, "dpmpp", num_steps) if bound else None
    denoise = denoiser(predictor(NET, params, s, times), SCHEDULE)
    return fuse(denoise, SCHEDULE, z[0], z[1], masks, keys, num_steps=num_steps)


def sample_inputs():
    z = np.random.default_rng(3).normal(size=(2, 8, 8, 8, 2)).astype(np.float32)
    known = (np.arange(8) < 4).astype(np.float32)[None, :, None, None] * np.ones((8, 1, 8, 1))
    masks = Regions(*(x.astype(np.float32) for x in (known, 0 * known, 1 - known)))
    return PARAMS, CONDITION, z, masks, jax.random.split(jax.random.key(0), 8)


WORK = {"dot_general", "conv_general_dilated", "exp", "logistic", "sin", "cos", "add", "mul", "sub"}


def invariant_work(jaxpr, varies):
    """Names of the larger operations whose inputs are the same at every step, and what varies."""
    known, found = dict(zip(jaxpr.invars, varies, strict=True)), []
    for eqn in jaxpr.eqns:
        inputs = [not isinstance(x, Literal) and known.get(x, False) for x in eqn.invars]
        inner = [x for x in eqn.params.values() if isinstance(x, Jaxpr | ClosedJaxpr)]
        inner = [getattr(x, "jaxpr", x) for x in inner]
        inner = [x for x in inner if len(x.invars) == len(inputs)]
        if inner:
            more, outputs = invariant_work(inner[0], inputs)
            found += more
        else:
            outputs = [any(inputs)] * len(eqn.outvars)
            size = max((x.aval.size for x in eqn.outvars), default=0)
            if eqn.primitive.name in WORK and size > 100 and not any(inputs):
                found.append(eqn.primitive.name)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return found, [not isinstance(x, Literal) and known.get(x, False) for x in jaxpr.outvars]


@pytest.mark.parametrize("bound", [True, False])
def test_the_scan_computes_nothing_that_no_step_changes(bound):
    with forms.always("f2"):
        jaxpr = jax.make_jaxpr(partial(sample, bound=bound))(*sample_inputs())
    (scan,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    params = scan.params  # how many inputs are constants, by jax below 0.12 or from there on
    consts = params["num_consts"] if "num_consts" in params else len(params["ft_in"].unpack()[0])
    body = scan.params["jaxpr"].jaxpr
    varies = [i >= consts for i in range(len(body.invars))]
    found, _ = invariant_work(body, varies)
    # Without: the kernels' transforms, for one, so the search does see such work.
    assert (found == []) == bound, found


def test_a_batch_of_pairs_shares_nothing_over_the_devices():
    """Eight pairs on eight devices: no collective anywhere, and what one device gives."""
    arguments = sample_inputs()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    pairs = NamedSharding(mesh, PartitionSpec(None, "data"))
    run = jax.jit(sample, in_shardings=(whole, split, pairs, split, split), out_shardings=split)
    compiled = run.lower(*arguments).compile()
    words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    text = compiled.as_text()
    assert "while" in text and not [word for word in words if word in text]
    together = run(*arguments)
    plain = jax.jit(partial(sample, bound=False))(*arguments)
    np.testing.assert_allclose(together, plain, atol=1e-5 * float(jnp.abs(plain).max()))


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("options", [{"mixed": "x0"}, {"draws": "one"}])
def test_what_is_mixed_changes_the_rest_alone(solver, options):
    z = FUSE(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver, num_steps=4, **options)
    plain = FUSE(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver, num_steps=4)
    np.testing.assert_array_equal(z[:, :2], Z_HEAD[:, :2])
    np.testing.assert_array_equal(z[:, 4:], Z_BODY[:, 4:])
    assert np.abs(z - plain)[:, 2:4].max() > 1e-3
    # With nothing known there is nothing to mix.
    free = [
        FUSE(Z_HEAD, Z_BODY, rows(0, 0), KEYS, solver=solver, num_steps=4, **some)
        for some in (options, {})
    ]
    np.testing.assert_allclose(*free, rtol=1e-6, atol=1e-6 * np.abs(free[0]).max())


@pytest.mark.parametrize("solver", NAMES)
def test_mixing_x0_too_does_not_change_the_papers_result(solver):
    alone, both = (
        FUSE(Z_HEAD, Z_BODY, MASKS, KEYS, solver=solver, num_steps=4, mixed=mixed)
        for mixed in ("z", "both")
    )
    np.testing.assert_allclose(alone, both, rtol=1e-5, atol=1e-5 * np.abs(both).max())


def test_one_noise_is_that_of_the_first_state():
    seen = []

    def watching(z, t):
        seen.append((z, t))
        return network(z, t)

    with jax.disable_jit():
        fuse(
            denoiser(watching, SCHEDULE), SCHEDULE, jnp.asarray(Z_HEAD), jnp.asarray(Z_BODY),
            Regions(*map(jnp.asarray, MASKS)), KEYS,
            solver="ddim", num_steps=3, draws="one", noise=NOISE,
        )  # fmt: skip
    assert len(seen) == 3
    for z, t in seen:
        ab = SCHEDULE.alpha_bar[int(t[0])]
        want = np.sqrt(ab) * Z_HEAD[:, :2] + np.sqrt(1 - ab) * NOISE[:, :2]
        np.testing.assert_allclose(z[:, :2], want, rtol=1e-4, atol=1e-5)
