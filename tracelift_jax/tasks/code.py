"""Programming problems: HumanEval, MBPP, and rows whose fields a config names, with tests from several places.

HumanEval(path="HumanEval.jsonl.gz")
Mbpp(path="sanitized-mbpp.json")
CodeTask(train="train.jsonl", oracle="tests.jsonl")
"""

import ast
import builtins
import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from tracelift_jax import checked
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.examples import statement_examples
from tracelift_jax.tasks.oracle import (
    OracleTest,
    Tests,
    contest_tests,
    has_contest_tests,
    oracle_tests,
    read_oracles,
    reward_tests,
    shown_tests,
)
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.rows import read_rows, require

_NAME = re.compile("[a-z][a-z0-9_]*")


def _check_name(where: str, name: str) -> None:
    checked.require(
        bool(_NAME.fullmatch(name)), f"{where}.name must be of lower-case letters, digits and underscores, got {name!r}"
    )


def _distinct(path: str, problem_of: Callable[[Mapping[str, Any], str], Problem]) -> tuple[Problem, ...]:
    """The problems of a file's rows, each with an id of its own."""
    places: dict[str, str] = {}
    problems = []
    for where, row in read_rows(path):
        problem = problem_of(row, where)
        other = places.setdefault(problem.problem_id, where)
        if other != where:
            raise UserError(f'{where}: the problem id "{problem.problem_id}" is also at {other}')
        problems.append(problem)
    return tuple(problems)


def _code_problem(
    problem_id: str, text: str, oracle: Tests | None, reasoning: str = "", task_type: str = "code", tests: str = ""
) -> Problem:
    return Problem(problem_id, text, "", reasoning, task_type, "code", tests, "program", oracle)


def _parsed(source: str, field: str, where: str) -> ast.Module:
    """A data set's own Python, which is trusted (what models write is never parsed here)."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f'{where}: "{field}" is no Python 3 ({error}); it should hold the tests') from None


@dataclasses.dataclass(frozen=True)
class HumanEval:
    """HumanEval as it is published: the statement is the beginning of a function, and its tests are one check.

    Attributes:
        path: HumanEval.jsonl, gzip or not; its problems are the split "test".
        name: what ids begin with: "humaneval/HumanEval/0".
    """

    path: str
    name: str = "humaneval"

    def __post_init__(self) -> None:
        checked.check_types(self)
        _check_name("HumanEval", self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The one there is."""
        return ("test",)

    def problems(self, split: str) -> tuple[Problem, ...]:
        """Every problem, in the order of the file.

        Raises:
            UserError: there is no such split, or a row is malformed; the message begins with the place.
        """
        if split != "test":
            raise UserError(f'split "{split}": HumanEval has "test" alone')
        return _distinct(self.path, self._problem)

    def _problem(self, row: Mapping[str, Any], where: str) -> Problem:
        prompt, entry_point = require(row, "prompt", where), require(row, "entry_point", where)
        begins = re.search(rf"^def {re.escape(entry_point)}\(", prompt, re.MULTILINE)
        if not begins:
            raise UserError(f'{where}: "prompt" does not define the entry point {entry_point!r}; it should')
        test = require(row, "test", where)
        _parsed(test, "test", where)
        # What the statement defines above the function, the check has from the statement and not from the answer.
        check = f"{prompt[: begins.start()].strip()}\n\n{test.strip()}\n\ncheck({entry_point})\n".lstrip()
        tests = Tests(checks=(check,), entry_point=entry_point, prompt=prompt.lstrip("\n"))
        return _code_problem(f"{self.name}/{require(row, 'task_id', where)}", prompt.strip(), tests)


_MBPP_SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}


@dataclasses.dataclass(frozen=True)
class Mbpp:
    """MBPP, whole or sanitized, as it is published; its splits are upstream's, by task id.

    Attributes:
        path: mbpp.jsonl or sanitized-mbpp.json, gzip or not. "train" is tasks 601 to 974, "test" 11 to 510,
            "validation" 511 to 600, and "prompt" 1 to 10, from which few-shot prompts are made.
        shown: how many of its asserts a statement shows: 1 as most do, 3 as in the paper; the name of the function
            stands nowhere else.
        name: what ids begin with: "mbpp/601".
    """

    path: str
    shown: int = 1
    name: str = "mbpp"

    def __post_init__(self) -> None:
        checked.check_types(self)
        checked.require(self.shown >= 0, f"Mbpp.shown must not be negative, got {self.shown}")
        _check_name("Mbpp", self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """Upstream's; a file may have no problem of some."""
        return tuple(_MBPP_SPLITS)

    def problems(self, split: str) -> tuple[Problem, ...]:
        """Every problem of a split, in the order of the file.

        Raises:
            UserError: there is no such split, or a row is malformed; the message begins with the place.
        """
        if split not in _MBPP_SPLITS:
            there = ", ".join(f'"{name}"' for name in _MBPP_SPLITS)
            raise UserError(f'split "{split}": MBPP has {there}')
        first, last = _MBPP_SPLITS[split]
        problems = _distinct(self.path, self._problem)
        return tuple(problem for problem in problems if first <= int(problem.problem_id.rpartition("/")[2]) <= last)

    def _problem(self, row: Mapping[str, Any], where: str) -> Problem:
        task = row.get("task_id")
        if type(task) is not int:
            raise UserError(f'{where}: "task_id" must be a whole number, not {task!r}')
        text = require(row, "text" if "text" in row else "prompt", where).strip()
        asserts = _texts(row, "test_list", where)
        if not asserts:
            raise UserError(f'{where}: "test_list" is empty; it should hold asserts')
        setup = row.get("test_setup_code", "")
        if not isinstance(setup, str):
            raise UserError(f'{where}: "test_setup_code" must be text, not {type(setup).__name__}')
        imports = _texts(row, "test_imports", where) if "test_imports" in row else ()
        tests = _mbpp_tests(asserts, imports, setup.replace("\r\n", "\n").strip(), where)
        if self.shown:
            shown = "\n".join(asserts[: self.shown])
            text += f"\nYour code should pass {'this test' if self.shown == 1 else 'these tests'}:\n{shown}"
        return _code_problem(f"{self.name}/{task}", text, tests)


def _texts(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    texts = row.get(field)
    if not isinstance(texts, list):
        raise UserError(f'{where}: "{field}" must be a list of texts')
    return tuple(require({field: text}, field, where).replace("\r\n", "\n").strip() for text in texts)


def _mbpp_tests(asserts: tuple[str, ...], imports: tuple[str, ...], setup: str, where: str) -> Tests:
    """Asserts as checks, a check each.

    A check sees what the program defines from outside, as functions of plain values. Where an assert needs more, such
    as objects of the program's classes, what it asks the program becomes a function in the harness, beside the program,
    and the check asks that. What is expected stays in the check.
    """
    entry_point, harness, checks = "", [setup] if setup else [], []
    for number, text in enumerate(asserts):
        statements = _parsed(text, "test_list", where).body
        if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
            raise UserError(f'{where}: "test_list" must hold one assert each, not {" ".join(text.split())[:80]!r}')
        test = statements[0].test
        modules = _modules(test)
        defined = [name for name in _names(test) if name not in modules and not hasattr(builtins, name)]
        called = _called(test)
        entry_point = entry_point or next((name for name in called if name in defined), "".join(called[:1]))
        if setup or len(defined) > 1 or _takes_or_gives_objects(test, defined):
            asked, rest = _question(test, f"asked_{number}", where)
            harness.append(f"def asked_{number}():\n    return {ast.unparse(asked)}")
            text = f"assert {ast.unparse(rest)}"
        checks.append("\n".join([*dict.fromkeys([*imports, *(f"import {name}" for name in modules)]), text]))
    return Tests(checks=tuple(checks), entry_point=entry_point, harness="\n\n".join(harness))


def _takes_or_gives_objects(test: ast.expr, defined: Sequence[str]) -> bool:
    """Whether a function of the program is given a class, as `int`, or gives anything that is only true or false."""
    called = {id(node.func) for node in ast.walk(test) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(test) if isinstance(node, ast.Name) and id(node) not in called]
    if any(hasattr(builtins, name.id) for name in names):
        return True
    while isinstance(test, ast.UnaryOp):
        test = test.operand
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id in defined


def _question(test: ast.expr, name: str, where: str) -> tuple[ast.expr, ast.expr]:
    """What an assert asks the program, and what is left of it where a function `name` of the harness asks that."""
    call = ast.Call(ast.Name(name, ast.Load()), [], [])
    if isinstance(test, ast.Compare):
        return test.left, ast.Compare(call, test.ops, test.comparators)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        asked, rest = _question(test.operand, name, where)
        return asked, ast.UnaryOp(test.op, rest)
    if isinstance(test, ast.Call):
        return ast.Call(ast.Name("bool", ast.Load()), [test], []), call
    raise UserError(
        f'{where}: "test_list" asks for objects in {ast.unparse(test)[:80]!r}; compare a call with what it should give'
    )


def _names(tree: ast.AST) -> list[str]:
    """The names that a tree reads, each once, in order."""
    found = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return list(dict.fromkeys(found))


def _modules(tree: ast.AST) -> list[str]:
    """The modules of the standard library whose members a tree reads, imported or not."""
    bases = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = (base.id for base in bases if isinstance(base, ast.Name) and base.id in sys.stdlib_module_names)
    return list(dict.fromkeys(names))


def _called(tree: ast.AST) -> list[str]:
    """The functions that a tree calls by name, from the outermost."""
    return [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


@dataclasses.dataclass(frozen=True)
class CodeFields:
    """Which field of a row is what.

    Attributes:
        problem: the field of the statement. problem_id: the field, a text or a whole number, that tells rows apart and
            names them in an oracle file.
        reasoning: the field of the reference reasoning, which a row may lack; "" where the source has none.
        task_type: the field of the kind of problem, which a row may lack; it is "code" then.
    """

    problem: str = "problem"
    problem_id: str = "problem_id"
    reasoning: str = ""
    task_type: str = "task_type"

    def __post_init__(self) -> None:
        checked.check_types(self)
        checked.require(bool(self.problem), "CodeFields.problem must name a field")
        checked.require(bool(self.problem_id), "CodeFields.problem_id must name a field")


@dataclasses.dataclass(frozen=True)
class CodeTask:
    """Problems from JSON Lines or one JSON array, gzip or not, whose programs read standard input and print.

    Attributes:
        train, test: the file of each split; "" where there is none.
        tests: where tests are. "oracle": in the files `oracle`, by problem id. "row": in the row, as in an oracle file
            ("tests") or as CodeContests has them ("public_tests", "private_tests", "generated_tests"). "statement":
            the examples that the statement shows.
        oracle: oracle files, for `tests` "oracle".
        most_tests: a program is judged by so many tests at most, the first ones; 0: by all.
        fields: what a row's fields are called.
        name: what ids begin with, lower-case letters, digits and underscores.
    """

    train: str = ""
    test: str = ""
    tests: Literal["oracle", "row", "statement"] = "row"
    oracle: tuple[str, ...] = ()
    most_tests: int = 8
    fields: CodeFields = CodeFields()
    name: str = "code"

    def __post_init__(self) -> None:
        checked.check_types(self)
        _check_name("CodeTask", self.name)
        checked.require(
            bool(self.train or self.test), "CodeTask.train and CodeTask.test name no file; give at least one"
        )
        checked.require(self.most_tests >= 0, f"CodeTask.most_tests must not be negative, got {self.most_tests}")
        given = self.tests == "oracle"
        checked.require(
            bool(self.oracle) == given,
            f'CodeTask.oracle must {"name a file" if given else "be empty"} for CodeTask.tests = "{self.tests}"',
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have a file."""
        return tuple(split for split, path in (("train", self.train), ("test", self.test)) if path)

    def problems(self, split: str) -> tuple[Problem, ...]:
        """Every problem of a split, read and checked before the first is used.

        Ids are "{name}/" and what the row is called. A problem without any test has no `oracle`, and cannot be judged.

        Raises:
            UserError: there is no such split, a file cannot be read, a row lacks something, or no problem has a test.
                The message begins with the place.
        """
        paths = {"train": self.train, "test": self.test}
        if split not in paths:
            raise UserError(f'split "{split}": there are "train" and "test"')
        if not paths[split]:
            raise UserError(f'CodeTask.{split} names no file: {self.name} has no split "{split}" here')
        oracles = _merged(self.oracle)
        problems = _distinct(paths[split], lambda row, where: self._problem(row, where, oracles))
        if not any(problem.oracle for problem in problems):
            told = {"oracle": f"in {', '.join(self.oracle)}", "row": "in its row", "statement": "in its statement"}
            raise UserError(f"{paths[split]}: no problem has a test {told[self.tests]}; see CodeTask.tests")
        return problems

    def _problem(self, row: Mapping[str, Any], where: str, oracles: Mapping[str, tuple[OracleTest, ...]]) -> Problem:
        fields = self.fields
        value = row.get(fields.problem_id)
        name = str(value) if type(value) is int else require(row, fields.problem_id, where)
        statement = require(row, fields.problem, where).strip()
        match self.tests:
            case "oracle":
                tests = oracles.get(name, ())
            case "row":
                tests = contest_tests(row, where) if has_contest_tests(row) else oracle_tests(row, where)
            case "statement":
                tests = statement_examples(statement)
        return _code_problem(
            f"{self.name}/{name}",
            statement,
            reward_tests(tests, self.most_tests),
            reasoning=_given(row, fields.reasoning, where).strip(),
            task_type=_given(row, fields.task_type, where) or "code",
            tests=shown_tests(tests),
        )


def _given(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text of a field that a row may lack; null counts as lacking."""
    return "" if not field or row.get(field) in (None, "") else require(row, field, where)


def _merged(paths: Iterable[str]) -> dict[str, tuple[OracleTest, ...]]:
    """The tests of several oracle files."""
    merged: dict[str, tuple[OracleTest, ...]] = {}
    places: dict[str, str] = {}
    for path in paths:
        for name, tests in read_oracles(path).items():
            if name in merged:
                raise UserError(f"{path}: problem {name!r} is also in {places[name]}; keep one of them")
            merged[name], places[name] = tests, path
    return merged
