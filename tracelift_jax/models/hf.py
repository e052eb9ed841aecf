"""Qwen2 checkpoints as Hugging Face directories, in and out, and reward models in the layout of the released ones."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from tracelift_jax.errors import UserError
from tracelift_jax.models.rubric import DIMENSIONS, LABELS
from tracelift_jax.models.transformer import ModelConfig

_WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one Hugging Face tensor lives in our tree.

    Attributes:
        path: keys into the parameter tree. layer: index on the stacked axis, or None.
        name, shape: of the tensor in the file.
        to_ours, to_theirs: transpose and reshape, inverse to each other.
    """

    path: tuple[str, ...]
    layer: int | None
    name: str
    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _linear(ours: tuple[int, ...], inputs: int):
    """Shape [out, in] of a linear weight, and both directions; `ours` has `inputs` leading input axes."""
    fan_in, fan_out = math.prod(ours[:inputs]), math.prod(ours[inputs:])
    return (fan_out, fan_in), (lambda w: w.T.reshape(ours)), (lambda w: w.reshape(fan_in, fan_out).T)


def _reshaped(ours: tuple[int, ...]):
    """The same of a bias."""
    return (math.prod(ours),), (lambda w: w.reshape(ours)), (lambda w: w.reshape(-1))


def _same(w: np.ndarray) -> np.ndarray:
    return w


def slots(config: ModelConfig) -> Iterator[Slot]:
    """Every tensor of a decoder with this configuration, names as `transformers` writes them."""
    c = config
    q, kv = (c.width, c.heads, c.head_width), (c.width, c.kv_heads, c.head_width)
    projections = [
        (("attention", "query"), "self_attn.q_proj", q, 1, c.qkv_bias),
        (("attention", "key"), "self_attn.k_proj", kv, 1, c.qkv_bias),
        (("attention", "value"), "self_attn.v_proj", kv, 1, c.qkv_bias),
        (("attention", "out"), "self_attn.o_proj", (c.heads, c.head_width, c.width), 2, False),
        (("mlp", "gate"), "mlp.gate_proj", (c.width, c.ff_width), 1, False),
        (("mlp", "up"), "mlp.up_proj", (c.width, c.ff_width), 1, False),
        (("mlp", "down"), "mlp.down_proj", (c.ff_width, c.width), 1, False),
    ]
    norms = [("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")]
    table, scale = (c.vocab_size, c.width), (c.width,)
    yield Slot(("embedding",), None, "model.embed_tokens.weight", table, _same, _same)
    yield Slot(("final_norm", "scale"), None, "model.norm.weight", scale, _same, _same)
    if not c.tie_embeddings:
        yield Slot(("head",), None, "lm_head.weight", table, np.transpose, np.transpose)
    for layer in range(c.layers):
        prefix = f"model.layers.{layer}."
        for ours, theirs in norms:
            yield Slot(("blocks", ours, "scale"), layer, f"{prefix}{theirs}.weight", scale, _same, _same)
        for path, theirs, shape, inputs, bias in projections:
            yield Slot(("blocks", *path, "kernel"), layer, f"{prefix}{theirs}.weight", *_linear(shape, inputs))
            if bias:
                yield Slot(("blocks", *path, "bias"), layer, f"{prefix}{theirs}.bias", *_reshaped(shape[1:]))


def _size(file: Path, data: dict[str, Any], key: str, default: int | None = None) -> int:
    """A count from config.json; `default` where it is absent or null."""
    value = default if data.get(key) is None else data[key]
    if value is None:
        raise UserError(f"{file}: no {key!r}")
    if type(value) is not int or value < 1:
        raise UserError(f"{file}: {key} must be a whole number above 0, got {value!r}")
    return value


def read_config(path: str | Path) -> ModelConfig:
    """Shapes of the model in a Hugging Face directory.

    Raises:
        UserError: no readable `config.json`, another family than Qwen2, or a feature we do not compute.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a Hugging Face model directory")
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{file}: not a JSON object")
    if data.get("model_type") != "qwen2":
        raise UserError(f"{file}: model_type {data.get('model_type')!r} is not supported; use a qwen2 model")
    if data.get("hidden_act", "silu") != "silu":
        raise UserError(f"{file}: hidden_act {data['hidden_act']!r} is not supported")
    if data.get("use_sliding_window", False):
        raise UserError(f"{file}: sliding window attention is not supported")
    rope = data.get("rope_parameters") or {}
    if data.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise UserError(f"{file}: rope scaling is not supported")
    width, heads = _size(file, data, "hidden_size"), _size(file, data, "num_attention_heads")
    kv_heads = _size(file, data, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise UserError(f"{file}: num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}")
    return ModelConfig(
        vocab_size=_size(file, data, "vocab_size"),
        width=width,
        ff_width=_size(file, data, "intermediate_size"),
        layers=_size(file, data, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=_size(file, data, "head_dim", width // heads),
        rope_theta=float(data.get("rope_theta", rope.get("rope_theta", 10_000.0))),
        norm_eps=float(data.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(data.get("tie_word_embeddings", False)),
    )


def _config_json(config: ModelConfig, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "use_sliding_window": False,
        "torch_dtype": config.param_dtype,
    }


def _open(path: str | Path):
    from safetensors import SafetensorError, safe_open

    file = Path(path) / _WEIGHTS
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        return safe_open(str(file), framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({str(error).splitlines()[0]})") from error


def _leaf(tree: dict, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _read(file, where: Path, name: str, shape: tuple[int, ...], known: set[str]) -> np.ndarray:
    if name not in known:
        raise UserError(f"{where}: tensor {name!r} is missing")
    tensor = file.get_tensor(name)
    if tensor.shape != shape:
        raise UserError(f"{where}: tensor {name!r} has shape {list(tensor.shape)}, config.json says {list(shape)}")
    return tensor


def load(path: str | Path, config: ModelConfig, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parameters of a Hugging Face directory as host arrays, layers stacked on a leading axis.

    Args:
        path: the directory. config: its shapes, from `read_config`; `param_dtype` is what is returned.
        extra: names of tensors that may be in the file beside the decoder's.

    Raises:
        UserError: a tensor is missing, unexpected or has the wrong shape, or the file is damaged.
    """
    file, where = _open(path), Path(path) / _WEIGHTS
    known = set(file.keys())
    tree: dict[str, Any] = {}
    wanted = set(extra)
    for slot in slots(config):
        wanted.add(slot.name)
        value = slot.to_ours(_read(file, where, slot.name, slot.shape, known)).astype(config.param_dtype)
        if slot.layer is None:
            _set(tree, slot.path, value)
        else:
            if slot.layer == 0:
                _set(tree, slot.path, np.empty((config.layers, *value.shape), value.dtype))
            _leaf(tree, slot.path)[slot.layer] = value
    if config.tie_embeddings:
        wanted.add("lm_head.weight")
    for name in sorted(known - wanted):
        raise UserError(f"{where}: tensor {name!r} is not expected in a model with this config.json")
    return tree


def _host(leaf: Array | np.ndarray) -> np.ndarray:
    return np.asarray(jax.device_get(leaf))


def _write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path / _WEIGHTS, metadata={"format": "pt"})


def _tensors(params: dict[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    out = {}
    for slot in slots(config):
        leaf = _host(_leaf(params, slot.path))
        out[slot.name] = slot.to_theirs(leaf if slot.layer is None else leaf[slot.layer])
    return out


def save(path: str | Path, params: dict[str, Any], config: ModelConfig) -> None:
    """Writes `config.json` and `model.safetensors` that `transformers` loads as `Qwen2ForCausalLM`."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(_config_json(config, "Qwen2ForCausalLM"), indent=2) + "\n")
    _write(path, _tensors(params, config))


def _head_names() -> tuple[str, ...]:
    pairs = [f"dimension_heads.{d}" for d in range(DIMENSIONS)] + ["total_head"]
    return tuple(f"{head}.{part}" for head in pairs for part in ("weight", "bias"))


def save_reward_model(path: str | Path, params: dict[str, Any], heads: dict[str, Any], config: ModelConfig) -> None:
    """Writes a reward model: the decoder's `model.*` tensors and the six heads beside them (METHOD)."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(_config_json(config, "ReasonRewardModel"), indent=2) + "\n")
    tensors = _tensors(params, config)
    kernel, bias = _host(heads["dimensions"]), _host(heads["dimension_bias"])
    for d in range(DIMENSIONS):
        tensors[f"dimension_heads.{d}.weight"] = kernel[d].T
        tensors[f"dimension_heads.{d}.bias"] = bias[d]
    tensors["total_head.weight"] = _host(heads["total"])[None]
    tensors["total_head.bias"] = _host(heads["total_bias"])[None]
    _write(path, tensors)


def load_reward_model(path: str | Path, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decoder parameters and heads of a reward model directory.

    Raises:
        UserError: as `load`; also where a head is missing.
    """
    params = load(path, config, extra=_head_names())
    file, where = _open(path), Path(path) / _WEIGHTS
    known = set(file.keys())

    def read(name: str, *shape: int) -> np.ndarray:
        return _read(file, where, name, shape, known).astype(np.float32)

    def stacked(part: str, *shape: int) -> np.ndarray:
        return np.stack([read(f"dimension_heads.{d}.{part}", *shape).T for d in range(DIMENSIONS)])

    heads = {
        "dimensions": stacked("weight", LABELS, config.width),
        "dimension_bias": stacked("bias", LABELS),
        "total": read("total_head.weight", 1, config.width)[0],
        "total_bias": read("total_head.bias", 1)[0],
    }
    return params, heads


def merge_lora(params: dict[str, Any], lora: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Base parameters with the adapter added in: W + (alpha / rank) A B; the same function, no adapter left.

    Raises:
        ValueError: `config` has no adapter.
    """
    if config.lora is None:
        raise ValueError("this configuration has no adapter to merge")
    scale = config.lora.alpha / config.lora.rank

    def merged(base: Any, adapter: Any) -> Any:
        if isinstance(adapter, dict) and set(adapter) == {"a", "b"}:
            a, b, kernel = adapter["a"], adapter["b"], base["kernel"]
            low_rank = a.reshape(len(a), -1, a.shape[-1]) @ b.reshape(len(b), b.shape[1], -1)
            return base | {"kernel": kernel + (scale * low_rank).reshape(kernel.shape).astype(kernel.dtype)}
        return {key: merged(base[key], adapter[key]) if key in adapter else base[key] for key in base}

    return merged(params, lora)


def fingerprint(*trees: Any) -> str:
    """The first 16 hex digits of the sha256 over names, shapes, dtypes and bytes of all parameters."""
    digest = hashlib.sha256()
    for tree in trees:
        named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
        for name, leaf in sorted(named, key=lambda item: item[0]):
            value = _host(leaf)
            digest.update(f"{name} {value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]
