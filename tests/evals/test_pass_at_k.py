"""pass@k against every draw, one by one."""

import itertools
import math

import numpy as np
import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.evals.pass_at_k import pass_at_k, passes_at_k


@pytest.mark.parametrize("samples", range(1, 8))
def test_every_draw_counted(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


@pytest.mark.parametrize(
    ("samples", "right", "k", "value"),
    [(3, 1, 1, 1 / 3), (4, 2, 2, 5 / 6), (10, 3, 1, 0.3), (10, 0, 10, 0.0), (10, 1, 10, 1.0), (5, 3, 3, 1.0)],
)
def test_by_hand(samples, right, k, value):
    assert pass_at_k(samples, right, k) == pytest.approx(value, abs=1e-15)


def test_it_is_unbiased():
    # Programs right with chance 0.3: over all outcomes of 5 the estimate has the mean 1 - 0.7^3.
    chance = [math.comb(5, right) * 0.3**right * 0.7 ** (5 - right) for right in range(6)]
    mean = sum(p * pass_at_k(5, right, 3) for right, p in enumerate(chance))
    assert mean == pytest.approx(1 - 0.7**3, abs=1e-12)


def test_many_samples_are_exact():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, abs=1e-15)
    assert pass_at_k(10_000, 9_999, 1) == 0.9999


def test_of_each_problem():
    found = passes_at_k(np.array([4, 2, 1, 0]), np.array([2, 0, 1, 0]), 2)
    np.testing.assert_allclose(found, [5 / 6, 0.0, math.nan, math.nan], atol=1e-15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((3, 1, 4), "pass@4 needs k from 1 to the number of samples, which is 3; draw more, or lower k"),
        ((3, 1, 0), "pass@0 needs k from 1"),
        ((3, 4, 1), "pass@1: 4 right of 3 samples"),
        ((3, -1, 1), "pass@1: -1 right of 3 samples"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}"):
        pass_at_k(*values)
