"""The quality term of a reward: how a trace's grade weighs what the trace was worth to the executor."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

Shaping = Literal["product", "sign_aware"]


def shaped(score: Array, worth: Array, shaping: Shaping) -> Array:
    """s w; or, sign-aware, s w for w >= 0 and (1 - s) w below, so that a better grade never costs anything.

    Args:
        score: float32 [...] in [0, 1], the grade. worth: float32 [...] in [-1, 1], an uplift or a coefficient.
    """
    if shaping == "product":
        return score * worth
    return jnp.where(worth >= 0, score * worth, (1.0 - score) * worth)
