"""The one projection of the model: a named-axes kernel, float or int8, with an optional bias and adapter (LoRA)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array
from qwix import QArray

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


def quantize_kernel(kernel: Array, contracted: int) -> QArray:
    """A kernel as int8 with one float32 scale for each output channel: kernel ~ qvalue * scale.

    scale = max |kernel| / 127 over the channel, qvalue = round(kernel / scale), so that no element moves by more than
    half its channel's scale. What was quantized once comes through bit for bit when it is quantized again.

    Args:
        kernel: [*inputs, *outputs] of any float dtype. contracted: how many axes are inputs.

    Returns:
        `qvalue` int8 of the kernel's shape, `scale` float32 [1.., *outputs].
    """
    # Not `qwix.quantize`: its grid reaches to 127.5, where nothing lies, so that quantizing again shrinks the kernel.
    kernel = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kernel), tuple(range(contracted)), keepdims=True)
    # Times a constant, since compilers may or may not make that of a division. Of its 24 bits the scale keeps 17,
    # and with the 7 of an int8 every qvalue * scale is exact.
    scale = jax.lax.reduce_precision(largest * jnp.float32(1 / 127), exponent_bits=8, mantissa_bits=16)
    scale = jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)  # a channel of zeros: not 0 / 0
    return QArray(jnp.round(kernel / scale).astype(jnp.int8), scale)


def _exact_parts(kernel: QArray, outputs: int, dtype: Dtype) -> tuple[Array, Array]:
    """The kernel as values in [-1, 1] of the compute dtype, without rounding, and each output channel's float32 factor.

    In [-1, 1] and not up to 127, so that a float16 neither overflows in sums nor loses small gradients.
    """
    factor = kernel.scale.reshape(kernel.scale.shape[-outputs:]) * 128
    return kernel.qvalue.astype(dtype) * jnp.asarray(1 / 128, dtype), factor


def _scaled_einsum(spec: str, x: Array, kernel: QArray) -> Array:
    """`einsum(spec, x, kernel)`, float in the dtype of `x`.

    Scales belong to output channels, so they multiply the product instead of the kernel (as in `qwix.einsum`): int8 is
    exact in every compute dtype, and the float32 sum is rounded once.
    """
    letters, outputs = spec.split(",")[1].split("->")
    unit, factor = _exact_parts(kernel, sum(c in outputs for c in letters), x.dtype)
    return (jnp.einsum(spec, x, unit, preferred_element_type=jnp.float32) * factor).astype(x.dtype)


def _backward(spec: str, kernel: QArray, dy: Array) -> tuple[Array, None]:
    """By `x`, in its dtype; a frozen kernel gets no gradient."""
    inputs, rest = spec.split(",")
    letters, outputs = rest.split("->")
    unit, factor = _exact_parts(kernel, sum(c in outputs for c in letters), dy.dtype)
    return jnp.einsum(f"{outputs},{letters}->{inputs}", (dy * factor).astype(dy.dtype), unit), None


# Left to itself, autodiff keeps the kernels of all layers as floats for the backward pass; this keeps the int8 ones.
_int8_einsum = jax.custom_vjp(_scaled_einsum, nondiff_argnums=(0,))
_int8_einsum.defvjp(lambda spec, x, kernel: (_scaled_einsum(spec, x, kernel), kernel), _backward)


def _quantized(init: Callable[..., Array], axes: tuple[str, ...], contracted: int) -> Callable[..., QArray]:
    """The initializer of an int8 kernel: what `init` draws, quantized; both parts with their logical axis names."""

    def start(key: Array, shape: tuple[int, ...], dtype: Dtype) -> QArray:
        kernel = quantize_kernel(init(key, shape, dtype), contracted)
        qvalue = nn.LogicallyPartitioned(kernel.qvalue, axes)
        scale = nn.LogicallyPartitioned(kernel.scale, (None,) * contracted + axes[contracted:])
        return dataclasses.replace(kernel, qvalue=cast(Any, qvalue), scale=cast(Any, scale))

    return start


class Einsum(nn.Module):
    """`y = einsum(spec, x, kernel) [+ bias] [+ low-rank update]`.

    Parameters live in collection `params` (`kernel`, `bias`) and, with `lora`, in collection `lora` (`a`, `b`), so that
    one set of base weights serves every role.

    Attributes:
        spec: for example "...D,DHQ->...HQ"; the kernel's letters that the output lacks are contracted, and come first.
        shape: size of each letter of the kernel.
        use_bias: whether a bias over the output letters is added.
        lora: the adapter, or None.
        dtype: compute dtype. param_dtype: dtype in which parameters are kept.
        scale: multiplies the initial standard deviation fan_in ** -0.5.
        weights: "int8" keeps the kernel as `quantize_kernel` gives it; it cannot be trained. What goes in and comes out
            is in the compute dtype all the same.
    """

    spec: str
    shape: tuple[int, ...]
    use_bias: bool = False
    lora: Lora | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    scale: float = 1.0
    weights: Literal["float", "int8"] = "float"

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """Projects `x`; `deterministic` switches the adapter's dropout off."""
        letters_in, rest = self.spec.split(",")
        letters, letters_out = rest.split("->")
        size = dict(zip(letters, self.shape, strict=True))
        inner = "".join(c for c in letters if c not in letters_out)
        outer = "".join(c for c in letters if c in letters_out)
        init = nn.initializers.normal(self.scale * math.prod(size[c] for c in inner) ** -0.5)
        axes = tuple(AXES[c] for c in letters)
        if self.weights == "int8":
            quantized = self.param("kernel", _quantized(init, axes, len(inner)), self.shape, self.param_dtype)
            y = cast(Array, _int8_einsum(self.spec, x.astype(self.dtype), quantized))
        else:
            kernel = self.param("kernel", nn.with_logical_partitioning(init, axes), self.shape, self.param_dtype)
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
        """One half of the adapter, from collection `lora`, in the compute dtype.

        It is kept in float32 whatever the base is kept in: a bfloat16 would round its small updates away.
        """
        init = nn.with_logical_partitioning(init, axes)

        def start() -> Any:
            return init(self.make_rng("params"), shape, jnp.float32)

        value = self.variable("lora", name, start).value
        return cast(Array, value).astype(self.dtype)
