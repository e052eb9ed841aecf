"""`tracelift score`: grades the lines of a file, of any size, and continues where it was interrupted.

Lines are graded in chunks at fixed places of the input, each sorted by length inside, and each is appended to the
output as a whole. A run that continues grades the chunk it was in again from its beginning, so its batches are those of
an uninterrupted run and the output is the same to the byte. What it finds there already also tells whether input and
reward model are still the same.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.serve.scorer import LoadedScorer, Read, Scorer, load_scorer, read_item
from tracelift_jax.tasks.rows import stream_jsonl
from tracelift_jax.train.solution import Graded

ADDED = ("score", "total", "rubric")
"""What the output has beside the input's fields."""
SAME = 1e-3
"""How far a score may be from the one in the output when another machine or compiler continues."""
SAY_EVERY = 10.0
"""Seconds between the lines that tell of progress where there is no terminal."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the input: its number, its object, and what the reward model reads."""

    number: int
    row: Row
    read: Read


def run_score(config: Scorer, source: str, target: str) -> None:
    """Grades `source` into `target`, behind what is there already.

    Raises:
        UserError: a line of `source` is not usable (those before it are graded and written first), or `target` holds
            something else than the beginning of this work.
    """
    require(Path(source).is_file(), f"{source}: no such file")
    require(not target.endswith(".gz"), f"{target}: the output is not compressed; give a name without .gz")
    out = Path(target)
    require(not out.exists() or not out.samefile(source), f"{target}: is the input; give another file for the output")
    lines = _count(source)
    with _open(out) as file:
        written = _read_written(file, config.chunk)
        scorer = load_scorer(config)
        rows = stream_jsonl(source)
        file.seek(0)
        for number, row in itertools.islice(rows, written.whole):
            _compare(source, target, number, row, file.readline())
        file.seek(written.offset)
        kept = written.rest
        with _Progress(lines, written.whole) as progress:
            for chunk, error in _chunks(_lines(scorer, source, rows), config.chunk):
                graded = _grade(scorer, chunk)
                for line, one, before in zip(chunk, graded, kept, strict=False):
                    _compare_grade(source, target, line, one, before)
                if len(chunk) > len(kept):
                    file.truncate()
                    file.write(b"".join(_json(line.row, one) for line, one in zip(chunk, graded, strict=True)))
                    file.flush()
                elif error is None:
                    _require_no_more(source, target, kept[len(chunk) :])
                    file.seek(sum(map(len, kept)), os.SEEK_CUR)
                kept = []
                progress.add(len(chunk))
                if error:
                    raise error
        _require_no_more(source, target, kept)
        file.truncate()
    now = lines - written.whole - len(written.rest)
    print(f"{target}: {lines} lines scored, {now} of them now (reward model {scorer.fingerprint})")


def _count(source: str) -> int:
    """Lines of `source` up to the first that is not usable, of which is told when it is reached."""
    lines = 0
    with contextlib.suppress(UserError):
        for _ in stream_jsonl(source):
            lines += 1
    return lines


def _open(out: Path) -> BinaryIO:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return open(out, "r+b" if out.exists() else "w+b")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error


@dataclasses.dataclass(frozen=True)
class Written:
    """What the output holds: lines of whole chunks, where they end, and the lines of the chunk behind them."""

    whole: int
    offset: int
    rest: list[bytes]


def _read_written(file: BinaryIO, chunk: int) -> Written:
    """The last chunk counts as unfinished, complete or not: it is compared before anything is added to it."""
    whole, offset, rest = 0, 0, []
    for line in file:
        if not line.endswith(b"\n"):  # its writing was interrupted
            break
        if len(rest) == chunk:
            whole, offset, rest = whole + chunk, offset + sum(map(len, rest)), []
        rest.append(line)
    return Written(whole, offset, rest)


def _lines(scorer: LoadedScorer, source: str, rows: Iterator[tuple[int, Row]]) -> Iterator[Line]:
    for number, row in rows:
        try:
            for name in ADDED:
                require(name not in row, f'field "{name}" is in the input already, and would be written over')
            yield Line(number, row, scorer.read(read_item(row, scorer.config)))
        except UserError as error:
            raise UserError(f"{source}:{number}: {error}") from error


def _chunks(lines: Iterator[Line], size: int) -> Iterator[tuple[list[Line], UserError | None]]:
    """Chunks of `size` lines; the last may be shorter, and bears what ended the input before its time."""
    while True:
        chunk: list[Line] = []
        try:
            for line in itertools.islice(lines, size):
                chunk.append(line)
        except UserError as error:
            yield chunk, error
            return
        if not chunk:
            return
        yield chunk, None


def _grade(scorer: LoadedScorer, chunk: Sequence[Line]) -> list[Graded]:
    """Grades a chunk, sorted by length."""
    order = sorted(range(len(chunk)), key=lambda n: len(chunk[n].read.ids))
    graded = dict(zip(order, scorer.grade([chunk[n].read for n in order]), strict=True))
    return [graded[n] for n in range(len(chunk))]


def _json(row: Row, graded: Graded) -> bytes:
    out = {**row, "score": graded.score, "total": graded.total, "rubric": graded.rubric}
    # Half of a surrogate pair, which UTF-8 has not, is written as JSON spells it.
    return json.dumps(out, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


# --- What is in the output already ------------------------------------------------------------------------------------


def _compare(source: str, target: str, number: int, row: Row, written: bytes) -> float:
    """The score in a line of the output, which must be of `row`."""
    try:
        found = json.loads(written)
        score = float(found["score"])
        given = {name: value for name, value in found.items() if name not in ADDED}
        same = json.dumps(given) == json.dumps(row)  # as text, in which NaN is equal to itself
    except (ValueError, TypeError, KeyError, AttributeError):
        same, score = False, 0.0
    require(same, f"{target}: does not hold the scores of {source} (see {source}:{number}); give another output")
    return score


def _compare_grade(source: str, target: str, line: Line, graded: Graded, written: bytes) -> None:
    """A line of the output must be of `line`, and by this reward model."""
    score = _compare(source, target, line.number, line.row, written)
    require(
        abs(score - graded.score) <= SAME,
        f"{target}: was scored by another reward model or with other prompts ({source}:{line.number} has {score} "
        f"there, and {graded.score} now); give another output",
    )


def _require_no_more(source: str, target: str, kept: Sequence[bytes]) -> None:
    require(not kept, f"{target}: has more lines than {source}; give another output")


class _Progress:
    """A bar on a terminal, else a line now and then; on standard error."""

    def __init__(self, lines: int, done: int):
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = [BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=lines, completed=done)
        self._lines, self._done, self._said = lines, done, time.monotonic()

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, lines: int) -> None:
        """Tells that so many more lines are done."""
        self._done += lines
        self._bar.update(self._task, completed=self._done)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said > SAY_EVERY:
            self._console.print(f"{self._done}/{self._lines} lines scored")
            self._said = now
