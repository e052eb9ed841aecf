"""What `tracelift solve` finds out, and how a person is shown it. As JSON it is `dataclasses.asdict` of it."""

import dataclasses
import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tracelift_jax.groups.schema import MAX_LABEL
from tracelift_jax.train.run import console


@dataclasses.dataclass(frozen=True)
class Said:
    """An answer of the executor.

    Attributes:
        text: as it was written. number: what is read in it, or None; of a program what it printed, stripped.
        right, likelihood: what is known of it with a reference; a program has no likelihood.
        ended: of a program how it ended, "passed" where that was at its end; None for other answers.
    """

    text: str
    number: str | None
    right: bool | None
    likelihood: float | None
    ended: str | None = None


@dataclasses.dataclass(frozen=True)
class Graded:
    """A grade: expected labels 0..4 by dimension, total and score in [0, 1]."""

    rubric: dict[str, float]
    total: float
    score: float


@dataclasses.dataclass(frozen=True)
class TraceFound:
    """One trace.

    Attributes:
        reasoning: as the planner wrote it, without the closing tag.
        malformed: what is wrong with its form, or None.
        faithful: what the task's oracle says, or None where it cannot tell.
        answer: the executor's, with this reasoning. uplift: over the answer without it. grade: the reward model's.
    """

    reasoning: str
    malformed: str | None
    faithful: bool | None
    answer: Said
    uplift: float | None
    grade: Graded | None


@dataclasses.dataclass(frozen=True)
class Found:
    """One problem: its reference, if one was given, the executor's answer without reasoning, and the traces drawn."""

    problem: str
    reference: str | None
    without: Said
    traces: tuple[TraceFound, ...]


_INDENT = 12
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _line(label: str, *parts: str | Text) -> None:
    """A label and what belongs to it, on one line."""
    console.print(Text.assemble((label.ljust(_INDENT), "bold"), *parts))


def _plain(text: str, indent: int = 0) -> str:
    """Text of a model or a person, which must not steer the terminal; its further lines are indented."""
    return _CONTROL.sub("\ufffd", text).replace("\n", "\n" + " " * indent)


def _yes_or_no(value: bool, yes: str = "yes", no: str = "no") -> Text:
    return Text(yes, "green") if value else Text(no, "red")


def _answer(said: Said) -> str:
    """The answer as written, and the number read in it where that is not the same; of a program what it prints."""
    if said.ended is not None:
        printed = f"prints {_plain(said.number, _INDENT)}" if said.number else said.ended.replace("_", " ")
        return f"{_plain(said.text, _INDENT)} ({printed})".strip()
    if said.number is None:
        return f"{_plain(said.text, _INDENT)} (no number)".strip()
    return said.number if said.text == said.number else f"{_plain(said.text, _INDENT)} (read as {said.number})"


def _show_answer(label: str, said: Said) -> None:
    parts: list[str | Text] = [_answer(said)]
    if said.right is not None:
        parts += ["  ", _yes_or_no(said.right, "right", "wrong")]
    if said.likelihood is not None:
        parts.append(f"  likelihood {said.likelihood:.3f}")
    _line(label, *parts)


def show_planner(who: str) -> None:
    """Prints whose traces follow."""
    _line("planner", who)


def show(found: Found, graded: bool) -> None:
    """Prints one problem; `graded`: whether there is a reward model."""
    console.print()
    _line("problem", _plain(found.problem, _INDENT))
    if found.reference is not None:
        _line("reference", _plain(found.reference))
    if len(found.traces) == 1:
        _show_trace(found.traces[0], found.without)
    else:
        # Lines longer than the terminal are wrapped inside their column.
        console.print(_table(found.traces), soft_wrap=False)
        _show_answer("without it", found.without)
    if not graded:
        _line("rubric", "no reward model is configured (Roles.reward_model)")


def _show_trace(trace: TraceFound, without: Said) -> None:
    _line("reasoning", _plain(trace.reasoning, _INDENT))
    if trace.malformed:
        _line("malformed", Text(trace.malformed, "red"))
    if trace.faithful is not None:
        _line("faithful", _yes_or_no(trace.faithful))
    _show_answer("answer", trace.answer)
    _show_answer("without it", without)
    if trace.uplift is not None:
        _line("uplift", f"{trace.uplift:+.3f}")
    if trace.grade is not None:
        width = max(map(len, trace.grade.rubric))
        for row, (name, label) in enumerate(trace.grade.rubric.items()):
            full = round(2 * label)
            bar = "█" * full + "░" * (2 * MAX_LABEL - full)
            _line("" if row else "rubric", f"{name:<{width}}  {bar}  {label:.2f}/{MAX_LABEL}")
        _line("total", f"{trace.grade.total:.3f}")
        _line("score", f"{trace.grade.score:.3f}")


def _table(traces: Sequence[TraceFound]) -> Table:
    """Several traces, one a row: the best first by score, else as drawn. What is not known has no column."""
    columns: dict[str, list[str | Text]] = {}
    for trace in sorted(traces, key=lambda trace: -trace.grade.score if trace.grade else 0.0):
        right, faithful = trace.answer.right, trace.faithful
        row: dict[str, str | Text | None] = {
            "score": None if trace.grade is None else f"{trace.grade.score:.3f}",
            "answer": Text(_answer(trace.answer)),  # a str would be read as markup
            "": None if right is None else _yes_or_no(right, "right", "wrong"),
            "uplift": None if trace.uplift is None else f"{trace.uplift:+.3f}",
            "faithful": None if faithful is None else _yes_or_no(faithful),
            "reasoning": Text(_plain(trace.reasoning) + (f" ({trace.malformed})" if trace.malformed else "")),
        }
        for name, cell in row.items():
            if cell is not None:
                columns.setdefault(name, []).append(cell)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table
