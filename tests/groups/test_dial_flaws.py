"""Flawed traces really have the flaw they are named for; rubrics and groups keep to the schema."""

import collections
import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.groups import dial_flaws, schema
from tracelift_jax.groups.dial_flaws import FLAW_KINDS, dial_group, flawed_trace
from tracelift_jax.groups.schema import Group, Rubric, Trace
from tracelift_jax.tasks.dial import DialProblem, DialTask, Op, check_trace, split_of

TASK = DialTask()
SHORT = DialTask(min_ops=1, max_ops=2)
problems = st.builds(
    lambda task, index: task.problems("train")[index],
    st.sampled_from([TASK, SHORT]),
    st.integers(0, len(TASK.problems("train")) - 1),
)
seeds = st.integers(0, 2**32)

# "The dial shows 7. Ann turns it up 5. Cal doubles it. Eve turns it down 1."
WORKED = DialProblem(
    problem_id="worked",
    text="The dial shows 7. Ann turns it up 5. Cal doubles it. Eve turns it down 1. Where is the dial now?",
    answer="3",
    reasoning="7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 1 = 3",
    start=7,
    ops=(Op("+", 5), Op("*", 2), Op("-", 1)),
)


def classify(problem: DialProblem, text: str) -> str:
    """Names the one flaw of a trace from its words, without the package's oracle; fails where there are two."""
    wanted = [f"{op.symbol} {op.operand}" for op in problem.ops]
    if text.startswith("= "):
        assert len(text) == 3
        return "answer_only"
    rows = [step.split(" ") for step in text.split(" ; ")]
    assert all(len(row) == 5 and row[3] == "=" for row in rows)
    done = [f"{row[1]} {row[2]}" for row in rows]
    values = [str(problem.start), *(row[4] for row in rows)]
    broken = [i for i, row in enumerate(rows) if row[0] != values[i]]
    miscalculated = [i for i, row in enumerate(rows) if str(eval(f"({' '.join(row[:3])}) % 10")) != row[4]]
    if len(done) != len(wanted):
        assert not broken and not miscalculated
        longer, shorter = (done, wanted) if len(done) > len(wanted) else (wanted, done)
        assert any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
        return "extra_step" if longer is done else "dropped_step"
    changed = [i for i, (one, other) in enumerate(zip(done, wanted, strict=True)) if one != other]
    if changed:
        assert len(changed) == 1 and not broken and not miscalculated
        same_symbol, same_operand = (done[changed[0]][i] == wanted[changed[0]][i] for i in (0, 2))
        assert same_symbol != same_operand
        return "wrong_operand" if same_symbol else "wrong_operation"
    if miscalculated:
        assert len(miscalculated) == 1 and broken in ([], [miscalculated[0] + 1])
        return "wrong_calculation"
    assert len(broken) == 1
    return "broken_link"


@settings(max_examples=200, deadline=None)
@given(problems, seeds, st.data())
def test_each_kind_has_its_flaw_and_no_other(problem, seed, data):
    kind = data.draw(st.sampled_from(dial_flaws.kinds_for(problem)))
    trace = flawed_trace(problem, kind, random.Random(seed))
    assert trace.negative_kind == kind
    assert classify(problem, trace.reasoning) == kind
    check = check_trace(problem, trace.reasoning)
    assert not check.faithful
    assert check.well_formed == (kind != "answer_only")


@settings(max_examples=200, deadline=None)
@given(problems, seeds, st.data())
def test_flawed_steps_stay_in_the_world(problem, seed, data):
    kind = data.draw(st.sampled_from([k for k in dial_flaws.kinds_for(problem) if k != "answer_only"]))
    for step in flawed_trace(problem, kind, random.Random(seed)).reasoning.split(" ; "):
        _, symbol, operand, _, _ = step.split(" ")
        assert operand in ("23" if symbol == "*" else "123456789")


@settings(max_examples=200, deadline=None)
@given(problems, seeds, st.data())
def test_grades(problem, seed, data):
    kind = data.draw(st.sampled_from(dial_flaws.kinds_for(problem)))
    trace = flawed_trace(problem, kind, random.Random(seed))
    right = trace.reasoning[-1] == problem.answer
    labels = trace.rubric.dimensions
    assert len(labels) == len(schema.MATH_DIMENSIONS) and all(label in range(5) for label in labels)
    mean = sum(labels) / 20
    assert trace.rubric.total == pytest.approx(mean * (1 if right else 0.7), abs=1e-4)
    assert 0 < trace.rubric.total <= 0.75 < dial_flaws.POSITIVE.total
    hurt = {
        "wrong_calculation": "calculation_correctness",
        "wrong_operation": "problem_understanding",
        "wrong_operand": "problem_understanding",
        "dropped_step": "solution_strategy",
        "extra_step": "solution_strategy",
        "broken_link": "step_coherence",
        "answer_only": "step_coherence",
    }[kind]
    assert labels[schema.MATH_DIMENSIONS.index(hurt)] <= 2
    assert labels[4] <= (2 if right else 1)  # answer_support


@pytest.mark.parametrize(
    ("kind", "reasoning", "labels", "total"),
    [
        # 14 of 20, wrong answer: 0.7 * 0.7
        ("wrong_calculation", "7 + 5 = 2 ; 2 * 2 = 6 ; 6 - 1 = 5", (4, 4, 4, 1, 1), 0.49),
        # 4 + 4 + 2 + 1 + 2 = 13 of 20, right answer
        ("wrong_calculation", "7 + 5 = 2 ; 2 * 2 = 6 ; 4 - 1 = 3", (4, 4, 2, 1, 2), 0.65),
        ("wrong_calculation", "7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 1 = 2", (4, 4, 4, 1, 1), 0.49),
        # 2 + 2 = 2 * 2: 13 of 20, right answer by luck
        ("wrong_operation", "7 + 5 = 2 ; 2 + 2 = 4 ; 4 - 1 = 3", (1, 2, 4, 4, 2), 0.65),
        ("broken_link", "7 + 5 = 2 ; 8 * 2 = 6 ; 6 - 1 = 5", (4, 3, 1, 3, 1), 0.42),  # 12 of 20, times 0.7
        ("answer_only", "= 3", (1, 0, 0, 0, 1), 0.1),
        ("answer_only", "= 4", (1, 0, 0, 0, 0), 0.035),
    ],
)
def test_grades_worked_by_hand(kind, reasoning, labels, total):
    assert classify(WORKED, reasoning) == kind
    assert dial_flaws.grade(WORKED, kind, reasoning) == Rubric(labels, total)


def test_every_flaw_varies():
    """Each kind falls on every step, ends right and wrong, and a slip is carried on about as often as not."""
    rng = random.Random(0)
    drawn = {kind: [flawed_trace(WORKED, kind, rng).reasoning for _ in range(400)] for kind in FLAW_KINDS}
    for kind, texts in drawn.items():
        first = {check_trace(WORKED, text).first_wrong_step for text in texts}
        allowed = {"broken_link": {1, 2}, "answer_only": {-1}, "extra_step": {0, 1, 2, 3}}
        assert first == allowed.get(kind, {0, 1, 2}), kind
    right = {kind: sum(text[-1] == "3" for text in texts) / 400 for kind, texts in drawn.items()}
    assert 0.4 < right["answer_only"] < 0.6
    assert 0.25 < right["wrong_calculation"] < 0.45  # not carried on and not the last step: 1/2 * 2/3
    # By luck: 2 + 2 = 2 * 2, and 7 * 2 - 1 = 3 without the first step.
    assert all(0 < right[kind] < 0.5 for kind in ("wrong_operation", "dropped_step", "extra_step"))


def test_short_problems_have_fewer_kinds():
    one = next(p for p in SHORT.problems("train") if len(p.ops) == 1)
    assert set(FLAW_KINDS) - set(dial_flaws.kinds_for(one)) == {"broken_link", "dropped_step"}
    with pytest.raises(UserError, match="no flaw 'dropped_step' for dial/1-2-2/train/0/"):
        flawed_trace(one, "dropped_step", random.Random(0))
    with pytest.raises(UserError, match="no flaw 'typo'"):
        flawed_trace(WORKED, "typo", random.Random(0))


# --- Groups -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(problems, seeds, st.integers(1, 5))
def test_groups(problem, seed, negatives):
    group = dial_group(problem, seed, negatives)
    assert group == dial_group(problem, seed, negatives)
    assert (group.problem_id, group.problem, group.reference_solution) == (
        problem.problem_id,
        problem.text,
        problem.answer,
    )
    assert group.positives == (Trace(problem.reasoning, Rubric((4, 4, 4, 4, 4), 1.0)),)
    kinds = [trace.negative_kind for trace in group.negatives]
    assert len(kinds) == len(set(kinds)) == negatives
    assert len({trace.reasoning for trace in (*group.positives, *group.negatives)}) == negatives + 1


def test_group_depends_on_seed_and_problem_only():
    first, second = TASK.problems("train")[:2]
    assert dial_group(first, 0) != dial_group(first, 1)
    kinds = [[t.negative_kind for t in dial_group(p, 0).negatives] for p in (first, second)]
    assert kinds[0] != kinds[1]
    # Fixed for good, like the problems themselves.
    assert [t.reasoning for t in dial_group(WORKED, 0).negatives] == [
        "7 + 5 = 2 ; 2 * 2 = 4",
        "7 + 5 = 8 ; 2 * 2 = 4 ; 4 - 1 = 3",
        "7 + 1 = 8 ; 8 * 2 = 6 ; 6 - 1 = 5",
        "= 7",
    ]


def test_kinds_are_drawn_equally():
    counts = collections.Counter(
        t.negative_kind for p in TASK.problems("train")[:1400] for t in dial_group(p, 0).negatives
    )
    assert all(720 < counts[kind] < 880 for kind in FLAW_KINDS)  # 800 each; the deviation of a fair draw is 18.5


@pytest.mark.parametrize("negatives", [0, 8])
def test_wrong_number_of_negatives(negatives):
    with pytest.raises(UserError, match=rf"negatives = {negatives}: a dial problem like worked has 1 to 7"):
        dial_group(WORKED, 0, negatives)


def test_test_problems_make_groups_too():
    problem = TASK.problems("test")[0]
    assert split_of(problem.start, problem.ops) == "test"
    assert dial_group(problem, 0).problem_id == problem.problem_id


# --- The schema -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(problems, seeds)
def test_json_round_trip(problem, seed):
    group = dial_group(problem, seed)
    assert Group.from_json(json.loads(json.dumps(group.to_json()))) == group


def test_json_layout():
    data = dial_group(WORKED, 0).to_json()
    assert list(data) == [
        *("problem_id", "source", "task_type", "problem", "reference_solution"),
        *("positive_pool", "negative_bank", "metadata"),
    ]
    assert data["positive_pool"] == [
        {"reasoning": WORKED.reasoning, "rubric": {**dict.fromkeys(schema.MATH_DIMENSIONS, 4), "total": 1.0}}
    ]
    assert set(data["negative_bank"][0]) == {"reasoning", "negative_kind", "rubric"}


def test_code_groups_as_released():
    """Their task type lies in the metadata; fields that we do not know are ignored."""
    rubric = {**dict.fromkeys(schema.CODE_DIMENSIONS, 3), "total": 0.7}
    data = {
        "problem_id": "code_000001",
        "source": "apps",
        "problem": "Add two numbers.",
        "reference_solution": "print(1)",
        "positive_pool": [{"reasoning": "Read, add.", "label": "positive", "rubric": rubric}],
        "negative_bank": [{"reasoning": "Read.", "negative_kind": "vague", "negative_index": 0, "rubric": rubric}],
        "metadata": {"task_type": "stdin"},
    }
    group = Group.from_json(data)
    assert (group.task_type, group.rubric_name) == ("stdin", "code")
    assert group.negatives == (Trace("Read.", Rubric((3, 3, 3, 3, 3), 0.7), "vague"),)
    assert Group.from_json(group.to_json()) == group


def edited(path: tuple, value=...) -> dict:
    """A valid group's JSON with the field at `path` replaced, or deleted."""
    data = json.loads(json.dumps(dial_group(WORKED, 0).to_json()))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edited(("problem_id",)), "field problem_id is missing"),
        (edited(("task_type",)), "field task_type is missing"),
        (edited(("negative_bank",)), "field negative_bank is missing"),
        (edited(("problem",), 3), "field problem must be a string, not int"),
        (edited(("positive_pool",), {}), "field positive_pool must be a list, not dict"),
        (edited(("positive_pool", 0, "reasoning")), "field positive_pool[0].reasoning is missing"),
        (edited(("positive_pool", 0, "rubric"), []), "field positive_pool[0].rubric must be an object, not list"),
        (edited(("negative_bank", 2), "text"), "negative_bank[2] must be an object, not str"),
        (edited(("negative_bank", 1, "negative_kind")), "field negative_bank[1].negative_kind is missing"),
        (edited(("negative_bank", 3, "rubric", "total")), "field negative_bank[3].rubric.total is missing"),
        (
            edited(("negative_bank", 3, "rubric", "step_coherence"), 5),
            "field negative_bank[3].rubric: rubric label 5 must be a whole number 0..4",
        ),
        (
            edited(("positive_pool", 0, "rubric", "total"), float("nan")),
            "field positive_pool[0].rubric: rubric total nan must be a number in [0, 1]",
        ),
        ([], "a group must be a JSON object, not list"),
    ],
)
def test_wrong_groups_are_one_line(data, message):
    with pytest.raises(UserError) as caught:
        Group.from_json(data)
    assert str(caught.value) == message


def test_whole_labels_may_be_written_as_floats():
    group = Group.from_json(edited(("positive_pool", 0, "rubric", "step_coherence"), 4.0))
    assert group == dial_group(WORKED, 0)


@pytest.mark.parametrize("labels", [(4, 4, 4, 4), (4, 4, 4, 4, True), (4, 4, 4, 4, 2.5), (-1, 4, 4, 4, 4)])
def test_wrong_rubrics(labels):
    with pytest.raises(UserError):
        Rubric(labels, 0.5)


def test_rubrics_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dial_flaws.POSITIVE.total = 0.0  # type: ignore[misc]  # that it is refused is what is tested
