"""How much better a trace is than its siblings."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

STD_FLOOR = 1e-4
"""Added to a group's standard deviation: groups without signal get advantages of 0, not NaN."""


def group_advantages(rewards: Array, counted: Array, normalize: Literal["std", "none"] = "std") -> Array:
    """A_g = r_g - mean_g(r), over the group's population standard deviation with `normalize="std"`.

    Args:
        rewards: float32 [B, G].
        counted: bool [B, G]; traces left out (infrastructure failures, masked rules) get 0 and move no mean.

    Returns:
        float32 [B, G].
    """
    count = jnp.maximum(counted.sum(-1, keepdims=True), 1)
    # From the first one that counts: a mean of equal numbers need not be that number, and advantages that are only
    # its rounding error would teach something in groups that have nothing to tell.
    first = jnp.take_along_axis(rewards, jnp.argmax(counted, -1)[..., None], -1)
    apart = jnp.where(counted, rewards - first, 0.0)
    mean = apart.sum(-1, keepdims=True) / count
    centred = jnp.where(counted, apart - mean, 0.0)
    if normalize == "none":
        return centred
    deviation = jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) / count)
    return centred / (deviation + STD_FLOOR)
