"""Answers told before the steps, or in place of them: grammatical, varied, and where they may be."""

import random
import re

import pytest

from tracelift_jax.groups.arithmetic_answers import answer_with_unit, bare_answer, bare_sentence, leaked_answer
from tracelift_jax.groups.arithmetic_worked import Worked

STEPS = "He has 7 + 5 = 12 hens.\nThey lay 12 * 3 = 36 eggs. That makes 36 - 6 = 30 brown eggs."
HENS = Worked.read("How many?", STEPS, "30")


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("He has 7 + 5 = 12 hens left.", "12", "12 hens"),
        ("He has 7 + 5 = 12 brown hens.", "12", "12 brown hens"),
        ("He has 7 + 5 = 12 more brown hens than she", "12", "12 more brown hens"),
        ("He has 7 + 5 = 12 left because hens die.", "12", "12"),
        ("They are 7 + 5 = 12 he says.", "12", "12"),
        ("They are 7 + 5 = 12 hens and cocks.", "12", "12"),  # not 12 hens
        ("It is 24 / 2 = 12 miles/hour.", "12", "12"),
        ("It is 24 / 2 = 12 miles an hour.", "12", "12"),
        ("They are 7 + 5 = 12 people now.", "12", "12 people"),
        ("It is 7 + 5 = 12 cm.", "12", "12 cm"),
        ("It is 7 + 5 = 12 across.", "12", "12"),
        ("It is $7 + $5 = $12 dollars.", "12", "$12"),
        ("It is 7% + 5% = 12% points.", "12", "12%"),
        ("It is 7 - 6 = 1 times.", "1", "1"),
        ("He has 12 hens because 7 + 5 = 12", "12", "12 hens"),
        ("Nothing.", "12", "12"),
    ],
)
def test_units(text, answer, said):
    assert answer_with_unit(Worked.read("How many?", text, answer)) == said


def test_a_leak_stands_before_the_answer_is_derived_and_is_all_that_is_new():
    places = set()
    for seed in range(400):
        text, (start, end) = leaked_answer(HENS, random.Random(seed))
        leak = text[start:end]
        assert leak.count("30 brown eggs") == 1 and start < text.index("36 - 6")
        assert re.fullmatch(r"[A-Z][a-z ,]+ 30 brown eggs(\.|, [a-z ]+:)|\([a-z ,]+ 30 brown eggs\)", leak), leak
        rest = text[:start] + text[end:]
        assert "".join(rest.split()) == "".join(STEPS.split())
        assert "  " not in text and not re.search(r"\)\w|[.:]\w| [.)]|\( ", text)
        places.add(start)
    # in front, in parentheses before two full stops, and on a line or in it between the steps
    assert places == {0, 23, 24, STEPS.index(" That"), STEPS.index("That")}


def test_a_leak_takes_the_gap_of_its_place():
    between = {leaked_answer(HENS, random.Random(seed))[0] for seed in range(400)}
    assert any(re.search(r"12 hens\.\n[A-Z][a-z ,]+ 30 brown eggs\.\nThey lay", text) for text in between)
    assert any(re.search(r"36 eggs\. [A-Z][a-z ,]+ 30 brown eggs\. That makes", text) for text in between)


def test_what_says_the_answer_again_does_not_make_it_derived_later():
    worked = Worked.read("How many?", STEPS + " He has 30 brown eggs.", "30")
    assert all(
        span[0] < STEPS.index("36 - 6") for _, span in (leaked_answer(worked, random.Random(s)) for s in range(200))
    )


def test_one_step_leaves_only_its_front():
    worked = Worked.read("How many?", "He has 7 + 5 = 12 hens", "12")
    made = [leaked_answer(worked, random.Random(seed)) for seed in range(100)]
    assert {span[0] for _, span in made} == {0}
    assert all(text.endswith(" He has 7 + 5 = 12 hens") for text, _ in made)


def test_leaks_and_bare_answers_are_varied():
    leaks = [leaked_answer(HENS, random.Random(seed)) for seed in range(2000)]
    assert len({text[slice(*span)] for text, span in leaks}) > 120
    bare = [bare_answer("30 eggs", random.Random(seed)) for seed in range(2000)]
    assert len(set(bare)) > 60 and max(map(bare.count, set(bare))) < 0.04 * len(bare)
    assert all(re.fullmatch(r"[A-Z][a-z ,]+ 30 eggs\.", text) for text in bare)


@pytest.mark.parametrize(
    ("sentence", "own"),
    [
        ("So, he has 30 eggs.", "he has 30 eggs."),
        ("This means that the hens lay 30.", "the hens lay 30."),
        ("Then Ann has 30 eggs.", "Ann has 30 eggs."),
        ("Thenars are 30.", "Thenars are 30."),
    ],
)
def test_the_last_sentence_alone(sentence, own):
    made = {bare_sentence(sentence, random.Random(seed)) for seed in range(60)}
    assert all(text.endswith(own) or text == own[0].upper() + own[1:] for text in made)
    assert all(text[0].isupper() for text in made)
    assert (len(made) > 3) == own[0].islower()  # a name is left as it is, and nothing is put before it
