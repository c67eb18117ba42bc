"""What the formats share: tables from PyTorch's names to flax paths, and strict reading by them.

A table names every tensor of a network once; what it does not name is refused, in either direction.
PyTorch keeps convolutions as [out, in, height, width] and dense layers as [out, in]; flax has
[height, width, in, out] and [in, out]. Values are copied bit for bit, to float32. Settings that are
not understood are refused by name and value.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_CONV_RANK = {"conv": 4, "conv1d": 3, "dense_as_conv": 2}

Shape = tuple[int, ...]


class Share(NamedTuple):
    """Which output channels of a leaf a tensor is, where several tensors make one leaf.

    The leaf's last axis is viewed as [blocks, count, rest]; the tensor is `[:, index]` of it. So
    with count 3 the query of a joint qkv is index 0, and blocks is 1 where q, k and v follow one
    another, or the number of heads where each head has its own q, k and v.
    """

    index: int
    count: int
    blocks: int = 1


class Leaf(NamedTuple):
    """Where a tensor goes.

    Attributes:
      path: slash-joined flax path, "mid/block_1/conv1/kernel".
      kind: how it is laid out in torch: "conv" [O, I, H, W] and "conv1d" [O, I, 1] and
        "dense_as_conv" [O, I], all to [H, W, I, O]; "dense" [O, I] to [I, O]; "as_is".
      share: None for the whole leaf.
    """

    path: str
    kind: str
    share: Share | None = None


Table = dict[str, Leaf]


def make_table(
    shapes: Mapping[str, Shape],
    rename: Callable[[str], str],
    kinds: Mapping[str, str] | None = None,
) -> Table:
    """A table by rule, for names that follow the paths; a kernel of two axes is a dense layer's.

    Args:
      shapes: of the parameters, by path.
      rename: path -> torch's name, but with slashes and flax's word for the leaf.
      kinds: of kernels that are no plain convolutions, by the last part of their layer's path.
    """
    table = {}
    for path, shape in shapes.items():
        *parents, leaf = rename(path).split("/")
        layer = path.split("/")[-2:][0]
        kind = "as_is"
        if leaf == "kernel":
            kind = "dense" if len(shape) == 2 else (kinds or {}).get(layer, "conv")
        table[".".join([*parents, _LEAVES.get(leaf, leaf)])] = Leaf(path, kind)
    return table


def param_shapes(module: nn.Module, *inputs: Any, **options: Any) -> dict[str, Shape]:
    """Shapes of a module's parameters by path, without making any.

    A tuple of int among `inputs` stands for float32 zeros of that shape.
    """
    made = [jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x for x in inputs]

    def init(key: jax.Array, *given: Any) -> Any:
        return module.init(key, *given, **options)

    tree = jax.eval_shape(init, jax.random.key(0), *made)["params"]
    flat: dict[str, Any] = dict(flatten_dict(tree, sep="/"))
    return {path: leaf.shape for path, leaf in flat.items()}


def to_params(
    state: Mapping[str, Any],
    table: Table,
    shapes: Mapping[str, Shape],
    part: str,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """A torch state to flax parameters, tensor by tensor.

    Args:
      state: torch name to array, or to anything with `shape` and `__array__`; each is read once.
      table: where every tensor goes.
      shapes: the module's shapes by path, see `param_shapes`.
      part: what to call the network in errors.
      ignore: regular expressions of whole names that may be there and are left out.

    Returns:
      Nested dict of float32 numpy arrays.

    Raises:
      ValueError: a tensor is missing, extra, of another shape, or not of floats.
    """
    _check_names(state, table, shapes, part, ignore)
    for name, leaf in table.items():
        needed, given = torch_shape(leaf, shapes[leaf.path]), tuple(state[name].shape)
        if given != needed:
            raise ValueError(
                f"{part}: tensor {name!r} is {list(given)}, this network needs {list(needed)}: "
                "the checkpoint or the configuration is another network's"
            )
    flat: dict[str, np.ndarray] = {}
    for name, leaf in table.items():
        _place(flat, leaf, shapes[leaf.path], _floats(state[name], name, part))
    return unflatten_dict(flat, sep="/")


def to_state(params: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """The inverse of `to_params`, bit for bit; types are kept.

    Raises:
      ValueError: `params` and the table do not name the same leaves.
    """
    flat = flatten_dict(params, sep="/")
    paths = {leaf.path for leaf in table.values()}
    if paths != set(flat):
        odd = sorted(paths ^ set(flat))
        raise ValueError(f"parameters and network differ in {_some(odd)}: give the network's own")
    return {name: _to_torch(np.asarray(flat[leaf.path]), leaf) for name, leaf in table.items()}


def torch_shape(leaf: Leaf, shape: Shape) -> Shape:
    """The shape in torch of a tensor whose leaf has `shape` in flax."""
    if leaf.share:
        shape = (*shape[:-1], shape[-1] // leaf.share.count)
    if leaf.kind == "as_is":
        return shape
    if leaf.kind == "dense":
        return shape[::-1]
    height, width, inputs, outputs = shape
    return (outputs, inputs, height, width)[: _CONV_RANK[leaf.kind]]


def _check_names(
    state: Mapping[str, Any],
    table: Table,
    shapes: Mapping[str, Shape],
    part: str,
    ignore: Sequence[str],
) -> None:
    unfed = set(shapes) ^ {leaf.path for leaf in table.values()}
    if unfed:
        raise ValueError(f"{part}: no tensor is known for {_some(sorted(unfed))}")
    missing = [name for name in table if name not in state]
    if missing:
        needed = list(torch_shape(table[missing[0]], shapes[table[missing[0]].path]))
        raise ValueError(
            f"{part}: tensor {_some(missing)} of shape {needed} is missing: "
            "the checkpoint or the configuration is another network's"
        )
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")
    extra = [name for name in state if name not in table and not ignored.fullmatch(name)]
    if extra:
        raise ValueError(
            f"{part}: tensor {_some(extra)} of shape {list(state[extra[0]].shape)} has no place: "
            "the checkpoint or the configuration is another network's"
        )


def _some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def _floats(value: Any, name: str, part: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "biuc":
        raise ValueError(f"{part}: tensor {name!r} holds {array.dtype}, weights are floats")
    return array.astype(np.float32, copy=False)


def _place(flat: dict[str, np.ndarray], leaf: Leaf, shape: Shape, value: np.ndarray) -> None:
    value = _to_flax(value, leaf.kind)
    if leaf.share is None:
        # A copy always: the caller may hold views of a file.
        flat[leaf.path] = np.array(value, np.float32, order="C")
        return
    whole = flat.setdefault(leaf.path, np.empty(shape, np.float32))
    part = _split(whole, leaf.share)[..., leaf.share.index, :]
    part[...] = value.reshape(part.shape)


def _split(leaf: np.ndarray, share: Share) -> np.ndarray:
    """[..., O] viewed as [..., blocks, count, O / (blocks * count)]."""
    return leaf.reshape(*leaf.shape[:-1], share.blocks, share.count, -1)


def _to_flax(value: np.ndarray, kind: str) -> np.ndarray:
    if kind == "as_is":
        return value
    if kind == "dense":
        return value.T
    return value.reshape(value.shape + (1,) * (4 - value.ndim)).transpose(2, 3, 1, 0)


def _to_torch(value: np.ndarray, leaf: Leaf) -> np.ndarray:
    if leaf.share:
        value = _split(value, leaf.share)[..., leaf.share.index, :]
        value = value.reshape(*value.shape[:-2], -1)
    if leaf.kind == "dense":
        value = value.T
    elif leaf.kind != "as_is":
        value = value.transpose(3, 2, 0, 1)
        value = value.reshape(value.shape[: _CONV_RANK[leaf.kind]])
    return np.ascontiguousarray(value)


def refuse_others(
    part: str,
    settings: Mapping[str, Any],
    known: Collection[str],
    free: Collection[str],
    fixed: Mapping[str, Any],
) -> None:
    """Raises ValueError for a setting that our network cannot follow.

    `known` settings are read elsewhere, `free` ones change nothing at inference, and of `fixed`
    ones we have one value only.
    """
    for name, value in settings.items():
        if name in known or name in free or name.startswith("_"):
            continue
        if name not in fixed:
            if value is None or value is False:
                continue  # an option that is off
            raise ValueError(f"{part}: the setting {name}={value!r} is not known: no such network")
        if value != fixed[name]:
            raise ValueError(
                f"{part}: {name} is {value!r}, and our network has {fixed[name]!r} only"
            )


def whole(part: str, settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number among settings; ValueError when it is missing or something else."""
    value = settings.get(name)
    value = default if value is None else value
    if type(value) is not int:
        problem = "is missing" if value is None else f"is {value!r}, not a whole number"
        raise ValueError(f"{part}: the setting {name} {problem}")
    return value


def check_fields(module: nn.Module, part: str, **fields: Any) -> None:
    """Raises ValueError for a field that has another value than the only one theirs has."""
    for name, theirs in fields.items():
        if getattr(module, name) != theirs:
            raise ValueError(
                f"{part}: {name} is {getattr(module, name)!r}; there it is always {theirs!r}"
            )


def multiples(widths: Iterable[int], width: int, part: str) -> tuple[int, ...]:
    """Channels a level as multiples of the first convolution's."""
    widths = list(widths)
    if not widths or any(other % width for other in widths):
        raise ValueError(
            f"{part}: its levels have {widths} channels, which are no multiples of the {width} "
            "that it begins with: this is no network that can be represented"
        )
    return tuple(other // width for other in widths)


def count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """1 + the largest number that names have at the pattern's group."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def shape_of(shapes: Mapping[str, Shape], name: str, part: str) -> Shape:
    """The shape of a tensor that must be there, with at least two axes."""
    if name not in shapes:
        raise ValueError(f"{part}: tensor {name!r} is missing")
    if len(shapes[name]) < 2:
        raise ValueError(f"{part}: tensor {name!r} is {list(shapes[name])}: no such network")
    return shapes[name]


def latent_scale(factor: float, channels: int, mean: float = 0.0) -> dict[str, list[float]]:
    """Diffusion runs on (latents - mean) * factor: as the mean and deviation that ours divides by.

    Raises:
      ValueError: the factor is no positive number.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"the scale of the latents is {factor}: it must be positive")
    return {"latent_mean": [mean] * channels, "latent_std": [1 / factor] * channels}
