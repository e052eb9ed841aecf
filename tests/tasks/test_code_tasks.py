"""Programming problems: each benchmark's rows by hand; reference solutions of whole files from shared data."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.code import CodeFields, CodeTask, HumanEval, Mbpp
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Judged, judge
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.rows import read_rows
from tracelift_jax.tasks.sandbox import Limits, Unprotected


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def one_line(caught) -> str:
    [line] = str(caught.value).splitlines()
    return line


def judged(problem: Problem, answer: str) -> Judged:
    assert problem.oracle is not None
    program = program_of(answer, problem.oracle)
    assert program is not None
    return judge(Unprotected().run(program, Limits()), problem.oracle)


# ------------------------------------------------------------------------------------------------------------ HumanEval

ROW = {
    "task_id": "HumanEval/7",
    "prompt": "\n\nimport math\n\n\ndef area(r):\n    return math.pi * r * r\n\n\n"
    'def double(r: float):\n    """ Twice the area. """\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * area(r)\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2 * area(1)\n",
}
ABOVE = "import math\n\n\ndef area(r):\n    return math.pi * r * r"


def test_humaneval(tmp_path):
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() + b"\n"))
    [problem] = HumanEval(str(path)).problems("test")
    assert problem == Problem(
        problem_id="humaneval/HumanEval/7",
        text=ROW["prompt"].strip(),
        answer="",
        reasoning="",
        task_type="code",
        task_name="code",
        answer_kind="program",
        oracle=Tests(
            checks=(f"{ABOVE}\n\n{ROW['test'].strip()}\n\ncheck(double)\n",),
            entry_point="double",
            prompt=ROW["prompt"].lstrip(),
        ),
    )


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ROW["canonical_solution"], "passed"),
        ("```python\ndef double(r):\n    return 2 * area(r)\n```", "passed"),
        ("def double(r):\n    return area(r)\n", "failed_test"),
        # What the check compares with is the statement's, whatever a program makes of it.
        ("def area(r):\n    return 0\n\n\ndef double(r):\n    return 0\n", "failed_test"),
        ("def double(r):\n    return r +\n", "does_not_compile"),
        ("def double(r):\n    return nothing\n", "runtime_error"),
    ],
)
def test_answers_to_humaneval(tmp_path, answer, outcome):
    [problem] = HumanEval(write(tmp_path / "rows.jsonl", ROW)).problems("test")
    assert judged(problem, answer).outcome == outcome


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, 'no "prompt"; every row needs a non-empty text field "prompt"'),
        ({"entry_point": "triple"}, "\"prompt\" does not define the entry point 'triple'; it should"),
        (
            {"test": "def check(:"},
            '"test" is no Python 3 (invalid syntax (<unknown>, line 1)); it should hold the tests',
        ),
        ({"test": 5}, 'no "test"'),
        ({"task_id": 5}, 'no "task_id"'),
    ],
)
def test_wrong_rows_of_humaneval(tmp_path, change, message):
    path = write(tmp_path / "rows.jsonl", ROW, ROW | {"task_id": "HumanEval/8"} | change)
    with pytest.raises(UserError) as caught:
        HumanEval(path).problems("test")
    assert one_line(caught).startswith(f"{path}:2: {message}")


def test_humaneval_has_one_split_and_ids_of_their_own(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROW, ROW)
    with pytest.raises(UserError, match=r'^split "train": HumanEval has "test" alone$'):
        HumanEval(path).problems("train")
    with pytest.raises(UserError, match=rf'^{path}:2: the problem id "humaneval/HumanEval/7" is also at {path}:1$'):
        HumanEval(path).problems("test")
    with pytest.raises(UserError, match=r"^HumanEval\.name must be of lower-case letters"):
        HumanEval(path, name="Human Eval")


# ----------------------------------------------------------------------------------------------------------------- MBPP

WHOLE = {
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return a + b",
    "task_id": 601,
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(1, -1) == 0"],
    "challenge_test_list": ["assert add(5, 5) == 10"],
}
SANITIZED = {
    "source_file": "v2.ipynb",
    "task_id": 11,
    "prompt": "Write a function to add.",
    "code": WHOLE["code"],
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(add(1, 2), 3, rel_tol=0.1)"],
}


def mbpp(folder: Path, row: dict, split: str = "train", **more) -> Problem:
    [problem] = Mbpp(write(folder / "rows.jsonl", row), **more).problems(split)
    return problem


def test_mbpp(tmp_path):
    shown = "Write a function to add.\nYour code should pass this test:\nassert add(1, 2) == 3"
    assert mbpp(tmp_path, WHOLE) == Problem(
        problem_id="mbpp/601",
        text=shown,
        answer="",
        task_type="code",
        task_name="code",
        answer_kind="program",
        oracle=Tests(checks=tuple(WHOLE["test_list"]), entry_point="add"),
    )
    three = "Write a function to add.\nYour code should pass these tests:\n" + "\n".join(WHOLE["test_list"])
    assert mbpp(tmp_path, WHOLE, shown=3).text == three
    assert mbpp(tmp_path, WHOLE, shown=0).text == "Write a function to add."


def test_sanitized_mbpp(tmp_path):
    problem = mbpp(tmp_path, SANITIZED, "test", name="sanitized")
    assert problem.problem_id == "sanitized/11"
    assert problem.oracle == Tests(
        checks=("import math\nassert math.isclose(add(1, 2), 3, rel_tol=0.1)",), entry_point="add"
    )


@pytest.mark.parametrize(
    ("setup", "test", "harness", "check", "entry_point"),
    [
        ("", "assert f([P(1)], 2) == 3", "def asked_0():\n    return f([P(1)], 2)", "assert asked_0() == 3", "f"),
        (
            "p = P(1)\r\n",
            "assert (f(p)) == 3",
            "p = P(1)\n\ndef asked_0():\n    return f(p)",
            "assert asked_0() == 3",
            "f",
        ),
        (
            "",
            "assert f((1, 2.0), int) == 3",
            "def asked_0():\n    return f((1, 2.0), int)",
            "assert asked_0() == 3",
            "f",
        ),
        ("", "assert f(1)", "def asked_0():\n    return bool(f(1))", "assert asked_0()", "f"),
        ("", "assert not f(1)", "def asked_0():\n    return bool(f(1))", "assert not asked_0()", "f"),
        ("", "assert set(f(1)) == set((4, 5))", "", "assert set(f(1)) == set((4, 5))", "f"),
        ("", "assert sum(1, 2) == 3", "", "assert sum(1, 2) == 3", "sum"),
        ("", "assert f(1) == sys.getsizeof(1)", "", "import sys\nassert f(1) == sys.getsizeof(1)", "f"),
        ("", "assert copy(1) == 1", "", "assert copy(1) == 1", "copy"),
    ],
)
def test_what_is_asked_beside_the_program_and_what_is_not(tmp_path, setup, test, harness, check, entry_point):
    problem = mbpp(tmp_path, WHOLE | {"test_setup_code": setup, "test_list": [test]})
    assert problem.oracle == Tests(checks=(check,), harness=harness, entry_point=entry_point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": "1"}, "\"task_id\" must be a whole number, not '1'"),
        ({"text": " "}, 'no "text"'),
        ({"test_list": "assert 1"}, '"test_list" must be a list of texts'),
        ({"test_list": []}, '"test_list" is empty; it should hold asserts'),
        ({"test_list": [""]}, 'no "test_list"'),
        ({"test_list": ["assert add(1, 2) =="]}, '"test_list" is no Python 3'),
        ({"test_list": ["print(1)"]}, "\"test_list\" must hold one assert each, not 'print(1)'"),
        ({"test_list": ["assert 1; assert 2"]}, '"test_list" must hold one assert each'),
        ({"test_list": ["assert f(P(1)) == 1 and f(P(2)) == 2"]}, '"test_list" asks for objects in '),
        ({"test_setup_code": None}, '"test_setup_code" must be text, not NoneType'),
        ({"test_imports": "import math"}, '"test_imports" must be a list of texts'),
    ],
)
def test_wrong_rows_of_mbpp(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        mbpp(tmp_path, WHOLE | change)
    assert one_line(caught).startswith(f"{tmp_path / 'rows.jsonl'}:1: {message}")


def test_splits_of_mbpp_are_upstreams(tmp_path):
    ends = (1, 10, 11, 510, 511, 600, 601, 974)
    path = write(tmp_path / "rows.jsonl", *(WHOLE | {"task_id": task} for task in ends))
    splits = {split: Mbpp(path).problems(split) for split in ("prompt", "test", "validation", "train")}
    ids = {split: [int(problem.problem_id[5:]) for problem in problems] for split, problems in splits.items()}
    assert ids == {"prompt": [1, 10], "test": [11, 510], "validation": [511, 600], "train": [601, 974]}
    with pytest.raises(UserError, match=r'^split "dev": MBPP has "prompt", "test", "validation", "train"$'):
        Mbpp(path).problems("dev")
    with pytest.raises(UserError, match=r"^Mbpp\.shown must not be negative, got -1$"):
        Mbpp(path, shown=-1)


# ---------------------------------------------------------------------------------------------------- whole benchmarks


def solutions(path: Path) -> dict[str, dict]:
    return {str(row["task_id"]): row for _, row in read_rows(path)}


def test_every_problem_of_humaneval(shared_data):
    path = shared_data / "humaneval" / "HumanEval.jsonl.gz"
    rows, problems = solutions(path), HumanEval(str(path)).problems("test")
    assert len(problems) == 164
    for problem in (*problems[::20], problems[32], problems[38], problems[50]):  # three have helpers above them
        row = rows[problem.problem_id.removeprefix("humaneval/")]
        assert judged(problem, row["canonical_solution"]).outcome == "passed", problem.problem_id
        whole = f"Here:\n```python\n{row['prompt']}{row['canonical_solution']}```\nIt works."
        assert judged(problem, whole).outcome == "passed", problem.problem_id
        assert judged(problem, f"def {row['entry_point']}(*a): return 'no'").passed == 0, problem.problem_id


@pytest.mark.parametrize(
    ("name", "sizes", "special"),
    [
        ("mbpp.jsonl", (10, 500, 90, 374), {126, 367, 533, 596, 601, 927}),  # objects, set-ups, a builtin's name
        ("sanitized-mbpp.json", (7, 257, 43, 120), {737, 787, 794}),
    ],
)
def test_every_problem_of_mbpp(shared_data, name, sizes, special):
    path = shared_data / "mbpp" / name
    rows, task = solutions(path), Mbpp(str(path))
    splits = [task.problems(split) for split in ("prompt", "test", "validation", "train")]
    assert tuple(map(len, splits)) == sizes
    problems = {int(problem.problem_id[5:]): problem for problems in splits for problem in problems}
    assert special <= problems.keys()
    for number in sorted(special | set(list(problems)[::60])):
        answer = f"```python\n{rows[str(number)]['code']}\n```"
        assert judged(problems[number], answer).outcome == "passed", number


# ------------------------------------------------------------------------------------------------------- rows of tests

ORACLE = {
    "problem_id": "p1",
    "tests": [
        {"input": f"{n}\n", "output": f"{2 * n}\n", "source": "private", "is_feedback_test": n == 1}
        for n in range(1, 11)
    ],
}
ADD = {"problem_id": "p1", "problem": " Double it.\n\nExample\nInput\n4\nOutput\n8\n", "task_type": "greedy"}


def test_an_oracle_file_by_problem_id(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ADD, {"problem_id": 2, "problem": "Another."})
    oracle = write(tmp_path / "oracle.jsonl", ORACLE)
    [first, second] = CodeTask(train=rows, tests="oracle", oracle=(oracle,)).problems("train")
    eight = tuple(f"{n}\n" for n in range(1, 9)), tuple(f"{2 * n}\n" for n in range(1, 9))
    assert first == Problem(
        problem_id="code/p1",
        text=ADD["problem"].strip(),
        answer="",
        task_type="greedy",
        task_name="code",
        tests="Input:\n1\nOutput:\n2",
        answer_kind="program",
        oracle=Tests(*eight),
    )
    assert (second.problem_id, second.task_type, second.oracle) == ("code/2", "code", None)
    [first, _] = CodeTask(train=rows, tests="oracle", oracle=(oracle,), most_tests=0).problems("train")
    assert first.oracle is not None and len(first.oracle) == 10
    assert judged(first, "print(2 * int(input()))").passed == 10


def test_tests_in_the_row_and_in_the_statement(tmp_path):
    contest = {
        "name": "1575_A",
        "description": "Double it.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": ["3\n"], "output": ["6\n"]},
        "solution": "Multiply by two.",
    }
    fields = CodeFields("description", "name", reasoning="solution")
    [problem] = CodeTask(test=write(tmp_path / "a.jsonl", contest), fields=fields, name="contests").problems("test")
    assert problem.problem_id == "contests/1575_A"
    assert problem.oracle == Tests(("1\n", "3\n"), ("2\n", "6\n"))
    assert (problem.tests, problem.reasoning) == ("Input:\n1\nOutput:\n2", "Multiply by two.")
    [problem] = CodeTask(test=write(tmp_path / "b.jsonl", ADD | ORACLE), most_tests=1).problems("test")
    assert problem.oracle == Tests(("1\n",), ("2\n",))
    [problem] = CodeTask(test=write(tmp_path / "c.jsonl", ADD), tests="statement").problems("test")
    assert problem.oracle == Tests(("4\n",), ("8\n",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "CodeTask.train and CodeTask.test name no file; give at least one"),
        ({"train": "a", "tests": "oracle"}, 'CodeTask.oracle must name a file for CodeTask.tests = "oracle"'),
        ({"train": "a", "oracle": ("b",)}, 'CodeTask.oracle must be empty for CodeTask.tests = "row"'),
        ({"train": "a", "most_tests": -1}, "CodeTask.most_tests must not be negative, got -1"),
        ({"train": "a", "tests": "rows"}, "CodeTask.tests: expected one of 'oracle', 'row', 'statement'"),
        ({"train": "a", "name": "A"}, "CodeTask.name must be of lower-case letters, digits and underscores, got 'A'"),
        ({"train": "a", "oracle": "b"}, "CodeTask.oracle: expected tuple of str"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError) as caught:
        CodeTask(**values)
    assert one_line(caught).startswith(message)


@pytest.mark.parametrize("field", ["problem", "problem_id"])
def test_fields_need_names(field):
    with pytest.raises(UserError, match=rf"^CodeFields\.{field} must name a field$"):
        CodeFields(**{field: ""})


def test_files_that_do_not_fit_are_said_so(tmp_path):
    rows, oracle = write(tmp_path / "rows.jsonl", ADD), write(tmp_path / "oracle.jsonl", ORACLE | {"problem_id": "q"})
    for task, message in (
        (CodeTask(train=rows, tests="oracle", oracle=(oracle,)), f"{rows}: no problem has a test in {oracle}"),
        (CodeTask(train=rows, tests="oracle", oracle=(oracle, oracle)), f"{oracle}: problem 'q' is also in {oracle}"),
        (CodeTask(train=rows), f'{rows}:1: "tests" must be a list'),
        (
            CodeTask(train=write(tmp_path / "no.jsonl", ADD | {"problem": "Add."}), tests="statement"),
            f"{tmp_path / 'no.jsonl'}: no problem has a test in its statement",
        ),
        (CodeTask(train=rows, fields=CodeFields(problem="text")), f'{rows}:1: no "text"'),
        (CodeTask(test=rows), 'CodeTask.train names no file: code has no split "train" here'),
    ):
        with pytest.raises(UserError) as caught:
            task.problems("train")
        assert one_line(caught).startswith(message)
    with pytest.raises(UserError, match=r'^split "dev": there are "train" and "test"$'):
        CodeTask(train=rows).problems("dev")


def test_ids_are_counted_once(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ADD | ORACLE, ADD | ORACLE)
    with pytest.raises(UserError, match=rf'^{rows}:2: the problem id "code/p1" is also at {rows}:1$'):
        CodeTask(train=rows).problems("train")


def test_outcomes_of_a_batch_can_be_counted(tmp_path):
    [problem] = CodeTask(test=write(tmp_path / "rows.jsonl", ADD | ORACLE), most_tests=3).problems("test")
    found = Counter(judged(problem, text).outcome for text in ("print(2)", "print(2 * int(input()))"))
    assert found == {"wrong_output": 1, "passed": 1}
