"""The study's statistics against values worked out by hand."""

import math

import numpy as np
import pytest
import study_stats as stats
from hypothesis import given
from hypothesis import strategies as st


def test_interval_over_seeds():
    """1, 2, 3: the standard error is 1 / sqrt(3), and t with 2 degrees of freedom is 4.3027 at 97.5 %."""
    found = stats.over_seeds([1, 2, 3])
    half = 4.302653 / math.sqrt(3)
    assert (found.value, found.n) == (2, 3)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))
    one = stats.over_seeds([0.5])
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # only +++ and --- are as far from 0
        ([3, 1, -1], 6 / 8),  # of 5, 3, 3, 1 and their negatives all but 1
        ([1, 2, -3], 1.0),
        ([0.1] * 5, 2 / 32),
        ([0.1, 0.1, 0.1, 0.1, -0.1], 12 / 32),  # one minus or none, of either sign: 2 (1 + 5)
        ([0.0, 0.0], 1.0),
        ([0.3], 1.0),
    ],
)
def test_sign_flips(differences, p):
    assert stats.sign_flips(differences) == pytest.approx(p)
    assert stats.sign_flips([-d for d in differences]) == pytest.approx(p)


def test_more_signs_than_can_be_tried():
    with pytest.raises(ValueError, match="17 pairs: all signs are tried of at most 16"):
        stats.sign_flips(np.ones(17))


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8), st.floats(0.5, 8, width=32))
def test_p_is_a_share_of_signs_whatever_the_scale(differences, scale):
    p = stats.sign_flips(differences)
    assert 2 / 2 ** len(differences) <= p <= 1
    assert (p * 2 ** len(differences)) % 1 == 0
    assert stats.sign_flips(np.array(differences) * scale) == p


def test_bootstrap_draws_seeds_and_problems():
    """Two values that differ in one direction: a quarter of draws is all of one, a quarter all of the other."""
    of_seeds = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert stats.over_seeds_and_problems(of_seeds) == (0, 1)
    assert stats.over_seeds_and_problems(np.array([[0.0, 1.0]] * 6)) == (0, 1)
    low, high = stats.over_seeds_and_problems(np.full((3, 4), 0.25))
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_bootstrap_is_as_wide_as_many_problems_allow():
    """400 problems of spread 1 on one seed: 1.96 / 20 on each side of the mean."""
    d = np.tile([-1.0, 1.0], 200)[None] + 0.5
    low, high = stats.over_seeds_and_problems(d)
    assert low == pytest.approx(0.5 - 0.098, abs=0.01) and high == pytest.approx(0.5 + 0.098, abs=0.01)


def test_when_a_level_is_reached():
    curve = [0.0, 0.8, 1.0, 1.0, 0.0]
    assert stats.reached(curve, 0.9, 1) == 3
    assert stats.reached(curve, 0.9, 2) == 3  # (0.8 + 1.0) / 2
    assert stats.reached(curve, 0.9, 3) == 4  # (0.8 + 1.0 + 1.0) / 3
    assert stats.reached(curve, 0.9, 4) is None
    assert stats.reached([1.0, 1.0], 0.9, 3) is None
    assert stats.reached([0.9] * 5, 0.9, 5) == 5


def test_censored_times():
    assert stats.summarize_times([300, None, 100]) == stats.Times(300, 100, None, 2, 3)
    assert stats.summarize_times([100, 200, 300, 500]) == stats.Times(250, 100, 500, 4, 4)
    assert stats.summarize_times([100, None]) == stats.Times(None, 100, None, 1, 2)
    assert stats.summarize_times([None]) == stats.Times(None, None, None, 0, 1)


def test_who_was_sooner():
    assert stats.sooner([1, 2, None, 5, None], [2, None, None, 5, 9]) == (2, 1, 1.0)
    assert stats.sooner([1, 2, 3, 4, 5], [2, 3, 4, 5, None]) == (5, 0, pytest.approx(2 / 32))
    assert stats.sooner([None], [None]) == (0, 0, 1.0)
