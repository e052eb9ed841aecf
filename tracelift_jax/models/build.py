"""Which weights a role has, and getting them onto the mesh."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.models import hf
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.transformer import ModelConfig, Transformer
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
    """A Qwen2 decoder to start from random weights; letters are DESIGN's dimensions.

    Attributes:
        width: D. ff_width: F. layers: L. heads: H. kv_heads: N. head_width: Q. vocab_size: V; 0 takes the tokenizer's.
    """

    width: int = 64
    ff_width: int = 192
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 16
    vocab_size: int = 0
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("width", "ff_width", "layers", "heads", "kv_heads", "head_width"):
            require(getattr(self, field) >= 1, f"Shape.{field} must be at least 1, got {getattr(self, field)}")
        require(
            self.heads % self.kv_heads == 0, f"Shape.kv_heads must divide heads = {self.heads}, got {self.kv_heads}"
        )
        require(self.head_width % 2 == 0, f"Shape.head_width must be even, got {self.head_width}")


@dataclasses.dataclass(frozen=True)
class Model:
    """Where weights come from, and the numerics they are used with.

    Attributes:
        path: a Hugging Face directory; "assets/..." names a shipped one. Empty: random weights of `shape`.
        shape: of random weights.
        seed: of random weights.
        dtype: compute dtype. param_dtype: dtype of the parameters in memory.
        remat: see `ModelConfig.remat`.
        scan_unroll: see `ModelConfig.scan_unroll`; 0 unrolls all layers (fastest on CPU).
        grow: copies of the last layers put on top of a loaded model, which change nothing at first (block expansion,
            arXiv 2401.02415): a reward model compares what it would have written with what is there, which takes depth.
    """

    path: str = ""
    shape: Shape = Shape()
    seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Literal["none", "dots", "full"] = "full"
    scan_unroll: int = 1
    grow: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.scan_unroll >= 0, f"Model.scan_unroll must not be negative, got {self.scan_unroll}")
        require(self.grow >= 0, f"Model.grow must not be negative, got {self.grow}")
        require(not self.grow or bool(self.path), "Model.grow needs a path: random weights have Shape.layers")


@dataclasses.dataclass(frozen=True)
class LoraConfig(Lora):
    """`Lora`, with its values checked."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.rank >= 1, f"LoraConfig.rank must be at least 1, got {self.rank}")
        require(0 <= self.dropout < 1, f"LoraConfig.dropout must lie in [0, 1), got {self.dropout}")


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
        )
    return dataclasses.replace(
        config,
        dtype=model.dtype,
        param_dtype=model.param_dtype,
        remat=model.remat,
        scan_unroll=min(model.scan_unroll or config.layers, config.layers),
    )


def _init(config: ModelConfig, key: jax.Array) -> Any:
    return Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def _collection(config: ModelConfig, collection: str, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """One freshly initialised collection, made where it will live."""

    def make(key: jax.Array) -> Any:
        return _init(config, key)[collection]

    shardings = parameter_shardings(jax.eval_shape(make, jax.random.key(0)), mesh, layout)
    return jax.jit(lambda key: nn.meta.unbox(make(key)), out_shardings=shardings)(jax.random.key(seed))


def _place(tree: Any, abstract: Any, mesh: Mesh, layout: MeshConfig) -> Any:
    return jax.device_put(tree, parameter_shardings(abstract, mesh, layout))


def load_base(model: Model, config: ModelConfig, mesh: Mesh, layout: MeshConfig) -> Any:
    """The decoder's parameters on the mesh: read from `model.path`, or random."""
    if not model.path:
        return _collection(config, "params", model.seed, mesh, layout)
    abstract = jax.eval_shape(lambda key: _init(config, key)["params"], jax.random.key(0))
    if not model.grow:
        return _place(hf.load(find(model.path), config), abstract, mesh, layout)
    loaded = hf.load(find(model.path), dataclasses.replace(config, layers=config.layers - model.grow))
    return _place(_grown(loaded, model.grow), abstract, mesh, layout)


def _grown(params: dict[str, Any], grow: int) -> dict[str, Any]:
    """`params` with copies of its last `grow` layers on top, whose output projections are 0."""

    def stack(path: tuple, layers: np.ndarray) -> np.ndarray:
        silent = jax.tree_util.keystr(path, simple=True, separator="/") in ("attention/out/kernel", "mlp/down/kernel")
        above = layers[-grow:]
        return np.concatenate([layers, np.zeros_like(above) if silent else above])

    return params | {"blocks": jax.tree_util.tree_map_with_path(stack, params["blocks"])}


def init_lora(config: ModelConfig, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """A fresh adapter, which changes nothing yet."""
    return _collection(config, "lora", seed, mesh, layout)


def _init_heads(config: ModelConfig, key: jax.Array) -> Any:
    return RubricHeads(config.width).init(key, jnp.zeros((1, config.width)))["params"]


def init_heads(config: ModelConfig, seed: int, mesh: Mesh, layout: MeshConfig) -> Any:
    """Fresh rubric heads."""
    shardings = parameter_shardings(jax.eval_shape(lambda k: _init_heads(config, k), jax.random.key(0)), mesh, layout)
    return jax.jit(lambda key: nn.meta.unbox(_init_heads(config, key)), out_shardings=shardings)(jax.random.key(seed))


def without_head(config: ModelConfig, params: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """A decoder that writes nothing: reward models have no output projection of their own (METHOD)."""
    kept = {name: value for name, value in params.items() if name != "head"}
    return dataclasses.replace(config, tie_embeddings=True), kept


def load_reward_model(model: Model, config: ModelConfig, mesh: Mesh, layout: MeshConfig) -> tuple[Any, Any]:
    """A released-layout reward model's (decoder parameters, heads) on the mesh; `config` as `without_head` gives it."""
    params, heads = hf.load_reward_model(find(model.path), config)
    abstract = jax.eval_shape(lambda key: _init(config, key)["params"], jax.random.key(0))
    head_shapes = jax.eval_shape(lambda k: _init_heads(config, k), jax.random.key(0))
    return _place(params, abstract, mesh, layout), _place(heads, head_shapes, mesh, layout)
