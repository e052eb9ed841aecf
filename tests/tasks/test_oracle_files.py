"""Tests of programs from oracle files, CodeContests' rows and statements."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.examples import statement_examples
from tracelift_jax.tasks.oracle import (
    OracleTest,
    Tests,
    contest_tests,
    oracle_tests,
    read_oracles,
    reward_tests,
    shown_tests,
)


def one_line(caught) -> str:
    [line] = str(caught.value).splitlines()
    return line


# ---------------------------------------------------------------------------------------------------------------- tests


def test_first_takes_runs_before_checks():
    tests = Tests(inputs=("1", "2"), outputs=("a", "b"), checks=("x", "y"), entry_point="f")
    assert len(tests) == 4
    assert tests.first(1) == Tests(inputs=("1",), outputs=("a",), entry_point="f")
    assert tests.first(3) == Tests(inputs=("1", "2"), outputs=("a", "b"), checks=("x",), entry_point="f")
    assert tests.first(0) == tests.first(4) == tests.first(9) == tests


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Tests.inputs and Tests.checks are both empty; give at least one test"),
        ({"inputs": ("1",)}, "Tests.inputs: 1 inputs and 0 outputs; give one output for each input"),
        ({"checks": "assert 1"}, "Tests.checks: expected tuple of str"),
    ],
)
def test_wrong_tests_are_refused(values, message):
    with pytest.raises(UserError) as caught:
        Tests(**values)
    assert one_line(caught).startswith(message)


texts = st.lists(st.text(max_size=5), max_size=3)


@given(
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=3), texts, st.text(max_size=5)
)
def test_tests_survive_json(pairs, checks, harness):
    tests = Tests(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), tuple(checks), "f", "def f():\n", harness)
    assert Tests.from_json(json.loads(json.dumps(tests.to_json())), "here") == tests


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "row 3: tests must be an object of checks, entry_point, harness, inputs, outputs, prompt"),
        ({"input": []}, "row 3: tests must be an object of"),
        ({"inputs": ["1"]}, "row 3: Tests.inputs: 1 inputs and 0 outputs"),
        ({"checks": [1]}, "row 3: Tests.checks[0]: expected str, got 1"),
    ],
)
def test_other_json_is_refused(data, message):
    with pytest.raises(UserError) as caught:
        Tests.from_json(data, "row 3")
    assert one_line(caught).startswith(message)


# --------------------------------------------------------------------------------------------------------- oracle files

TWO = [
    {"input": "1\n", "output": "2\n", "source": "public_tests", "is_reward_test": True, "is_feedback_test": True},
    {"input": "3\n", "output": "6\n", "source": "private_tests", "is_reward_test": True, "is_feedback_test": False},
    {"input": "", "output": "0\n", "is_reward_test": False},
    {"input": "5\n", "output": "10\n"},
]


def test_an_oracle_file_by_hand(tmp_path):
    path = tmp_path / "oracles.jsonl"
    path.write_text(json.dumps({"problem_id": "a", "tests": TWO}) + '\n\n{"problem_id": "b", "tests": []}\n')
    found = read_oracles(str(path))
    assert found == {
        "a": (
            OracleTest("1\n", "2\n", "public_tests", reward=True, feedback=True),
            OracleTest("3\n", "6\n", "private_tests", reward=True, feedback=False),
            OracleTest("", "0\n", "", reward=False, feedback=False),
            OracleTest("5\n", "10\n", "", reward=True, feedback=False),
        ),
        "b": (),
    }
    assert reward_tests(found["a"], 0) == Tests(("1\n", "3\n", "5\n"), ("2\n", "6\n", "10\n"))
    assert reward_tests(found["a"], 2) == Tests(("1\n", "3\n"), ("2\n", "6\n"))
    assert reward_tests(found["b"], 8) is None
    assert reward_tests(found["a"][2:3], 8) is None
    assert shown_tests(found["a"]) == "Input:\n1\nOutput:\n2"
    assert shown_tests(found["b"]) == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tests": []}, 'no "problem_id"; every row needs a non-empty text field "problem_id"'),
        ({"problem_id": "b"}, '"tests" must be a list of {"input", "output"}'),
        ({"problem_id": "b", "tests": {}}, '"tests" must be a list of {"input", "output"}'),
        ({"problem_id": "b", "tests": [[]]}, 'tests[0] must be an object with "input" and "output", not list'),
        ({"problem_id": "b", "tests": [{"output": ""}]}, 'tests[0]: "input" must be text, not NoneType'),
        (
            {"problem_id": "b", "tests": [TWO[0], {"input": "", "output": 5}]},
            'tests[1]: "output" must be text, not int',
        ),
        ({"problem_id": "b", "tests": [TWO[0] | {"source": 5}]}, 'tests[0]: "source" must be text, not int'),
        (
            {"problem_id": "b", "tests": [TWO[0] | {"is_reward_test": "yes"}]},
            "tests[0]: \"is_reward_test\" must be true or false, not 'yes'",
        ),
        (
            {"problem_id": "b", "tests": [TWO[0] | {"output": "\ud800"}]},
            'tests[0]: "output" holds half of a surrogate pair',
        ),
        ({"problem_id": "a", "tests": []}, "\"problem_id\" 'a' is also at "),
    ],
)
def test_a_wrong_row_is_one_line_with_its_place(tmp_path, row, message):
    path = tmp_path / "oracles.jsonl"
    path.write_text(json.dumps({"problem_id": "a", "tests": TWO}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        read_oracles(str(path))
    assert one_line(caught).startswith(f"{path}:2: {message}")


# --------------------------------------------------------------------------------------------------------- CodeContests


def test_contest_rows_by_hand():
    row = {
        "generated_tests": {"input": ["9\n"], "output": ["18\n"]},
        "public_tests": {"input": ["1\n", "2\n"], "output": ["2\n", "4\n"]},
        "private_tests": {"input": ["1\n", "3\n"], "output": ["2\n", "6\n"]},
    }
    assert contest_tests(row, "here") == (
        OracleTest("1\n", "2\n", "public_tests", feedback=True),
        OracleTest("2\n", "4\n", "public_tests", feedback=True),
        OracleTest("3\n", "6\n", "private_tests"),
        OracleTest("9\n", "18\n", "generated_tests"),
    )
    assert contest_tests({"public_tests": None}, "here") == ()


@pytest.mark.parametrize(
    "columns", [[], {"input": ["1"]}, {"input": ["1"], "output": []}, {"input": "1", "output": "2"}, "1"]
)
def test_wrong_columns_are_refused(columns):
    with pytest.raises(UserError) as caught:
        contest_tests({"private_tests": columns}, "f:1")
    assert one_line(caught) == 'f:1: "private_tests" must be {"input": [...], "output": [...]} with as many of both'


def test_a_wrong_text_of_a_contest_row_is_named():
    with pytest.raises(UserError) as caught:
        contest_tests({"public_tests": {"input": ["1", 2], "output": ["1", "2"]}}, "f:1")
    assert one_line(caught) == 'f:1: public_tests[1]: "input" must be text, not int'


def test_rows_of_an_oracle_file_may_stand_with_their_problem():
    assert oracle_tests({"problem": "...", "tests": TWO[:1]}, "here")[0].input == "1\n"


# ----------------------------------------------------------------------------------------------- examples of statements

CODEFORCES = """You are given an array a.

Input

The first line contains n.

Output

Print the sum.

Examples

Input

3
1 2 3


Output

6


Input

1
5

Output

5

Note

In the first example the sum is 6.
"""

ATCODER = """Score : 100 points

### Input
Input is given from Standard Input in the following format:
```
N
```
### Output
Print the answer.

### Sample Input 1
```
2 3

4
```
### Sample Output 1
```
Yes
```
We have 2 + 3 > 4.

### Sample Input 2 Copy
```
Note
```
### Sample Output 2 Copy
```
No
```
"""

ATCODER_PLAIN = """Sample Input 1

2 3


Sample Output 1

5

In this example, we add the two numbers.


Sample Input 2

1 1

Sample Output 2

Two
lines
"""

APPS = """Add.

-----Input-----

Two numbers.

-----Output-----

Their sum.

-----Examples-----
Input
1 2

Output
3

Input
3 4

Output
7



-----Note-----

Add."""
CODECHEF = (
    "Add.\n\nInput:\nTwo numbers.\n\nOutput:\nThe sum.\n\n"
    "Example:\nInput:\n1 2\n\nOutput:\n3\n\nExplanation:\n1 + 2 = 3"
)
AIZU = "Add.\n\nSample Input\n\n1 2\n0 0\n\nOutput for the Sample Input\n\n3"
BOLD = (
    "Add.\r\n\r\n**Example 1**\r\n\r\n**Input**\r\n1 2\r\n\r\n**Output**\r\n3\r\n\r\n"
    "**Example 2**\r\n**inputCopy**\r\n4 4\r\n**outputCopy**\r\n8\r\n"
)


@pytest.mark.parametrize(
    ("statement", "examples"),
    [
        (CODEFORCES, [("3\n1 2 3\n", "6\n"), ("1\n5\n", "5\n")]),
        (ATCODER, [("2 3\n\n4\n", "Yes\n"), ("Note\n", "No\n")]),
        (ATCODER_PLAIN, [("2 3\n", "5\n"), ("1 1\n", "Two\nlines\n")]),
        (APPS, [("1 2\n", "3\n"), ("3 4\n", "7\n")]),
        (CODECHEF, [("1 2\n", "3\n")]),
        (AIZU, [("1 2\n0 0\n", "3\n")]),
        (BOLD, [("1 2\n", "3\n"), ("4 4\n", "8\n")]),
        ("SAMPLE INPUT:\n1\nSAMPLE OUTPUT:\n2\nConstraints\n1 <= n", [("1\n", "2\n")]),
        ("Example\nInput\n1\nOutput\n\nNote\nNothing is printed.", []),  # no output
        ("Input\nTwo numbers.\nOutput\nTheir sum.", []),  # how they are laid out
        ("Write a function that adds.", []),
        ("", []),
    ],
)
def test_statements_by_hand(statement, examples):
    found = statement_examples(statement)
    assert [(test.input, test.output) for test in found] == examples
    assert all((test.source, test.reward, test.feedback) == ("statement", True, True) for test in found)


@given(
    st.lists(st.sampled_from(["Input", "Output", "Example", "Note", "1 2", "", "```", "Sample Input 1"]), max_size=12)
)
def test_any_statement_gives_its_own_lines(lines):
    for test in statement_examples("\n".join(lines)):
        assert test.input.strip() and test.output.strip()
        assert set(test.input.split("\n")) | set(test.output.split("\n")) <= {*lines, ""}


@pytest.mark.parametrize("line", ["Input\n", "\n", "```\n", "Sample Output 1\n1\n", "Example " * 8, " " * 60 + "\n"])
def test_long_statements_are_read_in_linear_time(line):
    begin = time.process_time()
    statement_examples("Example\nInput\n" + line * (100_000 // len(line)))
    assert time.process_time() - begin < 1.0
