"""A changed number or sign is followed through a text, or the text is left alone."""

from fractions import Fraction

import pytest

from tracelift_jax.groups.arithmetic import parse
from tracelift_jax.groups.arithmetic_rework import apply, can_follow, operator_text, rework, write_number
from tracelift_jax.groups.arithmetic_worked import Worked


@pytest.mark.parametrize(
    "reasoning",
    [
        "All 72 cups are 12 x 6 = 72.\nShe needs 72 / 8 = 9 boxes.",  # another 72 stands before
        "He has 30 - 9 = 21 eggs.\nHalf of 21 is 11 with luck.\nHe sells 11 + 21 = 32.",  # 11 is from nowhere
        "He has 30 - 9 = 21 eggs.\nThen y + 8 = 30 of them.\nSo 21 + 8 = 29.",  # algebra hangs on it
        "He has 8 * 4 = 32.\nShe has 30 + 2 = 32.\nSo 32 + 8 = 40.",  # whose 32?
        "He has 9 + 3 = 12 eggs.\nIn months that is 12 * 12 = 144.",  # 12 eggs or 12 months?
        "He takes 40 / 2 = 20 hours * 60 = 1200 minutes.",  # a chain cannot change in its midst
    ],
)
def test_no_slip_is_carried_where_it_is_unclear_what_follows(reasoning):
    worked = Worked.read("8 hens and 30 eggs.", reasoning, "9")
    first = worked.parsed.equations[0].result
    for value in (Fraction(16), Fraction(22), Fraction(80)):
        assert rework(worked.parsed, worked.known, forced={first.start: value}) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("13 of 20 is 13/20 x 100% = 65% now.", "13 of 20 is 12/20 x 100% = 60% now."),
        ("13 of it is 13 * 50% = 6.5 now.", "13 of it is 12 * 50% = 6 now."),
        (
            "13 of it is $13 / 3 = $4.33 now; $4.33 + $1 = $5.33.",
            "13 of it is $12 / 3 = $4.00 now; $4.00 + $1 = $5.00.",
        ),
        (
            "She has 39 cups because 13 x 3 = 39.\nShe has 78, since 39 x 2 = 78.",
            "She has 36 cups because 12 x 3 = 36.\nShe has 72, since 36 x 2 = 72.",
        ),
        ("13 of it is 13 * (4 + 4) = 104 or 104 * 3 = 312.", "13 of it is 12 * (4 + 4) = 96 or 96 * 3 = 288."),
    ],
)
def test_a_changed_number_is_followed_to_the_end(before, after):
    worked = Worked.read("13 and 20.", before, "1")
    reworked = rework(worked.parsed, worked.known, forced={worked.parsed.equations[0].operands[0].start: Fraction(12)})
    assert reworked and reworked.carried
    assert apply(worked.text, reworked.edits) == after


@pytest.mark.parametrize(
    ("text", "value", "digits"),
    [
        ("has 24 eggs", "26", "26"),
        ("has 24 eggs", "10/3", None),
        ("has 24 eggs", "12.5", None),  # no half eggs
        ("pays $24 now", "12.5", "12.50"),
        ("pays $4.80 now", "5", "5.00"),
        ("pays $4.5 now", "5.5", "5.5"),
        ("pays $4.5 now", "5.25", "5.25"),
        ("pays 1,200 now", "1500", "1,500"),
        ("pays 1,200 now", "900", "900"),
        ("pays 900 of 1,200", "1800", "1,800"),
        ("pays 900 now", "1800", "1800"),
        ("adds .5 cups", "0.7", ".7"),
        ("adds 0.5 cups", "0.7", "0.7"),
        ("adds 0.5 cups", "0.75", None),
        ("has 24 eggs", "1", None),  # "1 eggs"
        ("has 24 eggs", "0", None),
        ("has 24 eggs", "-3", None),
        ("has 24 eggs", "24000", None),  # out of all proportion
    ],
)
def test_numbers_are_written_by_the_same_hand(text, value, digits):
    parsed = parse(text)
    assert write_number(Fraction(value), parsed.quantities[0], text) == digits


def test_what_says_a_result_ahead_is_changed_but_not_carried_on():
    parsed = parse("She has 39 cups because 13 x 3 = 39.")
    reworked = rework(parsed, frozenset(), forced={parsed.equations[0].result.start: Fraction(42)})
    assert reworked and not reworked.carried
    assert apply(parsed.text, reworked.edits) == "She has 42 cups because 13 x 3 = 42."


def test_signs_are_followed_and_written_as_the_text_does():
    parsed = parse("It is 12 x 3 = 36, then 40 + 6 = 46.")
    times, plus = (equation.operators[0] for equation in parsed.equations)
    reworked = rework(parsed, frozenset(), signs={plus.start: "*"})
    assert reworked and [edit.text for edit in reworked.edits] == ["240"]
    assert operator_text(plus, "*", parsed) == "x"
    assert operator_text(times, "/", parsed) == "/"
    assert operator_text(parse("8 ÷ 4 = 2").equations[0].operators[0], "*", parse("8 ÷ 4 = 2")) == "×"


def test_whether_a_text_can_follow_a_changed_result():
    parsed = parse("8 * 4 = 32 and 30 + 2 = 32, 32 + 9 = 41, 40 + 7 = 47, 7 * 2 = 14.")
    assert [can_follow(parsed, frozenset(), e) for e in parsed.equations] == [False, False, True, True, True]
    known = parse("5 * 3 = 15 eggs.\n15 + 8 = 23 in all.")
    assert can_follow(known, frozenset(), known.equations[0])
    assert not can_follow(known, frozenset({Fraction(15)}), known.equations[0])  # whose 15 is the second?
    assert can_follow(known, frozenset({Fraction(23)}), known.equations[1])  # nothing is carried
    said = parse("All 72 cups are 12 x 6 = 72.")
    assert not can_follow(said, frozenset(), said.equations[0])  # the first 72 would stay
    before = parse("Of 35 hens some lay.\nThere are 5 * 7 = 35 eggs.\nThat is 35 + 2 = 37.")
    assert not can_follow(before, frozenset(), before.equations[0])  # hens or eggs?
