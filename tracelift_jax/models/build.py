"""Which weights a role has, and getting them onto the mesh."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.models import hf, kernels, peft
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.tensor_files import TensorFiles
from tracelift_jax.models.transformer import ModelConfig, abstract_variables, init_variables
from tracelift_jax.parallel.hosts import place
from tracelift_jax.parallel.mesh import MeshConfig, parameter_shardings

ASSETS = Path(__file__).parents[1] / "assets"
"""Where the shipped models lie; a path that begins with "assets/" is looked up here when it does not exist."""


def find(path: str) -> Path:
    """A path as the user gave it, or below the installed package for shipped "assets/..."."""
    given = Path(path)
    if given.exists() or given.parts[:1] != ("assets",):
        return given
    return ASSETS.joinpath(*given.parts[1:])


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder to start from random weights; letters are DESIGN's dimensions.

    Attributes:
        family: the architecture. attention_bias: biases on all four attention projections, for families that leave it
            open (qwen2 always has them, on three). tie_embeddings: whether the output projection is the embedding.
        width: D. ff_width: F. layers: L. heads: H. kv_heads: N. head_width: Q. vocab_size: V; 0 takes the tokenizer's.
        rope_theta: base of the rotary positions' wavelengths.
    """

    width: int = 64
    ff_width: int = 192
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 16
    vocab_size: int = 0
    rope_theta: float = 10_000.0
    family: Literal["qwen2", "qwen3", "llama"] = "qwen2"
    attention_bias: bool = False
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("width", "ff_width", "layers", "heads", "kv_heads", "head_width"):
            require(getattr(self, field) >= 1, f"Shape.{field} must be at least 1, got {getattr(self, field)}")
        require(
            self.heads % self.kv_heads == 0, f"Shape.kv_heads must divide heads = {self.heads}, got {self.kv_heads}"
        )
        require(self.head_width % 2 == 0, f"Shape.head_width must be even, got {self.head_width}")
        require(
            not (self.attention_bias and self.family == "qwen2"),
            "Shape.attention_bias is for qwen3 and llama; qwen2 has its biases by itself",
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """Where weights come from, and the numerics they are used with.

    Attributes:
        path: a Hugging Face directory; "assets/..." names a shipped one. Empty: random weights of `shape`.
        shape: of random weights.
        seed: of random weights.
        dtype: compute dtype. param_dtype: dtype of the parameters in memory.
        weights: "int8" keeps the projections of frozen weights as int8, one scale for each output channel. With all
            layers unrolled (`scan_unroll`), compilers may turn all of them into floats at once.
        remat: see `ModelConfig.remat`; "attention" is for attention = "splash".
        scan_unroll: see `ModelConfig.scan_unroll`; 0 unrolls all layers (fastest on CPU).
        attention: what computes attention to and within 128 tokens or more: "splash" (a kernel for TPUs, head widths a
            multiple of 8), "cudnn" (NVIDIA GPUs; bfloat16 or float16) or "xla" (anywhere). See docs/attention.md.
        grow: copies of the last layers put on top of a loaded model, which change nothing at first (block expansion,
            arXiv 2401.02415): a reward model compares what it would have written with what is there, which takes depth.
    """

    path: str = ""
    shape: Shape = Shape()
    seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weights: Literal["float", "int8"] = "float"
    remat: Literal["none", "dots", "attention", "full"] = "full"
    scan_unroll: int = 1
    attention: Literal["xla", "splash", "cudnn"] = "xla"
    grow: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.scan_unroll >= 0, f"Model.scan_unroll must not be negative, got {self.scan_unroll}")
        require(self.grow >= 0, f"Model.grow must not be negative, got {self.grow}")
        require(not self.grow or bool(self.path), "Model.grow needs a path: random weights have Shape.layers")
        require(not self.grow or self.weights == "float", 'Model.grow needs Model.weights = "float"')
        kept = self.remat != "attention" or self.attention == "splash"
        require(kept, f'Model.remat = "attention" needs Model.attention = "splash", got "{self.attention}"')


def folders(*models: Model) -> list[Path]:
    """The directories of those that have one."""
    return [find(model.path) for model in models if model.path]


@dataclasses.dataclass(frozen=True)
class LoraConfig(Lora):
    """`Lora`, with its values checked."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.rank >= 1, f"LoraConfig.rank must be at least 1, got {self.rank}")
        require(0 <= self.dropout < 1, f"LoraConfig.dropout must lie in [0, 1), got {self.dropout}")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A PEFT adapter on the resident base: a planner's to go on with, or a reward model's with its heads.

    Attributes:
        path: its directory, as `tracelift export --adapter` or `peft` writes it.
    """

    path: str

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.path), "Adapter.path must not be empty")


def lora_shape(lora: LoraConfig | Adapter | None) -> Lora | None:
    """Rank, scale and dropout of an adapter, fresh or in a directory.

    Raises:
        UserError: `lora.path` holds no adapter that we read.
    """
    return peft.read_adapter_config(find(lora.path)) if isinstance(lora, Adapter) else lora


def model_config(model: Model, tokenizer_size: int) -> ModelConfig:
    """Shapes and numerics of `model`, without reading its weights.

    Raises:
        UserError: `model.path` is no Hugging Face directory that we read.
    """
    if model.path:
        config = hf.read_config(find(model.path))
        config = dataclasses.replace(config, layers=config.layers + model.grow)
    else:
        s = model.shape
        config = ModelConfig(
            vocab_size=s.vocab_size or tokenizer_size,
            width=s.width,
            ff_width=s.ff_width,
            layers=s.layers,
            heads=s.heads,
            kv_heads=s.kv_heads,
            head_width=s.head_width,
            rope_theta=s.rope_theta,
            family=s.family,
            qkv_bias=s.family == "qwen2" or s.attention_bias,
            out_bias=s.attention_bias,
            qk_norm=s.family == "qwen3",
            tie_embeddings=s.tie_embeddings,
        )
    return dataclasses.replace(
        config,
        dtype=model.dtype,
        param_dtype=model.param_dtype,
        weights=model.weights,
        remat=model.remat,
        attention=model.attention,
        scan_unroll=min(model.scan_unroll or config.layers, config.layers),
    )


def check_attention(config: ModelConfig, mesh: Mesh) -> None:
    """Refuses a kernel that the mesh's devices, or the model's head width or dtype, rule out.

    Raises:
        UserError: it cannot run.
    """
    kernels.check_kernel(config.attention, config.head_width, config.dtype, mesh.devices.flat[0].platform)


def _collection(config: ModelConfig, collection: str, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """One freshly initialised collection, made where it will live."""

    def make(key: jax.Array) -> Any:
        return init_variables(config, key)[collection]

    shardings = parameter_shardings(abstract_variables(config)[collection], mesh, layout.rules)
    return jax.jit(lambda key: nn.meta.unbox(make(key)), out_shardings=shardings)(jax.random.key(seed))


def load_base(model: Model, config: ModelConfig, mesh: Mesh, layout: MeshConfig) -> Any:
    """The decoder's parameters on the mesh: read from `model.path`, or random.

    Raises:
        UserError: the files cannot be used, or `config.attention` cannot run on the mesh.
    """
    check_attention(config, mesh)
    if not model.path:
        return _collection(config, "params", model.seed, mesh, layout)
    if not model.grow:
        return hf.load_params(find(model.path), config, mesh, layout)
    below = dataclasses.replace(config, layers=config.layers - model.grow)
    shardings = parameter_shardings(abstract_variables(config)["params"], mesh, layout.rules)
    grow = jax.jit(lambda params: _grown(params, model.grow), out_shardings=shardings)
    return grow(hf.load_params(find(model.path), below, mesh, layout))


def _grown(params: dict[str, Any], grow: int) -> dict[str, Any]:
    """`params` with copies of its last `grow` layers on top, whose output projections are 0."""

    def stack(path: tuple, layers: jax.Array) -> jax.Array:
        silent = jax.tree_util.keystr(path[:2], simple=True, separator="/") in ("attention/out", "mlp/down")
        above = layers[-grow:]
        return jnp.concatenate([layers, jnp.zeros_like(above) if silent else above])

    return params | {"blocks": jax.tree_util.tree_map_with_path(stack, params["blocks"])}


def load_lora(lora: LoraConfig | Adapter, config: ModelConfig, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """The adapter on the mesh, read or fresh; `config.lora` is `lora_shape(lora)`."""
    if not isinstance(lora, Adapter):
        return init_lora(config, seed, mesh, layout)
    shardings = parameter_shardings(abstract_variables(config)["lora"], mesh, layout.rules)
    return place(peft.load_adapter(find(lora.path), config), shardings)


def load_grader(
    model: Model | Adapter, base: tuple[ModelConfig, Any] | None, tokens: int, mesh: Mesh, layout: MeshConfig
) -> tuple[ModelConfig, tuple[Any, Any]]:
    """The shapes of a reward model, and its (variables, heads) on the mesh.

    Args:
        model: weights of its own, or an adapter with heads on the base.
        base: the base's shapes and parameters, which an adapter shares; None where `model` needs none.
        tokens: the tokenizer's size.

    Raises:
        UserError: the files cannot be used.
        ValueError: an adapter without a base.
    """
    if not isinstance(model, Adapter):
        config, _ = without_head(model_config(model, tokens), {})
        params, heads = load_reward_model(model, config, mesh, layout)
        return config, ({"params": params}, heads)
    if base is None:
        raise ValueError("an adapter needs its base")
    config = dataclasses.replace(base[0], lora=lora_shape(model))
    lora = load_lora(model, config, 0, mesh, layout)
    heads = place_heads(config, peft.load_heads(find(model.path), config), mesh, layout)
    return config, ({"params": base[1], "lora": lora}, heads)


def init_lora(config: ModelConfig, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """A fresh adapter, which changes nothing yet."""
    return _collection(config, "lora", seed, mesh, layout)


def _init_heads(config: ModelConfig, key: jax.Array) -> Any:
    return RubricHeads(config.width).init(key, jnp.zeros((1, config.width)))["params"]


def abstract_heads(config: ModelConfig) -> Any:
    """Shapes of rubric heads, each boxed with its logical axis names."""
    return jax.eval_shape(lambda key: _init_heads(config, key), jax.random.key(0))


def init_heads(config: ModelConfig, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """Fresh rubric heads."""
    shardings = parameter_shardings(abstract_heads(config), mesh, layout.rules)
    return jax.jit(lambda key: nn.meta.unbox(_init_heads(config, key)), out_shardings=shardings)(jax.random.key(seed))


def without_head(config: ModelConfig, params: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """A decoder that writes nothing: reward models have no output projection of their own (METHOD)."""
    kept = {name: value for name, value in params.items() if name != "head"}
    return dataclasses.replace(config, tie_embeddings=True), kept


def has_heads(model: Model) -> bool:
    """Whether `model` is read from a reward model's directory.

    Raises:
        UserError: the directory holds no weights.
    """
    return bool(model.path) and "total_head.weight" in TensorFiles(find(model.path)).names


def load_reward_model(model: Model, config: ModelConfig, mesh: Mesh, layout: MeshConfig) -> tuple[Any, Any]:
    """A released-layout reward model's (decoder parameters, heads) on the mesh; `config` as `without_head` gives it.

    Raises:
        UserError: the files cannot be used, or `config.attention` cannot run on the mesh.
    """
    check_attention(config, mesh)
    params, heads = hf.load_reward_model(find(model.path), config, mesh, layout)
    return params, place_heads(config, heads, mesh, layout)


def place_heads(config: ModelConfig, heads: Any, mesh: Mesh, layout: MeshConfig) -> Any:
    """Heads read from a file, on the mesh."""
    return place(heads, parameter_shardings(abstract_heads(config), mesh, layout.rules))
