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
from tracelift_jax.groups.arithmetic_flaws import FLAW_KINDS, FLAWS, SEVERITIES, Flawed, flaws
from tracelift_jax.groups.arithmetic_rework import apply, rework, write_number
from tracelift_jax.groups.arithmetic_worked import Worked, slips

CLIPS = Worked.read(
    "Natalia sold clips to 48 of her friends in April, and a quarter as many in May at $5 each. How many in all?",
    "Natalia sold 48/4 = <<48/4=12>>12 packs, or 48-11 = <<48-11=37>>37 boxes, in May.\n"
    "That makes 37*5 = <<37*5=185>>185 clips.\n"
    "So Natalia sold 48+185 = <<48+185=233>>233 clips in April and May.\n#### 233",
    "233",
)
LINES = CLIPS.text.split("\n")


def draws(worked: Worked, kind: str, count: int = 150) -> list[Flawed]:
    made = [FLAWS[kind](worked, random.Random(seed)) for seed in range(count)]
    return [flawed for flawed in made if flawed]


def texts(kind: str) -> set[str]:
    return {flawed.text for flawed in draws(CLIPS, kind)}


def test_wrong_calculation_changes_one_result_alone():
    made = draws(CLIPS, "wrong_calculation")
    assert {CLIPS.text[f.span[0] - 2 : f.span[0]] for f in made} == {"= "}
    for flawed in made:
        start, end = flawed.span
        gone = len(flawed.text) - len(CLIPS.text)
        assert CLIPS.text == flawed.text[:start] + CLIPS.text[start : end - gone] + flawed.text[end:]
        assert flawed.text[start:end] not in ("12", "37", "185", "233", "48", "5", "11")
        assert flawed.right == (CLIPS.text[start : end - gone] != "233")
    assert len({f.span[0] for f in made}) == 4


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
    [flawed] = {f for f in draws(CLIPS, "wrong_calculation_carried") if f.text == expected}
    assert flawed.text[slice(*flawed.span)] == "38"
    assert not flawed.right
    assert flawed.hurts == (4, 4, 4, 1, 1)  # the first of three steps
    assert flawed.rubric.total == pytest.approx(14 / 20 * 0.7)


def test_wrong_operation_is_reckoned_on():
    assert {
        "\n".join([LINES[0].replace("48-11 = 37", "48+11 = 59"), "That makes 59*5 = 295 clips.", LINES[2]]).replace(
            "48+185 = 233", "48+295 = 343"
        ),
        "\n".join([*LINES[:1], "That makes 37+5 = 42 clips.", LINES[2].replace("48+185 = 233", "48+42 = 90")]),
    } <= texts("wrong_operation")
    for flawed in draws(CLIPS, "wrong_operation"):
        assert flawed.text[slice(*flawed.span)] in "+-*/"


def test_wrong_quantity_is_another_of_the_problem():
    assert texts("wrong_quantity") == {
        "\n".join([LINES[0], "That makes 37*48 = 1776 clips.", LINES[2].replace("48+185 = 233", "48+1776 = 1824")]),
        "\n".join([*LINES[:2], LINES[2].replace("48+185 = 233", "5+185 = 190")]),
    }  # 48 is in two calculations of the first line, and 11 is not the problem's


def test_wrong_quantity_leaves_what_the_step_says_twice():
    worked = Worked.read(
        "Ann buys 9 pens at $20 and cups for $30.", "For 9 pens she pays 9*20 = $180.\nSo 180+30 = $210 is gone.", "210"
    )
    assert {f.text for f in draws(worked, "wrong_quantity")} == {
        "For 9 pens she pays 9*30 = $270.\nSo 270+30 = $300 is gone.",
        "For 9 pens she pays 9*20 = $180.\nSo 180+20 = $200 is gone.",
    }


def test_swapped_quantities():
    assert texts("swapped_quantities") == {
        CLIPS.text.replace("48/4 = 12", "4/48 = 12"),
        CLIPS.text.replace("48-11 = 37", "11-48 = 37"),
    }
    money = Worked.read("He has $30 and owes $21.", "He has $30 left - $21 in debts = $9 now. Good.", "9")
    [flawed] = {f.text for f in draws(money, "swapped_quantities")}
    assert flawed == "He has $21 in debts - $30 left = $9 now. Good."


def test_dropped_step():
    assert texts("dropped_step") == {"\n".join(LINES[1:]), "\n".join([LINES[0], LINES[2]])}
    flawed = next(f for f in draws(CLIPS, "dropped_step") if f.text == "\n".join([LINES[0], LINES[2]]))
    assert flawed.right
    assert flawed.span == (len(LINES[0]) + 1,) * 2


def test_a_step_whose_result_the_problem_states_is_not_missed():
    worked = Worked.read("17 is 8 and 9 more.", "There are 8+9 = 17 pens.\nSo 17*3 = 51 in all.", "51")
    assert draws(worked, "dropped_step") == draws(worked, "contradictory_step") == []


def test_a_contradictory_step_goes_on_from_what_was_not_found():
    for flawed in draws(CLIPS, "contradictory_step"):
        first, second, third = flawed.text.split("\n")
        assert first == LINES[0]
        a, b = re.findall(r"makes (\d+)\*5 = (\d+) ", second)[0]
        c, d = re.findall(r"48\+(\d+) = (\d+) ", third)[0]
        assert int(a) * 5 == int(b) and 48 + int(c) == int(d)
        assert (a != "37") != (c != b)
        assert flawed.text[slice(*flawed.span)] == (a if a != "37" else c)
    assert len({f.span[0] for f in draws(CLIPS, "contradictory_step")}) == 2


def test_unsupported_conclusion():
    for flawed in draws(CLIPS, "unsupported_conclusion"):
        number = re.fullmatch(r"So Natalia sold (\d+) clips in April and May\.", flawed.text.split("\n")[2])
        assert number and number[1] != "233" and number[1] == flawed.text[slice(*flawed.span)]
        assert flawed.text.split("\n")[:2] == LINES[:2]
        assert not flawed.right
    because = Worked.read("1 of 2?", "He has 6 * 7 = 42. Then it is more because 42 + 21 = 63.", "63")
    assert not draws(because, "unsupported_conclusion")  # "because 65" is no conclusion


def test_answer_without_steps():
    made = draws(CLIPS, "answer_without_steps")
    assert "Natalia sold 233 clips in April and May." in {f.text for f in made}  # "So" is gone
    for flawed in made:
        assert flawed.right == ("233" in flawed.text)
        assert re.fullmatch(r"Natalia sold \d+ clips in April and May\.", flawed.text)
    assert 0.35 < sum(f.right for f in made) / len(made) < 0.65
    algebra = Worked.read("What is x?", "2x = 8\nx = 4", "4")
    assert {"The answer is 4.", "It comes to 5."} <= {f.text for f in draws(algebra, "answer_without_steps", 400)}


def test_answer_leaked():
    for flawed in draws(CLIPS, "answer_leaked"):
        leak, _, rest = flawed.text.partition("\n")
        assert rest == CLIPS.text and "233" in leak
        assert flawed.span == (0, len(leak)) and flawed.right
    money = Worked.read("How much?", "He pays $1,000 + $317 = $1,317 in all.", "1317")
    assert all("$1,317." in f.text.partition("He pays")[0] for f in draws(money, "answer_leaked"))


# --- Where nothing should be changed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reasoning",
    [
        "She packs 72 cups because 12 x 6 = 72.\nShe needs 72 / 8 = 9 boxes.",  # the result stands before
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


def test_slips_are_those_of_people():
    worked = Worked.read("12 by 3.", "It is 12000 * 3 = 36000, 12 * 3 = 36, and $2.10 * 2 = $4.20.", "36")
    by_text = {worked.text[q.start : q.end]: q for q in worked.parsed.quantities}
    near = {text: [float(v) for v in slips(worked, by_text[text], random.Random(0))] for text in by_text}
    assert all(value % 100 == 0 for value in near["36000"])
    assert {35, 37, 26, 46, 63} <= set(near["36"])
    assert 12 not in near["36"] and 3 not in near["36"]
    assert all(round(value * 10, 6) == round(value * 10) for value in near["4.20"])


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
    before, after = rows(worked.text), rows(flawed.text)
    assert len(before) == len(after)
    false = [row for row in after if not holds(row)]
    links = [one[3] == other[0] for one, other in itertools.pairwise(after)]
    assert len(false) == (kind in ("wrong_calculation", "wrong_calculation_carried", "swapped_quantities"))
    if kind in ("wrong_calculation_carried", "wrong_operation", "wrong_quantity"):
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
    assert flawed.right == (after[-1][3] == before[-1][3])


def check(worked: Worked, flawed: Flawed) -> None:
    """What holds of any flaw of any text."""
    text, (start, end) = flawed.text, flawed.span
    assert text != worked.text and text == text.strip() and 0 <= start <= end <= len(text)
    assert text[:start] == worked.text[:start] or flawed.kind == "answer_without_steps"
    assert not re.search(r"<<|>>|####|\d\.\d{6}|\d,\d{2}\b(?!,)", text)
    assert flawed.hurts in (SEVERITIES[flawed.kind].early, SEVERITIES[flawed.kind].late)
    assert 0 < flawed.rubric.total < 1.0
    again = parse(text)
    if flawed.kind in ("wrong_operation", "wrong_quantity", "contradictory_step"):
        assert (len(again.equations), len(again.opaque)) == (len(worked.parsed.equations), len(worked.parsed.opaque))
    if flawed.kind == "wrong_calculation_carried":
        assert len(again.equations) >= len(worked.parsed.equations) - 1
        assert len(again.quantities) == len(worked.parsed.quantities)
    if flawed.kind in ("wrong_calculation", "swapped_quantities", "unsupported_conclusion"):
        rest = len(text) - end
        assert text[end:] == worked.text[len(worked.text) - rest :]
    if flawed.kind == "dropped_step":
        assert worked.text.startswith(text[:start]) and worked.text.endswith(text[start:])


def test_flaws_of_gsm8k(shared_data):
    with gzip.open(shared_data / "gsm8k" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for i, line in zip(range(1500), file, strict=False) if i % 5 == 0]
    enough, kinds = 0, set()
    for index, row in enumerate(rows):
        answer = row["answer"].rpartition("#### ")[2].replace(",", "")
        worked = Worked.read(row["question"], row["answer"], answer)
        made = flaws(worked, FLAW_KINDS, len(FLAW_KINDS), random.Random(index))
        assert made == flaws(worked, FLAW_KINDS, len(FLAW_KINDS), random.Random(index))
        assert len({f.text for f in made} | {worked.text}) == len(made) + 1
        assert len({f.kind for f in made}) == len(made)
        for flawed in made:
            check(worked, flawed)
        enough += len(made) >= 4
        kinds |= {f.kind for f in made}
    assert kinds == set(FLAW_KINDS)
    assert enough / len(rows) >= 0.9


def test_a_flaw_is_never_the_positive_itself():
    worked = Worked.read("What is x?", "The answer is 4.", "4")
    assert "The answer is 4." in {f.text for f in draws(worked, "answer_without_steps")}
    assert all(f.text != worked.text for seed in range(50) for f in flaws(worked, FLAW_KINDS, 10, random.Random(seed)))


def test_the_most_is_kept():
    assert len(flaws(CLIPS, FLAW_KINDS, 3, random.Random(0))) == 3
    assert {f.kind for f in flaws(CLIPS, FLAW_KINDS, 10, random.Random(0))} == set(FLAW_KINDS)


def test_early_flaws_weigh_no_less_than_late_ones():
    for kind, severity in SEVERITIES.items():
        assert sum(severity.early) <= sum(severity.late), kind
        assert max(*severity.early, *severity.late) <= 4
