"""Steps, audits and leaks of reasoning as text."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.evals.reasoning import derangement, final_value, leaks, shuffled, split_steps, truncated
from tracelift_jax.tasks.code import HumanEval
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.rows import read_rows
from tracelift_jax.tasks.verdict import OK
from tracelift_jax.tasks.verify import verify

LINES = "She has 16 - 3 = 13 eggs. They cost $2; so\nshe makes 13 * 2 = $26.\n\n"
DIAL = "7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 1 = 3"
PROSE = "Half of 1.5 is 0.75. Is it? Yes! Then 3"


@pytest.mark.parametrize(
    ("text", "steps", "between"),
    [
        (LINES, ["She has 16 - 3 = 13 eggs. They cost $2; so", "she makes 13 * 2 = $26."], "\n"),
        (DIAL, ["7 + 5 = 2", "2 * 2 = 4", "4 - 1 = 3"], " ; "),
        ("one; two", ["one", "two"], "; "),
        (PROSE, ["Half of 1.5 is 0.75.", "Is it?", "Yes!", "Then 3"], " "),
        ("  7 + 5 = 2\n", ["7 + 5 = 2"], " "),
        (" ; ", [";"], " "),
        (" \n ", [], " "),
    ],
)
def test_steps(text, steps, between):
    assert split_steps(text) == (steps, between)


def test_truncated():
    assert truncated(DIAL) == "7 + 5 = 2"
    assert truncated("a\nb\nc\nd") == "a\nb"
    assert truncated("7 + 5 = 2") == ""
    assert truncated("") == ""


@given(st.lists(st.sampled_from(["1 + 1 = 2", "2 * 2 = 4", "4 - 1 = 3", "3 + 4 = 7"]), max_size=6), st.integers(0, 99))
def test_shuffled_keeps_the_steps_and_changes_their_order(steps, seed):
    text = " ; ".join(steps)
    found = shuffled(text, random.Random(seed))
    assert found == shuffled(text, random.Random(seed))
    assert sorted(split_steps(found)[0]) == sorted(steps)
    assert (found == text) == (len(set(steps)) < 2)


@given(st.lists(st.text("ab", max_size=6), min_size=2, max_size=30, unique=True), st.integers(0, 5))
def test_everybody_gets_another_ones(ids, seed):
    other = derangement(ids, seed)
    assert sorted(other) == list(range(len(ids)))
    assert all(here != there for here, there in enumerate(other))
    assert other == derangement(ids, seed)


def test_the_seed_decides_whose():
    ids = [str(n) for n in range(30)]
    assert derangement(ids, 0) != derangement(ids, 1)


def test_final_values():
    assert final_value(DIAL) == "3"
    assert final_value("It is 3/4 of 8.\nSo 1,200.50 in all") == "2401/2"
    assert final_value("no number here.\nnone here") == "none here"
    assert final_value("") == ""


LEAKS = [
    # reasoning, answer, whether it leaks
    ("7 + 5 = 2 ; 2 * 2 = 4", "4", False),
    ("= 4", "4", True),
    ("7 + 5 = 2 ; 2 * 2 = 4 ; = 4", "4", True),
    ("7 + 5 = 2 ; = 3", "4", False),  # wrong, and so nothing is given away
    ("She makes 9 * 2 = $18 every day.", "18", False),
    ("She makes 9 * 2 = $18 every day.\nShe makes $18 a day.", "18", True),
    ("She makes 9 * 2 = $18 every day.\nIn 7 days it is more.", "18", False),
    ("She has 18 eggs. She sells 9 * 2 = 18 of them.", "18", False),  # what a problem states is no leak
    ("9 * 2 = 18\n#### 18", "18", True),
    ("#### 18\nbecause 9 * 2 = 18 of 20", "18", True),
    ("The answer is 18, for 9 * 2 = 18 of 20.", "18", True),
    ("To find the final answer we add 3 and 4: 3 + 4 = 7", "7", False),
    ("Answer: 1,800 since 900 * 2 = 1800", "1800", True),
    ("so \\boxed{18} and 3 * 6 = 18", "18", True),
    ("the answer is 17; 9 * 2 = 18", "18", False),
    ("we are done. ANSWER = 0.5 of 2", "1/2", True),
    ("the answer is\n9 * 2 = 18", "18", False),
    ("", "18", False),
]


@pytest.mark.parametrize(("reasoning", "answer", "leaking"), LEAKS)
def test_leaks(reasoning, answer, leaking):
    problem = Problem("p", "text", answer)
    assert leaks(reasoning, problem, lambda text: verify(text, answer) == OK) is leaking


def test_answers_that_are_no_numbers_can_only_be_announced():
    problem = Problem("p", "text", "blue", answer_kind="latex")
    told = lambda text: text.endswith("blue")  # noqa: E731
    assert leaks("It is red.\nThe answer is blue", problem, told)
    assert not leaks("It is red.\nblue", problem, told)


FUNCTION = Problem("f", "?", "", answer_kind="program", oracle=Tests(checks=("total([1])",), entry_point="total"))
WHOLE = Problem("w", "?", "print((2 * 2) % 10)", answer_kind="program", oracle=Tests(inputs=("",), outputs=("4",)))
WORDS = (
    "",
    "Look at every number, keep the largest, and return it.",
    "7 + 5 = 2 ; 2 * 2 = 4",
    "1. Read n.\n2. x = 3\n3. For each item:\n   - add it to `x`\n4. return x",
    "total = a + b\nthen halve it",  # an equation, not a function
    "Call total(x) on each half.\nThe answer is 4.",
    "We print (x) in the end; print(x) is the last thing.",
    "for each number in the list:\n    if it is even:\n        count it",
    "```\n7 + 5 = 2\n```",
    "```text\nadd both numbers\n```",
    "An import of goods; def. of a prime: no divisors.",
)
GIVEN = (
    "First:\n```python\nreturn max(xs)\n```\nand so on.",
    "```\nxs.sort()\nbest = xs[-1]\n```",
    "~~~py\nx = 1\n~~~",
    "So:\n```python\nimport math",  # nothing closes it
    "<code>\nx = 1\n</code>",
    "Add them.\n  def total(xs):\n    return sum(xs)",
    "We need a helper:\nasync def half(x): return x / 2",
)
FOR_FUNCTIONS = ("total = lambda xs: sum(xs)",)
FOR_WHOLE = ("n = int(input())\nadd one", "add both and then\nprint(a + b)", "first 2 * 2 ; print((2 * 2) % 10) ; done")


@pytest.mark.parametrize("text", WORDS)
def test_words_about_a_program_leak_nothing(text):
    assert not leaks(text, FUNCTION, never) and not leaks(text, WHOLE, never)


@pytest.mark.parametrize("text", GIVEN)
def test_reasoning_that_holds_a_program_leaks(text):
    assert leaks(text, FUNCTION, never) and leaks(text, WHOLE, never)


def test_what_gives_a_function_and_what_a_whole_program():
    assert all(leaks(text, FUNCTION, never) and not leaks(text, WHOLE, never) for text in FOR_FUNCTIONS)
    assert all(leaks(text, WHOLE, never) and not leaks(text, FUNCTION, never) for text in FOR_WHOLE)


def never(text: str) -> bool:
    pytest.fail("programs are not read as answers")


def test_statements_in_words_leak_nothing_and_every_solution_does(shared_data):
    """HumanEval's docstrings, examples and all, and MBPP's questions, as if a planner had written them."""
    task = HumanEval(str(shared_data / "humaneval" / "HumanEval.jsonl.gz"))
    for problem, (_, row) in zip(task.problems("test"), read_rows(task.path), strict=True):
        quote = '"""' if '"""' in row["prompt"] else "'''"
        docstring = row["prompt"].rstrip().removesuffix(quote).rpartition(quote)[2]
        assert len(docstring) > 20 and not leaks(docstring, problem, never)
        assert leaks(docstring + row["prompt"] + row["canonical_solution"], problem, never)
    questions = [row["prompt"] for _, row in read_rows(str(shared_data / "mbpp" / "sanitized-mbpp.json"))]
    assert len(questions) == 427
    assert not any(leaks(question, problem, never) for question in questions for problem in (FUNCTION, WHOLE))


def test_few_of_gsm8ks_own_solutions_leak(shared_data):
    task = JsonlTask(test=str(shared_data / "gsm8k" / "test.jsonl"), fields="gsm8k")
    problems = task.problems("test")
    leaking = [p for p in problems if leaks(p.reasoning, p, lambda text, p=p: verify(text, p.answer) == OK)]
    assert len(leaking) == 42  # such as "Lynn ran 17 miles." behind the step that gave 17
    assert all(len(split_steps(problem.reasoning)[0]) > 1 for problem in problems)
