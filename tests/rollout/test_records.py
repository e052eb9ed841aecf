"""Reward records of a rollout written by hand: texts, counts and what is left out."""

import json

import numpy as np
import pytest

from tracelift_jax.rollout.records import body_text, records, trace_texts
from tracelift_jax.rollout.rollout import Rollout, Uplift
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Prompts
from tracelift_jax.text.spans import Tokens, pad


class Plain:
    """A task without an oracle."""

    def problems(self, split):
        return []


class Knowing(Plain):
    def faithful(self, problem, reasoning):
        return reasoning.strip() == "2 + 3 = 5"


PROBLEM = Problem("p/0", "The dial shows 2. Ann turns it up 3. What does it show now?", "5")
TRACES = (" 2 + 3 = 5 </reasoning>", " 2 + 3 = 6")
ANSWERS = ((" 5", " 6"), (" 6", ""))


@pytest.fixture
def done(dial_tokenizer) -> Rollout:
    """One problem, two traces, two answers each; the baseline was drawn twice."""

    def tokens(texts, size) -> Tokens:
        return pad([dial_tokenizer.encode(text) for text in texts], size, dial_tokenizer.pad_id)

    def lead(tokens: Tokens, *shape: int) -> Tokens:
        return Tokens(*(np.reshape(x, (*shape, x.shape[-1])) for x in (tokens.ids, tokens.valid)))

    def row(*values, dtype=np.float32):
        return np.array([values], dtype)

    gained = Uplift(
        value=row(0.0, -0.5),
        ok=row(1, 0, dtype=np.int32),
        trials=row(1, 1, dtype=np.int32),
        baseline_ok=row(1, 1, dtype=np.int32),
        baseline_trials=row(2, 2, dtype=np.int32),
        baseline_answers=lead(tokens((" 5", " 9"), 3), 1, 2),
        likelihood=row(0.0, 0.0),
        baseline_likelihood=row(0.0, 0.0),
    )
    return Rollout(
        traces=lead(tokens(TRACES, 12), 1, 2),
        logprobs=-np.arange(24, dtype=np.float32).reshape(1, 2, 12) / 3,
        well_formed=row(True, False, dtype=bool),
        answers=lead(tokens([a for pair in ANSWERS for a in pair], 3), 1, 2, 2),
        verdicts=np.array([[[1, 0], [0, -1]]], np.int8),
        uplift=gained,
        rubric=np.full((1, 2, 5), 2.5, np.float32),
        total=row(0.5, 0.25),
        score=row(0.75, 0.5),
        reward=row(0.5, -0.125),
        advantage=row(1.0, -1.0),
        counted=row(True, False, dtype=bool),
    )


def test_a_record_says_all_in_text_and_numbers(done, dial_tokenizer):
    common = {"step": 4, "weights": {"base": "ab"}}
    first, second = records(done, [PROBLEM], Knowing(), dial_tokenizer, Prompts(), common)
    encode = dial_tokenizer.encode
    assert first == {
        "step": 4,
        "weights": {"base": "ab"},
        "problem_id": "p/0",
        "trace": 0,
        "problem": PROBLEM.text,
        "reference": "5",
        "task_name": "math",
        "task_type": "math",
        "trace_tokens": encode(TRACES[0]),
        "reasoning": " 2 + 3 = 5 ",
        "sampler_logprobs": [round(-i / 3, 5) for i in range(len(encode(TRACES[0])))],
        "well_formed": True,
        "answer_tokens": [encode(" 5"), encode(" 6")],
        "answers": [" 5", " 6"],
        "verdicts": ["ok", "wrong"],
        "uplift": 0.0,
        "with_counts": [1, 1],
        "without_counts": [1, 2],
        "without_tokens": [encode(" 5"), encode(" 9")],
        "without_answers": [" 5", " 9"],
        "likelihood": 0.0,
        "baseline_likelihood": 0.0,
        "rubric": [2.5] * 5,
        "total": 0.5,
        "score": 0.75,
        "reward": 0.5,
        "advantage": 1.0,
        "counted": True,
        "faithful": True,
    }
    assert second["reasoning"] == " 2 + 3 = 6"  # no closing tag
    assert second["verdicts"] == ["wrong", "failed"]
    assert second["answers"] == [" 6", ""]
    assert (second["trace"], second["well_formed"], second["counted"], second["faithful"]) == (1, False, False, False)
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_only_an_oracle_can_call_a_trace_faithful(done, dial_tokenizer):
    for record in records(done, [PROBLEM], Plain(), dial_tokenizer, Prompts(), {}):
        assert "faithful" not in record


def test_trace_texts_are_the_bodies(done, dial_tokenizer):
    assert trace_texts(done, dial_tokenizer, Prompts()) == [[" 2 + 3 = 5 ", " 2 + 3 = 6"]]


@pytest.mark.parametrize(
    ("text", "body"), [("a</r>", "a"), ("a</r>b</r>", "a"), ("a", "a"), ("</r>", ""), ("a </r", "a </r")]
)
def test_the_body_ends_at_the_first_closing_tag(text, body):
    assert body_text(text, "</r>") == body
