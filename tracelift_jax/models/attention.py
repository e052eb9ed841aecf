"""Attention of a node's tokens to themselves and to the segments of their ancestors.

Each segment is attended to where it lies, at its own leading axes: the queries of all nodes below it are gathered
into one matrix product against its keys, so a shared problem is read once however many traces hang on it. The
pieces are softmaxed apart and merged by their log-sum-exp, which equals one softmax over all keys (bifurcated
attention, arXiv 2403.08845; Hydragen, arXiv 2402.05099). `kernels.tree_attention` does the same by fused kernels.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.segment import expand

# Far below any score, yet finite: a piece whose keys are all masked gets weight exp(-huge) = 0, never NaN.
MASKED = -1e30


def tree_masks(valid: Sequence[Array]) -> list[Array]:
    """Which keys the tokens of a node see: all valid ones of its ancestors, and its own up to themselves.

    Args:
        valid: bool [*prefix, S] of each ancestor, outermost first, and last the node's own [*lead, T].

    Returns:
        One bool array a level, broadcastable to [*lead, T, S].
    """
    *ancestors, own = valid
    above = [expand(x, own.shape[:-1], trailing=1)[..., None, :] for x in ancestors]
    causal = jnp.tril(jnp.ones((own.shape[-1], own.shape[-1]), bool))
    return [*above, causal & own[..., None, :]]


def attend_piece(q: Array, k: Array, v: Array, mask: Array) -> tuple[Array, Array]:
    """Softmax attention to one piece.

    Args:
        q: [*lead, T, H, Q] queries, scaled by 1/sqrt(Q) already.
        k, v: [*prefix, S, N, Q], `prefix` a prefix of `lead`, N dividing H.
        mask: bool, broadcastable to [*lead, T, S]: which keys each query may see.

    Returns:
        float32 [*lead, T, H, Q] attention output and float32 [*lead, T, H] log-sum-exp of the scores.
    """
    *lead, length, heads, width = q.shape
    prefix, kv_heads, group = k.shape[:-3], k.shape[-2], heads // k.shape[-2]
    below = math.prod(lead[len(prefix) :]) * length
    # Keys are shared by `below` queries and by the query heads of a group: fold both into one matrix dimension.
    folded = q.reshape(*prefix, below, kv_heads, group, width)
    scores = jnp.einsum("...mngq,...snq->...mngs", folded, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(*lead, length, heads, -1)
    scores = jnp.where(mask[..., None, :], scores, MASKED)
    top = jax.lax.stop_gradient(scores.max(-1))
    weights = jnp.exp(scores - top[..., None])
    total = weights.sum(-1)
    weights = weights.reshape(*prefix, below, kv_heads, group, -1).astype(v.dtype)
    out = jnp.einsum("...mngs,...snq->...mngq", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(*lead, length, heads, width) / total[..., None], top + jnp.log(total)


def attend(q: Array, pieces: Sequence[tuple[Array, Array, Array]]) -> Array:
    """Softmax attention to several pieces at once.

    Args:
        q: [*lead, T, H, Q] queries, not scaled.
        pieces: (k, v, mask) triples as in `attend_piece`.

    Returns:
        [*lead, T, H, Q] in the dtype of `q`.
    """
    q = q * q.shape[-1] ** -0.5
    parts = [attend_piece(q, *piece) for piece in pieces]
    if len(parts) == 1:
        return parts[0][0].astype(q.dtype)
    shares = jax.nn.softmax(jnp.stack([lse for _, lse in parts]), axis=0)
    mixed = [share[..., None] * out for share, (out, _) in zip(shares, parts, strict=True)]
    return functools.reduce(jnp.add, mixed).astype(q.dtype)
