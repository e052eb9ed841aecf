"""What a rollout leaves behind: one step's traces, what was found out about them, and what they are worth."""

import dataclasses

import jax
from jax import Array

from tracelift_jax.text.spans import Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Uplift:
    """What the reasoning gave the executor, with the counts and probabilities it comes from.

    Attributes:
        value: float32 [B, G] in [-1, 1].
        ok, trials: int32 [B, G], right and judged samples with the reasoning (sampled uplift; else 0).
        baseline_ok, baseline_trials: int32 [B, G], the same without it.
        baseline_answers: [B, n, A] or, resampled, [B, G, K, A] answers behind those counts, where drawn in this step.
        likelihood, baseline_likelihood: float32 [B, G], probability of the reference answer with and without.
    """

    value: Array
    ok: Array
    trials: Array
    baseline_ok: Array
    baseline_trials: Array
    baseline_answers: Tokens
    likelihood: Array
    baseline_likelihood: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """One step's traces and all that their rewards are made of.

    Attributes:
        traces: [B, G, R] as sampled. logprobs: float32 [B, G, R] of the sampler.
        well_formed: bool [B, G]. answers: [B, G, 1 + K, A], the primary one first. verdicts: int8 [B, G, 1 + K].
        uplift: see `Uplift`. rubric: float32 [B, G, 5] expected labels. total, score: float32 [B, G].
        reward, advantage: float32 [B, G]. counted: bool [B, G], traces that are learnt from.
        asked: bool [B, G, 1 + K + E], with `RewardConfig.adaptive`: which of as many answers and verdicts there are;
            the others are no answers, and no failures. None: all.
        executed: float32 [B, G], `exec_reward` of the primary programs; None where answers are no programs.
    """

    traces: Tokens
    logprobs: Array
    well_formed: Array
    answers: Tokens
    verdicts: Array
    uplift: Uplift
    rubric: Array
    total: Array
    score: Array
    reward: Array
    advantage: Array
    counted: Array
    asked: Array | None = None
    executed: Array | None = None
