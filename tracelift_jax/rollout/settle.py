"""From what was found out about traces to their rewards: METHOD's arithmetic, on what a reward record holds.

    u         = with - without                                  [B, G]
    s         = half the labels, half the total                 [B, G]
    reward    = math_reward(e2e, s, u)                          [B, G]
    advantage = group_advantages(reward)                        [B, G]

To settle what is settled changes no bit of it. Inside a large program the compiler joins multiplications and additions
as it finds them, and rounds with them; a run therefore settles its rollouts in programs of their own (`Settling`), and
whoever has its records can have the same programs say the same, to the last bit (`tracelift replay`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.errors import UserError
from tracelift_jax.models.rubric import score_of
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.rollout.advantage import group_advantages
from tracelift_jax.rollout.code_reward import code_reward, count_coefficient, exec_reward
from tracelift_jax.rollout.own_reward import Facts, OwnReward
from tracelift_jax.rollout.result import Rollout, Uplift
from tracelift_jax.rollout.reward import FAILED, OK, WRONG, math_reward, uplift
from tracelift_jax.rollout.reward_config import CodeRewardConfig, RewardConfig
from tracelift_jax.tasks.outcome import Outcome

Normalize = Literal["std", "none"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Worth:
    """What follows for traces [B, G]; see `Rollout` and `Uplift`."""

    verdicts: Array
    ok: Array
    likelihood: Array
    uplift: Array
    score: Array
    reward: Array
    counted: Array


def settle_rewards(config: RewardConfig, done: Rollout) -> Worth:
    """Verdicts, uplift, score and reward of traces, and whether they are learnt from.

    Args:
        done: what was written, said and measured; `counted`: bool [B, G], False for rows that only fill a batch.
    """
    well_formed, gained = done.well_formed, done.uplift
    verdicts, ok, likelihood = done.verdicts, gained.ok, gained.likelihood
    value, score = _measured(config, gained), score_of(done.rubric, done.total)
    if config.malformed == "fail":
        # A malformed trace counts as one the executor never gets right, and its grade as 0.
        verdicts = jnp.where(well_formed[..., None], verdicts, WRONG).astype(jnp.int8)
        ok, likelihood = jnp.where(well_formed, ok, 0), jnp.where(well_formed, likelihood, 0.0)
        value = jnp.where(well_formed, value, _never_right(config, gained))
        score = jnp.where(well_formed, score, 0.0)
    right, worth = _right_and_worth(config, dataclasses.replace(done, verdicts=verdicts), ok, value)
    facts = Facts(done.traces, well_formed, right, verdicts, worth, done.rubric, done.total, score)
    counted = (verdicts[..., 0] != FAILED) & done.counted
    if config.malformed == "mask":
        counted = counted & well_formed
    if config.needs_uplift and config.uplift == "sampled":
        counted = counted & (gained.trials > 0) & (gained.baseline_trials > 0)
    return Worth(verdicts, ok, likelihood, value, score, _reward(config, facts), counted)


def settle_advantages(normalize: Normalize, reward: Array, counted: Array) -> Array:
    """`group_advantages`, with what is static in front."""
    return group_advantages(reward, counted, normalize)


def with_worth(done: Rollout, worth: Worth, advantage: Array) -> Rollout:
    """A rollout with what follows from it."""
    gained = dataclasses.replace(done.uplift, value=worth.uplift, ok=worth.ok, likelihood=worth.likelihood)
    return dataclasses.replace(
        done,
        verdicts=worth.verdicts,
        uplift=gained,
        score=worth.score,
        reward=worth.reward,
        advantage=advantage,
        counted=worth.counted,
    )


def settled(config: RewardConfig, normalize: Normalize, done: Rollout) -> Rollout:
    """A rollout with what follows from it, inside a larger program."""
    worth = settle_rewards(config, done)
    return with_worth(done, worth, settle_advantages(normalize, worth.reward, worth.counted))


class Settling:
    """`settled` as two programs of their own, always the same ones for the same settings and shapes.

    Attributes:
        rewards: `Worth` of a `Rollout`. advantages: float32 [B, G] of rewards and counted [B, G].
    """

    def __init__(self, config: RewardConfig, normalize: Normalize, out_shardings: Any = None):
        """`out_shardings`: of what has a batch axis, where there are several devices."""
        self.rewards: Callable[[Rollout], Worth] = jitted(settle_rewards, config, out_shardings=out_shardings)
        self.advantages: Callable[[Array, Array], Array] = jitted(
            settle_advantages, normalize, out_shardings=out_shardings
        )

    def __call__(self, done: Rollout) -> Rollout:
        """A rollout with what follows from it."""
        worth = self.rewards(done)
        return with_worth(done, worth, self.advantages(worth.reward, worth.counted))


def _measured(config: RewardConfig, gained: Uplift) -> Array:
    """float32 [B, G], the uplift; 0 where nothing was judged on one side."""
    match config.uplift:
        case "none":
            return jnp.zeros_like(gained.likelihood)
        case "likelihood":
            return uplift(gained.likelihood, gained.baseline_likelihood)
        case "sampled":
            value = uplift(gained.ok / jnp.maximum(gained.trials, 1), _baseline_rate(gained))
            return jnp.where((gained.trials > 0) & (gained.baseline_trials > 0), value, 0.0)


def _baseline_rate(gained: Uplift) -> Array:
    return gained.baseline_ok / jnp.maximum(gained.baseline_trials, 1)


def _never_right(config: RewardConfig, gained: Uplift) -> Array:
    """float32 [B, G], the uplift of traces behind which the executor is never right."""
    base = _baseline_rate(gained) if config.uplift == "sampled" else gained.baseline_likelihood
    return uplift(jnp.zeros_like(base), base)


def _right_and_worth(config: RewardConfig, done: Rollout, ok: Array, value: Array) -> tuple[Array, Array]:
    """float32 [B, G] each: `Facts.right` and `Facts.uplift`."""
    if not isinstance(config, CodeRewardConfig):
        return (done.verdicts[..., 0] == OK).astype(jnp.float32), value
    assert done.executed is not None
    executed = done.executed
    if config.malformed == "fail":
        # As one behind which no program was written.
        nothing = exec_reward(jnp.int32(0), jnp.int32(1), jnp.int32(Outcome.NO_PROGRAM.code), config.exec_style)
        executed = jnp.where(done.well_formed, executed, nothing)
    gained = done.uplift
    counts = (ok, gained.trials, gained.baseline_ok, gained.baseline_trials)
    return executed, count_coefficient(*counts, dict(config.tie_table))


def _reward(config: RewardConfig, facts: Facts) -> Array:
    if config.own is not None:
        return _own_reward(config.own, facts)
    if isinstance(config, CodeRewardConfig):
        return code_reward(facts.right, facts.score, facts.uplift, config)
    return math_reward(facts.right, facts.score, facts.uplift, config)


def _own_reward(own: OwnReward, facts: Facts) -> Array:
    reward, wanted = jnp.asarray(own.reward(facts)), facts.right
    if reward.shape != wanted.shape or reward.dtype != wanted.dtype:
        name = type(own).__name__
        raise UserError(
            f"{name}.reward must give float32 {list(wanted.shape)} for [B, G] = {list(wanted.shape)}, "
            f"got {reward.dtype} {list(reward.shape)}"
        )
    return reward
