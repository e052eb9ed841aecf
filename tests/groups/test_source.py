import numpy as np
import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.groups.source import DialGroups, ImperfectDial
from tracelift_jax.tasks.dial import DialTask, check_trace, parse_trace


def test_the_asked_share_of_training_traces_is_flawed():
    true, imperfect = DialTask().problems("train"), ImperfectDial(flawed=0.35).problems("train")
    faithful = [check_trace(true[i], imperfect[i].reasoning).faithful for i in range(4000)]
    # 4000 draws: the standard deviation of the share is 0.0075.
    assert abs(1 - np.mean(faithful) - 0.35) < 0.03
    for i, ok in enumerate(faithful):
        assert imperfect[i].text == true[i].text
        if ok:
            assert imperfect[i] == true[i]


def test_a_flawed_problems_answer_is_what_its_trace_ends_with():
    imperfect = ImperfectDial(flawed=1.0).problems("train")
    for problem in imperfect[:200]:
        steps = parse_trace(problem.reasoning)
        assert problem.answer == (str(steps[-1].result) if steps else problem.reasoning.removeprefix("= "))


def test_true_answers_stand_behind_the_same_flawed_traces():
    followed, doubted = (ImperfectDial(flawed=0.5, answers=a).problems("train")[:200] for a in ("followed", "true"))
    assert [problem.reasoning for problem in doubted] == [problem.reasoning for problem in followed]
    assert [problem.answer for problem in doubted] == [problem.answer for problem in DialTask().problems("train")[:200]]
    assert sum(a.answer != b.answer for a, b in zip(followed, doubted, strict=True)) > 50


def test_held_out_problems_are_true():
    assert ImperfectDial(flawed=1.0).problems("test")[:50] == DialTask().problems("test")[:50]


def test_nothing_flawed_is_the_task_itself():
    assert ImperfectDial(flawed=0.0).problems("train")[:50] == DialTask().problems("train")[:50]


def test_problems_and_groups_are_the_same_on_every_call():
    assert ImperfectDial().problems("train")[7] == ImperfectDial().problems("train")[7]
    assert ImperfectDial(seed=1).problems("train")[:40] != ImperfectDial().problems("train")[:40]
    groups = DialGroups(negatives=5).groups("train")
    assert groups[3] == DialGroups(negatives=5).groups("train")[3]
    assert len(groups[3].negatives) == 5 and len({t.negative_kind for t in groups[3].negatives}) == 5


@pytest.mark.parametrize("make", [lambda: ImperfectDial(flawed=1.5), lambda: DialGroups(negatives=0)])
def test_wrong_values_are_one_line(make):
    with pytest.raises(UserError) as error:
        make()
    assert "\n" not in str(error.value)
