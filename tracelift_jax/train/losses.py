"""The losses, one equation a function, each returning (sum, weight) so that micro-batches add up exactly."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tracelift_jax.checked import check_types, require
from tracelift_jax.models.rubric import Grade
from tracelift_jax.rollout.advantage import STD_FLOOR, group_advantages

__all__ = [
    "STD_FLOOR",
    "DimensionLoss",
    "GrpoConfig",
    "RewardModelLossConfig",
    "Sums",
    "dimension_loss",
    "group_advantages",
    "grpo_loss",
    "reduce_tokens",
    "reward_model_loss",
]

GAP_TAIL = 0.1
"""A token is in the tail where sampler and trainer differ by more than this in its log-probability."""

Sums = dict[str, tuple[Array, Array]]
"""Metrics as (sum, weight) pairs: their mean is sum / weight, over whatever was added up."""


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """GRPO (arXiv 2402.03300) and its variants.

    Attributes:
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high] (arXiv 2503.14476 raises the upper).
        kl: weight of the KL penalty to the base; 0 computes none.
        reduction: "sequence" averages tokens within a trace, then traces (GRPO); "token" averages all tokens (DAPO);
            "constant" divides token sums by the longest possible trace (Dr. GRPO, arXiv 2503.20783).
        normalize: "std" divides a group's advantages by their standard deviation, "none" does not.
        groups: "all" learns from every group; "mixed" leaves out those whose traces all have the same verdict, right or
            wrong (arXiv 2503.14476, dynamic sampling without the resampling).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    reduction: Literal["sequence", "token", "constant"] = "sequence"
    normalize: Literal["std", "none"] = "std"
    groups: Literal["all", "mixed"] = "all"

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.clip_low < 1, f"GrpoConfig.clip_low must lie between 0 and 1, got {self.clip_low}")
        require(self.clip_high > 0, f"GrpoConfig.clip_high must be above 0, got {self.clip_high}")
        require(self.kl >= 0, f"GrpoConfig.kl must not be negative, got {self.kl}")


def reduce_tokens(
    values: Array, mask: Array, counted: Array, reduction: Literal["sequence", "token", "constant"]
) -> tuple[Array, Array]:
    """(sum, weight) of per-token values.

    Args:
        values: float32 [*lead, T]. mask: bool [*lead, T], tokens that count. counted: bool [*lead], traces that count.
        reduction: see `GrpoConfig`.

    Returns:
        Two float32 scalars; the loss is sum / weight.
    """
    mask = mask & counted[..., None]
    totals = jnp.where(mask, values, 0.0).sum(-1)
    traces = counted.sum().astype(jnp.float32)
    match reduction:
        case "sequence":
            return (totals / jnp.maximum(mask.sum(-1), 1)).sum(), traces
        case "token":
            return totals.sum(), mask.sum().astype(jnp.float32)
        case "constant":
            return totals.sum() / values.shape[-1], traces


def grpo_loss(
    logprobs: Array,
    sampler_logprobs: Array,
    advantages: Array,
    mask: Array,
    counted: Array,
    config: GrpoConfig,
    base_logprobs: Array | None = None,
) -> tuple[tuple[Array, Array], Sums]:
    """-min(ratio A, clip(ratio) A) + kl KL(planner || base) per token (arXiv 2402.03300, eq. 3 and 4).

    Args:
        logprobs: float32 [*lead, T] under the planner being trained.
        sampler_logprobs: float32 [*lead, T], stored when the traces were sampled.
        advantages: float32 [*lead].
        mask: bool [*lead, T], the tokens the planner chose. counted: bool [*lead], traces that count.
        base_logprobs: float32 [*lead, T] under the base; needed where `config.kl` is not 0.

    Returns:
        The loss as (sum, weight), and metrics.
    """
    log_ratio = jnp.where(mask, logprobs - sampler_logprobs, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
    gain = advantages[..., None]
    per_token = -jnp.minimum(ratio * gain, clipped * gain)
    tokens = mask & counted[..., None]
    count = tokens.sum().astype(jnp.float32)

    def total(x: Array) -> Array:
        return jnp.where(tokens, x, 0.0).sum()

    # Where the clipped side is the minimum and the gradient is 0; a trace of no advantage has none anyway.
    cut = ((gain > 0) & (ratio > 1 + config.clip_high)) | ((gain < 0) & (ratio < 1 - config.clip_low))
    gap = jnp.where(tokens, jnp.abs(log_ratio), 0.0)
    # Of tokens drawn from the planner, so the mean surprise estimates its entropy without another softmax, and the mean
    # of ratio - 1 - log ratio its divergence from the sampler ("k3" of Schulman).
    metrics: Sums = {
        "policy/ratio": (total(ratio), count),
        "policy/clipped": (total(cut), count),
        "policy/entropy": (total(-logprobs), count),
        "policy/kl_sampler": (total(ratio - 1 - log_ratio), count),
        "sampler/gap": (gap.sum(), count),
        "sampler/gap_tail": ((gap > GAP_TAIL).sum().astype(jnp.float32), count),
        "sampler/gap_max": (gap.max(-1, initial=0.0).sum(), tokens.any(-1).sum().astype(jnp.float32)),
    }
    if config.kl:
        if base_logprobs is None:
            raise ValueError("a KL penalty needs base_logprobs")
        away = jnp.where(mask, base_logprobs - logprobs, 0.0)
        divergence = jnp.exp(away) - away - 1  # the unbiased, non-negative estimator "k3" of Schulman
        per_token = per_token + config.kl * divergence
        metrics["policy/kl_base"] = (total(divergence), count)
    return reduce_tokens(per_token, mask, counted, config.reduction), metrics


DimensionLoss = Literal["cross_entropy", "squared_error"]


def dimension_loss(grade: Grade, labels: Array, kind: DimensionLoss = "cross_entropy") -> Array:
    """The loss of the labels, summed over the five dimensions.

    Args:
        grade: of traces [*lead]. labels: int32 [*lead, 5].
        kind: see `RewardModelLossConfig`.

    Returns:
        float32 [*lead].
    """
    match kind:
        case "cross_entropy":
            log_softmax = jax.nn.log_softmax(grade.logits)
            return -jnp.take_along_axis(log_softmax, labels[..., None], axis=-1)[..., 0].sum(-1)
        case "squared_error":
            return jnp.square(grade.expected - labels).sum(-1)


@dataclasses.dataclass(frozen=True)
class RewardModelLossConfig:
    """Weights of the reward model's four loss parts (METHOD).

    Attributes:
        dimensions: of the labels' losses. total: of the total's Huber loss, whose threshold is `huber_delta`.
        rank: of positives above negatives. rank_negatives: of negatives whose totals differ by `margin` or more.
        huber_delta: no weight: from which error on the Huber loss is linear. margin: no weight, see `rank_negatives`.
        prefix: of the labels' losses at every token of a trace, labelled as the positive up to where the trace first
            differs from it, and as itself from there on: a dense signal where flaws are localized. 0 is METHOD's loss.
        language: of the positives' next-token cross entropy, which keeps what the backbone knows of the subject
            (arXiv 2406.10216). 0 is METHOD's loss.
        dimension_loss: what a label's loss is. "cross_entropy" knows five labels without an order; "squared_error" is
            that of the expected label, so that near misses cost less, and asks for no certainty.
    """

    dimensions: float = 1.0
    total: float = 0.5
    rank: float = 0.7
    rank_negatives: float = 0.0
    prefix: float = 0.0
    language: float = 0.0
    huber_delta: float = 1.0
    margin: float = 0.15
    dimension_loss: DimensionLoss = "cross_entropy"

    def __post_init__(self) -> None:
        check_types(self)
        require(self.huber_delta > 0, f"RewardModelLossConfig.huber_delta must be above 0, got {self.huber_delta}")


def reward_model_loss(
    grade: Grade, labels: Array, totals: Array, config: RewardModelLossConfig, counted: Array | None = None
) -> tuple[tuple[Array, Array], Sums]:
    """Labels of the dimensions + Huber on the total + pairwise ranking, averaged over a group's traces (METHOD).

    Args:
        grade: of traces [B, M]; trace 0 of each group is the positive.
        labels: int32 [B, M, 5]. totals: float32 [B, M] in [0, 1].
        counted: bool [B], groups that count; all where None.

    Returns:
        The loss as (sum over groups, number of groups), and metrics.
    """
    dimensions = dimension_loss(grade, labels, config.dimension_loss).mean(-1)
    huber = optax.losses.huber_loss(grade.total, totals, delta=config.huber_delta).mean(-1)
    score = grade.score
    rank = jax.nn.softplus(score[:, 1:] - score[:, :1]).mean(-1)
    gap = totals[:, 1:, None] - totals[:, None, 1:]
    apart = gap >= config.margin
    pair = jax.nn.softplus(score[:, None, 1:] - score[:, 1:, None])
    among = jnp.where(apart, pair, 0.0).sum((-1, -2)) / jnp.maximum(apart.sum((-1, -2)), 1)
    parts = {"dimensions": dimensions, "total": huber, "rank": rank, "rank_negatives": among}
    per_group = jnp.asarray(sum(getattr(config, name) * value for name, value in parts.items()))
    above = score[:, :1] > score[:, 1:]
    measured = {f"loss/{name}": value for name, value in parts.items()} | {
        "score/pair_accuracy": above.mean(-1),
        "score/group_accuracy": above.all(-1).astype(jnp.float32),
        "score/mae": jnp.abs(score - totals).mean(-1),
        "score/squared_error": jnp.square(score - totals).mean(-1),
        "score/dimension_accuracy": (grade.logits.argmax(-1) == labels).mean((-1, -2)),
    }
    weight = jnp.ones(len(totals), jnp.float32) if counted is None else jnp.asarray(counted, jnp.float32)
    groups = weight.sum()
    metrics: Sums = {name: ((value * weight).sum(), groups) for name, value in measured.items()}
    return ((per_group * weight).sum(), groups), metrics
