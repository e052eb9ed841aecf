"""The one projection of the model: a named-axes kernel, an optional bias and an optional low-rank adapter (LoRA)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

AXES: Mapping[str, str] = {
    "D": "embed",
    "F": "mlp",
    "H": "heads",
    "N": "kv_heads",
    "Q": "head",
    "V": "vocab",
}
"""Logical axis name of each einsum letter; `parallel.mesh.Rules` maps the names to mesh axes."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """A low-rank adapter on every projection: y = W x + (alpha / rank) B A x (arXiv 2106.09685).

    Attributes:
        rank: the inner width; at least 1.
        alpha: the scale's numerator.
        dropout: share of the adapter's inputs dropped in training.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0


def _uniform_of_fan_in(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the customary start of a LoRA's A; the last axis is the rank."""
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Einsum(nn.Module):
    """`y = einsum(spec, x, kernel) [+ bias] [+ low-rank update]`.

    Parameters live in collection `params` (`kernel`, `bias`) and, with `lora`, in collection `lora` (`a`, `b`), so that
    one set of base weights serves every role.

    Attributes:
        spec: for example "...D,DHQ->...HQ"; the kernel's letters that the output lacks are contracted.
        shape: size of each letter of the kernel.
        use_bias: whether a bias over the output letters is added.
        lora: the adapter, or None.
        dtype: compute dtype. param_dtype: dtype in which parameters are kept.
        scale: multiplies the initial standard deviation fan_in ** -0.5.
    """

    spec: str
    shape: tuple[int, ...]
    use_bias: bool = False
    lora: Lora | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """Projects `x`; `deterministic` switches the adapter's dropout off."""
        letters_in, rest = self.spec.split(",")
        letters, letters_out = rest.split("->")
        size = dict(zip(letters, self.shape, strict=True))
        inner = "".join(c for c in letters if c not in letters_out)
        outer = "".join(c for c in letters if c in letters_out)
        deviation = self.scale * math.prod(size[c] for c in inner) ** -0.5
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(nn.initializers.normal(deviation), tuple(AXES[c] for c in letters)),
            self.shape,
            self.param_dtype,
        )
        y = jnp.einsum(self.spec, x.astype(self.dtype), jnp.asarray(kernel, self.dtype))
        if self.use_bias:
            bias = self.param(
                "bias",
                nn.with_logical_partitioning(nn.initializers.zeros, tuple(AXES[c] for c in outer)),
                tuple(size[c] for c in outer),
                self.param_dtype,
            )
            y = y + jnp.asarray(bias, self.dtype)
        if self.lora is None:
            return y
        rank = self.lora.rank
        a = self._adapter(
            "a", _uniform_of_fan_in, (*(size[c] for c in inner), rank), (*(AXES[c] for c in inner), "lora")
        )
        b = self._adapter(
            "b", nn.initializers.zeros, (rank, *(size[c] for c in outer)), ("lora", *(AXES[c] for c in outer))
        )
        x = nn.Dropout(self.lora.dropout)(x.astype(self.dtype), deterministic=deterministic)
        low = jnp.einsum(f"{letters_in},{inner}r->...r", x, a)
        return y + (self.lora.alpha / rank) * jnp.einsum(f"...r,r{outer}->{letters_out}", low, b)

    def _adapter(self, name: str, init, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array:
        """One half of the adapter, from collection `lora`, in the compute dtype."""
        init = nn.with_logical_partitioning(init, axes)

        def start() -> Any:
            return init(self.make_rng("params"), shape, self.param_dtype)

        value = self.variable("lora", name, start).value
        return cast(Array, value).astype(self.dtype)
