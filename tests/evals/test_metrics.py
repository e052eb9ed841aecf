"""Rates, differences and their intervals: arithmetic by hand, and how often intervals hold what they should."""

import dataclasses
import math

import numpy as np
import pytest

from tracelift_jax.evals.metrics import (
    Outcomes,
    bootstrap,
    difference,
    holm,
    lengths,
    mcnemar,
    mean,
    rate,
    summary,
    weighted,
)
from tracelift_jax.rollout.evaluate import wilson

NAN = float("nan")


def ends(value) -> tuple[float, float]:
    return value["low"], value["high"]


def outcomes(problem, right, judged, problems=None, **columns) -> Outcomes:
    """Traces that are well formed and leak nothing, unless `columns` say otherwise."""
    n = len(problem)
    plain = {
        "answers": judged,
        "failed": [0] * n,
        "compared": judged,
        "disagreed": [0] * n,
        "well_formed": [True] * n,
        "leak": [False] * n,
        "cut": [False] * n,
        "faithful": [NAN] * n,
        "score": [NAN] * n,
        "likelihood": [NAN] * n,
        "tokens": [0] * n,
        "answer_tokens": [NAN] * n,
    }
    arrays = {name: np.array(value) for name, value in (plain | columns).items()}
    count = problems or max(problem) + 1
    return Outcomes(np.array(problem), count, np.array(right), np.array(judged), **arrays)


def test_a_mean_by_hand():
    # m = 0.5, squared deviations 0.09 + 0.01 + 0.16 = 0.26, se = sqrt(0.26 / 6) = 0.208167, t(2) = 4.302653:
    # 0.5 +- 0.895669
    found = mean(np.array([0.2, NAN, 0.4, 0.9]), -10, 10)
    assert (found["value"], found["n"]) == (pytest.approx(0.5), 3)
    np.testing.assert_allclose(ends(found), (-0.395669, 1.395669), atol=2e-6)
    assert ends(mean(np.array([0.2, 0.4, 0.9]), 0.0)) == (0.0, 1.0)
    assert mean(np.array([0.3])) == {"value": 0.3, "low": None, "high": None, "n": 1}
    assert mean(np.array([NAN])) == {"value": None, "low": None, "high": None, "n": 0}


def test_a_rate_of_problems_tried_once_has_wilsons_interval():
    found = rate(np.array([1.0] * 8 + [0.0] * 2), 10)
    assert found["value"] == pytest.approx(0.8)
    np.testing.assert_allclose(ends(found), wilson(8, 10), rtol=1e-12)


def test_a_rate_of_problems_tried_twice_by_hand():
    # Means 1, 1, 0, 0.5: m = 0.625, v = (0.140625 * 2 + 0.390625 + 0.015625) / 16 = 0.04296875, m (1 - m) = 0.234375,
    # so 5.454545 trials. Centre (0.625 + 3.8416 / 10.90909) / 1.704293 = 0.573345,
    # half 1.96 / 1.704293 * sqrt(0.04296875 + 3.8416 / (4 * 29.752066)) = 0.315474
    found = rate(np.array([1.0, 1.0, 0.0, 0.5]), 8)
    np.testing.assert_allclose(ends(found), (0.257871, 0.888819), atol=3e-6)


def test_tries_of_a_problem_count_for_what_they_tell():
    # Four tries of each that always agree tell no more than one.
    alike = rate(np.array([1.0, 1.0, 0.0, 1.0]), 16)
    np.testing.assert_allclose(ends(alike), wilson(3, 4), rtol=1e-12)
    # Two that always disagree: the mean does not vary between problems, and yet there were only 6 tries.
    np.testing.assert_allclose(ends(rate(np.array([0.5] * 3), 6)), wilson(3, 6), rtol=1e-12)
    # All right: as sure as so many problems can make it.
    low, high = ends(rate(np.ones(20), 80))
    assert (low, high) == (pytest.approx(wilson(20, 20)[0]), 1.0)
    assert rate(np.array([NAN, NAN]), 4)["value"] is None
    assert rate(np.array([NAN, 1.0]), 1)["n"] == 1


def test_a_paired_difference_has_agresti_and_mins_interval():
    # Of 10 problems 3 gained and 1 lost: 0.2 around 2 / 12 = 0.166667,
    # se^2 = (1 + 4 - 12 * 0.0277778) / 144 = 0.0324074, 1.959964 * 0.180021 = 0.352834
    found = difference(np.array([1.0] * 3 + [-1.0] + [0.0] * 6 + [NAN]))
    assert (found["value"], found["n"]) == (pytest.approx(0.2), 10)
    np.testing.assert_allclose(ends(found), (-0.186167, 0.519501), atol=2e-6)
    # 98 problems that came out alike: 1.959964 / 100, not 0.
    np.testing.assert_allclose(ends(difference(np.zeros(98))), (-0.01959964, 0.01959964), atol=1e-8)
    low, high = ends(difference(np.ones(50)))
    assert low > 0.88 and high == 1.0


def test_mcnemar_by_hand():
    a = np.array([1, 0, 0, 0, 0, 0, 1, 1, NAN, 0])
    b = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, NAN])
    # 1 against 5: 2 * (1 + 6) / 2^6
    assert mcnemar(a, b) == {"only_a": 1, "only_b": 5, "p": pytest.approx(0.21875), "n": 8}
    assert mcnemar(b, a)["p"] == pytest.approx(0.21875)
    assert mcnemar(a, a) == {"only_a": 0, "only_b": 0, "p": 1.0, "n": 9}


def test_holm_by_hand():
    # 0.01 * 3, then 0.03 * 2, then 0.04 * 1, which is below the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_bootstrap_is_of_whole_problems_and_repeats_itself():
    rng = np.random.default_rng(3)
    x = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0, 1.0], size=300)
    found = bootstrap(np.append(x, NAN), seed=0)
    assert found == bootstrap(x, seed=0)
    fine = rng.uniform(size=50)
    assert bootstrap(fine, seed=0) != bootstrap(fine, seed=1)
    assert found["value"] == pytest.approx(x.mean())
    # Rows drawn one by one, by another generator.
    rows = np.random.default_rng(11).integers(0, len(x), size=(20_000, len(x)))
    np.testing.assert_allclose(ends(found), np.quantile(x[rows].mean(1), [0.025, 0.975]), atol=0.008)
    half = 1.96 * x.std() / math.sqrt(len(x))
    np.testing.assert_allclose(ends(found), (x.mean() - half, x.mean() + half), atol=0.01)


def test_intervals_of_rates_hold_the_truth_as_often_as_they_say():
    """400 evaluations of 40 problems, tried 8 times each, whose difficulty varies a lot: mean 0.7."""
    rng = np.random.default_rng(0)
    truth, held, naive = 0.7, 0, 0
    for _ in range(400):
        tries = rng.binomial(8, rng.beta(0.7, 0.3, size=40))
        low, high = ends(rate(tries / 8, 320))
        held += low <= truth <= high
        low, high = wilson(float(tries.sum()), 320)
        naive += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.98
    assert naive / 400 < 0.8  # what forgetting about problems would claim


def test_lengths_by_hand():
    assert lengths(np.array([4, 1, 3, 2])) == {"mean": 2.5, "p50": 2.5, "p95": pytest.approx(3.85)}
    assert lengths(np.array([])) == {"mean": None, "p50": None, "p95": None}


def test_weighted_by_hand():
    assert weighted(np.array([0.2, 0.8, NAN]), np.array([1.0, 3.0, 5.0])) == pytest.approx(0.65)
    assert weighted(np.array([0.2]), np.array([0.0])) is None


@pytest.fixture
def found() -> Outcomes:
    """Two problems of two traces with two answers each; one answer of the last trace never came."""
    return outcomes(
        [0, 0, 1, 1],
        [2, 1, 0, 1],
        [2, 2, 2, 1],
        failed=[0, 0, 0, 1],
        answers=[2, 2, 2, 2],
        compared=[2, 2, 2, 1],
        disagreed=[0, 1, 0, 0],
        well_formed=[True, True, False, True],
        leak=[True, False, False, False],
        cut=[False, False, True, False],
        faithful=[1.0, 0.0, 0.0, 0.0],
        score=[0.9, 0.5, 0.1, 0.3],
        likelihood=[0.8, 0.6, 0.0, 0.4],
        tokens=[10, 20, 30, 40],
        answer_tokens=[2.0, 3.0, NAN, 4.0],
    )


def test_a_summary_by_hand(found):
    alone = outcomes([0, 1], [1, 0], [4, 4], likelihood=[0.3, 0.1])
    got = summary(found, alone)
    counts = {"problems": 2, "traces": 4, "answers": 8, "failed": 1, "compared": 7, "disagreed": 1, "cut": 1}
    assert {name: got[name] for name in counts} == counts
    # Problem 0: 3 of 4; problem 1: 1 of 3.
    assert got["accuracy"]["value"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert got["likelihood"]["value"] == pytest.approx((0.7 + 0.2) / 2)
    # Alone 1 of 4 and 0 of 4.
    assert got["uplift"]["value"] == pytest.approx(((3 / 4 - 1 / 4) + 1 / 3) / 2)
    assert got["uplift_likelihood"]["value"] == pytest.approx(((0.7 - 0.3) + (0.2 - 0.1)) / 2)
    assert got["well_formed"]["value"] == pytest.approx(0.75)
    assert got["leak"]["value"] == pytest.approx(0.25)
    assert got["faithful"]["value"] == pytest.approx(0.25)
    # Right by unfaithful reasoning: 1 of 4 answers, and 1 of 3.
    assert got["wrong_reason"]["value"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert got["score"]["value"] == pytest.approx((0.7 + 0.2) / 2)
    # 2 right answers behind 0.9, 1 behind 0.5, 1 behind 0.3; 1 wrong one behind 0.5, 2 behind 0.1.
    assert got["score_right"] == pytest.approx((2 * 0.9 + 0.5 + 0.3) / 4)
    assert got["score_wrong"] == pytest.approx((0.5 + 2 * 0.1) / 3)
    assert got["tokens"] == {"mean": 25.0, "p50": 25.0, "p95": pytest.approx(38.5)}
    assert got["answer_tokens"]["mean"] == pytest.approx(3.0)


def test_a_summary_knows_how_many_tries_there_were():
    """Two problems of two traces with three answers, of which half are right everywhere."""
    found = outcomes([0, 0, 1, 1], [3, 0, 2, 1], [3, 3, 3, 3], leak=[True, False, False, True])
    got = summary(found, None)
    np.testing.assert_allclose(ends(got["accuracy"]), wilson(6, 12), rtol=1e-12)
    np.testing.assert_allclose(ends(got["leak"]), wilson(2, 4), rtol=1e-12)


def test_pass_at_k_by_hand():
    # Answers of a problem count together, whatever traces they are behind: 3 right of 6, 0 of 6, 1 of 2, and 1 of 1.
    found = outcomes([0, 0, 1, 1, 2, 3], [3, 0, 0, 0, 1, 1], [3, 3, 3, 3, 2, 1])
    got = summary(found, None, [1, 2, 3])["pass_at"]
    assert {k: value["n"] for k, value in got.items()} == {"1": 4, "2": 3, "3": 2}
    assert got["1"]["value"] == pytest.approx((1 / 2 + 0 + 1 / 2 + 1) / 4)
    # Of 15 pairs from 6 answers 3 hold none of the 3 right ones; the pair of problem 2 holds one.
    assert got["2"]["value"] == pytest.approx((12 / 15 + 0 + 1) / 3)
    # Of 20 triples 1.
    assert got["3"]["value"] == pytest.approx((19 / 20 + 0) / 2)
    assert got["1"] == summary(found, None)["accuracy"]
    assert summary(found, None)["pass_at"] == {}


def test_an_interval_of_pass_at_k_is_that_of_a_rate():
    # Six problems of 4 answers, 2 right: pass@2 is 5/6 in each, as sure as 6 problems of 2 tries each make it.
    alike = summary(outcomes(range(6), [2] * 6, [4] * 6), None, [2])["pass_at"]["2"]
    np.testing.assert_allclose(ends(alike), wilson(10, 12), rtol=1e-12)
    # Values 5/6, 5/6, 1, 1/2 and 0: as a rate has them.
    found = outcomes(range(5), [2, 2, 4, 1, 0], [4] * 5)
    told = summary(found, None, [2])["pass_at"]["2"]
    assert told == rate(np.array([5 / 6, 5 / 6, 1, 1 / 2, 0]), 10)


def test_what_is_not_known_is_none(found):
    plain = dataclasses.replace(found, **{name: np.full(4, NAN) for name in ("faithful", "score", "likelihood")})
    got = summary(plain, None)
    for name in ("faithful", "wrong_reason", "score", "likelihood", "uplift", "uplift_likelihood"):
        assert got[name] == {"value": None, "low": None, "high": None, "n": 0}, name
    assert got["score_right"] is None


def test_a_problem_without_a_judged_answer_is_in_no_rate():
    lost = outcomes([0, 1], [1, 0], [1, 0], failed=[0, 1], answers=[1, 1])
    assert np.isnan(lost.accuracy[1])
    got = summary(lost, outcomes([0, 1], [0, 1], [1, 1]))
    assert got["accuracy"]["value"] == 1.0 and got["accuracy"]["n"] == 1
    assert got["uplift"]["n"] == 1
