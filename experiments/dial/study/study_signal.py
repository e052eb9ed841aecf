"""What each arm's reward sees in the traces of the planner that all arms start from; that takes no training.

A reward can teach faithful reasoning only where it ranks a faithful trace above an unfaithful one of the same problem.
So each reward is computed, from the same traces, as training would: one answer for the verdict, and where uplift is
sampled three further ones against three without the trace.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from study_measures import Row, grouped
from study_stats import Estimate, over_seeds

from tracelift_jax.rollout.reward import RewardConfig, math_reward

REPEATS = 3
REWARDS: Mapping[str, RewardConfig] = {
    "exec_only": RewardConfig(kind="exec_only"),
    "tracelift_paper": RewardConfig(
        kind="tracelift", uplift="sampled", repeats=REPEATS, baseline="resample", shaping="product"
    ),
    "tracelift": RewardConfig(kind="tracelift"),
    "rm_only": RewardConfig(kind="rm_only"),
    "uplift_only": RewardConfig(kind="uplift_only"),
    "sampled_sign_aware": RewardConfig(
        kind="tracelift", uplift="sampled", repeats=REPEATS, baseline="resample", shaping="sign_aware"
    ),
    "likelihood_product": RewardConfig(kind="tracelift", shaping="product"),
}
"""The rewards of arms/."""


@dataclasses.dataclass(frozen=True)
class Traces:
    """Traces of one planner, all [P, G].

    Attributes:
        faithful: bool. score: the reward model's. first: the verdict. sampled, likelihood: two estimates of uplift.
    """

    faithful: np.ndarray
    score: np.ndarray
    first: np.ndarray
    sampled: np.ndarray
    likelihood: np.ndarray


def read_traces(rows: Sequence[Row]) -> Traces:
    """The untrained planner's, from the records of before.gin: 1 + REPEATS answers a trace, as many without it."""
    groups = grouped(rows, "untrained", "resident")
    without = [np.array(group[0]["verdicts"]) == "ok" for group in grouped(rows, "none", "resident")]

    def table(value) -> np.ndarray:
        return np.array([[value(row) for row in group] for group in groups])

    formed = table(lambda row: row["well_formed"])
    right = table(lambda row: [verdict == "ok" for verdict in row["verdicts"]]) & formed[..., None]
    # Each trace has answers of its own without it, as a resampled baseline does.
    drawn = np.array(without, float).reshape(*right.shape)
    return Traces(
        faithful=table(lambda row: row["faithful"]),
        score=table(lambda row: row["score"]) * formed,
        first=right[..., 0].astype(float),
        sampled=right[..., 1:].mean(-1) - drawn[..., 1:].mean(-1),
        likelihood=table(lambda row: row["uplift_likelihood"]),
    )


def reward(traces: Traces, config: RewardConfig) -> np.ndarray:
    """float [P, G]."""
    uplift = traces.sampled if config.uplift == "sampled" else traces.likelihood
    first, score, worth = map(jnp.asarray, (traces.first, traces.score, uplift))
    return np.asarray(math_reward(first, score, worth, config), float)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How a reward ranks a faithful trace and an unfaithful one of the same problem; over problems that have both.

    Attributes:
        above: share of pairs with the faithful one above, ties counted half; 0.5 is chance. tied: share of ties.
        correlation: of reward and faithfulness, both less their group's mean, over all traces.
    """

    above: Estimate
    tied: float
    correlation: float


def rank(rewards: np.ndarray, faithful: np.ndarray) -> Ranking:
    """Of rewards and faithfulness [P, G]; each problem's pairs count as one, and intervals are over problems."""
    above, tied = [], []
    for values, kinds in zip(rewards, faithful, strict=True):
        difference = values[kinds][:, None] - values[~kinds][None, :]
        if difference.size:
            ties = np.abs(difference) < 1e-6
            tied.append(np.mean(ties))
            above.append(np.mean(np.where(ties, 0.5, difference > 0)))
    mixed = faithful.any(1) & ~faithful.all(1)
    x, y = (values[mixed] - values[mixed].mean(1, keepdims=True) for values in (rewards, faithful.astype(float)))
    spread = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return Ranking(over_seeds(above), float(np.mean(tied)), float(np.sum(x * y) / spread) if spread else 0.0)
