"""How much memory the keys and values of a rollout take."""

import jax.numpy as jnp

from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.rollout.batch import Setup


def token_bytes(config: ModelConfig) -> int:
    """Bytes of one token's keys and values in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_width * jnp.dtype(config.dtype).itemsize


def cache_bytes(setup: Setup, prompt: int, batch: int) -> dict[str, int]:
    """Bytes of keys and values that each role's part of a rollout holds at once.

    Args:
        prompt: P, room for a framed problem. batch: B, problems.
    """
    fixed, reward = setup.fixed, setup.reward
    writes, answers = setup.planner_sampling.max_tokens, setup.executor_sampling.max_tokens - 1
    reason = len(fixed.open) + writes + len(fixed.close)
    sampled = reward.uplift == "sampled"
    samples = setup.traces * (1 + sampled * reward.repeats)
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
    return {role: batch * tokens[role] * token_bytes(m.config) for role, m in models.items() if m}
