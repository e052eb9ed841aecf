"""Segments: the keys and values of a stretch of tokens that others attend to.

TraceLift's batch is a tree: a problem `[B]` has traces `[B, G]`, a trace has executor samples `[B, G, K]`. The
leading axes of a node's ancestors are prefixes of its own, so a segment is stored once and shared by all below it.
Nothing is left-padded: `valid` says which slots count, and positions count valid tokens only.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """Keys and values of the tokens of one level of the tree.

    Attributes:
        k: [L, *lead, S, N, Q] keys with rotary positions applied, in the compute dtype.
        v: [L, *lead, S, N, Q] values.
        valid: bool [*lead, S], which slots hold a token.
    """

    k: Array
    v: Array
    valid: Array

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes of this level: (B,), (B, G), ..."""
        return self.valid.shape[:-1]

    @property
    def length(self) -> Array:
        """int32 [*lead], how many tokens the segment holds."""
        return self.valid.sum(-1, dtype=jnp.int32)

    def write(self, new: "Segment", slot: Array | int) -> "Segment":
        """This segment with the slots from `slot` on replaced by `new`, in place where the buffer is donated."""
        return Segment(
            k=jax.lax.dynamic_update_slice_in_dim(self.k, new.k, slot, axis=self.k.ndim - 3),
            v=jax.lax.dynamic_update_slice_in_dim(self.v, new.v, slot, axis=self.v.ndim - 3),
            valid=jax.lax.dynamic_update_slice_in_dim(self.valid, new.valid, slot, axis=self.valid.ndim - 1),
        )


Context = Sequence[Segment]
"""The ancestors of a node, outermost first."""


def expand(x: Array, lead: tuple[int, ...], trailing: int = 0) -> Array:
    """`x` [*prefix, *rest] with unit axes put in so that it broadcasts to [*lead, *rest]; `rest` has `trailing` axes.

    Raises:
        ValueError: the leading axes of `x` are no prefix of `lead`.
    """
    prefix = x.shape[: x.ndim - trailing]
    if prefix != lead[: len(prefix)]:
        raise ValueError(f"a segment of leading axes {prefix} cannot be an ancestor of {lead}")
    return x.reshape(*prefix, *(1,) * (len(lead) - len(prefix)), *x.shape[x.ndim - trailing :])


def context_length(context: Context, lead: tuple[int, ...]) -> Array:
    """int32 [*lead]: the position at which a node below `context` begins."""
    total = jnp.zeros(lead, jnp.int32)
    for segment in context:
        total = total + expand(segment.length, lead)
    return total


def last_valid(x: Array, valid: Array) -> Array:
    """The entry of `x` [*lead, T, D] at the last valid slot of `valid` [*lead, T]; [*lead, D]."""
    size = valid.shape[-1]
    index = size - 1 - jnp.argmax(valid[..., ::-1], axis=-1)
    return jnp.take_along_axis(x, index[..., None, None], axis=-2)[..., 0, :]


def rows(lead: tuple[int, ...]) -> int:
    """How many nodes a level holds."""
    return math.prod(lead)
