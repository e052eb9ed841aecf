"""What all tests share: CPU, a cache of compiled functions, hypothesis without chance, shared data, tiny models."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for subprocesses too; the device count stays as it is
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

hypothesis.settings.register_profile("tracelift", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("tracelift")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data files beside the repository; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def dial_tokenizer() -> Tokenizer:
    """The tokenizer shipped for the dial world: 256 byte tokens, words and tags."""
    return Tokenizer.load(ROOT / "tracelift_jax" / "assets" / "dial" / "tokenizer")


@pytest.fixture(scope="session")
def qwen_tokenizer(shared_data) -> Tokenizer:
    """Qwen2.5's tokenizer, from shared data."""
    return Tokenizer.load(shared_data / "qwen2.5_tokenizer")


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


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Two layers of width 8, vocabulary 37, no adapter."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_lora() -> Tiny:
    """`tiny` with an adapter of rank 2 that is not zero."""
    return make_tiny(dataclasses.replace(TINY, lora=Lora(rank=2, alpha=3.0)))


@pytest.fixture(scope="session")
def tiny_of():
    """Tiny models of other configurations: `tiny_of(scan_unroll=1, ...)`."""
    return lambda seed=0, **changes: make_tiny(dataclasses.replace(TINY, **changes), seed)
