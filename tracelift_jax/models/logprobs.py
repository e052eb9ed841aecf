"""Log-probabilities of given tokens, without ever holding the logits of all positions."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.transformer import Transformer, logits_of

CHUNK = 64
"""Most positions whose logits are in memory at once, per node."""


def token_logprobs(model: Transformer, variables, hidden: Array, targets: Array, temperature: float = 1.0) -> Array:
    """log p(target | before) under softmax(logits / temperature).

    Args:
        model, variables: whose output projection turns hidden states into logits.
        hidden: [*lead, T, D]; `hidden[..., t, :]` is the state *before* target t.
        targets: int32 [*lead, T].
        temperature: above 0.

    Returns:
        float32 [*lead, T].
    """

    def piece(hidden: Array, targets: Array) -> Array:
        logits = logits_of(model, variables, hidden) / temperature
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    length = targets.shape[-1]
    if length <= CHUNK:
        return piece(hidden, targets)
    # Equal chunks, as few as fit; the last one is moved back to end at the end, and its overlap is dropped.
    chunk = math.ceil(length / math.ceil(length / CHUNK))
    starts = [*range(0, length - chunk, chunk), length - chunk]
    taken = jax.lax.map(
        jax.checkpoint(
            lambda start: piece(
                jax.lax.dynamic_slice_in_dim(hidden, start, chunk, hidden.ndim - 2),
                jax.lax.dynamic_slice_in_dim(targets, start, chunk, targets.ndim - 1),
            )
        ),
        jnp.asarray(starts),
    )
    pieces = [taken[i] for i in range(len(starts) - 1)]
    pieces.append(taken[-1][..., chunk - (length - chunk * (len(starts) - 1)) :])
    return jnp.concatenate(pieces, axis=-1)


def shift(before: Array, hidden: Array) -> Array:
    """States that predict each token of a node: `before` [*lead, D] of its last ancestor, then `hidden` [*lead, T, D].

    Returns:
        [*lead, T, D], without the last token's own state, which predicts nothing here.
    """
    return jnp.concatenate([before[..., None, :], hidden[..., :-1, :]], axis=-2)
