"""Problems whose answer no run can judge: left out, counted and said."""

import dataclasses
import json

import pytest
from tiny import PROBLEM_TOKENS, make_roles, write_models

from tracelift_jax.config import DialTask, Evaluation, JsonlTask
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.batch import why_unjudged
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.roles import Loaded, load_roles

TEXT = "The dial shows 7. What does it show now?"
ANSWERS = ("7", r"\pi", "9" * 49, "0.5", "None", "-3/4")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Loaded:
    folder = tmp_path_factory.mktemp("roles")
    return load_roles(make_roles(write_models(folder), prompt_tokens=PROBLEM_TOKENS, answer_tokens=100))


def over(loaded: Loaded, path, answers) -> Loaded:
    """The same roles over a file of problems with these answers."""
    path.write_text("".join(json.dumps({"problem": TEXT, "answer": answer}) + "\n" for answer in answers))
    return dataclasses.replace(loaded, roles=dataclasses.replace(loaded.roles, task=JsonlTask(str(path), str(path))))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("9" * 48, ""),
        ("9" * 49, "whose answer has over 48 digits"),
        ("-" + "9" * 48, ""),
        ("0." + 46 * "0" + "1", ""),
        ("0." + 47 * "0" + "1", "whose answer has over 48 digits"),
        ("1" * 48 + "/" + "7" * 48, ""),
        ("1" * 48 + "/" + "7" * 49, "whose answer has over 48 digits"),
        ("", ""),  # a person's problem, whose answer nobody knows
    ],
)
def test_what_has_room(answer, reason):
    assert why_unjudged(Problem("p", TEXT, answer)) == reason
    assert why_unjudged(Problem("p", TEXT, answer, answer_kind="latex")) == "whose answer is no number"


def test_they_are_in_no_batch_and_said_in_one_line(loaded, tmp_path, capsys):
    mixed = over(loaded, tmp_path / "mixed.jsonl", ANSWERS)
    problems = mixed.problems("train")
    assert len(problems) == 6  # rows stay what they are
    assert capsys.readouterr().out == (
        "train: left out 3 of 6 problems, 2 whose answer is no number and 1 whose answer has over 48 digits\n"
    )
    [(batch, rows, real)] = eval_batches(problems, mixed.encode(), 4)
    assert [problems[row].answer for row in rows[real]] == ["7", "0.5", "-3/4"]
    assert batch.reference.found.all()


def test_an_evaluation_counts_those_it_would_use(loaded, tmp_path, capsys):
    mixed = over(loaded, tmp_path / "mixed.jsonl", ANSWERS)
    evaluator = mixed.evaluator(Evaluation(problems=2, batch_size=2))
    assert capsys.readouterr().out == "test: left out 1 of 2 problems, 1 whose answer is no number\n"
    assert evaluator._left_out == 1


def test_nothing_is_said_where_all_are_numbers(loaded, tmp_path, capsys):
    assert len(over(loaded, tmp_path / "numbers.jsonl", ("7", 8.0)).problems("train")) == 2
    many = DialTask()  # a million, made on demand
    roles = dataclasses.replace(loaded.roles, task=many)
    assert dataclasses.replace(loaded, roles=roles).problems("train") == many.problems("train")
    assert capsys.readouterr().out == ""


def test_a_task_without_numbers_is_refused(loaded, tmp_path):
    words = over(loaded, tmp_path / "words.jsonl", ("one", "two"))
    line = "train: left out 2 of 2 problems, 2 whose answer is no number; a run needs answers that are numbers"
    with pytest.raises(UserError, match=f"^{line}$"):
        words.problems("train")
