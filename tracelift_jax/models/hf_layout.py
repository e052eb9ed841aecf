"""Where each tensor of a Hugging Face checkpoint lives in our parameter tree."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tracelift_jax.models.rubric import DIMENSIONS, LABELS
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.hosts import whole


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one Hugging Face tensor lives in our tree.

    Attributes:
        path: keys into the parameter tree. layer: index on the stacked axis, or None.
        name: of the tensor in the file.
        ours: shape in our tree, without the stacked axis.
        groups: for each axis of the file's tensor, which of our axes it flattens.
    """

    path: tuple[str, ...]
    layer: int | None
    name: str
    ours: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return tuple(math.prod(self.ours[axis] for axis in group) for group in self.groups)

    @property
    def contracted(self) -> int:
        """How many leading axes of a projection's kernel are inputs; 0 for everything else."""
        return len(self.groups[1]) if self.path[-1] == "kernel" else 0

    def to_ours(self, w: Any) -> Any:
        """The file's tensor (numpy or jax) in our axes."""
        order = [axis for group in self.groups for axis in group]
        return w.reshape([self.ours[axis] for axis in order]).transpose(np.argsort(order))

    def to_theirs(self, w: Any) -> Any:
        """The inverse of `to_ours`."""
        return w.transpose([axis for group in self.groups for axis in group]).reshape(self.shape)


PROJECTIONS: dict[tuple[str, ...], str] = {
    ("attention", "query"): "self_attn.q_proj",
    ("attention", "key"): "self_attn.k_proj",
    ("attention", "value"): "self_attn.v_proj",
    ("attention", "out"): "self_attn.o_proj",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
}
"""The seven projections of a layer: path in our tree to name in files."""


def projection_axes(config: ModelConfig) -> dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]]:
    """(input sizes, output sizes) of each of `PROJECTIONS`."""
    c = config
    q, kv = (c.heads, c.head_width), (c.kv_heads, c.head_width)
    sizes = [((c.width,), q), ((c.width,), kv), ((c.width,), kv), (q, (c.width,))]
    sizes += [((c.width,), (c.ff_width,))] * 2 + [((c.ff_width,), (c.width,))]
    return dict(zip(PROJECTIONS, sizes, strict=True))


def slots(config: ModelConfig) -> Iterator[Slot]:
    """Every tensor of a decoder with this configuration, names as `transformers` writes them."""
    c = config
    yield Slot(("embedding",), None, "model.embed_tokens.weight", (c.vocab_size, c.width), ((0,), (1,)))
    yield Slot(("final_norm", "scale"), None, "model.norm.weight", (c.width,), ((0,),))
    if not c.tie_embeddings:
        yield Slot(("head",), None, "lm_head.weight", (c.width, c.vocab_size), ((1,), (0,)))
    norms = [(("attention_norm",), "input_layernorm", c.width), (("mlp_norm",), "post_attention_layernorm", c.width)]
    if c.qk_norm:
        norms += [
            (("attention", f"{part}_norm"), f"self_attn.{part[0]}_norm", c.head_width) for part in ("query", "key")
        ]
    biased = dict.fromkeys(list(PROJECTIONS)[:3], c.qkv_bias) | {("attention", "out"): c.out_bias}
    for layer in range(c.layers):
        prefix = f"model.layers.{layer}."
        for path, name, size in norms:
            yield Slot(("blocks", *path, "scale"), layer, f"{prefix}{name}.weight", (size,), ((0,),))
        for path, (inputs, outputs) in projection_axes(c).items():
            name, axes = prefix + PROJECTIONS[path], tuple(range(len(inputs) + len(outputs)))
            groups = (axes[len(inputs) :], axes[: len(inputs)])
            yield Slot(("blocks", *path, "kernel"), layer, f"{name}.weight", inputs + outputs, groups)
            if biased.get(path, False):
                bias_axes = tuple(range(len(outputs)))
                yield Slot(("blocks", *path, "bias"), layer, f"{name}.bias", outputs, (bias_axes,))


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(whole(leaf))


def head_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a reward model's heads in files (METHOD); D is `width`."""
    heads = [(f"dimension_heads.{d}", LABELS) for d in range(DIMENSIONS)] + [("total_head", 1)]
    return {f"{head}.{part}": (n, width)[: 2 - (part == "bias")] for head, n in heads for part in ("weight", "bias")}


def heads_to_files(heads: Any) -> dict[str, np.ndarray]:
    """Our heads (see `RubricHeads`) as the tensors of `head_shapes`, in float32."""
    kernel, bias = _plain(heads["dimensions"]), _plain(heads["dimension_bias"])
    out = {}
    for d in range(DIMENSIONS):
        out[f"dimension_heads.{d}.weight"] = np.ascontiguousarray(kernel[d].T)
        out[f"dimension_heads.{d}.bias"] = bias[d]
    return out | {
        "total_head.weight": _plain(heads["total"])[None],
        "total_head.bias": _plain(heads["total_bias"])[None],
    }


def heads_from_files(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `heads_to_files`."""
    f32 = {name: tensors[name].astype(np.float32) for name in tensors}
    return {
        "dimensions": np.stack([f32[f"dimension_heads.{d}.weight"].T for d in range(DIMENSIONS)]),
        "dimension_bias": np.stack([f32[f"dimension_heads.{d}.bias"] for d in range(DIMENSIONS)]),
        "total": f32["total_head.weight"][0],
        "total_bias": f32["total_head.bias"][0],
    }
