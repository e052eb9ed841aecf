"""Verdicts, uplift and rewards: METHOD's equations, one function each."""

import jax.numpy as jnp
from jax import Array

from tracelift_jax.rollout.code_reward import code_reward as code_reward
from tracelift_jax.rollout.code_reward import tie_coefficient as tie_coefficient
from tracelift_jax.rollout.reward_config import CodeRewardConfig as CodeRewardConfig
from tracelift_jax.rollout.reward_config import RewardConfig as RewardConfig
from tracelift_jax.rollout.shaping import shaped as shaped
from tracelift_jax.tasks.verdict import FAILED as FAILED
from tracelift_jax.tasks.verdict import OK as OK
from tracelift_jax.tasks.verdict import WRONG as WRONG

_DEFAULT = RewardConfig()


def uplift(with_reasoning: Array, without_reasoning: Array) -> Array:
    """clip(with - without, -1, 1) of two success rates or probabilities, broadcast; float32."""
    return jnp.clip(jnp.asarray(with_reasoning, jnp.float32) - without_reasoning, -1.0, 1.0)


def math_reward(e2e: Array, score: Array, u: Array, config: RewardConfig = _DEFAULT) -> Array:
    """The reward of math traces, by `config.kind`.

    Args:
        e2e: float32 [...], 1 where the primary sample is right, else 0.
        score: float32 [...] in [0, 1], the reward model's. u: float32 [...] in [-1, 1], the uplift.

    Returns:
        float32 [...].
    """
    match config.kind:
        case "exec_only":
            return e2e
        case "rm_only":
            return 0.5 * e2e + 0.5 * score
        case "uplift_only":
            return 0.5 * e2e + 0.5 * u
        case "tracelift":
            return 0.5 * e2e + 0.5 * shaped(score, u, config.shaping)


def success_rate(verdicts: Array) -> tuple[Array, Array]:
    """(right ones, judged ones), both int32 [...], of verdicts int8 [..., K]; failed ones are neither."""
    return (verdicts == OK).sum(-1, dtype=jnp.int32), (verdicts != FAILED).sum(-1, dtype=jnp.int32)
