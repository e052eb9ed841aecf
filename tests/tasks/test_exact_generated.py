"""The exact verifier: every style of writing a fraction, anything at all, and texts made to be slow."""

import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.tasks.exact import MOST_DIGITS, read_final
from tracelift_jax.tasks.verdict import OK, WRONG
from tracelift_jax.tasks.verify import verify

over, under = st.integers(0, 10**30), st.integers(1, 10**12)
MINUSES = ["-", "−", "- ", "negative ", "-$"]
PLACES = ["{}", "7 \\boxed{{{}}} 9", "#### {}\n", "9 so the answer is {}", "The final answer is: {}. I hope so."]


@st.composite
def written(draw) -> tuple[str, Fraction]:
    """A fraction in one of many styles."""
    a, b = draw(over), draw(under)
    a, b = Fraction(a, b).numerator, Fraction(a, b).denominator
    whole, rest = divmod(a, b)
    styles = [f"{a}/{b}", f"{a:,}/{b:,}", f"{a} / {b}", rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{ {a:,} }}{{{b}}}"]
    if rest:
        styles += [f"{whole} {rest}/{b}", rf"{whole}\frac{{{rest}}}{{{b}}}", f"{whole} and {rest} / {b}"]
    decimals = draw(st.integers(0, 30))
    point = f"{a // 10**decimals}.{a % 10**decimals:0{decimals}}" if decimals else str(a)
    value, text = draw(
        st.sampled_from(
            [
                *((Fraction(a, b), style) for style in styles),
                (Fraction(a, 10**decimals), point),
                (Fraction(a), f"{a:,}"),
                (Fraction(a), f"{a:,}".replace(",", "{,}")),
                (Fraction(a), str(a).translate({48 + i: 0xFF10 + i for i in range(10)})),
                (Fraction(a), f"${a:,} million"),
                (Fraction(a) * 10**decimals, f"{a}e{decimals}"),
                (Fraction(a, 10**decimals), f"{a} x 10^{{-{decimals}}}"),
            ]
        )
    )
    minus = draw(st.sampled_from(["", *MINUSES]))
    return draw(st.sampled_from(PLACES)).format(minus + text), -value if minus else value


@settings(max_examples=400, deadline=None)
@given(written(), written())
def test_any_fraction_is_read_back(first, second):
    for text, value in (first, second):
        assert read_final(text).value == value, text
        assert verify(text, str(value)) == OK
        assert verify(text, str(value + Fraction(1, 10**6))) == OK
        assert verify(text, str(value + Fraction(11, 10**7))) == WRONG
    assert verify(first[0], second[0]) == verify(second[0], first[0])
    millions = "million" in first[0] or "million" in second[0]
    assert millions or verify(first[0], second[0]) == int(abs(first[1] - second[1]) <= Fraction(1, 10**6))


PIECES = [
    "1",
    "23",
    "456",
    ",",
    ".",
    "/",
    "-",
    "+",
    "^",
    "{",
    "}",
    "\\frac",
    "\\boxed{",
    "$",
    "%",
    " ",
    "####",
    "=",
    "or",
]
PIECES += ["answer is", "e", "x10^", "and", ":", "½", "−", "\n", "(", ")", "_", "²", "\\times", "million", "é"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), st.lists(st.sampled_from(PIECES)).map("".join))
def test_anything_is_judged_and_comparison_is_symmetric(a, b):
    for text in (a, b):
        reading = read_final(text, sole=True)
        assert verify(text, text) == (OK if reading.value is not None or reading.words else WRONG)
    if read_final(a) == read_final(a, sole=True) and read_final(b) == read_final(b, sole=True):
        assert verify(a, b) == verify(b, a)


# --------------------------------------------------------------------------------------------------------- garbage

SIZE = 100_000
REPEATED = [
    "1",
    "1,",
    "123,",
    "1 ",
    "1.",
    ".",
    "1/",
    "1:",
    "1^",
    "1^{",
    "1e",
    "1x10^",
    "1%",
    "$",
    "-",
    "{",
    "\\",
    "½",
    "²",
]
REPEATED += [
    "\\frac",
    "\\frac{",
    "\\frac{1}{",
    "\\boxed{",
    "\\boxed{1",
    "\\text{",
    "#",
    "#### ",
    "answer is ",
    "1 1/2 ",
]
REPEATED += ["answer is 1 ", "negative ", "1 and ", "१", "\u200b", "\n", "1:30\n", "a.", ". ", "2020-1-1 ", "1/1/1 "]


def seconds(text: str) -> float:
    begin = time.process_time()
    read_final(text)
    return time.process_time() - begin


@pytest.mark.parametrize("before", ["", "#### "])
def test_a_hundred_kilobytes_of_anything_take_linear_time(before):
    """Sixteen times the text may take 48 times as long; squared, it would take 256. What is quick is not asked."""
    rng = random.Random(0)
    texts = [before + piece * (SIZE // len(piece)) for piece in REPEATED]
    texts += ["".join(rng.choices(pool, k=SIZE // 3)) for pool in (PIECES, PIECES[:9], PIECES[10:])]
    texts += [before + "1" + blank * SIZE + "= 2" for blank in " \t"]
    for text in texts:
        if seconds(text) > 1:
            whole, part = (min(seconds(text[: len(text) // by]) for _ in range(3)) for by in (1, 16))
            assert whole < 48 * part, f"{whole:.1f} s for {text[:20]!r}..., {part:.2f} s for a sixteenth"


def test_long_numbers_take_no_time():
    begin = time.process_time()
    digits = "7" * MOST_DIGITS
    assert read_final(digits).value == Fraction(7 * (10**MOST_DIGITS - 1), 9)
    assert read_final(digits + "7").value is None
    assert read_final(f"{digits[1:]}/{digits[1:]}").value == 1
    assert read_final("2^9999").value == 2**9999
    assert read_final("1e15000").value == 10**15000
    assert read_final("1e20000").value is None
    assert time.process_time() - begin < 3
