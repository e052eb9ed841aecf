"""Problems from files: the public benchmarks as they are published, and rows whose fields a config names.

JsonlTask(train="train.jsonl.gz", test="test.jsonl", fields="gsm8k")
JsonlTask(test="mine.jsonl", fields=Fields(problem=("prompt",), answer="target"))
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from tracelift_jax import checked
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.answers import last_boxed, read_answer
from tracelift_jax.tasks.prepared import is_prepared, prepared_rows, problem_of
from tracelift_jax.tasks.problem import AnswerKind, Problem
from tracelift_jax.tasks.rows import check_text, read_rows, require

_CALCULATOR = re.compile(r"<<.*?>>")
_NAME = re.compile("[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which field of a row is what.

    Attributes:
        problem: the fields whose texts, joined by blanks, are the statement.
        answer: the field of the answer, a number or a text. In a row without it, and where this is "", the answer is
            read from the reasoning, where `steps` says it is.
        reasoning: the field of the reference reasoning, which a row may lack; "" where the source has none.
        steps: how reasoning is written. "plain": as it is shown. "gsm8k": with calculator marks `<<1+1=2>>`, which are
            dropped, and the answer, a number, behind `####` at the end. "boxed": in LaTeX, the answer in the last box.
        problem_id: the fields that tell rows apart, joined by slashes; () numbers the rows of a split from 0.
    """

    problem: tuple[str, ...] = ("problem",)
    answer: str = "answer"
    reasoning: str = ""
    steps: Literal["plain", "gsm8k", "boxed"] = "plain"
    problem_id: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked.check_types(self)
        checked.require(bool(self.problem), "Fields.problem must name at least one field")
        if self.steps == "plain":
            checked.require(bool(self.answer), 'Fields.answer must name a field where Fields.steps = "plain"')
        else:
            checked.require(
                bool(self.reasoning), f'Fields.reasoning must name a field where Fields.steps = "{self.steps}"'
            )


Layout = Literal["gsm8k", "gsm_hard", "gsm_plus", "gsm_symbolic", "math", "math500", "mawps", "svamp"]

LAYOUTS: dict[Layout, Fields] = {
    "gsm8k": Fields(("question",), answer="", reasoning="answer", steps="gsm8k"),
    "gsm_hard": Fields(("input",), answer="target"),
    "gsm_plus": Fields(("question",), reasoning="solution", steps="gsm8k"),
    "gsm_symbolic": Fields(("question",), answer="", reasoning="answer", steps="gsm8k", problem_id=("id", "instance")),
    "math": Fields(reasoning="solution", steps="boxed"),
    "math500": Fields(reasoning="solution", steps="boxed", problem_id=("unique_id",)),
    "mawps": Fields(("input",), answer="target"),
    "svamp": Fields(("Body", "Question"), answer="Answer", reasoning="Equation", problem_id=("ID",)),
}


@dataclasses.dataclass(frozen=True)
class JsonlTask:
    """Problems with their answers from files, whatever benchmark they are of.

    A file is JSON Lines or one JSON array, gzip or not. A directory is a tensorflow-datasets data set in array_record:
    one that `tracelift prepare` wrote, which gives the problems it was made from; or any other whose rows have the
    fields, such as `gsm8k` of the tensorflow-datasets catalogue.

    Attributes:
        train: the file or directory of split "train"; "" where there is none, as for most benchmarks.
        test: the same for "test". Both may name one directory.
        fields: the layout of a benchmark, or which field of a row is what.
        name: what ids begin with, lower-case letters, digits and underscores; "": the layout's, or "jsonl". Two files
            of one layout need different ones where they are evaluated together.
    """

    train: str = ""
    test: str = ""
    fields: Fields | Layout = Fields()
    name: str = ""

    def __post_init__(self) -> None:
        checked.check_types(self)
        checked.require(
            not self.name or bool(_NAME.fullmatch(self.name)),
            f"JsonlTask.name must be of lower-case letters, digits and underscores, got {self.name!r}",
        )
        checked.require(
            bool(self.train or self.test), "JsonlTask.train and JsonlTask.test name no file; give at least one"
        )

    @property
    def title(self) -> str:
        """`name`, or that of the layout."""
        return self.name or (self.fields if isinstance(self.fields, str) else "jsonl")

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have a file."""
        return tuple(split for split, path in self._paths.items() if path)

    def problems(self, split: str) -> tuple[Problem, ...]:
        """Every problem of a split, read and checked before the first is used.

        Ids are stable as long as the file is: "{name}/{split}/{row}", or "{name}/" and what the row is called.

        Raises:
            UserError: there is no such split, the file cannot be read, or a row lacks something. The message begins
                with the place.
        """
        if split not in self._paths:
            raise UserError(f'split "{split}": there are "train" and "test"')
        path = self._paths[split]
        if not path:
            raise UserError(f'JsonlTask.{split} names no file: {self.title} has no split "{split}" here')
        prepared = Path(path).is_dir()
        rows = prepared_rows(path, split) if prepared else read_rows(path)
        return _distinct(
            (
                where,
                problem_of(row, where) if prepared and is_prepared(row) else self._problem(row, where, f"{split}/{i}"),
            )
            for i, (where, row) in enumerate(rows)
        )

    @property
    def _paths(self) -> dict[str, str]:
        return {"train": self.train, "test": self.test}

    def _problem(self, row: Mapping[str, Any], where: str, number: str) -> Problem:
        fields = LAYOUTS[self.fields] if isinstance(self.fields, str) else self.fields
        text = " ".join(require(row, field, where).strip() for field in fields.problem)
        answer, kind = _answer(fields, row, where)
        name = "/".join(_id(row, field, where) for field in fields.problem_id) or number
        return Problem(f"{self.title}/{name}", text, answer, _reasoning(fields, row, where), answer_kind=kind)


def _reasoning(fields: Fields, row: Mapping[str, Any], where: str) -> str:
    if not fields.reasoning or row.get(fields.reasoning) in (None, ""):
        return ""
    text = require(row, fields.reasoning, where)
    if fields.steps == "gsm8k":
        steps, mark, _ = text.rpartition("####")
        text = _CALCULATOR.sub("", steps if mark else text)
    return text.strip()


def _answer(fields: Fields, row: Mapping[str, Any], where: str) -> tuple[str, AnswerKind]:
    """The answer in the row's field or, without one, in its reasoning."""
    if row.get(fields.answer) is not None:
        answer = read_answer(row[fields.answer])
        if answer is None:
            raise UserError(f'{where}: "{fields.answer}" holds no answer; it should be a number or a text')
    elif fields.steps == "gsm8k":
        _, mark, tail = require(row, fields.reasoning, where).rpartition("####")
        answer = read_answer(tail)
        if not mark or answer is None or answer[1] != "number":
            raise UserError(
                f'{where}: no number after "####" in "{fields.reasoning}"; end it with a line such as "#### 18"'
            )
    elif fields.steps == "boxed":
        answer = read_answer(last_boxed(require(row, fields.reasoning, where)))
        if answer is None:
            raise UserError(f'{where}: no "{fields.answer}", and no \\boxed{{...}} in "{fields.reasoning}"')
    else:
        raise UserError(f'{where}: no "{fields.answer}"; every row needs an answer "{fields.answer}"')
    check_text(answer[0], fields.answer or fields.reasoning, where)
    return answer


def _id(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    return str(value) if type(value) is int else require(row, field, where)


def _distinct(placed: Iterable[tuple[str, Problem]]) -> tuple[Problem, ...]:
    """The problems of (place, problem) pairs, each with an id of its own."""
    places: dict[str, str] = {}
    problems = []
    for where, problem in placed:
        other = places.setdefault(problem.problem_id, where)
        if other != where:
            raise UserError(f'{where}: the problem id "{problem.problem_id}" is also at {other}')
        problems.append(problem)
    return tuple(problems)
