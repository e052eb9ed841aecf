"""A reward model's grades of groups that it has not seen, as `Predictions`."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import DIMENSIONS, Group, Trace
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.hosts import place_batch, whole
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.rollout.score import grade
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens, pad
from tracelift_jax.train.group_batch import TooLong, encode_group
from tracelift_jax.train.trust import Predictions

TRACES = 5
"""Traces of one problem that are read together; a problem with more of them is read again for the next ones."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """A reward model, ready to grade.

    Attributes:
        pieces: the words around problem and reasoning.
        model, variables, heads: of the reward model; `variables` are those of `model`, on `mesh`.
        prompt_tokens, trace_tokens: room for a framed problem and for a trace with its tags.
        too_long: what is done with groups that do not fit (`group_batch`).
        batch_size: problems at a time, over all devices.
    """

    pieces: Pieces
    mesh: Mesh
    model: Transformer
    variables: Any
    heads: Any
    prompt_tokens: int
    trace_tokens: int
    too_long: TooLong
    batch_size: int

    def problem(self, text: str, task_type: str) -> list[int] | None:
        """A problem as the reward model reads it, cut where `too_long` says so; None where it does not fit."""
        problem = Problem("", text, answer="", task_type=task_type)
        if self.too_long == "cut_problem":
            return self.pieces.cut_problem("reward_model", problem, self.prompt_tokens)
        ids = self.pieces.problem("reward_model", problem)
        return ids if len(ids) <= self.prompt_tokens else None

    def trace(self, reasoning: str) -> list[int]:
        """A reasoning between its tags."""
        return self.pieces.tagged(reasoning)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Traces of one problem, to be graded: `problem` and each of `traces` as token ids."""

    problem: list[int]
    traces: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Grades:
    """Grades of n traces: `logits` float32 [n, 5, C]; `total` and `score` float32 [n]."""

    logits: np.ndarray
    total: np.ndarray
    score: np.ndarray


def grade_all(judge: Judge, asked: Sequence[Asked]) -> Grades:
    """The grades of all traces in order, of which there is one at least; problems must fit `judge.prompt_tokens`."""
    read = jitted(_read, judge.model)
    logits, total, score = [], [], []
    for problem, traces, real in _batches(judge, asked):
        found = whole(read(judge.variables, judge.heads, *place_batch((problem, traces), judge.mesh)))
        for column, values in zip((logits, total, score), found, strict=True):
            column.append(values[real])
    return Grades(np.concatenate(logits), np.concatenate(total), np.concatenate(score))


def _read(model: Transformer, variables: Any, heads: Any, problem: Tokens, traces: Tokens):
    graded = grade(model, variables, heads, problem, traces)
    return graded.logits, graded.total, graded.score


def _batches(judge: Judge, asked: Sequence[Asked]) -> Iterator[tuple[Tokens, Tokens, np.ndarray]]:
    """(problems [B, P], traces [B, TRACES, T], real [B, TRACES]); what is not real repeats another trace."""
    rows = [
        (one.problem, one.traces[first : first + TRACES])
        for one in asked
        for first in range(0, len(one.traces), TRACES)
    ]
    fill = judge.pieces.tokenizer.pad_id
    size = max(len(trace) for one in asked for trace in one.traces)
    for first in range(0, len(rows), judge.batch_size):
        some = rows[first : first + judge.batch_size]
        full = some + [some[-1]] * (judge.batch_size - len(some))
        flat = pad([row[min(m, len(row) - 1)] for _, row in full for m in range(TRACES)], size, fill)
        shape = (judge.batch_size, TRACES, size)
        real = np.array([[b < len(some) and m < len(row) for m in range(TRACES)] for b, (_, row) in enumerate(full)])
        problems = pad([problem for problem, _ in full], judge.prompt_tokens, fill)
        yield problems, Tokens(flat.ids.reshape(shape), flat.valid.reshape(shape)), real


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Groups that were graded.

    Attributes:
        predictions: of the first positive and all negatives of each.
        names: of the five dimensions.
        left_out: groups that did not fit.
    """

    predictions: Predictions
    names: tuple[str, ...]
    left_out: int


def predict(judge: Judge, groups: Sequence[Group], limit: int) -> HeldOut:
    """Grades the first `limit` groups, and their traces once more with the answer behind them.

    Raises:
        UserError: none of them fits.
    """
    first = [groups[row] for row in range(min(limit, len(groups)))]
    asked = [_ask(judge, group, judge.trace_tokens) for group in first]
    kept = [(group, one) for group, one in zip(first, asked, strict=True) if one]
    if not kept:
        raise UserError("TrainRm.prompt_tokens and TrainRm.trace_tokens: no held-out group fits; raise them")
    grades = grade_all(judge, [one for _, one in kept])
    read = [(row, trace) for row, (group, _) in enumerate(kept) for trace in (group.positives[0], *group.negatives)]
    predictions = Predictions(
        grades.logits,
        grades.total,
        grades.score,
        labels=np.array([trace.rubric.dimensions for _, trace in read], np.int32),
        totals=np.array([trace.rubric.total for _, trace in read], np.float64),
        kind=np.array([trace.negative_kind for _, trace in read], str),
        group=np.array([row for row, _ in read], np.int64),
        length=np.array([len(trace) for _, one in kept for trace in one.traces], np.int64),
        leaked=_leaked(judge, kept),
    )
    return HeldOut(predictions, _names([group for group, _ in kept]), len(first) - len(kept))


def _ask(judge: Judge, group: Group, trace_tokens: int) -> Asked | None:
    """The first positive and all negatives of a group, as in training; None where it does not fit."""
    one = encode_group(judge.pieces, judge.prompt_tokens, trace_tokens, 0, group, too_long=judge.too_long)
    if one is None:
        return None
    rows = zip(one.traces.ids, one.traces.valid, strict=True)
    return Asked(one.problem.ids[one.problem.valid].tolist(), [ids[valid].tolist() for ids, valid in rows])


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    """The dimensions of all groups; where there are several rubrics, each has the names of all."""
    used = {group.rubric_name for group in groups}
    rubrics = [names for rubric, names in DIMENSIONS.items() if rubric in used]
    return tuple("/".join(dict.fromkeys(names)) for names in zip(*rubrics, strict=True))


def with_answer(judge: Judge, group: Group) -> Group:
    """The group with its answer behind every reasoning, in the words that ask the executor for it."""
    answer = f" {judge.pieces.prompts.ask.strip()} {group.reference_solution.rpartition('####')[2].strip()}"

    def leak(traces: Sequence[Trace]) -> tuple[Trace, ...]:
        return tuple(dataclasses.replace(trace, reasoning=trace.reasoning + answer) for trace in traces)

    return dataclasses.replace(group, positives=leak(group.positives), negatives=leak(group.negatives))


def _leaked(judge: Judge, kept: Sequence[tuple[Group, Asked]]) -> np.ndarray:
    """float64, the scores of all traces with the answer behind them; nan where a group needs over twice the room."""
    asked = [_ask(judge, with_answer(judge, group), 2 * judge.trace_tokens) for group, _ in kept]
    measured = np.repeat([one is not None for one in asked], [len(one.traces) for _, one in kept])
    out = np.full(len(measured), np.nan)
    if measured.any():
        out[measured] = grade_all(judge, [one for one in asked if one]).score
    return out
