"""What a task yields: one problem with its reference answer."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from tracelift_jax.tasks.oracle import Tests

AnswerKind = Literal["number", "latex", "program"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        problem_id: unique within the task and stable between runs; keys the baseline cache.
        text: the statement, as shown to every role.
        answer: the reference answer in canonical form, for example "18", "-3/4" or "0.5".
        reasoning: reference reasoning without tags, or "" where the source has none.
        task_type: the kind of problem, written into the reward model's prompt.
        task_name: "math" or "code", likewise.
        tests: what a reader may know of a program's tests, as text, shown where a prompt says so; "" for none.
        answer_kind: "number"; or "latex": an expression in LaTeX or plain words, as the source has it, which cannot be
            judged on the device; or "program": `answer` is a program that is right, or "", and tests decide.
        oracle: those tests; None where there are none to judge by.
    """

    problem_id: str
    text: str
    answer: str
    reasoning: str = ""
    task_type: str = "math"
    task_name: str = "math"
    tests: str = ""
    answer_kind: AnswerKind = "number"
    oracle: Tests | None = None


class Task(Protocol):
    """A source of problems. `split` is "train" or "test"; the two never share a problem."""

    def problems(self, split: str) -> Sequence[Problem]:
        """Random access to the problems of a split: `len(...)` and `[index]`, the same on every call."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """A task that can tell whether reasoning is true, step by step."""

    def faithful(self, problem: Problem, reasoning: str) -> bool:
        """Whether every step of `reasoning` (without tags) is right and follows from `problem`."""
        ...
