"""Where groups come from."""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Literal, Protocol

from tracelift_jax.checked import check_types, require
from tracelift_jax.groups.dial_flaws import dial_group, flawed_trace, kinds_for
from tracelift_jax.groups.schema import Group
from tracelift_jax.tasks.derived import Derived
from tracelift_jax.tasks.dial import DialProblem, DialTask


class GroupSource(Protocol):
    """A source of same-problem groups. `split` is "train" or "test"; the two never share a problem."""

    def groups(self, split: str) -> Sequence[Group]:
        """Random access to the groups of a split, the same on every call."""
        ...


@dataclasses.dataclass(frozen=True)
class DialGroups:
    """Groups of the dial world, made when asked for: the true trace and flawed ones of distinct kinds.

    Attributes:
        task: the problems. negatives: flawed traces a group. seed: of the flaws.
    """

    task: DialTask = DialTask()
    negatives: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(1 <= self.negatives <= 5, f"DialGroups.negatives must be from 1 to 5, got {self.negatives}")

    def groups(self, split: str) -> Sequence[Group]:
        """The groups of "train" or "test"."""
        return Derived(self.task.problems(split), self._group)

    def _group(self, problem: DialProblem) -> Group:
        return dial_group(problem, self.seed, self.negatives)


@dataclasses.dataclass(frozen=True)
class ImperfectDial:
    """The dial world as careless people would have written it down: a share of the traces is flawed.

    A flawed problem's answer is what its trace ends with. A base that has learnt from such a corpus knows how to
    reason, follows reasoning when it answers, and yet slips as often as its teachers when it samples: what a planner
    is to unlearn. With true answers behind the flawed traces it learns not to believe all that it reads. Held-out
    problems are true.

    Attributes:
        task: the problems. flawed: share of flawed traces in the train split. seed: of the flaws.
        answers: behind a flawed trace: "followed", what it ends with, or "true", the problem's own.
    """

    task: DialTask = DialTask()
    flawed: float = 0.4
    seed: int = 0
    answers: Literal["followed", "true"] = "followed"

    def __post_init__(self) -> None:
        check_types(self)
        require(0 <= self.flawed <= 1, f"ImperfectDial.flawed must lie in [0, 1], got {self.flawed}")

    def problems(self, split: str) -> Sequence[DialProblem]:
        """The problems of "train", imperfect, or "test", true."""
        true = self.task.problems(split)
        return Derived(true, self._imperfect) if split == "train" else true

    def _imperfect(self, problem: DialProblem) -> DialProblem:
        rng = random.Random(f"imperfect/{self.seed}/{problem.problem_id}")
        if rng.random() >= self.flawed:
            return problem
        reasoning = flawed_trace(problem, rng.choice(kinds_for(problem)), rng).reasoning
        followed = re.findall("= ([0-9])", reasoning)[-1]
        answer = followed if self.answers == "followed" else problem.answer
        return dataclasses.replace(problem, reasoning=reasoning, answer=answer)
