"""Each flaw of arithmetic reasoning is what its kind says, is where it says, and leaves the rest true."""

import gzip
import itertools
import json
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.groups.arithmetic import parse
from tracelift_jax.groups.arithmetic_flaws import ENGINE, FLAW_KINDS, FLAWS, SEVERITIES, flaws
from tracelift_jax.groups.arithmetic_worked import Worked
from tracelift_jax.groups.schema import Trace
from tracelift_jax.groups.seeds import Seed

CLIPS = Worked.read(
    "Natalia sold clips to 48 of her friends in April, and a quarter as many in May at $5 each. How many in all?",
    "Natalia sold 48/4 = <<48/4=12>>12 packs, or 48-11 = <<48-11=37>>37 boxes, in May.\n"
    "That makes 37*5 = <<37*5=185>>185 clips.\n"
    "So Natalia sold 48+185 = <<48+185=233>>233 clips in April and May.\n#### 233",
    "233",
)
LINES = CLIPS.text.split("\n")


def draws(worked: Worked, kind: str, count: int = 150) -> list[Trace]:
    made = [FLAWS[kind](worked, random.Random(seed)) for seed in range(count)]
    return [flawed for flawed in made if flawed]


def right(flawed: Trace) -> bool:
    """Whether the total says that the answer is right: the mean label, else 0.7 of it."""
    mean = sum(flawed.rubric.dimensions) / 20
    assert flawed.rubric.total in (pytest.approx(mean, abs=1e-4), pytest.approx(0.7 * mean, abs=1e-4))
    return flawed.rubric.total == pytest.approx(mean, abs=1e-4)


def place(flawed: Trace) -> tuple[int, int]:
    """The span."""
    assert flawed.span is not None
    return flawed.span


def flaw(flawed: Trace) -> str:
    """What stands in the span."""
    return flawed.reasoning[slice(*place(flawed))]


def texts(kind: str) -> set[str]:
    return {flawed.reasoning for flawed in draws(CLIPS, kind)}


def test_wrong_calculation_changes_one_result_alone():
    made = draws(CLIPS, "wrong_calculation")
    assert {CLIPS.text[place(f)[0] - 2 : place(f)[0]] for f in made} == {"= "}
    for flawed in made:
        start, end = place(flawed)
        gone = len(flawed.reasoning) - len(CLIPS.text)
        assert CLIPS.text == flawed.reasoning[:start] + CLIPS.text[start : end - gone] + flawed.reasoning[end:]
        assert flawed.reasoning[start:end] not in ("12", "37", "185", "233", "48", "5", "11")
        last = CLIPS.text[start : end - gone] == "233"
        assert right(flawed) != last
        assert flawed.rubric.dimensions == (
            (4, 4, 4, 1, 1) if last else (4, 4, 2, 1, 2)
        )  # what follows goes on rightly
    assert len({place(f)[0] for f in made}) == 4


def test_a_carried_slip_is_reckoned_on():
    # 38 for 37: 38*5 = 190, 48+190 = 238
    expected = "\n".join(
        [
            "Natalia sold 48/4 = 12 packs, or 48-11 = 38 boxes, in May.",
            "That makes 38*5 = 190 clips.",
            "So Natalia sold 48+190 = 238 clips in April and May.",
        ]
    )
    assert expected in texts("wrong_calculation_carried")
    [flawed] = {f for f in draws(CLIPS, "wrong_calculation_carried") if f.reasoning == expected}
    assert flaw(flawed) == "38"
    assert not right(flawed)
    assert flawed.rubric.dimensions == (4, 4, 4, 1, 1)  # the first of three steps
    assert flawed.rubric.total == pytest.approx(14 / 20 * 0.7)


def test_wrong_operation_is_reckoned_on():
    assert {
        "\n".join([LINES[0].replace("48-11 = 37", "48+11 = 59"), "That makes 59*5 = 295 clips.", LINES[2]]).replace(
            "48+185 = 233", "48+295 = 343"
        ),
        "\n".join([*LINES[:1], "That makes 37+5 = 42 clips.", LINES[2].replace("48+185 = 233", "48+42 = 90")]),
    } <= texts("wrong_operation")
    for flawed in draws(CLIPS, "wrong_operation"):
        assert flaw(flawed) in "+-*/"


def test_wrong_quantity_is_another_of_the_problem():
    assert texts("wrong_quantity") == {
        "\n".join([LINES[0], "That makes 37*48 = 1776 clips.", LINES[2].replace("48+185 = 233", "48+1776 = 1824")]),
        "\n".join([*LINES[:2], LINES[2].replace("48+185 = 233", "5+185 = 190")]),
    }  # 48 is in two calculations of the first line, and 11 is not the problem's


def test_wrong_quantity_leaves_what_the_step_says_twice():
    worked = Worked.read(
        "Ann buys 9 pens at $20 and cups for $30.", "For 9 pens she pays 9*20 = $180.\nSo 180+30 = $210 is gone.", "210"
    )
    assert {f.reasoning for f in draws(worked, "wrong_quantity")} == {
        "For 9 pens she pays 9*30 = $270.\nSo 270+30 = $300 is gone.",
        "For 9 pens she pays 9*20 = $180.\nSo 180+20 = $200 is gone.",
    }


def test_a_wrong_quantity_does_not_stand_beside_itself():
    worked = Worked.read("5 by 9.", "It is 5 * 9 = 45.\nSo 45 + 10 = 55.", "55")
    assert not draws(worked, "wrong_quantity")
    part = Worked.read("3/4 of 20, and 5.", "It is 3/4*20 = 15.\nSo 15 + 10 = 25.", "25")
    assert not draws(part, "wrong_quantity")  # 5/4 is no slip


def test_a_wrong_result_that_is_said_first_is_said_so():
    worked = Worked.read("294 miles.", "He drives 98 miles because 294 / 3 = 98.\nSo 98 - 8 = 90 are left.", "90")
    line = re.compile(r"He drives (\d+) miles because 294 / 3 = (\d+)\.\nSo 98 - 8 = 90 are left\.")
    made = [f for f in draws(worked, "wrong_calculation") if right(f)]
    for flawed in made:
        found = line.fullmatch(flawed.reasoning)
        assert found and found[1] == found[2] == flaw(flawed) != "98" and flawed.span == found.span(2)
    assert len({len(flaw(f)) for f in made}) == 2
    twice = Worked.read("5 by 6.", "For 34 hens 5 * 6 + 4 = 34 eggs.", "34")
    assert not draws(twice, "wrong_calculation")  # which 34 is the flaw?
    conclusion = Worked.read("450 miles.", "He has 450 - 9 = 441.\nHe drives $147 because 441 / 3 = 147.", "147")
    for flawed in draws(conclusion, "unsupported_conclusion"):
        assert re.fullmatch(r"He has 450 - 9 = 441.\nHe drives \$\d+\.", flawed.reasoning) and flaw(flawed)[0] == "$"


def test_swapped_quantities_of_one_calculation():
    worked = Worked.read("2 bags of 5 and 7.", "He has 7 + 5*2 = 17 now.\nSo 17*4 = 68.", "68")
    made = {f.reasoning: flaw(f) for f in draws(worked, "swapped_quantities")}
    assert made == {
        "He has 5 + 7*2 = 19 now.\nSo 19*4 = 76.": "5 + 7",
        "He has 2 + 5*7 = 37 now.\nSo 37*4 = 148.": "2 + 5*7",
    }  # 5*2 for 2*5 is no flaw


def test_swapped_quantities_between_calculations():
    text = "12 pens are 12*6 = 72.\n8 cups are 8*20 = 160.\nAll are 72+160 = 232."
    worked = Worked.read("12 pens at 6, 8 cups at 20.", text, "232")
    ends = "\nAll are {}."
    swaps = {
        "8 pens are 8*6 = 48.\n12 cups are 12|*20 = 240.": "48+240 = 288",
        "20 pens are 20*6 = 120.\n8 cups are 8*12| = 96.": "120+96 = 216",
        "12 pens are 12*|8 = 96.\n6 cups are 6|*20 = 120.": "96+120 = 216",
        "12 pens are 12*|20 = 240.\n8 cups are 8*6| = 48.": "240+48 = 288",
    }
    expected = {s.replace("|", "") + ends.format(total): s.split("|")[-2] for s, total in swaps.items()}
    assert {f.reasoning: flaw(f) for f in draws(worked, "swapped_quantities")} == expected
    assert all(not right(f) and f.rubric.dimensions == (1, 2, 3, 4, 1) for f in draws(worked, "swapped_quantities"))


@pytest.mark.parametrize(
    ("problem", "reasoning", "answer"),
    [
        ("40 and 20.", "One has 40 * 7 = 280.\nOne has 20 * 7 = 140.\nAll have 280 + 140 = 420.", "420"),  # stays 420
        ("60% of 80.", "It is 60/100 * 80 = 48.\nSo 48 + 10 = 58.", "58"),  # the parts of a fraction
        ("$12 and 7.", "It is $12 * 4 = $48.\nSo 7 + 48 = 55.", "55"),  # money for things
        ("30% and 20.", "It is 30% * 60 = 18.\nSo 20 + 18 = 38.", "38"),  # shares for things
        ("5 and 9.", "It is 5 + 9 = 14.\nIt is 9 * 7 = 63.\nSo 63 - 14 = 49.", "49"),  # 9 + 5 is no flaw
        ("4, 9, 300.", "It is 4 * 9 = 36.\nIt is 300 * 9 = 2700.\nSo 36 * 2 + 2700 = 2772.", "2772"),  # too unlike
    ],
)
def test_what_is_not_swapped(problem, reasoning, answer):
    assert draws(Worked.read(problem, reasoning, answer), "swapped_quantities") == []


def test_dropped_step():
    assert texts("dropped_step") == {"\n".join(LINES[1:]), "\n".join([LINES[0], LINES[2]])}
    flawed = next(f for f in draws(CLIPS, "dropped_step") if f.reasoning == "\n".join([LINES[0], LINES[2]]))
    assert right(flawed) and flawed.rubric.dimensions == (4, 2, 2, 4, 2)
    assert flawed.span == (len(LINES[0]) + 1,) * 2
    longer = Worked.read("48 and 4.", CLIPS.text + "\nFine.", "233")
    assert {f.rubric.dimensions for f in draws(longer, "dropped_step")} == {(4, 3, 2, 4, 3)}  # a quarter is gone


def test_a_step_whose_result_the_problem_states_is_not_missed():
    worked = Worked.read("17 is 8 and 9 more.", "There are 8+9 = 17 pens.\nSo 17*3 = 51 in all.", "51")
    assert draws(worked, "dropped_step") == draws(worked, "contradictory_step") == []


def test_a_contradictory_step_goes_on_from_what_was_not_found():
    for flawed in draws(CLIPS, "contradictory_step"):
        first, second, third = flawed.reasoning.split("\n")
        assert first == LINES[0]
        a, b = re.findall(r"makes (\d+)\*5 = (\d+) ", second)[0]
        c, d = re.findall(r"48\+(\d+) = (\d+) ", third)[0]
        assert int(a) * 5 == int(b) and 48 + int(c) == int(d)
        assert (a != "37") != (c != b)
        assert flaw(flawed) == (a if a != "37" else c)
    assert len({place(f)[0] for f in draws(CLIPS, "contradictory_step")}) == 2


def test_unsupported_conclusion():
    for flawed in draws(CLIPS, "unsupported_conclusion"):
        number = re.fullmatch(r"So Natalia sold (\d+) clips in April and May\.", flawed.reasoning.split("\n")[2])
        assert number and number[1] != "233" and number[1] == flaw(flawed)
        assert flawed.reasoning.split("\n")[:2] == LINES[:2]
        assert not right(flawed)
    because = Worked.read("1 of 2?", "He has 6 * 7 = 42. Then it is more because 42 + 21 = 63.", "63")
    assert not draws(because, "unsupported_conclusion")  # "because 65" is no conclusion


def test_answer_without_steps():
    made = draws(CLIPS, "answer_without_steps", 300)
    assert "Natalia sold 233 clips in April and May." in {f.reasoning for f in made}  # "So" is gone
    assert "In short, the final answer is 233 clips." in {f.reasoning for f in made}
    for flawed in made:
        assert right(flawed) == ("233" in flawed.reasoning)
        assert "=" not in flawed.reasoning and flaw(flawed) == flawed.reasoning
    assert 0.35 < sum(right(f) for f in made) / len(made) < 0.65
    assert 0.45 < sum(f.reasoning.startswith("Natalia") for f in made) / len(made) < 0.75
    method = Worked.read("8 of 2?", "Half is 8 / 2 = 4.\nThen add one to find the sum: 4 + 1 = 5 hens.", "5")
    assert not any("add" in f.reasoning.lower() for f in draws(method, "answer_without_steps"))


def test_operations_that_the_step_names_stay():
    worked = Worked.read("9, 3 and 8?", "Then subtract 3 to find the rest: 9 - 3 = 6 hens.\nSo 6 * 8 = 48.", "48")
    assert {f.reasoning.split("\n")[0] for f in draws(worked, "wrong_operation")} == {worked.text.split("\n")[0]}
    bar = Worked.read("1/4 of 32?", "It is (20 + 12) * 1/4 = 8.", "8")
    assert {f.reasoning for f in draws(bar, "wrong_operation")} == {"It is (20 - 12) * 1/4 = 2."}  # the bar stays


# --- Invariants -------------------------------------------------------------------------------------------------------


@st.composite
def chains(draw) -> tuple[Worked, list[int]]:
    """A solution whose every line goes on from the result before: "Then 17 + 5 = 22 eggs."."""
    value = draw(st.integers(13, 60))
    numbers, lines = [value], []
    for _ in range(draw(st.integers(2, 4))):
        sign, operand = draw(st.sampled_from("+-*")), draw(st.integers(5, 9))
        if sign == "-" and value - operand < 3:
            sign = "+"
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
        lines.append(f"Then there are {value} {sign} {operand} = {result} eggs.")
        numbers.append(operand)
        value = result
    problem = "The numbers are " + ", ".join(map(str, numbers)) + "."
    return Worked.read(problem, "\n".join(lines), str(value)), numbers


def rows(text: str) -> list[tuple[int, str, int, int]]:
    """Each line's numbers and sign, read by this test alone."""
    matches = [re.fullmatch(r"Then there are (\d+) ([-+*/]) (\d+) = (\d+) eggs\.", line) for line in text.split("\n")]
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in matches if m]


def holds(row: tuple[int, str, int, int]) -> bool:
    a, sign, b, c = row
    return (
        Fraction(c) == {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: Fraction(a, b)}[sign]()
    )


@given(chains(), st.integers(0, 2**32), st.sampled_from(FLAW_KINDS))
def test_lines_stay_true_but_for_the_flaw(case, seed, kind):
    worked, numbers = case
    flawed = FLAWS[kind](worked, random.Random(seed))
    if flawed is None or kind in ("dropped_step", "unsupported_conclusion", "answer_without_steps", "answer_leaked"):
        return
    before, after = rows(worked.text), rows(flawed.reasoning)
    assert len(before) == len(after)
    false = [row for row in after if not holds(row)]
    links = [one[3] == other[0] for one, other in itertools.pairwise(after)]
    assert len(false) == (kind in ("wrong_calculation", "wrong_calculation_carried"))
    if kind in ("wrong_calculation_carried", "wrong_operation", "wrong_quantity", "swapped_quantities"):
        # what is replaced may be the first number of a chain, never a link
        assert all(links)
    if kind == "contradictory_step":
        assert links.count(False) == 1
    if kind == "wrong_operation":
        assert sum(a[1] != b[1] for a, b in zip(before, after, strict=True)) == 1
        assert [a[2] for a in before] == [b[2] for b in after]
    if kind == "wrong_quantity":
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a[2] != b[2] or (a[0] != b[0])]
        assert any(b[2] in numbers or b[0] in numbers for _, b in changed)
    if kind == "swapped_quantities":
        assert sorted((a[0], a[2]) for a in before) != sorted((a[0], a[2]) for a in after)
        assert [a[1] for a in before] == [a[1] for a in after]
    assert right(flawed) == (after[-1][3] == before[-1][3])


NUMBERS = ("wrong_calculation", "wrong_calculation_carried", "wrong_quantity", "contradictory_step")
_DIGITS = r"[\d,]*\.?\d+"
SPANS = dict.fromkeys(NUMBERS, _DIGITS) | {
    "wrong_operation": r"[-+*/×÷x–−X]",
    "swapped_quantities": _DIGITS + ".*" + _DIGITS,
    "dropped_step": "",
    "unsupported_conclusion": rf"[$€£]?{_DIGITS}%?",
    "answer_without_steps": ".+",
    "answer_leaked": r"[A-Z].*[.:]|\(.*\)",
}
"""What each flaw's span holds."""


def check(worked: Worked, flawed: Trace) -> None:
    """What holds of any flaw of any text."""
    text, kind, (start, end) = flawed.reasoning, flawed.negative_kind, place(flawed)
    assert text != worked.text and text == text.strip() and 0 <= start <= end <= len(text)
    assert re.fullmatch(SPANS[kind], text[start:end], re.DOTALL), (kind, text[start:end])
    if kind in NUMBERS:
        assert not text[start - 1 : start].isdigit() and not text[end : end + 1].isdigit()  # a whole number
    if kind != "answer_without_steps" and not any(e.ahead for e in worked.parsed.equations):
        assert worked.text.startswith(text[:start].removesuffix(" " * text[start:].startswith("(")))
    assert not re.search(r"<<|>>|####|\d\.\d{6}|\d,\d{2}\b(?!,)", text)
    assert flawed.rubric.dimensions in (SEVERITIES[kind].much, SEVERITIES[kind].little)
    assert 0 < flawed.rubric.total < 1.0
    again = parse(text)
    if kind in ("wrong_operation", "wrong_quantity", "contradictory_step"):
        assert (len(again.equations), len(again.opaque)) == (len(worked.parsed.equations), len(worked.parsed.opaque))
    if kind == "wrong_calculation_carried":
        assert len(again.equations) >= len(worked.parsed.equations) - 1
        assert len(again.quantities) == len(worked.parsed.quantities)
    if kind in ("wrong_calculation", "unsupported_conclusion", "answer_leaked") and "because" not in text:
        assert worked.text.endswith(text[end:].lstrip(" \n"))
    if kind == "answer_leaked":
        assert (text[:start].rstrip(" ") + text[end:].lstrip()).replace("\n", "").replace(" ", "") == "".join(
            worked.text.split()
        )
    if kind == "dropped_step":
        assert worked.text.startswith(text[:start]) and worked.text.endswith(text[start:])


def test_flaws_of_gsm8k(shared_data):
    with gzip.open(shared_data / "gsm8k" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for i, line in zip(range(1500), file, strict=False) if i % 5 == 0]
    enough, kinds = 0, set()
    for index, row in enumerate(rows):
        answer = row["answer"].rpartition("#### ")[2].replace(",", "")
        worked = Worked.read(row["question"], row["answer"], answer)
        made = flaws(worked, FLAW_KINDS, len(FLAW_KINDS), random.Random(index))
        assert len({f.reasoning for f in made} | {worked.text}) == len(made) + 1
        assert len({f.negative_kind for f in made}) == len(made)
        for flawed in made:
            check(worked, flawed)
        enough += len(made) >= 4
        kinds |= {f.negative_kind for f in made}
    assert kinds == set(FLAW_KINDS)
    assert enough / len(rows) >= 0.92


def test_flaws_are_a_function_of_the_seed():
    first, again, other = (flaws(CLIPS, FLAW_KINDS, 8, random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_a_flaw_is_never_the_positive_itself():
    worked = Worked.read("What is x?", "The answer is 4.", "4")
    assert "The answer is 4." in {f.reasoning for f in draws(worked, "answer_without_steps", 1000)}
    made = [f for seed in range(1000) for f in flaws(worked, ("answer_without_steps",), 10, random.Random(seed))]
    assert len(made) > 900 and worked.text not in {f.reasoning for f in made}


def test_the_most_is_kept():
    assert len(flaws(CLIPS, FLAW_KINDS, 3, random.Random(0))) == 3
    assert {f.negative_kind for f in flaws(CLIPS, FLAW_KINDS, 10, random.Random(0))} == set(FLAW_KINDS)


def test_where_much_hangs_on_a_flaw_it_weighs_no_less():
    for kind, severity in SEVERITIES.items():
        assert sum(severity.much) <= sum(severity.little), kind
        assert max(*severity.much, *severity.little) <= 4


def test_the_engine():
    seed = Seed("a", "b", "c", "48 and 5.", CLIPS.text + "\n#### 233", "233")
    assert ENGINE.positive(seed) == CLIPS.text
    made = ENGINE.flaws(seed, CLIPS.text, ("dropped_step", "answer_leaked"), 8, random.Random(0))
    assert {f.negative_kind for f in made} == {"dropped_step", "answer_leaked"}
    assert ENGINE.severity("dropped_step").total == 0.8  # 16 of 20, and the answer stays
    assert ENGINE.severity("wrong_calculation").total == 0.49  # 0.7 times 14 of 20
    assert ENGINE.severity("answer_leaked").total == 0.7
