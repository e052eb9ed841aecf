"""Seeds of groups from files, and how reasoning and program are parted."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from plans import PLANS, PROGRAM

from tracelift_jax.errors import UserError
from tracelift_jax.groups import build_groups, load_groups
from tracelift_jax.groups.build import Recipe
from tracelift_jax.groups.code_flaws import ENGINE, FLAW_KINDS
from tracelift_jax.groups.code_text import clean, cut
from tracelift_jax.groups.seeds import Seed, read_seeds

FENCED = "Sort first.\n\n```python\nn = 1\n\nprint(n)\n```\nIt prints.\n"


def write(path: Path, *rows: Any) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_gsm8k(tmp_path):
    path = write(tmp_path / "train.jsonl.gz", {"question": "How many? ", "answer": "2+3 = <<2+3=5>>5.\n#### 5"})
    assert read_seeds(path) == [
        Seed("gsm8k/train/0", "gsm8k", "math", "How many?", "2+3 = 5.", "5"),
    ]


def test_programs(tmp_path):
    own = {"problem_id": "p1", "source": "mine", "task_type": "stdin", "tests": " assert f(1) == 2\n", "more": 1}
    path = write(
        tmp_path / "set.jsonl.gz",
        {"problem": " Print. ", "solution": FENCED, **own},
        {"problem": "Print.", "solution": "Sort first.", "code": "print(2)\r\n", "tests": None, "source": "mine"},
        {"problem": "Print.", "solution": "Sort first.", "code": None, "problem_id": None},
    )
    program = "n = 1\n\nprint(n)\n"
    assert read_seeds(path) == [
        Seed("p1", "mine", "stdin", "Print.", FENCED, program, "code", "assert f(1) == 2"),
        Seed("mine/set/1", "mine", "code", "Print.", "Sort first.", "print(2)\n", "code", ""),
        Seed("code/set/2", "code", "code", "Print.", "Sort first.", "", "code", ""),
    ]


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        (["assert f(1) == 2 ", "assert f(2) == 3"], "assert f(1) == 2\nassert f(2) == 3"),
        ([], ""),
        (
            [{"input": "3\n1 2\n", "output": "6", "source": "x"}, {"input": [1, "é"], "output": True}],
            'Input:\n3\n1 2\nOutput:\n6\n\nInput:\n[1, "é"]\nOutput:\ntrue',
        ),
    ],
)
def test_tests_become_text(tmp_path, tests, text):
    path = write(tmp_path / "a.jsonl", {"problem": "P", "solution": "S", "tests": tests})
    assert read_seeds(path)[0].tests == text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "P", "code": "C"}], ':1: neither "question" and "answer" (GSM8K) nor "problem" and "solution"'),
        ([], ": the file is empty"),
        ([{"problem": "P", "solution": "S"}, {"problem": "P"}], ':2: no "solution"'),
        ([{"problem": "P", "solution": "S"}, {"solution": "S"}], ':2: no "problem"'),
        ([{"problem": "P", "solution": "S", "code": 3}], ':1: no "code"'),
        ([{"problem": "P", "solution": "S", "source": " "}], ':1: no "source"'),
        (
            [{"problem": "P", "solution": "S", "tests": 3}],
            ':1: "tests" must be text, a list of texts, or a list of {"inp',
        ),
        ([{"problem": "P", "solution": "S", "tests": ["a", 3]}], ':1: "tests" must be'),
        ([{"problem": "P", "solution": "S", "tests": [{"input": "a"}]}], ':1: "tests" must be'),
        ([{"problem": "P", "solution": "S", "tests": "\ud800"}], ':1: "tests" holds half of a surrogate'),
        ([{"problem": "P", "solution": "S", "problem_id": "a"}] * 2, ":2: \"problem_id\" 'a' is also at "),
        ([{"question": "Q", "answer": "A"}], ':1: no number after "####"'),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, rows, message):
    path = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(UserError) as caught:
        read_seeds(path)
    assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("solution", "reasoning", "program"),
    [
        (FENCED, "Sort first.", "n = 1\n\nprint(n)\n"),
        ("Sort.\n~~~\nx\n~~~\n", "Sort.", "x\n"),
        ("Sort.\n```\nx = 1", "Sort.", "x = 1\n"),  # a fence that was never closed
        ("Sort:\n```\n1 2\n```\nSo.\n```python\nn = 2\nm = 3\n```", "Sort:", "n = 2\nm = 3\n"),  # first an example
        ("Sort.\n\nSolution:\nN = 5\ndef f(x):\n    return N\n", "Sort.", "N = 5\ndef f(x):\n    return N\n"),
        ("Sort.\n### Python code\nimport os\nos.x()", "Sort.", "import os\nos.x()\n"),
        ("Sort.\nCode: print(1)", "Sort.", "print(1)\n"),
        ("Sort.\nN = 5\nn = int(input())\nprint(n)", "Sort.", "N = 5\nn = int(input())\nprint(n)\n"),
        (
            "Sort.\n\n    from heapq import heappop\n    print(1)",
            "Sort.",
            "    from heapq import heappop\n    print(1)\n",
        ),
        ("Sort.\nprint(1)\n\nExplanation: it prints.", "Sort.", "print(1)\n"),
        ("Solution: we sort. The code is short.", "Solution: we sort. The code is short.", ""),
        ("Sort.\n\n**Explanation**\n\nIt sorts.", "Sort.", ""),
        ("Explanation:\nWe sort.\n```\nx\n```", "We sort.", "x\n"),
        ("Sort. Here is the code:\n```\nx\n```", "Sort.", "x\n"),
        ("Sort. The implementation is below.\n\n#### Python3\n\n```\nx\n```", "Sort.", "x\n"),
        (
            "Use `dp[i]` and import nothing. For each i:\n- sort",
            "Use `dp[i]` and import nothing. For each i:\n- sort",
            "",
        ),
        ("**Cost.** It is O(n).\n```\nx\n```", "**Cost.** It is O(n).", "x\n"),
        ("```\nx\n```\nIt sorts.", "", "x\n"),
    ],
)
def test_reasoning_and_program_are_parted(solution, reasoning, program):
    assert cut(solution) == (reasoning, program)
    assert cut(solution.replace("\n", "\r\n")) == (reasoning, program)


def test_reasoning_ends_where_the_known_program_begins():
    assert cut("Sort.\nans = f(x)\nans += 1\nThat is it.", "ans = f(x)\nans += 1\n") == (
        "Sort.",
        "ans = f(x)\nans += 1\n",
    )
    assert cut("Sort.\n```\ny\n```", "ans = 1") == ("Sort.", "ans = 1\n")


def test_white_space_is_put_in_order():
    assert clean("  One.  Two. \r\n\n\n\n  - three\u00a0four \n") == "One. Two.\n\n  - three four"


def test_programs_become_groups(tmp_path):
    plans = {name: plan for name, plan in PLANS.items() if name != "halves"}
    tests = [{"input": "3", "output": "3"}]
    rows = [
        {
            "problem_id": name,
            "problem": f"Solve {name}.",
            "solution": f"{plan}\n```python\n{PROGRAM}```",
            "tests": tests,
        }
        for name, plan in plans.items()
    ]
    seeds = write(tmp_path / "seeds.jsonl", *rows, {"problem": "Print.", "solution": FENCED})
    counts = build_groups(seeds, tmp_path / "groups.jsonl", Recipe(most=7))
    assert counts.seeds == len(plans) + 1 and counts.dropped == {"too short": 1}
    groups = load_groups(tmp_path / "groups.jsonl")
    assert [group.problem_id for group in groups] == list(plans)
    kinds = set()
    for group in groups:
        assert (group.rubric_name, group.source, group.task_type) == ("code", "code", "code")
        assert group.tests == "Input:\n3\nOutput:\n3" and group.reference_solution == PROGRAM
        [positive] = group.positives
        assert positive.reasoning == plans[group.problem_id] and positive.rubric.dimensions == (4,) * 5
        assert 4 <= len(group.negatives) <= 7
        kinds |= {trace.negative_kind for trace in group.negatives}
        for trace in group.negatives:
            start, end = trace.span or (-1, -1)
            assert 0 <= start <= end <= len(trace.reasoning)
            if trace.negative_kind == "code_dumped":
                assert PROGRAM.strip() in trace.reasoning[start:end]
                assert trace.rubric == ENGINE.severity("code_dumped")
    assert kinds == set(FLAW_KINDS)
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(group.to_json()) + "\n" for group in groups))
    assert load_groups(again) == groups
