"""How much memory the keys and values of a rollout take."""

import jax.numpy as jnp

from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.mesh import batch_shards
from tracelift_jax.rollout.adaptive import chosen_groups
from tracelift_jax.rollout.batch import Setup


def token_bytes(config: ModelConfig) -> int:
    """Bytes of one token's keys and values in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_width * jnp.dtype(config.dtype).itemsize


def cache_bytes(setup: Setup, prompt: int, batch: int) -> dict[str, int]:
    """Bytes of keys and values that each role's part of a rollout holds at once on a device.

    Args:
        prompt: P, room for a framed problem. batch: B, problems of a device.
    """
    fixed, reward = setup.fixed, setup.reward
    writes, answers = setup.planner_sampling.max_tokens, setup.executor_sampling.max_tokens - 1
    reason = len(fixed.open) + writes + len(fixed.close)
    sampled = reward.uplift == "sampled"
    samples = setup.traces * (1 + sampled * reward.repeats)
    further = 0
    if reward.adaptive:
        shards = batch_shards(setup.mesh) if setup.mesh is not None else 1
        chosen = chosen_groups(batch * shards, reward.adaptive_share)
        # Copies of what was read of the groups chosen, wherever it lies, pass through every device.
        copied = chosen * (prompt + setup.traces * (reason + len(fixed.ask)))
        further = copied + -(-chosen // shards) * setup.traces * reward.adaptive * answers
    alone = sampled * (setup.traces * reward.repeats if reward.baseline == "resample" else reward.baseline_samples)
    # A sample's last token is never read, so it has no keys.
    tokens = {
        "planner": prompt + len(fixed.open) + setup.traces * (writes - 1),
        "executor": prompt
        + setup.traces * (reason + len(fixed.ask))
        + len(fixed.ask_directly)
        + (samples + alone) * answers,
        "reward_model": prompt + setup.traces * reason,
    }
    models = {"planner": setup.planner, "executor": setup.executor, "reward_model": setup.reward_model}
    whole = {role: batch * tokens[role] + further * (role == "executor") for role in tokens}
    return {role: whole[role] * token_bytes(m.config) for role, m in models.items() if m}
