"""Seeds of groups: problems with a worked solution, from JSON Lines, gzip or not.

GSM8K's format holds {"question", "answer"}, a working with its number behind `####`. Programs come as {"problem",
"solution"}: reasoning with the program in it, and maybe "code", the program alone; "tests", a text, a list of asserts
or a list of {"input", "output"}; "problem_id", "source" and "task_type". The first row tells which format a file has.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.groups.code_text import cut, tests_text
from tracelift_jax.groups.schema import RubricName
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.rows import read_numbered, require, stream_jsonl

_MATH_FIELDS = frozenset({"question", "answer"})
_CODE_FIELDS = frozenset({"problem", "solution"})


@dataclasses.dataclass(frozen=True)
class Seed:
    """A problem to build a group from.

    Attributes:
        problem_id: unique within the file. source: the data set it comes from. task_type: the kind of problem.
        problem: the statement.
        solution: the worked solution as the source has it.
        reference: the answer in canonical form (math) or the program (code), "" where the source has none.
        rubric_name: "math" or "code". tests: what a reader may know of a program's tests, as text; "" for none.
    """

    problem_id: str
    source: str
    task_type: str
    problem: str
    solution: str
    reference: str
    rubric_name: RubricName = "math"
    tests: str = ""


def read_seeds(path: str | Path) -> list[Seed]:
    """Seeds of a file; those without an id of their own get "{source}/{name of the file}/{row}", rows from 0.

    Raises:
        UserError: the file cannot be read, has neither format, or a row lacks something, is malformed or has an id that
            another has. The message begins with FILE:LINE.
    """
    name = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
    if Path(path).is_dir() or _is_math(path):
        problems = JsonlTask(train=str(path), fields="gsm8k").problems("train")
        return [
            Seed(f"gsm8k/{name}/{row}", "gsm8k", p.task_type, p.text, p.reasoning, p.answer)
            for row, p in enumerate(problems)
        ]
    seeds, places = [], {}
    for row, (number, fields) in enumerate(read_numbered(path)):
        where = f"{path}:{number}"
        seed = _code_seed(fields, where, f"{name}/{row}")
        if seed.problem_id in places:
            raise UserError(f'{where}: "problem_id" {seed.problem_id!r} is also at {places[seed.problem_id]}')
        places[seed.problem_id] = where
        seeds.append(seed)
    return seeds


def _is_math(path: str | Path) -> bool:
    number, row = next(stream_jsonl(path), (0, {}))
    if row.keys() >= _CODE_FIELDS:
        return False
    if number and not row.keys() >= _MATH_FIELDS:
        raise UserError(
            f'{path}:{number}: neither "question" and "answer" (GSM8K) nor "problem" and "solution" (programs); '
            "name the fields of one of the two"
        )
    return True


def _code_seed(row: Mapping[str, Any], where: str, place: str) -> Seed:
    solution = require(row, "solution", where)
    _, program = cut(solution, _given(row, "code", where, ""))
    source = _given(row, "source", where, "code")
    return Seed(
        problem_id=_given(row, "problem_id", where, f"{source}/{place}"),
        source=source,
        task_type=_given(row, "task_type", where, "code"),
        problem=require(row, "problem", where).strip(),
        solution=solution,
        reference=program,
        rubric_name="code",
        tests=_tests(row, where),
    )


def _given(row: Mapping[str, Any], field: str, where: str, otherwise: str) -> str:
    """The text of a field that a row may lack; null counts as lacking."""
    return otherwise if row.get(field) is None else require(row, field, where)


def _tests(row: Mapping[str, Any], where: str) -> str:
    if row.get("tests") is None:
        return ""
    text = tests_text(row["tests"], where)
    return require({"tests": text}, "tests", where) if text else ""
