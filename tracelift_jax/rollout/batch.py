"""What goes into a rollout, and what it is computed with."""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.models.transformer import Transformer
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text import spans
from tracelift_jax.text.numbers import DIGITS, Number, number_of
from tracelift_jax.text.prompts import ROLES, Pieces
from tracelift_jax.text.spans import Automaton, BodyAutomaton, Tokens, pad
from tracelift_jax.text.tokenizer import TokenBytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """Problems as each role reads them.

    Attributes:
        planner, executor, reward_model: [B, P] framed problems.
        reference: [B] the exact reference answers.
        answer: [B, A] the canonical answer with the end token, for the likelihood.
        baseline_ok, baseline_trials: int32 [B], the cached baseline's counts; 0 trials where it was never measured.
        index: int32 [B], rows of the task.
        real: bool [B], False for rows that only fill a batch.
    """

    planner: Tokens
    executor: Tokens
    reward_model: Tokens
    reference: Number
    answer: Tokens
    baseline_ok: Array | np.ndarray
    baseline_trials: Array | np.ndarray
    index: Array | np.ndarray
    real: Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Room for the ragged parts of a batch, in tokens: framed problems and canonical answers."""

    prompt: int
    answer: int


def why_unjudged(problem: Problem, programs: bool = False) -> str:
    """Why no answer to `problem` can be judged: on the device, which reads numbers of at most 48 digits alone.

    Args:
        programs: answers are programs, which tests judge on the host.

    Returns:
        Half a sentence about the problem; "" where it can be judged, or has no reference answer to be judged by.
    """
    if programs:
        return "" if problem.oracle is not None else "without tests"
    if problem.answer_kind != "number":
        return "whose answer is no number"
    # Whatever is written in 48 characters has room; to look at each of thousands of problems takes seconds.
    if len(problem.answer) > DIGITS and not number_of(problem.answer).found:
        return f"whose answer has over {DIGITS} digits"
    return ""


def encode_problem(
    pieces: Pieces, sizes: Sizes, index: int, problem: Problem, programs: bool = False
) -> PromptBatch | None:
    """One problem as arrays without B; None where it does not fit its room, or its answer cannot be judged.

    Args:
        programs: see `why_unjudged`; such a problem has no reference answer.
    """
    if why_unjudged(problem, programs):
        return None
    framed = [pieces.problem(role, problem) for role in ROLES]
    reference = "" if programs else problem.answer
    answer = pieces.answer(reference)
    if max(map(len, framed)) > sizes.prompt or len(answer) > sizes.answer:
        return None

    def row(tokens: list[int], size: int) -> Tokens:
        padded = pad([tokens], size, pieces.tokenizer.pad_id)
        return Tokens(padded.ids[0], padded.valid[0])

    return PromptBatch(
        *(row(tokens, sizes.prompt) for tokens in framed),
        reference=number_of(reference),
        answer=row(answer, sizes.answer),
        baseline_ok=np.zeros((), np.int32),
        baseline_trials=np.zeros((), np.int32),
        index=np.array(index, np.int32),
        real=np.ones((), bool),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
    """Tables over the vocabulary, which travel as arguments: they are too large for constants.

    Attributes:
        table: bytes of each token. body: finds and judges the closing tag. stop: finds the end of an answer.
    """

    table: TokenBytes
    body: BodyAutomaton
    stop: Automaton


def make_text(pieces: Pieces, vocab_size: int) -> Text:
    """The tables for one tokenizer and one set of prompts, with rows for every role's `vocab_size` or more."""
    table = pieces.tokenizer.token_bytes(vocab_size)
    return Text(
        table=table,
        body=spans.body(table, pieces.prompts.close, pieces.prompts.open),
        stop=spans.search(table, pieces.prompts.stop),
    )


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The fixed token pieces of a rollout, and the tokens that end what a model writes."""

    open: tuple[int, ...]
    close: tuple[int, ...]
    ask: tuple[int, ...]
    ask_directly: tuple[int, ...]
    ends: tuple[int, ...]


def make_fixed(pieces: Pieces) -> Fixed:
    """The fixed pieces of `pieces`."""
    return Fixed(pieces.open, pieces.close, pieces.ask, pieces.ask_directly, pieces.tokenizer.ends)


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that is static in a rollout; hashable, so that a jitted function is compiled once for it.

    Attributes:
        planner, executor, reward_model: who writes, answers and grades; `reward_model` None grades nothing.
        reference: the planner without its adapter, for the KL penalty.
        traces: G, traces a problem.
        planner_sampling, executor_sampling: how they draw.
        reward: what traces are rewarded for. normalize: see `GrpoConfig`.
        fixed: the token pieces.
        mesh: the devices over which the batch is split; None: one.
    """

    planner: Transformer
    executor: Transformer
    reference: Transformer
    reward_model: Transformer | None
    traces: int
    planner_sampling: Sampling
    executor_sampling: Sampling
    reward: RewardConfig
    normalize: Literal["std", "none"]
    fixed: Fixed
    mesh: Mesh | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """The variables of the three roles; arrays that roles share are the same buffers.

    Attributes:
        planner, executor: variable collections. reward_model: (variables, heads), or None.
    """

    planner: Any
    executor: Any
    reward_model: tuple[Any, Any] | None
