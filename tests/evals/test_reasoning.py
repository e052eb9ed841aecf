"""Steps, audits and leaks of reasoning as text."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.evals.reasoning import derangement, final_value, leaks, shuffled, split_steps, truncated
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.problem import Problem
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


def test_few_of_gsm8ks_own_solutions_leak(shared_data):
    task = JsonlTask(test=str(shared_data / "gsm8k" / "test.jsonl"), fields="gsm8k")
    problems = task.problems("test")
    leaking = [p for p in problems if leaks(p.reasoning, p, lambda text, p=p: verify(text, p.answer) == OK)]
    assert len(leaking) == 42  # such as "Lynn ran 17 miles." behind the step that gave 17
    assert all(len(split_steps(problem.reasoning)[0]) > 1 for problem in problems)
