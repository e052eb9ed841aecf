"""Is a run well? What a step's rollout was like, in numbers a researcher watches, computed where the rollout lies.

Means are over the traces that count, given as (sum, weight). Extremes and percentiles are of the whole batch, with
weight 1. What was not there to be measured (no trace was right, ...) has weight 0 and becomes nan.
"""

import jax.numpy as jnp
from jax import Array

from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.rollout.rollout import Rollout
from tracelift_jax.train.losses import Sums

SIGNAL = 1e-6
"""Rewards of a group that differ by less are the same."""


def mixed(verdicts: Array, counted: Array) -> Array:
    """bool [B]: groups in which some counted traces are right and some wrong.

    Args:
        verdicts: int8 [B, G], primary ones. counted: bool [B, G].
    """
    right = verdicts == OK
    return (right & counted).any(-1) & (~right & counted).any(-1)


def rollout_metrics(done: Rollout) -> Sums:
    """Rewards, advantages, outcomes, formats, lengths and failures of a rollout; see the module for the weights."""
    counted = done.counted
    primary = done.verdicts[..., 0]
    groups = counted.any(-1)
    spread = _largest(done.reward, counted, -1) + _largest(-done.reward, counted, -1)
    length = done.traces.valid.sum(-1).astype(jnp.float32)
    cut_off = ~done.well_formed & (length == done.traces.valid.shape[-1])
    asked = jnp.broadcast_to(groups[:, None, None], done.verdicts.shape)
    if done.asked is not None:
        asked = asked & done.asked
    real = (groups.sum() * done.reward.shape[1]).astype(jnp.float32)

    def mean(x: Array, among: Array = counted) -> tuple[Array, Array]:
        return jnp.where(among, x, 0).astype(jnp.float32).sum(), among.sum().astype(jnp.float32)

    out = {
        "reward/mean": mean(done.reward),
        "reward/accuracy": mean(primary == OK),
        "reward/uplift": mean(done.uplift.value),
        "reward/grade": mean(done.score),
        "reward/groups_with_signal": mean(spread > SIGNAL, groups),
        "reward/groups_mixed": mean(mixed(primary, counted), groups),
        "advantage/abs": mean(jnp.abs(done.advantage)),
        "advantage/positive": mean(done.advantage > 0),
        "advantage/max": (_largest(done.advantage, counted), _any(counted)),
        "advantage/min": (-_largest(-done.advantage, counted), _any(counted)),
        "rollout/well_formed": mean(done.well_formed),
        "rollout/cut_off": mean(cut_off),
        "rollout/trace_tokens": mean(length),
        "rollout/failed_verdicts": mean(done.verdicts == FAILED, asked),
        "rollout/left_out": (real - counted.sum(), real),
    }
    for name, among in (("right", counted & (primary == OK)), ("wrong", counted & (primary != OK))):
        out[f"reward/uplift_if_{name}"] = mean(done.uplift.value, among)
        out[f"reward/grade_if_{name}"] = mean(done.score, among)
    for percent in (50, 95, 100):
        value = jnp.nanpercentile(jnp.where(counted, length, jnp.nan), percent)
        out[f"rollout/trace_tokens_p{percent}"] = (jnp.nan_to_num(value), _any(counted))
    return out


def _any(mask: Array) -> Array:
    """float32 1 where there is something, else 0."""
    return mask.any().astype(jnp.float32)


def _largest(x: Array, among: Array, axis: int | None = None) -> Array:
    """The maximum over what counts; 0 where nothing does."""
    largest = jnp.where(among, x, -jnp.inf).max(axis)
    return jnp.where(among.any(axis), largest, 0.0)
