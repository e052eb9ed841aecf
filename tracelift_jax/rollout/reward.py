"""Verdicts, uplift and rewards: METHOD's equations, one function each."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from tracelift_jax.checked import check_types, require
from tracelift_jax.tasks.verdict import FAILED as FAILED
from tracelift_jax.tasks.verdict import OK as OK
from tracelift_jax.tasks.verdict import WRONG as WRONG


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """What a trace is rewarded for; e2e, s and u are the primary verdict, the grade and the uplift.

    Attributes:
        kind: "tracelift" 0.5 e2e + 0.5 shaped(s, u); "exec_only" e2e; and two ablations of the quality term,
            "rm_only" 0.5 e2e + 0.5 s, "uplift_only" 0.5 e2e + 0.5 u.
        uplift: "sampled" compares `repeats` verdicts with the baseline's; "likelihood" compares the executor's
            probability of the reference answer with and without the reasoning; "none" measures no uplift.
        repeats: K, executor samples a trace for the sampled uplift.
        baseline: "cached" measures the executor without reasoning once per problem, by `baseline_samples` samples, and
            keeps the counts; "resample" draws K fresh ones for every trace (reference).
        shaping: "product" s u (reference); "sign_aware" s u for u >= 0, (1 - s) u below: monotone in both.
        adaptive: E, further executor samples for each trace of the groups that the first K leave most undecided; 0
            draws none. For the sampled uplift; see `rollout/adaptive.py` for what undecided means.
        adaptive_share: the share of a batch's groups that get them, rounded up.
        malformed: of traces without closing tag, empty, or with a second opening tag: "fail" counts them as always
            wrong with grade 0; "execute" closes the tag and judges them like any other; "mask" leaves them out of
            the group.
    """

    kind: Literal["tracelift", "exec_only", "rm_only", "uplift_only"] = "tracelift"
    uplift: Literal["sampled", "likelihood", "none"] = "likelihood"
    repeats: int = 3
    baseline: Literal["cached", "resample"] = "cached"
    baseline_samples: int = 8
    adaptive: int = 0
    adaptive_share: float = 0.25
    shaping: Literal["product", "sign_aware"] = "sign_aware"
    malformed: Literal["fail", "execute", "mask"] = "fail"

    def __post_init__(self) -> None:
        check_types(self)
        require(self.repeats >= 1, f"RewardConfig.repeats must be at least 1, got {self.repeats}")
        samples = self.baseline_samples
        require(samples >= 1, f"RewardConfig.baseline_samples must be at least 1, got {samples}")
        require(self.adaptive >= 0, f"RewardConfig.adaptive must not be negative, got {self.adaptive}")
        share = self.adaptive_share
        require(0 < share <= 1, f"RewardConfig.adaptive_share must lie in (0, 1], got {share}")
        require(self.adaptive == 0 or self.uplift == "sampled", 'RewardConfig.adaptive needs uplift = "sampled"')
        unmeasured = self.needs_uplift and self.uplift == "none"
        require(not unmeasured, f'RewardConfig.uplift must not be "none" for kind "{self.kind}"')

    @property
    def needs_uplift(self) -> bool:
        """Whether the reward is computed from the uplift."""
        return self.kind in ("tracelift", "uplift_only")

    @property
    def needs_grade(self) -> bool:
        """Whether the reward is computed from the reward model's score."""
        return self.kind in ("tracelift", "rm_only")


def uplift(with_reasoning: Array, without_reasoning: Array) -> Array:
    """clip(with - without, -1, 1) of two success rates or probabilities, broadcast; float32."""
    return jnp.clip(jnp.asarray(with_reasoning, jnp.float32) - without_reasoning, -1.0, 1.0)


def shaped(score: Array, u: Array, shaping: Literal["product", "sign_aware"]) -> Array:
    """The quality term: s u, or s u for u >= 0 and (1 - s) u below (METHOD, "ours")."""
    if shaping == "product":
        return score * u
    return jnp.where(u >= 0, score * u, (1.0 - score) * u)


def math_reward(e2e: Array, score: Array, u: Array, config: RewardConfig = RewardConfig()) -> Array:
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
