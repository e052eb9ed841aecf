"""What a command of `tracelift` is made of, and what it is given."""

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from tracelift_jax.gin_config import Loaded

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Given:
    """What stands on the command line: gin's files and bindings, and the command's own arguments."""

    files: Sequence[str]
    bindings: Sequence[str]
    args: Namespace

    def load(
        self,
        kind: type[T],
        files: Sequence[str] | None = None,
        more: Sequence[str] = (),
        fill: Mapping[str, str] | None = None,
    ) -> "Loaded[T]":
        """An experiment of the files (None: those that were given) under the bindings and `more` of them."""
        from tracelift_jax import gin_config

        return gin_config.load(kind, self.files if files is None else files, [*self.bindings, *more], fill)

    def value(
        self,
        kind: type[T],
        files: Sequence[str] | None = None,
        more: Sequence[str] = (),
        fill: Mapping[str, str] | None = None,
    ) -> T:
        """`load` without the operative configuration."""
        return self.load(kind, files, more, fill).value


@dataclasses.dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        what: it does, in half a sentence. example: to copy.
        arguments: adds its own to its parser.
        run: does it.
        gin: whether it can do without gin files, or takes no gin flags at all.
        processes: whether several may do it together.
    """

    what: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Given], None]
    gin: Literal["needed", "optional", "none"] = "needed"
    processes: Literal["one", "several"] = "one"
