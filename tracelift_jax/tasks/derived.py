"""Sequences whose items are made when they are asked for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Derived(Sequence[Made], Generic[Given, Made]):
    """Random access to what `make` makes of the items of another sequence, the same on every access."""

    given: Sequence[Given]
    make: Callable[[Given], Made]

    def __len__(self) -> int:
        return len(self.given)

    @overload
    def __getitem__(self, index: int) -> Made: ...
    @overload
    def __getitem__(self, index: slice) -> list[Made]: ...
    def __getitem__(self, index):
        """Item `index`; a slice gives a list."""
        if isinstance(index, slice):
            return [self.make(item) for item in self.given[index]]
        return self.make(self.given[index])
