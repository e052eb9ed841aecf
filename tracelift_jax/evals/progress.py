"""How far an evaluation is, on standard error, and how fast, in `timing.json`, which alone differs between runs."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tracelift_jax.evals.journal import to_json

SAY_EVERY = 10.0
"""Seconds between the lines that tell of progress where there is no terminal."""


class Progress:
    """A bar on a terminal, else a line now and then; counts units."""

    def __init__(self, units: int, done: int):
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = [TextColumn("{task.fields[what]}"), BarColumn(20), MofNCompleteColumn()]
        columns += [TimeElapsedColumn(), TimeRemainingColumn()]
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=units, completed=done, what="loading")
        self._units, self._done, self._said = units, done, time.monotonic()

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def working_on(self, what: str) -> None:
        """Tells what comes now."""
        self._bar.update(self._task, what=what)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said > SAY_EVERY:
            self._console.print(f"{self._done}/{self._units} batches; now {what}")
            self._said = now

    def done(self) -> None:
        """Counts a unit."""
        self._done += 1
        self._bar.update(self._task, completed=self._done)


class Timing:
    """Seconds by kind of work, over all processes that worked on a directory.

    The first unit of each kind in a process compiles, and is counted apart.
    """

    def __init__(self, path: Path):
        self._path = path
        self._seen: set[str] = set()
        self.kinds: dict[str, dict[str, float]] = {}
        try:
            self.kinds = json.loads(path.read_text())
        except (OSError, ValueError):
            self.kinds = {}  # nothing depends on it

    def add(self, kind: str, problems: int, seconds: float) -> None:
        """Counts one unit."""
        empty = {"problems": 0, "seconds": 0.0, "first_problems": 0, "first_seconds": 0.0}
        known: dict[str, Any] = self.kinds.setdefault(kind, empty)
        first = "" if kind in self._seen else "first_"
        self._seen.add(kind)
        known[f"{first}problems"] += problems
        known[f"{first}seconds"] += seconds
        self._path.write_bytes(to_json(self.kinds))

    def throughput(self) -> dict[str, float]:
        """Problems a second by kind, without the units that compiled where there are others."""
        out = {}
        for kind, known in self.kinds.items():
            first = "" if known["problems"] else "first_"
            if known[f"{first}seconds"]:
                out[kind] = known[f"{first}problems"] / known[f"{first}seconds"]
        return out
