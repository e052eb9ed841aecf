"""From prompts to advantages in one pure function: METHOD's loop, read top to bottom.

    traces    = sample(planner | problem)                       [B, G, R]
    reason    = open + body + close                             [B, G, T]
    answers   = sample(executor | problem, reason, ask)         [B, G, 1 + K, A]
    verdicts  = equal(read_number(answers), reference)          [B, G, 1 + K], and E more where undecided
    u         = uplift(with, without)                           [B, G]
    s         = grade(reward model | problem, reason)           [B, G]
    reward    = math_reward(e2e, s, u)                          [B, G], in settle.py
    advantage = group_advantages(reward)                        [B, G]

No token visits the host before the reward exists. With an executor elsewhere (`elsewhere.py`), `write` and `judge` are
the same, and the host stands between them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.rollout.adaptive import ask_further, rates_that_matter
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.execute import Shown, answer_probability, answers, read
from tracelift_jax.rollout.result import Rollout as Rollout
from tracelift_jax.rollout.result import Uplift as Uplift
from tracelift_jax.rollout.reward import success_rate
from tracelift_jax.rollout.sample import Samples, sample
from tracelift_jax.rollout.score import grade
from tracelift_jax.rollout.settle import settled
from tracelift_jax.text.spans import GOOD, Tokens, splice


def sample_traces(setup: Setup, text: Text, weights: Weights, batch: PromptBatch, key: Array) -> Samples:
    """G traces of every problem, each up to its closing tag."""
    shown = read(setup.planner, weights.planner, splice((), batch.planner, setup.fixed.open))
    lead = (len(shown.end), setup.traces)
    return sample(
        setup.planner,
        weights.planner,
        shown.end,
        shown.context,
        lead,
        key,
        text.body.automaton,
        setup.fixed.ends,
        setup.planner_sampling,
    )


def show_reasoning(setup: Setup, text: Text, traces: Samples) -> Tokens:
    """`open` + the planner's own tokens + `close` where the planner did not write it; [B, G, T].

    Control tokens the planner may have drawn are no text and are left out.
    """
    ids = traces.tokens.ids
    is_text = jnp.asarray(text.table.length)[ids] > 0
    # A planner with a wider embedding can draw ids that the other roles lack; looked up there, they would give NaN.
    written = Tokens(jnp.where(is_text, ids, 0), traces.tokens.valid & is_text)
    return splice(setup.fixed.open, written, setup.fixed.close, tail_when=~traces.stopped)


def _no_answers(batch: int, setup: Setup) -> Tokens:
    shape = (batch, setup.reward.baseline_samples, setup.executor_sampling.max_tokens)
    return Tokens(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def measure_baseline(
    setup: Setup, text: Text, weights: Weights, alone: Shown, batch: PromptBatch, key: Array
) -> tuple[Array, Array, Tokens]:
    """The executor without reasoning: int32 [B, G] right and judged samples, and the answers drawn now.

    "cached" draws only where some problem of the batch was never measured, once for the whole group.
    """
    size, config = len(alone.end), setup.reward
    if config.baseline == "resample":
        spread = Shown(alone.context, jnp.broadcast_to(alone.end[:, None], (size, setup.traces, alone.end.shape[-1])))
        drawn, verdicts = answers(setup, text, weights.executor, spread, config.repeats, batch, key)
        return *success_rate(verdicts), drawn

    known_ok, known = jnp.asarray(batch.baseline_ok), jnp.asarray(batch.baseline_trials)

    def measure() -> tuple[Array, Array, Tokens]:
        drawn, verdicts = answers(setup, text, weights.executor, alone, config.baseline_samples, batch, key)
        return *success_rate(verdicts), drawn

    def keep() -> tuple[Array, Array, Tokens]:
        return known_ok, known, _no_answers(size, setup)

    ok, trials, drawn = jax.lax.cond((known == 0).any(), measure, keep)
    ok, trials = jnp.where(known > 0, known_ok, ok), jnp.where(known > 0, known, trials)
    # Beside an unmeasured problem all are drawn for; what is drawn for the others is not behind their counts.
    drawn = Tokens(drawn.ids, drawn.valid & (known == 0)[:, None, None])
    shape = (size, setup.traces)
    return jnp.broadcast_to(ok[:, None], shape), jnp.broadcast_to(trials[:, None], shape), drawn


def no_uplift(shape: tuple[int, ...], baseline_answers: Tokens) -> Uplift:
    """Nothing measured for traces [B, G]."""
    counts, zeros = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    return Uplift(zeros, counts, counts, counts, counts, baseline_answers, zeros, zeros)


def sampled_uplift(
    nothing: Uplift, ok: Array, trials: Array, base_ok: Array, base_trials: Array, baseline_answers: Tokens
) -> Uplift:
    """What was counted, int32 [B, G]."""
    return dataclasses.replace(
        nothing,
        ok=ok,
        trials=trials,
        baseline_ok=base_ok,
        baseline_trials=base_trials,
        baseline_answers=baseline_answers,
    )


def likelihoods(setup: Setup, weights: Weights, shown: Shown, alone: Shown, batch: PromptBatch) -> tuple[Array, Array]:
    """float32 [B, G] each, the executor's probability of the reference answer with the reasoning and without it."""
    with_it = answer_probability(setup, weights.executor, shown, batch)
    without = answer_probability(setup, weights.executor, alone, batch)
    return with_it, jnp.broadcast_to(without[:, None], with_it.shape)


def measure_uplift(
    setup: Setup,
    text: Text,
    weights: Weights,
    shown: Shown,
    alone: Shown,
    verdicts: Array,
    batch: PromptBatch,
    key: Array,
) -> Uplift:
    """Compares the executor with each trace to the executor without it, as `reward.uplift` says; `settle` subtracts."""
    shape = shown.end.shape[:2]
    nothing = no_uplift(shape, _no_answers(shape[0], setup))
    match setup.reward.uplift:
        case "none":
            return nothing
        case "likelihood":
            with_it, without = likelihoods(setup, weights, shown, alone, batch)
            return dataclasses.replace(nothing, likelihood=with_it, baseline_likelihood=without)
        case "sampled":
            ok, trials = success_rate(verdicts[..., 1:])
            return sampled_uplift(nothing, ok, trials, *measure_baseline(setup, text, weights, alone, batch, key))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """What the planner wrote, before anybody has seen it.

    Attributes:
        traces: [B, G, R] as sampled, with the sampler's log-probabilities. reason: [B, G, T], what others read of them.
        well_formed: bool [B, G].
    """

    traces: Samples
    reason: Tokens
    well_formed: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grades:
    """What the reward model made of it: float32 [B, G, 5] expected labels, and [B, G] each."""

    rubric: Array
    total: Array
    score: Array


def write(setup: Setup, text: Text, weights: Weights, batch: PromptBatch, key: Array) -> Written:
    """Samples traces."""
    traces = sample_traces(setup, text, weights, batch, key)
    well_formed = jnp.asarray(text.body.judgement)[traces.state] == GOOD
    return Written(traces, show_reasoning(setup, text, traces), well_formed)


def grade_traces(setup: Setup, weights: Weights, batch: PromptBatch, reason: Tokens) -> Grades:
    """Grades reasoning [B, G, T]; zeros without a reward model."""
    if setup.reward_model is None or weights.reward_model is None:
        zeros = jnp.zeros(reason.ids.shape[:2], jnp.float32)
        return Grades(jnp.zeros((*zeros.shape, 5), jnp.float32), zeros, zeros)
    variables, heads = weights.reward_model
    graded = grade(setup.reward_model, variables, heads, batch.reward_model, reason)
    return Grades(graded.expected, graded.total, graded.score)


def show(setup: Setup, weights: Weights, batch: PromptBatch, reason: Tokens) -> tuple[Shown, Shown]:
    """What the executor reads before it answers: with each reasoning [B, G, T], and without any, [B]."""
    problem = read(setup.executor, weights.executor, batch.executor)
    shown = read(setup.executor, weights.executor, splice((), reason, setup.fixed.ask), problem.context)
    alone = read(setup.executor, weights.executor, _piece(setup.fixed.ask_directly, len(problem.end)), problem.context)
    return shown, alone


def execute(
    setup: Setup, text: Text, weights: Weights, batch: PromptBatch, written: Written, keys: tuple[Array, Array]
) -> tuple[Tokens, Array, Uplift, Array | None]:
    """Has the executor on the device answer with and without the reasoning.

    Args:
        keys: of the answers with it and without.

    Returns:
        Answers [B, G, 1 + K, A], verdicts int8 [B, G, 1 + K], and the uplift. With `RewardConfig.adaptive` there are E
        more, and bool [B, G, 1 + K + E] says which were asked for; else None.
    """
    repeats = setup.reward.repeats if setup.reward.uplift == "sampled" else 0
    shown, alone = show(setup, weights, batch, written.reason)
    said, verdicts = answers(setup, text, weights.executor, shown, 1 + repeats, batch, keys[0])
    asked = None
    if setup.reward.adaptive:
        matters = rates_that_matter(setup.reward, written.well_formed, jnp.asarray(batch.real))
        # Token t of the first answers was drawn with `fold_in(key, t)`; this is the first number they leave.
        key = jax.random.fold_in(keys[0], setup.executor_sampling.max_tokens)
        said, verdicts, asked = ask_further(setup, text, weights.executor, shown, said, verdicts, matters, batch, key)
    return said, verdicts, measure_uplift(setup, text, weights, shown, alone, verdicts, batch, keys[1]), asked


def judge(
    setup: Setup,
    batch: PromptBatch,
    written: Written,
    grades: Grades,
    said: Tokens,
    verdicts: Array,
    gained: Uplift,
    asked: Array | None = None,
    executed: Array | None = None,
) -> Rollout:
    """Rewards and advantages of what was written, from what any executor made of it.

    Args:
        said: [B, G, 1 + K, A]. verdicts: int8 [B, G, 1 + K]. gained: as measured, whatever the form of the traces.
        asked: see `Rollout`. executed: float32 [B, G], `exec_reward` of the primary programs, where they are programs.
    """
    zeros = jnp.zeros(verdicts.shape[:2], jnp.float32)
    done = Rollout(
        traces=written.traces.tokens,
        logprobs=written.traces.logprobs,
        well_formed=written.well_formed,
        answers=said,
        verdicts=verdicts,
        uplift=gained,
        rubric=grades.rubric,
        total=grades.total,
        score=zeros,
        reward=zeros,
        advantage=zeros,
        counted=jnp.broadcast_to(jnp.asarray(batch.real)[:, None], verdicts.shape[:2]),
        asked=asked,
        executed=executed,
    )
    return settled(setup.reward, setup.normalize, done)


def rollout(setup: Setup, text: Text, weights: Weights, batch: PromptBatch, key: Array) -> Rollout:
    """Samples, executes, verifies, grades and rewards one batch of problems.

    Args:
        setup: static. text: vocabulary tables. weights: of the three roles. batch: B problems. key: typed PRNG key.
    """
    planner_key, *executor_keys = jax.random.split(key, 3)
    # The names are for those who read compiled programs and profiles.
    with jax.named_scope("write"):
        written = write(setup, text, weights, batch, planner_key)
    with jax.named_scope("execute"):
        done = execute(setup, text, weights, batch, written, (executor_keys[0], executor_keys[1]))
    with jax.named_scope("grade"):
        grades = grade_traces(setup, weights, batch, written.reason)
    with jax.named_scope("judge"):
        return judge(setup, batch, written, grades, *done)


def _piece(piece: tuple[int, ...], batch: int) -> Tokens:
    """A fixed piece for every problem; [B, len(piece)]."""
    ids = jnp.broadcast_to(jnp.asarray(piece, jnp.int32), (batch, len(piece)))
    return Tokens(ids, jnp.ones(ids.shape, bool))
