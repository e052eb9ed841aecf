"""A decoder (Qwen2/2.5, Qwen3, Llama 3) over a tree of segments.

`model(tokens, valid, context)` reads tokens `[*lead, T]` that attend to themselves (causally) and to the segments
of their ancestors, and returns their hidden states and their own segment. That one function serves prefill, decoding
(T = 1, what was decoded so far being the innermost ancestor), scoring, log-probabilities and training.
"""

import dataclasses
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.models import kernels
from tracelift_jax.models.attention import attend, tree_masks
from tracelift_jax.models.einsum import Einsum, Lora
from tracelift_jax.models.segment import Context, Segment, context_length
from tracelift_jax.parallel.mesh import split_rows, whole_columns


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretched rotary positions: long wavelengths times `factor`, short ones kept, a ramp between.

    Attributes:
        factor: by how much wavelengths above `original / low` grow.
        low, high: wavelengths below `original / high` stay as they are.
        original: positions the model was first trained on.
    """

    factor: float
    low: float
    high: float
    original: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and numerics of a decoder; the letters are DESIGN's dimensions.

    Attributes:
        family: which of the supported architectures it is; names it in files, and decides nothing else.
        vocab_size: V. width: D. ff_width: F. layers: L. heads: H. kv_heads: N, dividing H. head_width: Q, even.
        rope_theta: base of the rotary positions' wavelengths. rope_scaling: how they are stretched, or None.
        norm_eps: epsilon of the RMS norms.
        qkv_bias: whether query, key and value projections have biases (Qwen2 does). out_bias: the same of the output.
        qk_norm: whether each head's queries and keys go through an RMS norm of their own (Qwen3).
        tie_embeddings: whether the output projection is the embedding transposed.
        lora: adapter on all seven projections, or None for the base as it is.
        dtype, param_dtype: what is computed in, what parameters are kept in. Logits and softmax are float32 always.
        weights: "int8" keeps the projections' kernels as int8 with a float32 scale for each output channel.
        scan_unroll: how many layers one step of the scan holds; L is fastest on CPU, 1 compiles fastest.
        remat: what the forward pass keeps for the backward pass, which computes the rest again: "none" keeps all,
            "dots" matrix products and what splash gives, "attention" only the latter, so that its kernel does not run
            twice, "full" nothing.
        attention: what computes it for nodes of at least `kernels.SHORTEST` tokens: "xla" (`attention.attend`, and the
            reference for the others) or a `kernels.Kernel`. Shorter nodes, decoding among them, are "xla" always.
    """

    vocab_size: int
    width: int
    ff_width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    family: Literal["qwen2", "qwen3", "llama"] = "qwen2"
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Rope | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    out_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    lora: Lora | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weights: Literal["float", "int8"] = "float"
    scan_unroll: int = 1
    remat: Literal["none", "dots", "attention", "full"] = "full"
    attention: Literal["xla", kernels.Kernel] = "xla"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frame:
    """What every layer needs and none changes.

    Attributes:
        sin, cos: float32 [*lead, T, 1, Q/2] rotary angles of the tokens.
        valid: bool [*prefix, S] of each ancestor, and last the node's own [*lead, T].
    """

    sin: Array
    cos: Array
    valid: tuple[Array, ...]


def rotary_frequencies(config: ModelConfig) -> np.ndarray:
    """float32 [Q/2] angles per position (arXiv 2104.09864), stretched as `rope_scaling` says (arXiv 2407.21783)."""
    frequency = config.rope_theta ** -(np.arange(config.head_width // 2) / (config.head_width // 2))
    if config.rope_scaling:
        s = config.rope_scaling
        turns = s.original * frequency / (2 * np.pi)  # within the positions first trained on
        kept = np.clip((turns - s.low) / (s.high - s.low), 0, 1)
        frequency = frequency * (kept + (1 - kept) / s.factor)
    return frequency.astype(np.float32)


def make_frame(config: ModelConfig, valid: Array, context: Context) -> Frame:
    """Positions and validity of tokens with validity `valid` [*lead, T] below `context`."""
    lead = valid.shape[:-1]
    # Invalid slots repeat the position of the last valid token; nobody ever sees them.
    position = context_length(context, lead)[..., None] + jnp.cumsum(valid, -1, dtype=jnp.int32) - 1
    angle = position[..., None, None].astype(jnp.float32) * rotary_frequencies(config)
    return Frame(jnp.sin(angle), jnp.cos(angle), (*(segment.valid for segment in context), valid))


def rotate(x: Array, sin: Array, cos: Array) -> Array:
    """Rotary positions on `x` [*lead, T, heads, Q], halves convention (arXiv 2104.09864)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * scale in float32 (arXiv 1910.07467), over the last axis, whose logical name is `axis`."""

    config: ModelConfig
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] to [..., D], or [..., Q] to [..., Q], in the compute dtype."""
        init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        scale = self.param("scale", init, x.shape[-1:], self.config.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.config.norm_eps)
        return (x * jnp.asarray(scale, jnp.float32)).astype(self.config.dtype)


def _project(config: ModelConfig, name: str, spec: str, shape: tuple[int, ...], bias: bool = False, scale: float = 1.0):
    c = config
    return Einsum(spec, shape, bias, c.lora, c.dtype, c.param_dtype, scale, c.weights, name=name)


class Attention(nn.Module):
    """Grouped-query attention over the node and its ancestors."""

    config: ModelConfig
    mesh: Mesh | None

    @nn.compact
    def __call__(self, x: Array, cache: tuple[tuple[Array, Array], ...], frame: Frame, deterministic: bool):
        """`x` [*lead, T, D], `cache` each ancestor's (k, v) of this layer; gives the output and this node's (k, v)."""
        c = self.config
        q = _project(c, "query", "...D,DHQ->...HQ", (c.width, c.heads, c.head_width), c.qkv_bias)(x, deterministic)
        k = _project(c, "key", "...D,DNQ->...NQ", (c.width, c.kv_heads, c.head_width), c.qkv_bias)(x, deterministic)
        v = _project(c, "value", "...D,DNQ->...NQ", (c.width, c.kv_heads, c.head_width), c.qkv_bias)(x, deterministic)
        if c.qk_norm:
            q, k = RMSNorm(c, "head", name="query_norm")(q), RMSNorm(c, "head", name="key_norm")(k)
        q, k = rotate(q, frame.sin, frame.cos), rotate(k, frame.sin, frame.cos)
        levels = [*cache, (k, v)]
        if c.attention == "xla" or x.shape[-2] < kernels.SHORTEST:
            masks = tree_masks(frame.valid)
            mixed = attend(q, [(*kv, mask) for kv, mask in zip(levels, masks, strict=True)])
        else:
            mixed = kernels.tree_attention(q, levels, frame.valid, c.attention, self.mesh)
        residual = (2 * c.layers) ** -0.5
        shape = (c.heads, c.head_width, c.width)
        out = _project(c, "out", "...HQ,HQD->...D", shape, c.out_bias, residual)
        return out(mixed, deterministic), (k, v)


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """[..., D] to [..., D]."""
        c = self.config
        gate = _project(c, "gate", "...D,DF->...F", (c.width, c.ff_width))(x, deterministic)
        up = _project(c, "up", "...D,DF->...F", (c.width, c.ff_width))(x, deterministic)
        residual = (2 * c.layers) ** -0.5
        down = _project(c, "down", "...F,FD->...D", (c.ff_width, c.width), scale=residual)
        return down(nn.silu(gate) * up, deterministic)


class Block(nn.Module):
    """One pre-norm layer."""

    config: ModelConfig
    deterministic: bool
    mesh: Mesh | None

    @nn.compact
    def __call__(self, x: Array, cache: tuple[tuple[Array, Array], ...], frame: Frame):
        """Carries `x` [*lead, T, D]; emits this layer's (k, v) of the node."""
        mixed, kv = Attention(self.config, self.mesh, name="attention")(
            RMSNorm(self.config, name="attention_norm")(x), cache, frame, self.deterministic
        )
        x = x + mixed
        x = x + Mlp(self.config, name="mlp")(RMSNorm(self.config, name="mlp_norm")(x), self.deterministic)
        return x, kv


_KERNELS = jax.checkpoint_policies.save_only_these_names(kernels.SAVED)
_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _KERNELS,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _KERNELS
    ),
}


class Transformer(nn.Module):
    """The decoder. Collections: `params` (the base) and, where `config.lora` is set, `lora` (the adapter).

    Attributes:
        config: shapes and numerics. mesh: over whose devices B, the first leading axis, is split; None: not at all.
    """

    config: ModelConfig
    mesh: Mesh | None = None

    def setup(self) -> None:
        """Declares the parameters; layers are stacked on a leading axis L."""
        c = self.config
        embed_init = nn.with_logical_partitioning(nn.initializers.normal(c.width**-0.5), ("vocab", "embed"))
        self.embedding = self.param("embedding", embed_init, (c.vocab_size, c.width), c.param_dtype)
        if not c.tie_embeddings:
            head_init = nn.with_logical_partitioning(nn.initializers.normal(c.width**-0.5), ("embed", "vocab"))
            self.head = self.param("head", head_init, (c.width, c.vocab_size), c.param_dtype)
        self.final_norm = RMSNorm(c)

    @nn.compact
    def _blocks(self, x: Array, cache, frame: Frame, deterministic: bool):
        c = self.config
        block = Block if c.remat == "none" else nn.remat(Block, prevent_cse=False, policy=_POLICIES[c.remat])
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=cast(Any, (0, nn.broadcast)),  # Linen declares an int, and takes a tuple
            length=c.layers,
            unroll=c.scan_unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(c, deterministic, self.mesh, name="blocks")(x, cache, frame)

    def __call__(
        self, tokens: Array, valid: Array, context: Context = (), deterministic: bool = True
    ) -> tuple[Array, Segment]:
        """Reads a node of the tree.

        Args:
            tokens: int32 [*lead, T]. valid: bool [*lead, T]; invalid slots are seen by nobody.
            context: the node's ancestors, leading axes prefixes of `lead`.
            deterministic: False in training with dropout; needs rng `dropout`.

        Returns:
            Hidden states [*lead, T, D] after the final norm, in the compute dtype, and the node's segment.
        """
        table = whole_columns(jnp.asarray(self.embedding, self.config.dtype), self.mesh)
        x = split_rows(table[tokens], self.mesh)
        frame = make_frame(self.config, valid, context)
        cache = tuple((segment.k, segment.v) for segment in context)
        x, (k, v) = self._blocks(x, cache, frame, deterministic)
        return self.final_norm(x), Segment(k, v, valid)

    def logits(self, hidden: Array) -> Array:
        """float32 [..., V] logits of hidden states [..., D]."""
        c = self.config
        if c.tie_embeddings:
            table = jnp.asarray(self.embedding, c.dtype)
            return jnp.einsum("...D,VD->...V", hidden, table, preferred_element_type=jnp.float32)
        return jnp.einsum("...D,DV->...V", hidden, jnp.asarray(self.head, c.dtype), preferred_element_type=jnp.float32)


def init_variables(config: ModelConfig, key: Array) -> Any:
    """Freshly drawn variables, each parameter boxed with its logical axis names."""
    return Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def abstract_variables(config: ModelConfig) -> Any:
    """Shapes and dtypes of `init_variables`; nothing is computed."""
    return jax.eval_shape(lambda key: init_variables(config, key), jax.random.key(0))


def forward(
    model: Transformer,
    variables: Any,
    ids: Any,
    valid: Any,
    context: Context = (),
    deterministic: bool = True,
    rngs: Any = None,
) -> tuple[Array, Segment]:
    """`Transformer.__call__` on given variables; `ids` and `valid` may be numpy arrays."""
    ids, valid = jnp.asarray(ids), jnp.asarray(valid)
    return cast(Any, model.apply(variables, ids, valid, context, deterministic, rngs=rngs))


def logits_of(model: Transformer, variables: Any, hidden: Array) -> Array:
    """`Transformer.logits` on given variables: [..., D] to float32 [..., V]."""
    return cast(Array, model.apply(variables, hidden, method="logits"))


def empty_segment(model: Transformer, lead: tuple[int, ...], slots: int) -> Segment:
    """A segment of `slots` slots that holds nothing yet, for decoding into; split like the batch."""
    c = model.config
    shape = (c.layers, *lead, slots, c.kv_heads, c.head_width)
    k, v = (split_rows(jnp.zeros(shape, c.dtype), model.mesh, axis=1) for _ in range(2))
    return Segment(k, v, split_rows(jnp.zeros((*lead, slots), bool), model.mesh))
