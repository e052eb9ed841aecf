import numpy as np
import pytest
from tiny import TASK, make_roles, write_models

from tracelift_jax.errors import UserError
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.evaluate import Evaluation, wilson
from tracelift_jax.train.roles import load_roles


def test_wilson_by_hand():
    # z = 1.96, 8 of 10: centre (0.8 + 0.19208) / 1.38416 = 0.71674,
    # half 1.96 sqrt(0.016 + 0.009604) / 1.38416 = 0.22658
    np.testing.assert_allclose(wilson(8, 10), (0.49016, 0.94332), atol=2e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(0, 512)
    assert low == 0 and 0.007 < high < 0.008


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (("greedy",), r"Evaluation.modes must have 'sampled', got \('greedy',\)"),
        (("sampled", "sampled"), r"Evaluation.modes must differ, got \('sampled', 'sampled'\)"),
        (("sampled", "nightly"), "Evaluation.modes"),
    ],
)
def test_wrong_modes_are_refused(modes, message):
    with pytest.raises(UserError, match=message):
        Evaluation(modes=modes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.slow
def test_problems_that_do_not_fit_are_reported_and_rates_are_of_the_rest(folder):
    asked = 12
    roomy = load_roles(make_roles(folder))
    lengths = [len(roomy.pieces.problem("planner", p)) for p in TASK.problems("test")[:asked]]
    room = sorted(lengths)[len(lengths) // 2]
    loaded = load_roles(make_roles(folder, prompt_tokens=room))
    trainable, frozen = loaded.trainable(0)
    evaluate = loaded.evaluator(Evaluation(problems=asked, batch_size=4))
    found = evaluate(Weights({**frozen["planner"], **trainable}, frozen["executor"], loaded.reward_model))
    fits = sum(length <= room for length in lengths)
    assert fits < len(lengths)
    for mode in ("sampled", "greedy"):
        assert found[f"eval/{mode}/problems"] == fits
        assert found[f"eval/{mode}/left_out"] == len(lengths) - fits
        right = found[f"eval/{mode}/accuracy"] * fits
        assert right == pytest.approx(round(right))  # a whole number of problems, the fillers not counted
        ends = found[f"eval/{mode}/accuracy_low"], found[f"eval/{mode}/accuracy_high"]
        np.testing.assert_allclose(ends, wilson(round(right), fits))
        # Right answers are either faithful or right for the wrong reason.
        assert found[f"eval/{mode}/wrong_reason"] <= found[f"eval/{mode}/accuracy"]
    one = loaded.evaluator(Evaluation(problems=asked, batch_size=4, modes=("sampled",)))
    alone = one(Weights({**frozen["planner"], **trainable}, frozen["executor"], loaded.reward_model))
    assert alone == {name: value for name, value in found.items() if name.startswith("eval/sampled/")}
