"""Where groups come from."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, overload

from tracelift_jax.checked import check_types, require
from tracelift_jax.groups.dial_flaws import dial_group
from tracelift_jax.groups.schema import Group
from tracelift_jax.tasks.dial import DialProblems, DialTask


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

    def groups(self, split: str) -> "DialGroupList":
        """The groups of "train" or "test"."""
        return DialGroupList(self.task.problems(split), self.negatives, self.seed)


@dataclasses.dataclass(frozen=True)
class DialGroupList(Sequence[Group]):
    """Random access to the groups of one split."""

    problems: DialProblems
    negatives: int
    seed: int

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index):
        """Group `index`; a slice gives a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return dial_group(self.problems[index], self.seed, self.negatives)
