"""Parameter trees with int8 projections, from float ones and back."""

from functools import partial
from typing import Any

import jax
import qwix

from tracelift_jax.models.einsum import quantize_kernel
from tracelift_jax.models.hf_layout import slots
from tracelift_jax.models.transformer import ModelConfig


def quantize_params(params: Any, config: ModelConfig) -> Any:
    """The kernels of the seven projections as `quantize_kernel` gives them, layer by layer; nothing else changes.

    Args:
        params: a decoder's float parameters, layers stacked on a leading axis. config: its shapes.

    Returns:
        `params` of the same decoder with `weights="int8"`.
    """
    contracted = {"/".join(slot.path): slot.contracted for slot in slots(config) if slot.contracted}

    def convert(path: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.vmap(partial(quantize_kernel, contracted=contracted[name]))(leaf) if name in contracted else leaf

    return jax.tree_util.tree_map_with_path(convert, params)


def dequantize_params(params: Any, config: ModelConfig) -> Any:
    """The inverse of `quantize_params` but for rounding: kernels as qvalue * scale in `config.param_dtype`."""

    def convert(leaf: Any) -> Any:
        return qwix.dequantize(leaf).astype(config.param_dtype) if isinstance(leaf, qwix.QArray) else leaf

    return jax.tree.map(convert, params, is_leaf=lambda leaf: isinstance(leaf, qwix.QArray))
