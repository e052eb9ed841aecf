"""Steps, quantities and calculations are found in ordinary text; values are exact."""

import gzip
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.groups.arithmetic import clean, decimals_of, evaluate, numbers_of, parse, rounded


def said(text: str) -> list[str]:
    """Every calculation of a text, told in plain signs."""
    parsed = parse(text)
    return [
        " ".join(
            getattr(term, "symbol", "") or parsed.text[term.start : term.end] + "%" * getattr(term, "percent", False)
            for term in equation.left
        )
        + f" = {parsed.text[equation.result.start : equation.result.end]}"
        for equation in parsed.equations
    ]


@pytest.mark.parametrize(
    ("text", "equations"),
    [
        ("Natalia sold 48/2 = 24 clips in May.", ["48 / 2 = 24"]),
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 24", ["48 / 2 = 24"]),
        ("She earned $12 x 50/60 = $10.", ["12 * 50 / 60 = 10"]),
        ("5+3*2=11", ["5 + 3 * 2 = 11"]),
        ("In 2 weeks he gets 3 + 4 = 7.", ["3 + 4 = 7"]),  # not 2 weeks
        ("4 hours * 50 miles/hour = 200 miles", ["4 * 50 = 200"]),
        ("$60/large painting x 8 large paintings = $480", ["60 * 8 = 480"]),
        ("101 Kindergarten shirts x $5.80 = $585.80.", ["101 * 5.80 = 585.80"]),
        ("It cost 50,000 - 30,000 = 20,000 and 1,750 × 2 = 3,500.", ["50,000 - 30,000 = 20,000", "1,750 * 2 = 3,500"]),
        ("He is 22 years old – 2 years = 20 years old.", ["22 - 2 = 20"]),
        ("20 − 13 = 7 and 72 ÷ 8 = 9", ["20 - 13 = 7", "72 / 8 = 9"]),
        ("$1000-($150+$300+$250) = $300", ["1000 - ( 150 + 300 + 250 ) = 300"]),
        ("6+2(38)=82 inches", ["6 + 2 * ( 38 ) = 82"]),
        ("2 liters * 20% = .4 liters", ["2 * 20% = .4"]),
        ("100% - 80% = 20% of them", ["100% - 80% = 20"]),
        ("13/25 x 100% = 52%", ["13 / 25 * 100% = 52"]),
        ("25% of 84 = 21 cows", ["25% * 84 = 21"]),
        ("2/3 x 75 = 50 balls", ["2 / 3 * 75 = 50"]),
        ("100 / 3 = 33.33 each", ["100 / 3 = 33.33"]),  # rounded as it is written
        ("100 / 3 = 33 each", []),
        ("Apples = 5 * 7 = 35", ["5 * 7 = 35"]),
        ("2 + 2 = 5", []),
        ("He ran on the 1st day 2 + 3 = 5 km", ["2 + 3 = 5"]),
        ("2x + 4x = 6x, and 5 people", []),
        ("He walks 50 m + 50m = 100 m or 3 g + 4 g = 7 g", ["50 + 50 = 100", "3 + 4 = 7"]),
        ("120 = 3x + 6", []),
        ("6 / 0 = 6", []),
        ("It opens at 3:45 = 4", []),
    ],
)
def test_calculations_in_text(text, equations):
    assert said(text) == equations


def test_places_are_those_of_the_cleaned_text():
    parsed = parse("Mr. Ames pays $12 + $3 = $<<12+3=15>>15. So he has 40-15 = <<40-15=25>>25 left.\nFine.\n#### 25")
    assert parsed.text == "Mr. Ames pays $12 + $3 = $15. So he has 40-15 = 25 left.\nFine."
    assert [parsed.text[a:b] for a, b in parsed.steps] == [
        "Mr. Ames pays $12 + $3 = $15.",
        "So he has 40-15 = 25 left.",
        "Fine.",
    ]
    first, second = parsed.equations
    assert parsed.text[first.start : first.result.end] == "$12 + $3 = $15"
    assert parsed.text[second.start : second.result.end] == "40-15 = 25"
    assert [parsed.text[q.start : q.end] for q in parsed.quantities] == ["12", "3", "15", "40", "15", "25"]
    assert [parsed.step_of(q.start) for q in parsed.quantities] == [0, 0, 0, 1, 1, 1]
    assert [o.symbol for e in parsed.equations for o in e.operators] == ["+", "-"]


def test_what_is_not_understood_is_opaque_and_chains_are_known():
    parsed = parse("Let x be it\n2x = 8\nx = 4\nTotal = 5+3*2 = 5+6 = 11")
    assert [parsed.text[place - 3 : place] for place in parsed.opaque] == ["2x ", "*2 "]
    [equation] = parsed.equations
    assert equation.chained and equation.exact
    forward = parse("4 / 2 = 2 hours * 3 = 6").equations
    assert [e.chained for e in forward] == [True, True]
    assert not parse("Ann = 4 / 2 = 2").equations[0].chained
    assert [e.chained for e in parse("He has 4 + 3 = 7 and she 7 * 2 = 14").equations] == [False, False]
    assert not parse("10 / 3 = 3.3").equations[0].exact


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("He drives 150 miles because 450 / 3 = 150", "150"),
        ("Fine. Of 30, 40% are left, since 100 - 60 = 40.", "40"),
        ("It is $56 as 28 x $2 = $56.", "56"),
        ("He drives 150 miles. That is all, because 450 / 3 = 150.", None),  # another step
        ("He drives 150 miles: 450 / 3 = 150", None),
        ("He drives 160 miles because 450 / 3 = 150", None),
        ("He drives 150 of 150 miles because 450 / 3 = 150", None),  # which?
        ("He drives 50 * 3 = 150 miles because 450 / 3 = 150", None),  # a result of its own
    ],
)
def test_results_that_are_said_first(text, ahead):
    parsed = parse(text)
    found = parsed.equations[-1].ahead
    assert (parsed.text[found.start : found.end] if found else None) == ahead
    assert found is None or found.start < parsed.equations[-1].start


def test_percent_signs_scale_only_where_that_is_true():
    assert parse("50 * 20% = 10").equations[0].scaled
    assert not parse("30% + 15 = 45%").equations[0].scaled


def test_clean():
    assert clean("A <<1+1=2>>2\nB\n#### 2,000") == "A 2\nB"


def test_numbers_of_a_problem():
    stated, words = numbers_of("Betty saves $1,200.50 twice; half of it, 20%, goes in three boxes. It has 3 locks.")
    assert [(q.value, q.percent) for q in stated] == [(Fraction("1200.5"), False), (20, True), (3, False)]
    assert words == {2, 3}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", 24),
        ("2 - 3 - 4", -5),
        ("12 / 3 / 2", 2),
        ("2 + 3 × 4 ÷ 6 – 1", 3),
        ("(2 + 3)(4 − 1)", 15),
        ("50 x 20%", 10),
        ("1,000.5 * 2", 2001),
        (".5 * 3", Fraction(3, 2)),
        ("$3 per kilo * 2 kilos", 6),
        ("1 / 0", None),
        ("2 +", None),
        ("(2 + 3", None),
        ("2 3", None),
        ("x", None),
        ("", None),
        ("__import__('os')", None),
        ("2 ** 3", None),
    ],
)
def test_evaluate(expression, value):
    assert evaluate(expression) == value


@st.composite
def expressions(draw, depth: int = 3) -> tuple[str, Fraction | None]:
    """An expression, fully parenthesized where needed, and its value reckoned beside it."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.decimals(min_value=0, max_value=9999, places=draw(st.integers(0, 2))))
        return f"{number:,}" if draw(st.booleans()) else str(number), Fraction(number)
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    symbol = draw(st.sampled_from("+-*/"))
    gap = draw(st.sampled_from(["", " "]))
    value = None
    if left[1] is not None and right[1] is not None and not (symbol == "/" and right[1] == 0):
        a, b = left[1], right[1]
        value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[symbol]()
    return f"({left[0]}){gap}{symbol}{gap}({right[0]})", value


@given(expressions())
def test_evaluate_agrees_with_fractions(case):
    assert evaluate(case[0]) == case[1]


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.data())
def test_precedence_agrees_with_python(numbers, data):
    signs = [data.draw(st.sampled_from("+-*/")) for _ in numbers[1:]]
    text = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, numbers[1:], strict=True))
    exact = f"Fraction({numbers[0]})" + "".join(f"{s}Fraction({n})" for s, n in zip(signs, numbers[1:], strict=True))
    assert evaluate(text) == eval(exact, {"Fraction": Fraction})


@given(st.text("0123456789.,$%+-*/x×=() aknsof\n", max_size=60))
def test_any_text_can_be_read_and_every_calculation_is_true(text):
    parsed = parse(text)
    for equation in parsed.equations:
        left = parsed.text[equation.start : parsed.text.rindex("=", 0, equation.result.start)]
        result = parsed.text[equation.result.start : equation.result.end]
        if not any(q.percent for q in (*equation.operands, equation.result)):
            assert rounded(evaluate(left) or Fraction(0), max(decimals_of(result), 9)) == Fraction(
                result.replace(",", "")
            ) or rounded(evaluate(left) or Fraction(0), decimals_of(result)) == Fraction(result.replace(",", ""))
    places = [q.start for q in parsed.quantities]
    assert places == sorted(set(places))


def test_rounded():
    assert [rounded(Fraction(n, 8), 2) for n in (1, 3, 20)] == [Fraction(13, 100), Fraction(38, 100), Fraction(5, 2)]


def test_most_marked_calculations_of_gsm8k_are_found(shared_data):
    """The marks, which the parser does not look at, say what there is to find."""
    with gzip.open(shared_data / "gsm8k" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(400), strict=False)]
    marked = found = 0
    for row in rows:
        results = [e.result.value for e in parse(row["answer"]).equations]
        for mark in row["answer"].split("<<")[1:]:
            left, _, right = mark.partition(">>")[0].partition("=")
            if any(sign in left for sign in "+-*/") and evaluate(left) is not None:
                marked += 1
                found += evaluate(right) in results
    assert marked > 1000
    assert found / marked > 0.93
