"""`config.json` of Hugging Face directories: Qwen2/2.5, Qwen3 and Llama 3, in and out.

What we do not compute is refused by name: a model that loads is the model that its authors trained.
"""

import json
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.models.transformer import Llama3Rope, ModelConfig

ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""The families that are read, and what `transformers` calls their causal language models."""

_LLAMA3 = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original": "original_max_position_embeddings",
}


def _number(file: Path, data: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A positive `kind` from config.json; `default` where it is absent or null."""
    value = default if data.get(key) is None else data[key]
    if value is None:
        raise UserError(f"{file}: no {key!r}")
    allowed = (int,) if kind is int else (int, float)
    if type(value) not in allowed or not value > 0:
        raise UserError(f"{file}: {key} must be a {'whole ' * (kind is int)}number above 0, got {value!r}")
    return kind(value)


def read_json(file: Path, hint: str) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        UserError: it is missing (`hint` says what to do) or holds something else.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; {hint}")
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{file}: not a JSON object")
    return data


def _rope(file: Path, data: dict[str, Any]) -> tuple[float, Llama3Rope | None]:
    """Base and scaling; `rope_parameters` is how transformers 5 writes what were `rope_theta` and `rope_scaling`."""
    rope = dict(data.get("rope_scaling") or {}) | dict(data.get("rope_parameters") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = _number(file, rope | {k: data[k] for k in ("rope_theta",) if k in data}, "rope_theta", float, 10_000.0)
    if rope.get("partial_rotary_factor", data.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise UserError(f"{file}: partial_rotary_factor is not supported; all of a head is rotated")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f'{file}: rope type {kind!r} is not supported; "default" and "llama3" are')
    scaling = {
        ours: _number(file, rope, theirs, int if ours == "original" else float) for ours, theirs in _LLAMA3.items()
    }
    if scaling["high"] <= scaling["low"]:
        raise UserError(f"{file}: high_freq_factor must be above low_freq_factor = {scaling['low']}")
    return theta, Llama3Rope(**scaling)


def _refuse_unsupported(file: Path, data: dict[str, Any], layers: int) -> None:
    family = data.get("model_type")
    experts = [key for key in data if "experts" in key and data[key]]
    if experts or "moe" in str(family) or family == "mixtral":
        raise UserError(f"{file}: mixture of experts ({experts[0] if experts else family}) is not supported")
    if family not in ARCHITECTURES:
        raise UserError(f"{file}: model_type {family!r} is not supported; use a {', '.join(ARCHITECTURES)} model")
    if data.get("hidden_act", "silu") != "silu":
        raise UserError(f"{file}: hidden_act {data['hidden_act']!r} is not supported")
    kinds = set(data.get("layer_types") or []) - {"full_attention"}
    # Qwen's first `max_window_layers` layers see everything, sliding window or not.
    windowed = data.get("use_sliding_window", False) and data.get("sliding_window") is not None
    if kinds or (windowed and data.get("max_window_layers", 28) < layers and not data.get("layer_types")):
        raise UserError(f"{file}: {' and '.join(sorted(kinds)) or 'sliding window attention'} is not supported")
    for key in ("mlp_bias", "quantization_config"):
        if data.get(key):
            raise UserError(f"{file}: {key} is not supported")


def read_config(path: str | Path) -> ModelConfig:
    """Shapes of the model in a Hugging Face directory.

    Raises:
        UserError: no readable `config.json`, another family than Qwen2, Qwen3 or Llama, or a feature we do not compute.
    """
    file = Path(path) / "config.json"
    data = read_json(file, "give a Hugging Face model directory")

    def size(key: str, default: int | None = None) -> int:
        return _number(file, data, key, int, default)

    layers = size("num_hidden_layers")
    _refuse_unsupported(file, data, layers)
    family = data["model_type"]
    width, heads = size("hidden_size"), size("num_attention_heads")
    kv_heads = size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise UserError(f"{file}: num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}")
    head_width = size("head_dim", 128 if family == "qwen3" else max(width // heads, 1))
    if head_width % 2:
        raise UserError(f"{file}: head_dim must be even, got {head_width}")
    theta, scaling = _rope(file, data)
    biased = bool(data.get("attention_bias", False))
    return ModelConfig(
        family=family,
        vocab_size=size("vocab_size"),
        width=width,
        ff_width=size("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_number(file, data, "rms_norm_eps", float, 1e-6),
        qkv_bias=family == "qwen2" or biased,
        out_bias=family != "qwen2" and biased,
        qk_norm=family == "qwen3",
        tie_embeddings=bool(data.get("tie_word_embeddings", False)),
    )


def config_json(config: ModelConfig, architecture: str, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `config.json` says of a model, in keys that transformers 4 and 5 both read.

    Args:
        architecture: the class to load it with.
        like: the config.json of the model it came from; what we do not know (context length, token ids) stays.
    """
    scaling = None
    if config.rope_scaling:
        values = {theirs: getattr(config.rope_scaling, ours) for ours, theirs in _LLAMA3.items()}
        scaling = {"rope_type": "llama3", **values}
    kept = {k: v for k, v in (like or {}).items() if k not in ("rope_parameters", "dtype")}
    ours = {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": config.param_dtype,
    }
    if config.family == "qwen2":
        ours["use_sliding_window"] = False
    else:
        ours["attention_bias"] = config.qkv_bias
    if "layer_types" in kept:  # layers may have been added
        kept["layer_types"] = ["full_attention"] * config.layers
    return {"max_position_embeddings": 32768} | kept | ours
