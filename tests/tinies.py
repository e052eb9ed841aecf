"""Tiny random models, shared by all tests; not in conftest.py, of which there are several."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracelift_jax.models.transformer import ModelConfig, Transformer


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A random model, no parameter of which is at a special value (biases, scales and LoRA's B included).

    Attributes:
        model: the decoder. params, lora: numpy trees; `lora` is empty without an adapter.
    """

    model: Transformer
    params: Any
    lora: Any

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "lora": self.lora} if self.lora else {"params": self.params}


TINY = ModelConfig(
    vocab_size=37, width=8, ff_width=12, layers=2, heads=4, kv_heads=2, head_width=6, scan_unroll=2, remat="none"
)
"""Grouped-query attention; H * Q = 24 is not D, and no two sizes that meet in a matrix are equal."""


@functools.cache
def make_tiny(config: ModelConfig = TINY, seed: int = 0) -> Tiny:
    """Parameters drawn in numpy, so that nothing is compiled."""
    model = Transformer(config)
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        value = 0.3 * rng.standard_normal(leaf.shape)
        return (value + (path[-1].key == "scale")).astype(leaf.dtype)  # norm scales around 1

    drawn = jax.tree_util.tree_map_with_path(fill, nn.meta.unbox(abstract))
    return Tiny(model, drawn["params"], drawn.get("lora", {}))
