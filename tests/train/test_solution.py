"""What `tracelift solve` prints for a person, line by line."""

import pytest

from tracelift_jax.groups.schema import MATH_DIMENSIONS
from tracelift_jax.text.numbers import number_of
from tracelift_jax.train.solution import Found, Graded, Said, TraceFound, show
from tracelift_jax.train.solve import number_text


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", "7"), ("it is -3.50.", "-7/2"), ("1,234 or 6/8", "3/4"), ("-0", "0"), ("0.250", "1/4"), ("none", None)],
)
def test_number_text_by_hand(text, number):
    assert number_text(number_of(text)) == number


def trace(score: float | None, reasoning: str, text: str, number: str | None, **more) -> TraceFound:
    grade = None
    if score is not None:
        grade = Graded(dict(zip(MATH_DIMENSIONS, (4.0, 0.2, 3.26, 2.0, 1.1), strict=True)), 0.4321, score)
    plain = {"malformed": None, "faithful": None, "uplift": None, "right": None, "likelihood": None} | more
    said = Said(text, number, plain.pop("right"), plain.pop("likelihood"))
    return TraceFound(reasoning, answer=said, grade=grade, **plain)


def test_one_trace_for_a_person(capsys):
    one = trace(0.5, "a\nb\x1b[2J", "it is [red]4", "4", right=True, likelihood=0.9871, uplift=-0.0129, faithful=False)
    show(Found("p\nq", "4", Said("", None, False, 1.0), (one,)), graded=True)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "problem     p",
        "            q",
        "reference   4",
        "reasoning   a",
        "            b\ufffd[2J",
        "faithful    no",
        "answer      it is [red]4 (read as 4)  right  likelihood 0.987",
        "without it  (no number)  wrong  likelihood 1.000",
        "uplift      -0.013",
        "rubric      problem_understanding    ████████  4.00/4",
        "            solution_strategy        ░░░░░░░░  0.20/4",
        "            step_coherence           ███████░  3.26/4",
        "            calculation_correctness  ████░░░░  2.00/4",
        "            answer_support           ██░░░░░░  1.10/4",
        "total       0.432",
        "score       0.500",
    ]


def test_several_traces_are_a_table_best_first(capsys):
    traces = (
        trace(0.1, "one", "5", "5", right=False, uplift=-0.25, likelihood=0.0, malformed="empty"),
        trace(0.9, "[red]two", "[red]4", "4", right=True, uplift=0.75, likelihood=1.0),
        trace(0.5, "three", "x", None, right=False, uplift=0.0, likelihood=0.2),
    )
    show(Found("p", "4", Said("5", "5", False, 0.25), traces), graded=True)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "problem     p",
        "reference   4",
        "score  answer                     uplift  reasoning",
        "0.900  [red]4 (read as 4)  right  +0.750  [red]two",
        "0.500  x (no number)       wrong  +0.000  three",
        "0.100  5                   wrong  -0.250  one (empty)",
        "without it  5  wrong  likelihood 0.250",
    ]


def test_ungraded_traces_are_shown_as_drawn(capsys):
    traces = tuple(trace(None, text, text, None, faithful=text == "b") for text in ("b", "a"))
    show(Found("p", None, Said("5", "5", None, None), traces), graded=False)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "problem     p",
        "answer         faithful  reasoning",
        "b (no number)  yes       b",
        "a (no number)  no        a",
        "without it  5",
        "rubric      no reward model is configured (Roles.reward_model)",
    ]
