r"""Canonical answers, decided by hand and against `decimal` and `fractions`."""

import decimal
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.tasks.answers import canonical_number, last_boxed, read_answer
from tracelift_jax.text.numbers import number_of

CANONICAL = re.compile(r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]*[1-9]|-?[1-9][0-9]*/[1-9][0-9]*")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("18", "18"), (" 18\n", "18"), ("+18", "18"), ("018", "18"), ("-18", "-18"), ("\u221218", "-18")),
        *(("- 18", "-18"), ("0", "0"), ("-0", "0"), ("000", "0"), ("0.00", "0"), ("-0.0", "0"), ("0e5", "0")),
        *(("18.0", "18"), ("43.0", "43"), ("18.50", "18.5"), (".5", "0.5"), ("-.5", "-0.5"), ("007.70", "7.7")),
        *(("1,080", "1080"), ("1 080", "1080"), ("1{,}080", "1080"), (r"10,\!080", "10080"), (r"1\,080", "1080")),
        *(("109,200,000", "109200000"), ("-1,234.25", "-1234.25")),
        *(("1e5", "100000"), ("1E+30", "1" + 30 * "0"), ("2.50e1", "25"), ("12.5e-3", "0.0125"), ("5e-1", "0.5")),
        *(("3/4", "3/4"), ("-3/4", "-3/4"), ("6/8", "3/4"), ("4/2", "2"), ("0/7", "0"), ("-0/7", "0")),
        *(("1,000/3", "1000/3"), ("10/04", "5/2")),
        *((r"\frac{3}{4}", "3/4"), (r"\dfrac{3}{4}", "3/4"), (r"\tfrac{6}{8}", "3/4"), (r"\frac34", "3/4")),
        *((r"\frac 34", "3/4"), (r"\frac3{40}", "3/40"), (r"-\frac{3}{4}", "-3/4"), (r"\frac{-3}{4}", "-3/4")),
        *((r"-\frac{-3}{4}", "3/4"), (r"- \frac{3}{4}", "-3/4"), (r"$\frac{3}{4}$", "3/4"), (r"\(\frac12\)", "1/2")),
        *(("$18", "18"), ("$-18", "-18"), ("-$18", "-18"), (r"\$18.90", "18.9"), (r"-\$1,000", "-1000")),
        *(("$18$", "18"), ("$-18$", "-18"), (r"$\$18$", "18"), ("50%", "50"), (r"50\%", "50"), (r"$50\%$", "50")),
        *((r"90^\circ", "90"), (r"90^{\circ}", "90"), ("9" * 60, "9" * 60)),
    ],
)
def test_numbers(text, number):
    assert canonical_number(text) == number
    assert CANONICAL.fullmatch(number)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "$", "%", ".", "e5", "ten", "None", "x=5", "5x", "52_8", "5.", "5 cm", r"5\text{ cm}", "2^3"),
        *("1,5", "1,2345", "12345,678", "1,23", "1 2", "1, 080", "3, 5, 7", "1,-2", "(1,2)", "[0,1)", "18 or 19"),
        *("3/0", r"\frac{3}{0}", "3/-4", "1.5/2", "1/2/3", "1 1/2", r"1\frac12", r"\frac{\pi}{2}", r"\frac123"),
        *(r"\frac{}{2}", r"11\sqrt2", r"\pi", "1.2.3", "1e1000", "1e", "--5", "\u0661\u0668", "1" * 1001),
    ],
)
def test_everything_else_is_no_number(text):
    assert canonical_number(text) is None


def plain(value: Decimal) -> str:
    """Written without an exponent and without zeros that say nothing."""
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "0") else text


decimals = st.tuples(st.integers(-(10**20), 10**20), st.integers(-30, 10)).map(lambda v: Decimal(v[0]).scaleb(v[1]))


@given(decimals, st.sampled_from(["{}", "{:f}", "{:e}", "  {}", "${}", r"\${}", "{}%", r"{}\%", "${}$", "{:,f}"]))
def test_decimals_keep_every_digit(value, written):
    with decimal.localcontext(prec=80):
        text = written.format(value)
        assert canonical_number(text) == plain(value)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**30))
def test_fractions_are_in_lowest_terms(over, under):
    value = str(Fraction(over, under))
    assert canonical_number(f"{over}/{under}") == value
    assert canonical_number(rf"\frac{{{over}}}{{{under}}}") == value
    assert canonical_number(rf"-\dfrac{{{over}}}{{{under}}}") == str(-Fraction(over, under))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_read_back_as_they_were(value):
    found = read_answer(value)
    assert found is not None and found[1] == "number"
    assert float(found[0]) == value
    assert CANONICAL.fullmatch(found[0])


@given(st.text(alphabet="0123456789.,-+/e $%\\frac{}\u2212", max_size=25))
def test_what_is_found_is_canonical_and_stays(text):
    number = canonical_number(text)
    if number is not None:
        assert CANONICAL.fullmatch(number)
        assert canonical_number(number) == number


def value_of(text: str) -> Fraction:
    """What the reader of answers reads."""
    number = number_of(text)
    assert number.found
    over, under = (sum(int(d) * 10**n for n, d in enumerate(x)) for x in (number.numerator, number.denominator))
    return Fraction(-over if number.negative else over, under)


@given(st.one_of(decimals.map(plain), st.fractions(max_denominator=10**20).map(str)))
def test_every_canonical_number_of_48_characters_is_read_on_the_device(text):
    number = canonical_number(text)
    assert number is not None
    if len(number) <= 48:
        assert value_of(number) == Fraction(text)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        *((43.0, "43"), (-0.5, "-0.5"), (1.0e30, "1" + 30 * "0"), (3244047.0999999996, "3244047.0999999996")),
        *((0.0016791648, "0.0016791648"), (1e-7, "0.0000001"), (-9867630.0, "-9867630"), (-0.0, "0")),
        *((39, "39"), (0, "0"), (-7, "-7"), (10**40, "1" + 40 * "0"), ("145.0", "145")),
    ],
)
def test_answers_of_json_that_are_numbers(value, answer):
    assert read_answer(value) == (answer, "number")


@pytest.mark.parametrize("text", ["None", r"\frac{\pi}{2}", r"\left( 3, \frac{\pi}{2} \right)", "x=5", "1,-2", "52_8"])
def test_other_text_is_kept_as_it_is(text):
    assert read_answer(f" {text}\n") == (text, "latex")


@pytest.mark.parametrize("value", [None, "", " \n", True, False, [], ["5"], {}, float("nan"), float("inf")])
def test_what_is_no_answer(value):
    assert read_answer(value) is None


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [
        (r"So $x = \boxed{5}$.", "5"),
        (r"First \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} and {more}", r"\left\{ x \right."),
        (r"\boxed{a \\ b}", r"a \\ b"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"$\boxed 7$ apples {x}", "7"),
        (r"\boxed{7", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        (r"\boxedx", None),
        ("no box", None),
    ],
)
def test_boxes(solution, boxed):
    assert last_boxed(solution) == boxed
