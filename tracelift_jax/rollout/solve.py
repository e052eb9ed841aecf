"""A person's problem through the roles of training; what needs a reference answer is left out where none is known.

    traces     = sample(planner | problem)                       [B, G, R]
    answers    = greedy(executor | problem, reason, ask)         [B, G, A]
    direct     = greedy(executor | problem, ask directly)        [B, A]
    grade      = grade(reward model | problem, reason)           [B, G]
    likelihood = probability(executor, reference | ...)          [B, G] and [B], where it is known

Malformed traces are executed and graded like any other, whatever training would do with them: a person wants to see it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.segment import expand
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.execute import Shown, answer_probability, read
from tracelift_jax.rollout.reward import uplift
from tracelift_jax.rollout.rollout import sample_traces, show_reasoning
from tracelift_jax.rollout.sample import sample
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.numbers import Number, equal, read_number
from tracelift_jax.text.spans import Tokens, splice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """The executor's greedy answers, one a node of `lead`.

    Attributes:
        tokens: [*lead, A]. number: [*lead], what is read in them.
        right: bool [*lead], or None where the reference is not known.
        likelihood: float32 [*lead], the executor's probability of the reference as in training, or None.
    """

    tokens: Tokens
    number: Number
    right: Array | None
    likelihood: Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grades:
    """The reward model's grades: rubric float32 [B, G, 5] expected labels; total, score float32 [B, G]."""

    rubric: Array
    total: Array
    score: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solved:
    """Traces of a batch of problems, and what the other roles make of them.

    Attributes:
        traces: [B, G, R] as sampled. ended: bool [B, G], the end token was drawn.
        judgement: int32 [B, G], of the closing tag: 0 not there, else spans.EMPTY or spans.GOOD.
        answers: with the reasoning, lead [B, G]. direct: without it, lead [B].
        uplift: float32 [B, G], or None where the reference is not known.
        grades: of the traces, or None without a reward model.
    """

    traces: Tokens
    ended: Array
    judgement: Array
    answers: Answers
    direct: Answers
    uplift: Array | None
    grades: Grades | None


def solving_setup(setup: Setup, samples: int | None) -> Setup:
    """The same roles with one greedy trace a problem, or with `samples` drawn as in training."""
    if samples is not None:
        return dataclasses.replace(setup, traces=samples)
    greedy = dataclasses.replace(setup.planner_sampling, temperature=0.0)
    return dataclasses.replace(setup, traces=1, planner_sampling=greedy)


def solve(setup: Setup, known: bool, text: Text, weights: Weights, batch: PromptBatch, key: Array) -> Solved:
    """Samples, executes and grades one batch of problems.

    Args:
        setup: static, as `solving_setup` gives it. known: static, whether the batch's answers are references.
        text: vocabulary tables. weights: of the three roles. batch: B problems. key: typed PRNG key.
    """
    traces = sample_traces(setup, text, weights, batch, key)
    reason = show_reasoning(setup, text, traces)

    problem = read(setup.executor, weights.executor, batch.executor)
    shown = read(setup.executor, weights.executor, splice((), reason, setup.fixed.ask), problem.context)
    nothing = Tokens(jnp.zeros((len(problem.end), 0), jnp.int32), jnp.zeros((len(problem.end), 0), bool))
    ask_directly = splice(setup.fixed.ask_directly, nothing, ())
    alone = read(setup.executor, weights.executor, ask_directly, problem.context)
    with_it = _answer(setup, known, text, weights, shown, batch, key)
    without = _answer(setup, known, text, weights, alone, batch, key)

    gained, grades = None, None
    if with_it.likelihood is not None and without.likelihood is not None:
        gained = uplift(with_it.likelihood, without.likelihood[:, None])
    if setup.reward_model is not None and weights.reward_model is not None:
        variables, heads = weights.reward_model
        graded = grade(setup.reward_model, variables, heads, batch.reward_model, reason)
        grades = Grades(graded.expected, graded.total, graded.score)
    judgement = jnp.asarray(text.body.judgement)[traces.state]
    return Solved(traces.tokens, traces.ended, judgement, with_it, without, gained, grades)


def _answer(
    setup: Setup, known: bool, text: Text, weights: Weights, shown: Shown, batch: PromptBatch, key: Array
) -> Answers:
    """The greedy answer behind each node shown; it leaves `key` unused."""
    greedy, lead = dataclasses.replace(setup.executor_sampling, temperature=0.0), shown.end.shape[:-1]
    ends, variables = setup.fixed.ends, weights.executor
    said = sample(setup.executor, variables, shown.end, shown.context, lead, key, text.stop, ends, greedy).tokens
    number = read_number(said.ids, said.valid, text.table)
    if not known:
        return Answers(said, number, None, None)
    reference: Number = jax.tree.map(lambda x: expand(jnp.asarray(x), lead, jnp.ndim(x) - 1), batch.reference)
    return Answers(said, number, equal(number, reference), answer_probability(setup, variables, shown, batch))
