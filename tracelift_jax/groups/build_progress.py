"""How far a build is: a bar on a terminal, else a line now and then where servers make it long."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SAY_EVERY = 30.0
"""Seconds between the lines that tell of progress where there is no terminal."""


class Bar:
    """Progress of a build, on standard error.

    Args:
        seeds: how many there are.

    Attributes:
        told: what servers were asked so far; None where none is.
    """

    def __init__(self, seeds: int):
        self.told: Callable[[], str] | None = None
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), _Asked(self))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=seeds)
        self._seeds, self._done, self._said = seeds, 0, time.monotonic()

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line)

    def advance(self) -> None:
        """One more seed is done."""
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        now = time.monotonic()
        if not self._console.is_terminal and self.told and now - self._said > SAY_EVERY:
            self.say(f"{self._done}/{self._seeds} seeds: {self.told()}")
            self._said = now


class _Asked(ProgressColumn):
    """What servers were asked so far."""

    def __init__(self, bar: Bar):
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        return Text(self._bar.told() if self._bar.told else "")
