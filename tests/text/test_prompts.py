"""The prompts of all roles for one problem, as they read."""

import dataclasses

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Frame, Pieces, Prompts

PROBLEM = Problem("p1", "The dial shows 7. Ann turns it up 5.\nWhat does it show now?", "2", "7 + 5 = 2", "dial")
PROMPTS = Prompts(
    planner=Frame("Think about this.\n", "\n\n"),
    executor=Frame("Problem: ", "\n"),
    reward_model=Frame("<task>math</task>\n<type>{task_type}</type>\n<problem>\n", "\n</problem>\n"),
    ask="\nAnswer:",
    ask_directly="Answer now:",
)


@pytest.fixture(scope="module", params=["dial", "qwen"])
def pieces(request) -> Pieces:
    return Pieces(PROMPTS, request.getfixturevalue(f"{request.param}_tokenizer"))


def test_prompts_read_as_written(pieces):
    """planner, executor, baseline and reward model: the pieces in the order of the module's table."""
    p, decode = pieces, pieces.tokenizer.decode
    trace = p.trace(PROBLEM.reasoning)
    planner = [*p.problem(PROMPTS.planner, PROBLEM), *p.open]
    assert decode(planner) == (
        "Think about this.\nThe dial shows 7. Ann turns it up 5.\nWhat does it show now?\n\n<reasoning>"
    )
    assert decode([*planner, *trace]).endswith("\n\n<reasoning> 7 + 5 = 2 </reasoning>")
    executor = p.problem(PROMPTS.executor, PROBLEM)
    assert decode([*executor, *p.open, *trace, *p.ask, *p.answer(PROBLEM.answer)]) == (
        "Problem: The dial shows 7. Ann turns it up 5.\nWhat does it show now?\n"
        "<reasoning> 7 + 5 = 2 </reasoning>\nAnswer: 2"
    )
    assert decode([*executor, *p.ask_directly, *p.answer(PROBLEM.answer)]) == (
        "Problem: The dial shows 7. Ann turns it up 5.\nWhat does it show now?\nAnswer now: 2"
    )
    assert decode([*p.problem(PROMPTS.reward_model, PROBLEM), *p.open, *trace]) == (
        "<task>math</task>\n<type>dial</type>\n<problem>\n"
        "The dial shows 7. Ann turns it up 5.\nWhat does it show now?\n</problem>\n"
        "<reasoning> 7 + 5 = 2 </reasoning>"
    )
    assert decode(p.close) == "</reasoning>"


def test_an_answer_ends_with_the_end_token_and_nothing_else_holds_one(pieces):
    p, end = pieces, pieces.tokenizer.eos_id
    assert p.answer("2")[-1] == end and p.answer("2").count(end) == 1
    for fixed in (p.open, p.close, p.ask, p.ask_directly, p.trace("x"), p.problem(PROMPTS.planner, PROBLEM)):
        assert end not in fixed


def test_default_prompts(dial_tokenizer):
    prompts = Prompts()
    p = Pieces(prompts, dial_tokenizer)
    assert dial_tokenizer.decode([*p.problem(prompts.executor, PROBLEM), *p.open, *p.trace("x"), *p.ask]) == (
        "The dial shows 7. Ann turns it up 5.\nWhat does it show now?\n<reasoning> x </reasoning>\nAnswer:"
    )
    assert dial_tokenizer.decode(p.ask_directly) == "Answer:"


def test_braces_in_a_problem_stay_as_they_are(pieces):
    """Only the frame is filled in."""
    odd = dataclasses.replace(PROBLEM, text="Print {task_type} and {0} <reasoning>.")
    assert pieces.tokenizer.decode(pieces.problem(PROMPTS.reward_model, odd)) == (
        "<task>math</task>\n<type>dial</type>\n<problem>\nPrint {task_type} and {0} <reasoning>.\n</problem>\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"open": ""}, "Prompts.open and Prompts.close must not be empty"),
        ({"close": ""}, "Prompts.open and Prompts.close must not be empty"),
        ({"ask": ""}, "Prompts.ask and Prompts.ask_directly must not be empty"),
        ({"ask_directly": ""}, "Prompts.ask and Prompts.ask_directly must not be empty"),
        ({"stop": ("\n", "")}, "Prompts.stop must not hold an empty string"),
        ({"stop": "\n"}, "Prompts.stop"),
        ({"planner": "Think."}, "Prompts.planner"),
        ({"open": 3}, "Prompts.open"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(UserError) as caught:
        Prompts(**change)
    assert message in str(caught.value) and "\n" not in str(caught.value)
