"""Planners: whoever writes reasoning. And the reward model, which grades what they wrote."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tracelift_jax.evals.executors import Reasoning, encode_asked, ragged, same_words, sizes_of, stack
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.records import body_text
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.rollout import sample_traces
from tracelift_jax.rollout.score import grade
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.spans import GOOD
from tracelift_jax.train.planner_loop import Train, planner_weights, trained_planner
from tracelift_jax.train.roles import Loaded, Roles, load_roles


@dataclasses.dataclass(frozen=True)
class Written:
    """A trace as a planner wrote it.

    Attributes:
        reasoning: without its tags, with the tokens for readers of the resident tokenizer.
        well_formed: closed, not empty, and without a second opening tag. length: its tokens, the closing tag included.
    """

    reasoning: Reasoning
    well_formed: bool
    length: int


@dataclasses.dataclass(frozen=True)
class Graded:
    """A grade: expected labels 0..4, total and score in [0, 1]."""

    rubric: tuple[float, ...]
    total: float
    score: float


_draw = jax.jit(sample_traces, static_argnames="setup")


@dataclasses.dataclass(frozen=True)
class Planner:
    """A planner with its weights.

    Attributes:
        loaded: the roles it belongs to. weights: with its variables as `weights.planner`.
        step: of its checkpoint; None: untrained. shares_words: whether it writes in the resident tokenizer.
    """

    loaded: Loaded
    weights: Weights
    step: int | None
    shares_words: bool

    @property
    def fingerprint(self) -> str:
        """Of all its variables."""
        return fingerprint(self.weights.planner)

    def write(
        self, problems: Sequence[Problem], room: int, traces: int, temperature: float, top_p: float, seed: int
    ) -> list[list[Written]]:
        """[B][M] traces; greedy ones at temperature 0."""
        loaded = self.loaded
        sampling = dataclasses.replace(loaded.setup.planner_sampling, temperature=temperature, top_p=top_p)
        setup = dataclasses.replace(loaded.setup, traces=traces, planner_sampling=sampling)
        encoded = [encode_asked(loaded.pieces, sizes_of(loaded.roles), problem) for problem in problems]
        batch = stack([one[0] for one in encoded if one], room, loaded.mesh)
        drawn = _draw(setup, loaded.text, self.weights, batch, jax.random.key(seed))
        done = jax.device_get((drawn.tokens, drawn.stopped, drawn.state))
        return [[self._written(done, b, m) for m in range(traces)] for b in range(len(problems))]

    def _written(self, done: Any, b: int, m: int) -> Written:
        tokens, stopped, state = done
        loaded = self.loaded
        drawn = np.asarray(tokens.ids[b, m])[np.asarray(tokens.valid[b, m])]
        # Control tokens that it may have drawn are no text, and nobody is shown them; as in a rollout.
        text = drawn[np.asarray(loaded.text.table.length)[drawn] > 0].tolist()
        shown = text if stopped[b, m] else [*text, *loaded.setup.fixed.close]
        body = body_text(loaded.tokenizer.decode(text), loaded.roles.prompts.close)
        good = int(np.asarray(loaded.text.body.judgement)[state[b, m]]) == GOOD
        return Written(Reasoning(body, tuple(shown) if self.shares_words else None), good, len(drawn))


def untrained_planner(train: Train, loaded: Loaded) -> Planner:
    """The planner before training."""
    trainable, frozen = loaded.trainable(train.seed)
    return Planner(loaded, planner_weights(loaded, frozen, trainable), None, True)


def planner_of_run(run: str, train: Train, resident: Loaded) -> Planner:
    """The planner of a run's newest checkpoint, on the resident base where that is its own.

    Args:
        run: its directory. train: its experiment.

    Raises:
        UserError: there is no such checkpoint, or the experiment's models are not there.
    """
    if _same_planner(train.roles, resident.roles):
        step, weights = trained_planner(train, resident, run)
        return Planner(resident, weights, step, True)
    loaded = load_roles(planner_alone(train.roles), train.loss.normalize)
    step, weights = trained_planner(train, loaded, run)
    return Planner(loaded, weights, step, same_words(loaded.tokenizer, resident.tokenizer))


def planner_alone(roles: Roles) -> Roles:
    """The roles without weights of their own for the others, which would only take room."""
    reward = RewardConfig(kind="exec_only", uplift="none")
    base = roles.planner_model or roles.base
    words = roles.tokenizer or roles.base.path
    return dataclasses.replace(
        roles, tokenizer=words, base=base, planner_model=None, executor_model=None, reward_model=None, reward=reward
    )


def _same_planner(a: Roles, b: Roles) -> bool:
    """Whether a planner of one is a planner of the other: all but the task, the rewards and the judges."""

    def matters(roles: Roles) -> Roles:
        return dataclasses.replace(planner_alone(roles), task=b.task, executor=b.executor, traces=1)

    return matters(a) == matters(b)


def _read_grades(model: Any, variables: Any, heads: Any, batch: Any, reason: Any):
    found = grade(model, variables, heads, batch.reward_model, reason)
    return found.expected, found.total, found.score


_grade = jax.jit(_read_grades, static_argnames="model")


def grade_reasoning(
    loaded: Loaded, problems: Sequence[Problem], room: int, reasoning: Sequence[Sequence[Reasoning]]
) -> list[list[Graded]] | None:
    """[B][M] grades by the resident reward model, or None where there is none.

    A reasoning given as text is read as one text with its tags, as the reward model was trained to read it.
    """
    model = loaded.setup.reward_model
    if model is None:
        return None
    pieces = loaded.pieces

    def shown(one: Reasoning) -> list[int]:
        return [*pieces.open, *one.tokens] if one.tokens else pieces.tagged(one.text)

    encoded = [encode_asked(pieces, sizes_of(loaded.roles), problem) for problem in problems]
    batch = stack([one[0] for one in encoded if one], room, loaded.mesh)
    tokens = ragged([[shown(one) for one in rows] for rows in reasoning], room, loaded.tokenizer.pad_id, loaded.mesh)
    variables, heads = loaded.reward_model
    expected, total, score = jax.device_get(_grade(model, variables, heads, batch, tokens))
    return [
        [
            Graded(tuple(float(label) for label in expected[b, m]), float(total[b, m]), float(score[b, m]))
            for m in range(expected.shape[1])
        ]
        for b in range(len(problems))
    ]
