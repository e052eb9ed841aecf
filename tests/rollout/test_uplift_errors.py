"""Errors of estimates of uplift: by hand, against what is known of binomial draws, and on tiny roles from texts."""

from functools import partial

import jax
import numpy as np
import pytest
from tiny import first_batch, make_roles, write_models

from tracelift_jax.config import RewardConfig
from tracelift_jax.rollout.given import answer_given
from tracelift_jax.rollout.reward import OK
from tracelift_jax.rollout.uplift_errors import CHUNK, Truth, count_right, errors, is_canonical, make_truth
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.roles import load_roles


def truth_of(value, noise=0.0, base_noise=0.0, canonical=True) -> Truth:
    value = np.asarray(value, float)
    noise = np.broadcast_to(np.asarray(noise, float), value.shape)
    base = np.full(len(value), base_noise)
    return Truth(value, noise, base, np.broadcast_to(np.asarray(canonical), value.shape), np.zeros(len(value)))


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- by hand


def test_the_truth_by_hand():
    # Of 4 draws behind each of two traces, 1 and 4 were right, the last of them not all canonical; without, 2 of 8.
    counts, alone = np.array([[[[1, 4]]], [[[1, 3]]]]), np.array([[2], [2]])
    truth = make_truth(counts, 4, alone, 8)
    close(truth.value, [[[0.25 - 0.25, 1 - 0.25]]])
    close(truth.noise, [[[0.25 * 0.75 / 3, 0]]])
    close(truth.base_noise, [0.25 * 0.75 / 7])
    close(truth.without, [0.25])
    assert truth.canonical.tolist() == [[[True, False]]]
    # One answer without a trace that is right and not canonical is enough for the whole problem.
    assert not make_truth(counts, 4, np.array([[2], [1]]), 8).canonical.any()


def test_errors_by_hand():
    # Two traces, two repetitions: 0.5 and 0.7 for a truth of 0.4, and 0.1 twice for 0.2.
    truth = truth_of([[[0.4, 0.2]]], noise=[[[0.02, 0.04]]], base_noise=0.001, canonical=[[[False, True]]])
    found = errors(np.array([[[[0.5, 0.7], [0.1, 0.1]]]]), truth)
    close(found.value, [0.35])
    close(found.bias, [(0.1 + 0.3 - 0.1 - 0.1) / 4])
    close(found.canonical_bias, [-0.1])
    close(found.variance, [(0.02 + 0) / 2])
    close(found.square, [(0.01 + 0.09 + 0.01 + 0.01) / 4 - 0.03 - 0.001])
    # Less their means, 0 and 0.1, the errors are (0.1, -0.1) and (0.2, -0.2); half of the noise 0.03 is left.
    close(found.group_square, [(0.01 + 0.01 + 0.04 + 0.04) / 4 - 0.015])
    close(found.order, [1])


def test_what_a_whole_group_shares_is_no_error_in_the_group():
    truth = truth_of([[[0.4, 0.2, -0.3]]])
    found = errors(truth.value[..., None] + 0.25, truth)
    close(found.group_square, [0])
    close(found.square, [0.0625])
    close(found.variance, [0])  # one repetition says nothing of noise


def test_order_by_hand():
    # Pairs: (0.5, 0.3) and (0.5, 0.25) are apart, (0.3, 0.25) are not.
    truth = truth_of([[[0.5, 0.3, 0.25]]])
    for estimate, order in (((0.9, 0.1, 0.8), 1), ((0.1, 0.1, 0.8), 0.25), ((0, 0, 0), 0.5), ((0, 1, 1), 0)):
        close(errors(np.array(estimate)[None, None, :, None], truth).order, [order])
    close(errors(np.array([[[[0.9, 0], [0, 0], [0, 0]]]]), truth).order, [0.75])  # right once, undecided once
    assert np.isnan(errors(np.zeros((1, 1, 3, 1)), truth_of([[[0.5, 0.45, 0.41]]])).order).all()
    assert np.isnan(errors(np.zeros((1, 1, 1, 1)), truth_of([[[0.5]]])).order).all()


def test_problems_are_kept_apart():
    truth = truth_of([[[0.0, 0.0]], [[0.5, 0.0]]], canonical=[[[True, True]], [[False, False]]])
    found = errors(np.array([[[[0.0], [0.0]]], [[[1.0], [0.0]]]]), truth)
    close(found.bias, [0, 0.25])
    close(found.canonical_bias, [0, np.nan])
    close(found.order, [np.nan, 1])


def test_squares_are_those_around_the_exact_truth():
    # Binomial draws with known rates: what the truth's sampling adds, much here, is gone from the mean.
    rng = np.random.default_rng(0)
    shape, draws, base_draws, repeats = (20_000, 1, 4), 6, 24, 3
    rate, base = rng.uniform(size=shape), rng.uniform(size=shape[0])
    counts, alone = rng.binomial(draws, rate), rng.binomial(base_draws, base)
    truth = make_truth(np.array([counts, counts]), draws, np.array([alone, alone]), base_draws)
    drawn = rng.binomial(repeats, rate[..., None], (*shape, 5)) / repeats
    without = rng.binomial(repeats, base[:, None, None, None], (*shape, 5)) / repeats
    found = errors(drawn - without, truth)
    # E p (1 - p) = 1/6 for a uniform p, for each of the two sides.
    expected = 2 / 6 / repeats
    np.testing.assert_allclose(found.variance.mean(), expected, rtol=0.02)
    np.testing.assert_allclose(found.square.mean(), expected, rtol=0.02)
    np.testing.assert_allclose(found.group_square.mean(), expected * 3 / 4, rtol=0.02)
    exact = errors((rate - base[:, None, None])[..., None], truth)
    assert abs(exact.square.mean()) < 1e-3 < 0.03 < truth.noise.mean() + truth.base_noise.mean()
    assert abs(exact.group_square.mean()) < 1e-3


# ---------------------------------------------------------------------------------------------------------- canonical


def test_canonical_is_token_by_token():
    answer = Tokens(np.array([[7, 1, 0], [8, 1, 9]]), np.array([[True, True, False], [True, True, True]]))
    said = np.array([[[7, 1], [7, 2], [7, 7]], [[8, 1], [8, 9], [1, 8]]])
    valid = np.array([[[1, 1], [1, 1], [1, 0]], [[1, 1], [1, 1], [1, 1]]], bool)
    assert is_canonical(Tokens(said, valid), answer).tolist() == [[True, False, False], [False, False, False]]
    longer = np.array([[7, 1, 1, 5], [7, 1, 3, 3]])[:, None, None]
    ended = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)[:, None, None]
    assert is_canonical(Tokens(longer, ended), Tokens(answer.ids[[0, 0]], answer.valid[[0, 0]])).tolist() == [
        [[False]],
        [[True]],
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny roles, a batch of six problems, and reasoning [6, 3, 5]."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    loaded = load_roles(make_roles(folder, reward_model=None, reward=RewardConfig("uplift_only")))
    ids = np.random.default_rng(0).integers(0, 256, (6, 3, 5), np.int32)
    return loaded, first_batch(loaded, 6)[0], Tokens(ids, np.ones(ids.shape, bool))


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_counts_are_those_of_the_same_draws_one_by_one(world, alone):
    loaded, batch, reason = world
    given = None if alone else reason
    executor, key, each = {"params": loaded.executor.params}, jax.random.key(4), CHUNK * (3 if alone else 1)
    counted = jax.jit(partial(count_right, loaded.setup, 2 * CHUNK))(loaded.text, executor, batch, given, key)
    right, canonical = (np.reshape(count, (6, -1)) for count in counted)
    answer = jax.jit(partial(answer_given, loaded.setup, each, False))
    parts = [jax.device_get(answer(loaded.text, executor, batch, given, chunk)) for chunk in jax.random.split(key, 2)]
    for b, g in np.ndindex(right.shape):
        said = [
            part.tokens.ids[b, g, n][part.tokens.valid[b, g, n]].tolist()
            for part in parts
            for n in range(each)
            if part.verdicts[b, g, n] == OK
        ]
        canon = np.asarray(batch.answer.ids)[b][np.asarray(batch.answer.valid)[b]].tolist()
        assert (len(said), said.count(canon)) == (right[b, g], canonical[b, g])
    # Stop strings end the tiny executor's answers as well as the end token, which alone is canonical.
    assert right.sum() > canonical.sum() > 0
