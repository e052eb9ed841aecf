"""Reasoning that is given, whoever wrote it, before an executor.

    shown      = read(executor | problem, reason, ask)            [B, M, T]
    answers    = sample(executor | shown)                         [B, M, n, A]
    verdicts   = equal(read_number(answers), reference)           [B, M, n]
    likelihood = probability(executor, canonical answer | shown)  [B, M]

Without reasoning the executor is asked directly, and M is 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.transformer import Transformer
from tracelift_jax.rollout.batch import Fixed, PromptBatch, Setup, Text
from tracelift_jax.rollout.execute import Shown, answer_probability, answers, read
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.text.spans import Tokens, splice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answered:
    """What an executor made of given reasoning.

    Attributes:
        tokens: [B, M, n, A], its answers. verdicts: int8 [B, M, n], of the reader on the device.
        likelihood: float32 [B, M], the probability of the canonical answer, at the temperature of training whatever the
            answers were drawn at.
    """

    tokens: Tokens
    verdicts: Array
    likelihood: Array


def executor_setup(executor: Transformer, fixed: Fixed, sampling: Sampling) -> Setup:
    """The setup of an executor by itself: nobody writes, nobody grades."""
    return Setup(
        planner=executor,
        executor=executor,
        reference=executor,
        reward_model=None,
        traces=1,
        planner_sampling=sampling,
        executor_sampling=sampling,
        reward=RewardConfig(kind="exec_only", uplift="none"),
        normalize="none",
        fixed=fixed,
    )


def answer_given(
    setup: Setup,
    samples: int,
    greedy: bool,
    text: Text,
    executor: dict,
    batch: PromptBatch,
    reason: Tokens | None,
    key: Array,
) -> Answered:
    """Asks the executor `samples` times behind each reasoning.

    Args:
        setup, samples, greedy: static; greedy takes the most likely tokens.
        text: vocabulary tables. executor: its variables. batch: B problems.
        reason: [B, M, T] with both tags, or None: the executor alone, with M = 1. key: typed PRNG key.
    """
    problem = read(setup.executor, executor, batch.executor)
    if reason is None:
        ask = splice(setup.fixed.ask_directly, _nothing(len(problem.end)), ())
        shown = _below(read(setup.executor, executor, ask, problem.context))
    else:
        shown = read(setup.executor, executor, splice((), reason, setup.fixed.ask), problem.context)
    drawing = setup
    if greedy:
        drawing = dataclasses.replace(
            setup, executor_sampling=dataclasses.replace(setup.executor_sampling, temperature=0.0)
        )
    said, verdicts = answers(drawing, text, executor, shown, samples, batch, key)
    return Answered(said, verdicts, answer_probability(setup, executor, shown, batch))


def _nothing(batch: int) -> Tokens:
    return Tokens(jnp.zeros((batch, 0), jnp.int32), jnp.zeros((batch, 0), bool))


def _below(shown: Shown) -> Shown:
    """What [B] nodes have read, as the one child [B, 1] of each."""
    return Shown(shown.context, shown.end[:, None])
