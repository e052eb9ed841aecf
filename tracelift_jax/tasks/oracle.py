"""Tests of programs, and the files that hold them.

An oracle file is JSON Lines, a problem a line:

    {"problem_id", "tests": [{"input", "output", "source", "is_reward_test", "is_feedback_test"}, ...]}

Rows as those of CodeContests carry their tests themselves: "public_tests", "private_tests" and "generated_tests", each
{"input": [...], "output": [...]}.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tracelift_jax.checked import check_types
from tracelift_jax.checked import require as insist
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.rows import check_text, read_rows, require

_CONTEST_FIELDS = ("public_tests", "private_tests", "generated_tests")


@dataclasses.dataclass(frozen=True)
class Tests:
    """What decides whether a program is right: runs with input and expected output, then checks. At least one.

    Attributes:
        inputs: what each run finds on standard input. outputs: what it should print.
        checks: Python each, which calls what the program defines, and raises where that is wrong.
        entry_point: the function that the statement asks for; "" where it asks for a whole program.
        prompt: the beginning of the program where the statement gives one, up to the body of the entry point; else "".
        harness: Python put behind the program, which checks call; "" for none. It must not tell what is expected.
    """

    __test__ = False  # no class of test functions, whatever its name makes pytest think

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    entry_point: str = ""
    prompt: str = ""
    harness: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        insist(
            len(self.inputs) == len(self.outputs),
            f"Tests.inputs: {len(self.inputs)} inputs and {len(self.outputs)} outputs; give one output for each input",
        )
        insist(bool(self.inputs or self.checks), "Tests.inputs and Tests.checks are both empty; give at least one test")

    def __len__(self) -> int:
        """How many tests there are."""
        return len(self.inputs) + len(self.checks)

    def first(self, most: int) -> "Tests":
        """The first `most` of them; all where that is 0."""
        if not most or len(self) <= most:
            return self
        rest = max(most - len(self.inputs), 0)
        return dataclasses.replace(
            self, inputs=self.inputs[:most], outputs=self.outputs[:most], checks=self.checks[:rest]
        )

    def to_json(self) -> dict[str, Any]:
        """The tests as a JSON object, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Tests":
        """Reads what `to_json` wrote.

        Raises:
            UserError: it is something else; the message begins with `where`.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict) or data.keys() - names:
            raise UserError(f"{where}: tests must be an object of {', '.join(sorted(names))}")
        try:
            return cls(**data)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


@dataclasses.dataclass(frozen=True)
class OracleTest:
    """One test of an oracle file.

    Attributes:
        input: what a program finds on standard input. output: what it should print.
        source: where the test comes from, for example "public_tests"; "" where that is not said.
        reward: whether programs are judged by it. feedback: whether it may be shown to a reader.
    """

    input: str
    output: str
    source: str = ""
    reward: bool = True
    feedback: bool = False


def read_oracles(path: str) -> dict[str, tuple[OracleTest, ...]]:
    """The tests of each problem of an oracle file. A test that does not say what it is for is a reward test.

    Raises:
        UserError: the file cannot be read, a row lacks something or is malformed, or an id is there twice. The message
            begins with FILE:LINE.
    """
    found: dict[str, tuple[OracleTest, ...]] = {}
    places: dict[str, str] = {}
    for where, row in read_rows(path):
        name = require(row, "problem_id", where)
        if name in places:
            raise UserError(f'{where}: "problem_id" {name!r} is also at {places[name]}')
        places[name] = where
        found[name] = oracle_tests(row, where)
    return found


def oracle_tests(row: Mapping[str, Any], where: str) -> tuple[OracleTest, ...]:
    """The tests of a row of an oracle file, which are in its field "tests".

    Raises:
        UserError: it has no such list, or a test is malformed; the message begins with `where`.
    """
    tests = row.get("tests")
    if not isinstance(tests, list):
        raise UserError(f'{where}: "tests" must be a list of {{"input", "output"}}')
    return tuple(_test(test, f"{where}: tests[{number}]") for number, test in enumerate(tests))


def _test(test: Any, where: str) -> OracleTest:
    if not isinstance(test, dict):
        raise UserError(f'{where} must be an object with "input" and "output", not {type(test).__name__}')
    source = "" if test.get("source") is None else _text(test["source"], "source", where)
    return OracleTest(
        input=_text(test.get("input"), "input", where),
        output=_text(test.get("output"), "output", where),
        source=source,
        reward=_flag(test, "is_reward_test", True, where),
        feedback=_flag(test, "is_feedback_test", False, where),
    )


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f'{where}: "{field}" must be text, not {type(value).__name__}')
    check_text(value, field, where)
    return value


def _flag(test: Mapping[str, Any], field: str, otherwise: bool, where: str) -> bool:
    if field not in test:
        return otherwise
    if not isinstance(test[field], bool):
        raise UserError(f'{where}: "{field}" must be true or false, not {test[field]!r}')
    return test[field]


def contest_tests(row: Mapping[str, Any], where: str) -> tuple[OracleTest, ...]:
    """The tests of a row as those of CodeContests: the public ones, which may be shown, private and generated ones.

    A test that is there twice counts once. A list that is missing or null has no tests.

    Raises:
        UserError: one of the three is something else; the message begins with `where`.
    """
    found: dict[tuple[str, str], OracleTest] = {}
    for field in _CONTEST_FIELDS:
        if row.get(field) is None:
            continue
        columns = row[field]
        inputs, outputs = (columns.get("input"), columns.get("output")) if isinstance(columns, dict) else (None, None)
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            raise UserError(f'{where}: "{field}" must be {{"input": [...], "output": [...]}} with as many of both')
        for number, pair in enumerate(zip(inputs, outputs, strict=True)):
            place = f"{where}: {field}[{number}]"
            text, output = _text(pair[0], "input", place), _text(pair[1], "output", place)
            found.setdefault((text, output), OracleTest(text, output, field, feedback=field == "public_tests"))
    return tuple(found.values())


def has_contest_tests(row: Mapping[str, Any]) -> bool:
    """Whether a row has a field for tests as CodeContests has them."""
    return any(field in row for field in _CONTEST_FIELDS)


def reward_tests(tests: Iterable[OracleTest], most: int) -> Tests | None:
    """The first `most` tests to judge by, all where that is 0; None where there is none."""
    chosen = [test for test in tests if test.reward]
    if not chosen:
        return None
    return Tests(tuple(test.input for test in chosen), tuple(test.output for test in chosen)).first(most)


def shown_tests(tests: Iterable[OracleTest]) -> str:
    """The tests that may be shown, as text; "" where there is none."""
    parts = (f"Input:\n{test.input.strip()}\nOutput:\n{test.output.strip()}" for test in tests if test.feedback)
    return "\n\n".join(parts)
