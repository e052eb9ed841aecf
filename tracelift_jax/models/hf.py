"""Weights in Hugging Face directories, in and out: decoders, and reward models in the layout of the released ones.

Loading streams: one tensor at a time goes from the file to its place and sharding on the mesh, each process reading
only the part that its devices hold. So the host never holds more than about one tensor, whatever the model's size.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tracelift_jax.errors import UserError
from tracelift_jax.models.einsum import quantize_kernel
from tracelift_jax.models.hf_config import ARCHITECTURES, config_json, read_config, read_json
from tracelift_jax.models.hf_layout import Slot, head_shapes, heads_from_files, heads_to_files, slots
from tracelift_jax.models.tensor_files import Tensor, TensorFiles, write_tensors
from tracelift_jax.models.transformer import ModelConfig, abstract_variables
from tracelift_jax.parallel.hosts import first, whole
from tracelift_jax.parallel.mesh import MeshConfig, parameter_shardings

SHARD_BYTES = 4 * 2**30
"""Largest file that `save` writes; a larger model is split."""


@functools.lru_cache(maxsize=256)
def _filler(slot: Slot, dtype: str, int8: bool, tree: Any, shardings: tuple[NamedSharding, ...]) -> Any:
    """Compiled: (stack or None, the file's tensor, layer) to the stack with that layer, or to the parameter."""
    out = jax.tree.unflatten(tree, shardings)

    def value(tensor: Array) -> Any:
        ours = slot.to_ours(tensor)
        return quantize_kernel(ours, slot.contracted) if int8 else ours.astype(dtype)

    def fill(stack: Any, tensor: Array, layer: Array) -> Any:
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=layer, axis=0)
        return jax.tree.map(put, stack, value(tensor))

    if slot.layer is None:
        return jax.jit(lambda _, tensor, layer: value(tensor), out_shardings=out)
    return jax.jit(fill, out_shardings=out, donate_argnums=0)


def _file_sharding(slot: Slot, ours: NamedSharding) -> NamedSharding:
    """How the file's tensor is read so that nearly nothing moves when it becomes ours."""
    spec = list(ours.spec) + [None] * (len(slot.ours) + 1 - len(ours.spec))
    axes = spec[:-1] if slot.layer is None else spec[1:]
    return NamedSharding(ours.mesh, PartitionSpec(*(axes[group[0]] for group in slot.groups)))


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def one_device() -> Mesh:
    """The default device as a mesh."""
    kinds = (AxisType.Auto,) * 3
    return jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), axis_types=kinds, devices=jax.devices()[:1])


def load_params(
    path: str | Path,
    config: ModelConfig,
    mesh: Mesh | None = None,
    layout: MeshConfig | None = None,
    extra: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Parameters of a Hugging Face directory on the mesh, layers stacked on a leading axis.

    Args:
        path: the directory. config: its shapes, from `read_config`, with the dtype and kind of weights wanted.
        mesh, layout: the devices and the rules of `parallel.mesh`; None is the default device.
        extra: names of tensors that may be in the files beside the decoder's.

    Raises:
        UserError: a tensor is missing, unexpected or has the wrong shape or dtype, or a file is damaged.
    """
    files, mesh = TensorFiles(Path(path)), mesh or one_device()
    wanted = {slot.name: slot for slot in slots(config)}
    known = set(wanted) | set(extra) | ({"lm_head.weight"} if config.tie_embeddings else set())
    dtypes = {name: files.check(name, slot.shape) for name, slot in wanted.items()}
    for name in sorted(files.names - known):
        if not name.endswith(".rotary_emb.inv_freq"):  # a constant that old checkpoints carry
            raise UserError(f"{files.where}: tensor {name!r} is not expected in a model with this config.json")
    boxed = abstract_variables(config)["params"]
    shardings = parameter_shardings(boxed, mesh, (layout or MeshConfig()).rules)
    shapes = jax.tree.map(lambda x: x.value, boxed, is_leaf=lambda x: hasattr(x, "unbox"))
    tree: dict[str, Any] = {}
    for name, slot in wanted.items():
        sharding, shape = _leaf(shardings, slot.path), _leaf(shapes, slot.path)
        if slot.layer == 0:
            _set(tree, slot.path, _zeros(shape, sharding))
        leaves, structure = jax.tree.flatten(sharding)
        read: Any = functools.partial(files.read, name, dtypes[name], slot.shape)
        tensor = jax.make_array_from_callback(slot.shape, _file_sharding(slot, leaves[0]), read)
        tensor.block_until_ready()  # copies to a device are asynchronous, and hold their source on the host till then
        int8 = config.weights == "int8" and slot.contracted > 0
        fill = _filler(_plain(slot), config.param_dtype, int8, structure, tuple(leaves))
        stack = None if slot.layer is None else _leaf(tree, slot.path)
        _set(tree, slot.path, fill(stack, tensor, jnp.int32(slot.layer or 0)))
    return tree


def _plain(slot: Slot) -> Slot:
    """The same for all layers, so that one compiled function serves them."""
    return dataclasses.replace(slot, name="", layer=None if slot.layer is None else 0)


def _zeros(shape: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda x, where: jnp.zeros(x.shape, x.dtype, device=where), shape, sharding)


def load(
    path: str | Path, mesh: Mesh | None = None, dtype: str = "float32", layout: MeshConfig | None = None
) -> tuple[ModelConfig, dict[str, Any]]:
    """A decoder (Qwen2/2.5, Qwen3, Llama 3) from a Hugging Face directory.

    Args:
        path: the directory: `config.json` and safetensors in one file or several.
        mesh, layout: where parameters go and how they are split; None is the default device, `MeshConfig()` the rules.
        dtype: what parameters are kept and computed in: "float32", "bfloat16" or "float16".

    Returns:
        Its configuration, and `params` for `Transformer(config)`.

    Raises:
        UserError: as `read_config` and `load_params`.
    """
    kind = cast(Any, dtype)
    config = dataclasses.replace(read_config(path), dtype=kind, param_dtype=kind)
    return config, load_params(path, config, mesh, layout)


def _tensors(params: Any, config: ModelConfig) -> dict[str, Tensor]:
    """All tensors of a decoder, in the order of `slots`."""

    def fetch(slot: Slot, leaf: Any) -> np.ndarray:
        return slot.to_theirs(np.asarray(whole(leaf if slot.layer is None else leaf[slot.layer])))

    leaves = [(slot, _leaf(params, slot.path)) for slot in slots(config)]
    return {s.name: Tensor(s.shape, leaf.dtype, functools.partial(fetch, s, leaf)) for s, leaf in leaves}


def _save(
    path: str | Path,
    tensors: dict[str, Tensor],
    config: ModelConfig,
    architecture: str,
    like: str | Path | None,
    shard_bytes: int,
) -> None:
    if config.weights != "float":
        raise ValueError("int8 weights have no Hugging Face form; dequantize them first")
    path = Path(path)
    known = read_json(Path(like) / "config.json", "") if like else None
    if first():
        path.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, shard_bytes)
    if first():
        (path / "config.json").write_text(json.dumps(config_json(config, architecture, known), indent=2) + "\n")


def save(
    path: str | Path,
    params: Any,
    config: ModelConfig,
    like: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that `transformers` loads as a causal language model, in the dtype of `params`.

    Args:
        like: the directory the model came from: what its config.json says beyond shapes (context length, token ids) is
            kept.
        shard_bytes: largest file; at most that much is held on the host.
    """
    _save(path, _tensors(params, config), config, ARCHITECTURES[config.family], like, shard_bytes)


def save_reward_model(
    path: str | Path,
    params: Any,
    heads: Any,
    config: ModelConfig,
    like: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a reward model: the decoder's `model.*` tensors and the six heads beside them (METHOD)."""
    tensors = {name: t for name, t in _tensors(params, config).items() if name != "lm_head.weight"}
    tensors |= {name: Tensor(w.shape, w.dtype, lambda w=w: w) for name, w in heads_to_files(heads).items()}
    _save(path, tensors, config, "ReasonRewardModel", like, shard_bytes)


def load_reward_model(
    path: str | Path, config: ModelConfig, mesh: Mesh | None = None, layout: MeshConfig | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Decoder parameters on the mesh, and heads on the host, of a reward model directory.

    `config` has no output projection of its own (`tie_embeddings`).

    Raises:
        UserError: as `load_params`; also where a head is missing.
    """
    shapes = head_shapes(config.width)
    params = load_params(path, config, mesh, layout, extra=tuple(shapes))
    files = TensorFiles(Path(path))
    read = {name: files.whole(name, shape) for name, shape in shapes.items()}
    return params, heads_from_files(read)


def merge_lora(params: Any, lora: Any, config: ModelConfig) -> Any:
    """Base parameters with the adapter added in: W + (alpha / rank) A B; the same function, no adapter left.

    Raises:
        ValueError: `config` has no adapter, or the base is int8.
    """
    if config.lora is None:
        raise ValueError("this configuration has no adapter to merge")
    if config.weights != "float":
        raise ValueError("an adapter cannot be merged into int8 weights")
    scale = config.lora.alpha / config.lora.rank

    @jax.jit
    def add(kernel: Any, a: Array, b: Array) -> Array:
        low_rank = a.reshape(len(a), -1, a.shape[-1]) @ b.reshape(len(b), b.shape[1], -1)
        return (kernel + (scale * low_rank).reshape(kernel.shape)).astype(kernel.dtype)

    def merged(base: Any, adapter: Any) -> Any:
        if isinstance(adapter, dict) and set(adapter) == {"a", "b"}:
            return base | {"kernel": add(base["kernel"], adapter["a"], adapter["b"])}
        return {key: merged(base[key], adapter[key]) if key in adapter else base[key] for key in base}

    return merged(params, lora)
