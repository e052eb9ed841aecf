"""What is worth finding among traces, and where the oracle says that one goes wrong."""

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.evals.reasoning import leaks
from tracelift_jax.report.runs import Record
from tracelift_jax.tasks.dial import check_trace, parse_problem, true_steps
from tracelift_jax.tasks.problem import AnswerKind, Problem
from tracelift_jax.tasks.verdict import OK
from tracelift_jax.tasks.verify import verify

HIGH_GRADE = 0.8
"""A score from here on is a high grade."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?")


class Flag(enum.IntFlag):
    """What a trace can be found by."""

    WRONG_REASON = 1
    USELESS = 2
    LEAK = 4
    FAILED = 8
    MALFORMED = 16
    NOT_COUNTED = 32


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a run measures, and so what can be said of its traces.

    Attributes:
        uplift: "sampled", "likelihood" or "none". grade: whether there is a reward model.
        kind: what the traces are rewarded for, see `RewardConfig`.
    """

    uplift: str
    grade: bool
    kind: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Measured":
        """From a run's `config.json`; what it does not say counts as measured."""
        roles = config.get("roles", {})
        reward = roles.get("reward", {})
        return cls(
            uplift=reward.get("uplift", "likelihood"),
            grade=roles.get("reward_model", True) is not None,
            kind=reward.get("kind", "tracelift"),
        )


def flags(record: Record, measured: Measured) -> Flag:
    """What is to be found in a trace.

    WRONG_REASON: the primary answer is right and the oracle says that the reasoning is not faithful.
    USELESS: graded `HIGH_GRADE` or more, and an uplift of 0 or less; where both were measured.
    LEAK: the reasoning gives the final answer away, by the definition of `tracelift eval`.
    FAILED: an answer never came, or could not be judged.
    MALFORMED: no closing tag, nothing in it, or a second opening tag.
    NOT_COUNTED: left out of its group, so that nothing was learnt from it.
    """
    found = Flag(0)
    if record["verdicts"][0] == "ok" and record.get("faithful") is False:
        found |= Flag.WRONG_REASON
    judged = measured.uplift == "likelihood" or (record["with_counts"][1] > 0 and record["without_counts"][1] > 0)
    if measured.uplift != "none" and judged and measured.grade:
        useless = record["score"] >= HIGH_GRADE and record["uplift"] <= 0
        found |= Flag.USELESS if useless else Flag(0)
    if gives_away(record):
        found |= Flag.LEAK
    if "failed" in record["verdicts"]:
        found |= Flag.FAILED
    if not record["well_formed"]:
        found |= Flag.MALFORMED
    if not record["counted"]:
        found |= Flag.NOT_COUNTED
    return found


def gives_away(record: Record) -> bool:
    """Whether the reasoning gives the final answer away, see `evals.reasoning.leaks`.

    Records do not say of what kind an answer is: programs have outcomes; of others, what reads as a number is one. An
    answer that is neither leaks where it stands to the letter behind an announcement.
    """
    reference = record["reference"]
    kind: AnswerKind = "latex"
    if "outcomes" in record:
        kind = "program"
    elif _NUMBER.fullmatch(reference.strip()):
        kind = "number"

    def equal(text: str) -> bool:
        if kind == "number":
            return verify(text, reference) == OK
        return bool(reference.strip()) and reference.strip() in text

    problem = Problem(record["problem_id"], record["problem"], reference, answer_kind=kind)
    return leaks(record["reasoning"], problem, equal)


@dataclasses.dataclass(frozen=True)
class Mark:
    """Where the oracle says that a reasoning goes wrong.

    Attributes:
        begin, end: of the first wrong step, in characters; equal where a step is missing.
        step: which it is, from 1. expected: what a faithful trace has there, "" where it has nothing.
    """

    begin: int
    end: int
    step: int
    expected: str


def is_dial(record: Record) -> bool:
    """Whether the problem is of the dial world."""
    return _dial(record["problem"]) is not None


def first_wrong(record: Record) -> Mark | None:
    """The first wrong step of an unfaithful trace of the dial world; None where there is none, or no oracle."""
    truth = _dial(record["problem"])
    if truth is None or record.get("faithful") is not False:
        return None
    reasoning = record["reasoning"]
    check = check_trace(Problem(record["problem_id"], record["problem"], record["reference"]), reasoning)
    if check.first_wrong_step < 0:
        return None  # ill formed: no steps to speak of
    wrong = check.first_wrong_step
    expected = truth[wrong] if wrong < len(truth) else ""
    begin = len(reasoning) - len(reasoning.lstrip())
    for index, part in enumerate(reasoning.strip().split(" ; ")):
        if index == wrong:
            return Mark(begin, begin + len(part), wrong + 1, expected)
        begin += len(part) + len(" ; ")
    end = len(reasoning.rstrip())
    return Mark(end, end, wrong + 1, expected)


@functools.lru_cache(maxsize=4096)
def _dial(text: str) -> tuple[str, ...] | None:
    """The true steps of a statement of the dial world; None of any other."""
    try:
        start, ops = parse_problem(text)
    except (UserError, IndexError):
        return None
    return tuple(map(str, true_steps(start, ops)))
