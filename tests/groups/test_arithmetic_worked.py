"""What is read from a problem and its solution, and which slips its numbers invite."""

import random

from tracelift_jax.groups.arithmetic_worked import Worked, near_misses, slips


def test_slips_are_those_of_people():
    worked = Worked.read("12 by 3.", "It is 12000 * 3 = 36000, 12 * 3 = 36, and $2.10 * 2 = $4.20.", "36")
    by_text = {worked.text[q.start : q.end]: q for q in worked.parsed.quantities}
    near = {text: [float(v) for v in near_misses(worked, by_text[text], random.Random(0))] for text in by_text}
    assert all(value % 100 == 0 for value in near["36000"])
    assert {35, 37, 26, 46, 63} <= set(near["36"])
    assert 12 not in near["36"] and 3 not in near["36"]
    assert all(round(value * 10, 6) == round(value * 10) for value in near["4.20"])


def test_slips_that_the_calculation_belies_come_last():
    worked = Worked.read("17 and 3.", "It is 17 - 3 = 14 and 25 + 9 = 34.", "34")
    less, more = ([int(v) for v in slips(worked, e, random.Random(0))] for e in worked.parsed.equations)
    assert {11, 12, 13, 15, 16} <= set(less[: less.index(21)]) and 18 in less
    assert more.index(36) < more.index(24) and more.index(44) < more.index(23)
    assert sorted(less) == sorted(int(v) for v in near_misses(worked, worked.parsed.quantities[2], random.Random(0)))


def test_the_answer_where_it_is_said_last():
    worked = Worked.read("How many?", "It is 90 - 7 = 83 and 83 + 0 = $83.\nSo: 83% of it, not 84.", "83")
    assert worked.answer_place() == worked.text.index("83%")
    assert worked.written_answer() == "83%"
    assert [worked.said(q, "5") for q in worked.parsed.quantities][-3:] == ["$5", "5%", "5"]
    absent = Worked.read("How many?", "It is 90 - 7 = 83.", "5")
    assert (absent.answer_place(), absent.written_answer()) == (len(absent.text), "5")


def test_which_results_are_an_equations_own():
    text = "She has 39 cups because 13 x 3 = 39. 4 * 4 = 16. Of 22, 20 + 2 = 22. 5 + 5 = 10. 8 + 9 = 17. 16 + 1 = 17."
    worked = Worked.read("20 and 4.", text, "17")
    own = [int(e.result.value) for e in worked.parsed.equations if worked.is_own(e)]
    assert own == [39, 16]  # 22 stands before, 10 means itself, 17 comes twice
    assert [int(e.result.value) for e in Worked.read("16.", text, "17").parsed.equations] == [39, 16, 22, 10, 17, 17]
    assert not Worked.read("16.", text, "17").is_own(worked.parsed.equations[1])
