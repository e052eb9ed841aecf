"""Flawed plans: drawn, graded and marked as their kind says, and the plan itself but for the flaw."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import PLANS, PROGRAM, edits

from tracelift_jax.groups.arithmetic_rework import apply
from tracelift_jax.groups.code_flaws import ENGINE, FLAW_KINDS, SEVERITIES, WAYS, flawed, flaws
from tracelift_jax.groups.code_prose import Prose
from tracelift_jax.groups.schema import CODE_DIMENSIONS
from tracelift_jax.groups.seeds import Seed


def test_code_dumped():
    text = PLANS["maze"]
    first = text[: text.index(" Put the start")]
    made = {trace.reasoning for seed in range(60) if (trace := drawn(text, "code_dumped", seed))}
    program = PROGRAM.strip()
    blocks = {program, f"Solution:\n{program}", f"```python\n{program}\n```"}
    assert made == blocks | {f"{first}\n\n{block}" for block in blocks}
    for seed in range(60):
        trace = drawn(text, "code_dumped", seed)
        assert trace and trace.reasoning[slice(*trace.span or ())] in blocks
        assert trace.rubric.dimensions[CODE_DIMENSIONS.index("non_leakage")] == 0
    assert flawed(Prose.read(text, ""), "code_dumped", " \n", random.Random(0)) is None


def drawn(text: str, kind: str, seed: int, problem: str = ""):
    return flawed(Prose.read(text, problem), kind, PROGRAM, random.Random(seed))


def test_edits_are_drawn_and_graded_by_their_place():
    text = PLANS["kth"]
    for kind in WAYS:
        traces = [trace for seed in range(60) if (trace := drawn(text, kind, seed))]
        possible = {apply(text, (edit,)) for edit in edits(text, kind)}
        made = {trace.reasoning for trace in traces}
        assert made <= possible and len(made) >= len(possible) / 2
        for trace in traces:
            assert trace.negative_kind == kind and trace.span
            severity = SEVERITIES[kind]
            changed = next(
                i for i, (a, b) in enumerate(zip(text + "\0", trace.reasoning + "\1", strict=False)) if a != b
            )
            early = changed < len(text) / 2
            assert trace.rubric.dimensions == (severity.early if early else severity.late)


def test_choices_and_steps_both_go_wrong():
    text = "Find the maximum. If n is small, return it. Print the sum plus two. If n is large, stop."
    made = [trace.reasoning for seed in range(300) if (trace := drawn(text, "wrong_algorithm", seed))]
    choices = sum("minimum" in one or "product" in one for one in made)
    assert len(made) == 300 and 0.5 < choices / 300 < 0.7


def test_totals():
    rubric = drawn(PLANS["coins"], "wrong_algorithm", 0)
    assert rubric and rubric.rubric.dimensions == (3, 0, 2, 1, 4)
    assert rubric.rubric.total == pytest.approx(10 / 20 * 0.7)  # the program would be wrong
    claim = drawn(PLANS["coins"], "wrong_complexity", 0)
    assert claim and claim.rubric.dimensions == (4, 3, 3, 3, 4)
    assert claim.rubric.total == pytest.approx(17 / 20)  # the program would be right
    assert ENGINE.severity("wrong_complexity") == claim.rubric


def test_early_flaws_weigh_no_less_than_late_ones():
    for kind, severity in SEVERITIES.items():
        assert sum(severity.early) <= sum(severity.late), kind
        assert max(*severity.early, *severity.late) <= 4


def seed_of(name: str) -> Seed:
    return Seed(name, "own", "code", f"Problem {name}.", f"{PLANS[name]}\n```python\n{PROGRAM}```", PROGRAM, "code")


def test_most_plans_give_four_kinds():
    made = {name: ENGINE.flaws(seed_of(name), text, FLAW_KINDS, 7, random.Random(1)) for name, text in PLANS.items()}
    assert all(len(traces) >= 4 for name, traces in made.items() if name != "halves")
    assert {trace.negative_kind for traces in made.values() for trace in traces} == set(FLAW_KINDS)
    assert len(ENGINE.flaws(seed_of("kth"), PLANS["kth"], FLAW_KINDS, 2, random.Random(1))) == 2
    assert ENGINE.positive(seed_of("kth")) == PLANS["kth"]


_SENTENCES = [
    sentence for text in PLANS.values() for line in text.split("\n") for sentence in line.split(". ") if sentence
]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(_SENTENCES), min_size=1, max_size=8), st.sampled_from(["\n", " "]), st.integers(0, 2**32)
)
def test_outside_its_place_a_flaw_changes_nothing(sentences, gap, seed):
    text = gap.join(sentence.rstrip(".") + "." for sentence in sentences).strip()
    made = flaws(Seed("x", "own", "code", "Count.", text, PROGRAM, "code"), text, FLAW_KINDS, 7, random.Random(seed))
    assert made == flaws(
        Seed("x", "own", "code", "Count.", text, PROGRAM, "code"), text, FLAW_KINDS, 7, random.Random(seed)
    )
    assert len({trace.reasoning for trace in made} | {text}) == len(made) + 1
    assert len({trace.negative_kind for trace in made}) == len(made)
    for trace in made:
        start, end = trace.span or (-1, -1)
        flaw = trace.reasoning
        assert 0 <= start <= end <= len(flaw)
        # What stands before and behind the place is the positive's, but for the white space before an added sentence.
        assert text.startswith(flaw[:start].rstrip()) and text.endswith(flaw[end:])
        assert flaw == flaw.strip() and "  " not in flaw.replace("    ", "") and not flaw.startswith((".", ","))
        assert trace.rubric.dimensions in (SEVERITIES[trace.negative_kind].early, SEVERITIES[trace.negative_kind].late)
        assert 0 < trace.rubric.total < 1
        if trace.negative_kind != "code_dumped":
            assert not [word for word in (" a an ", " an a ", " a a ", "..", " ,", " .") if word in flaw.lower()]
