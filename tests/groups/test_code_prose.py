"""Sentences of plans, and edits that leave them good English."""

import pytest

from tracelift_jax.groups.arithmetic_rework import apply
from tracelift_jax.groups.code_prose import Prose, like, sounds_like_vowel


def said(text: str) -> list[str]:
    prose = Prose.read(text, "")
    return [prose.said(index) for index in range(len(prose.spans))]


def test_sentences():
    assert said("Sort it, e.g. with 2 keys. Then `dp[i]` is 1.5 times more! Done (twice). $x$ is left") == [
        "Sort it, e.g. with 2 keys.",
        "Then `dp[i]` is 1.5 times more!",
        "Done (twice).",
        "$x$ is left",
    ]


def test_markers_and_headings_are_no_sentences():
    text = "### Plan\n\nSteps:\n1. Sort it. Look.\n   - Go on\n\n**Cost.** It is O(n).\n**Idea**\nStep 2: Stop."
    assert said(text) == ["Sort it.", "Look.", "Go on", "It is O(n).", "Stop."]


def test_steps_leave_out_what_retells_the_problem_or_tells_other_ways():
    prose = Prose.read(
        "We are given a list. Sort it. A naive way is slow. We need to find x. Go on. You could stop.", ""
    )
    assert [prose.said(index) for index in prose.steps()] == ["Sort it.", "Go on."]


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        ("Use an array.", "array", "list", "Use a list."),
        ("Use a list.", "list", "array", "Use an array."),
        ("Use a list.", "list", "unique list", "Use a unique list."),
        ("It takes an hour.", "hour", "day", "It takes a day."),
        ("A stack is used.", "stack", "array", "An array is used."),
        ("Use an `array` here.", "`array`", "`list`", "Use a `list` here."),
        ("An n by m grid.", "n by", "k by", "A k by m grid."),
        ("Sort it.", "Sort it", "leave it", "Leave it."),
        ("We sort it.", "sort", "leave", "We leave it."),
        ("x is used.", "x", "the other", "the other is used."),
    ],
)
def test_articles_and_capitals_follow(before, old, new, after):
    start = before.index(old)
    assert apply(before, (Prose.read(before, "").edit(start, start + len(old), new),)) == after


def test_an_edit_is_as_short_as_whole_words_allow():
    text = "Append the number to the list."
    edit = Prose.read(text, "").edit(0, len(text), "Append the numbers to a list.")
    assert (text[edit.start : edit.end], edit.text) == ("number to the", "numbers to a")
    edit = Prose.read(text, "").edit(7, 17, "the number twice")
    assert (edit.start, edit.end, edit.text) == (17, 17, " twice")


def removed(text: str, sentence: str) -> str | None:
    prose = Prose.read(text, "")
    index = next(i for i in range(len(prose.spans)) if prose.said(i) == sentence)
    edit = prose.without_sentence(index)
    return edit and apply(text, (edit,))


@pytest.mark.parametrize(
    ("text", "sentence", "left"),
    [
        ("One. Two. Three.", "One.", "Two. Three."),
        ("One. Two. Three.", "Two.", "One. Three."),
        ("One. Two. Three.", "Three.", "One. Two."),
        ("One.\n\nTwo.\n\nThree.", "One.", "Two.\n\nThree."),
        ("One.\n\nTwo.\n\nThree.", "Two.", "One.\n\nThree."),
        ("One.\n- Two.\n- Three.", "Two.", "One.\n- Three."),
        ("1. One.\n2. Two.\n3. Three.", "Two.", None),  # 1, 3
        ("1. One.\n2. Two.\n3. Three.", "Three.", "1. One.\n2. Two."),
        ("1. One. More.\n2. Two.", "More.", "1. One.\n2. Two."),
        ("1. One. More.\n2. Two.", "One.", "1. More.\n2. Two."),
        ("Steps:\nOne.\nTwo.", "One.", None),  # all there is below may be this
        ("If one, stop. Otherwise, we go on.", "If one, stop.", "We go on."),
        ("One is done. Otherwise, we go on.", "One is done.", None),  # otherwise than what?
        ("None are odd. For the rest, go on.", "None are odd.", "Go on."),
        ("If one, stop.\nOtherwise go on.", "If one, stop.", None),
        ("One. This is it.", "One.", None),
        ("One. So it is.", "One.", None),
        ("One. Somewhere else.", "One.", "Somewhere else."),
    ],
)
def test_a_sentence_is_taken_out(text, sentence, left):
    assert removed(text, sentence) == left


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("One. Two.", "One. New. Two."),
        ("- One.\n- Two.", "- One. New.\n- Two."),
        ("- One\n- Two", "- One\n- New\n- Two"),
        ("1. One\n2. Two", None),
        ("We do one of two other things:\nTwo.", None),
        ("One. Otherwise two.", None),
        ("One", "One\n\nNew."),
        ("One (x).", "One (x). New."),
    ],
)
def test_a_sentence_is_added(text, after):
    edit = Prose.read(text, "").behind(0, "New.")
    assert (edit and apply(text, (edit,))) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("One.", "One. New."),
        ("- One.", "- One.\n\nNew."),
        ("One", "One\n\nNew."),
        ("1. One.\n\nTwo.", "1. One.\n\nTwo. New."),
    ],
)
def test_a_sentence_is_added_at_the_end(text, after):
    assert apply(text, (Prose.read(text, "").at_end("New."),)) == after


def test_words_are_taken_out():
    for text, gone, left in [("Use the odd ones.", "odd", "Use the ones."), ("Odd ones stay.", "Odd", "Ones stay.")]:
        start = text.index(gone)
        assert apply(text, (Prose.read(text, "").without(start, start + len(gone)),)) == left


def test_case_and_sound():
    assert [like(old, "less") for old in ("more", "More", "MORE", "M")] == ["less", "Less", "LESS", "Less"]
    assert [sounds_like_vowel(word) for word in ("array", "O(n)", "n", "union", "k", "used", "heap")] == [
        *(True, True, True, False, False, False, False),
    ]
