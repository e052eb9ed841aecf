"""Losses against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tracelift_jax.models.rubric import Grade
from tracelift_jax.train.losses import (
    GrpoConfig,
    RewardModelLossConfig,
    dimension_loss,
    group_advantages,
    grpo_loss,
    reduce_tokens,
    reward_model_loss,
)

YES, NO = True, False


def close(actual, desired, rtol=1e-6):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------- advantages


def test_advantages_by_hand():
    rewards, counted = jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.ones((2, 2), bool)
    close(group_advantages(rewards, counted, "none"), [[0.5, -0.5], [0, 0]])
    # deviation of (1, 0) is 0.5: 0.5 / (0.5 + 1e-4); the second group has no signal: 0 / 1e-4
    close(group_advantages(rewards, counted, "std"), [[0.5 / 0.5001, -0.5 / 0.5001], [0, 0]])


def test_left_out_traces_get_no_advantage_and_move_no_mean():
    rewards = jnp.array([[1.0, 99.0, 0.0], [7.0, 7.0, 7.0]])
    counted = jnp.array([[YES, NO, YES], [NO, NO, NO]])
    close(group_advantages(rewards, counted, "none"), [[0.5, 0, -0.5], [0, 0, 0]])
    close(group_advantages(rewards, counted, "std"), [[0.5 / 0.5001, 0, -0.5 / 0.5001], [0, 0, 0]])


GROUPS = arrays(np.float32, (2, 4), elements=st.floats(-2, 2, width=32))
COUNTED = arrays(bool, (2, 4))


@given(GROUPS, COUNTED, st.sampled_from(["std", "none"]))
def test_advantages_of_a_group_sum_to_zero(rewards, counted, normalize):
    advantages = np.asarray(group_advantages(jnp.asarray(rewards), jnp.asarray(counted), normalize))
    # The sum of centred float32 rewards is off by their rounding, 4 * 2 * 2**-24, over the floor of 1e-4 with "std".
    np.testing.assert_allclose(advantages.sum(-1), 0, atol=4 * 2 * 2**-23 / (1e-4 if normalize == "std" else 1))
    assert not advantages[~counted].any()


@given(GROUPS, COUNTED, st.integers(-3, 3))
def test_advantages_do_not_see_a_shift(rewards, counted, shift):
    rewards = np.round(rewards * 8) / 8  # eighths, and their distances, are exact
    for normalize in ("none", "std"):
        here, there = (group_advantages(r, jnp.asarray(counted), normalize) for r in (rewards, rewards + shift))
        np.testing.assert_array_equal(here, there)


@given(st.floats(-2, 2, width=32), arrays(bool, (3, 7)), st.sampled_from(["std", "none"]))
def test_a_group_of_equals_has_nothing_to_tell(reward, counted, normalize):
    """Exactly: 0.1 seven times has a mean that is not 0.1, and its rounding error over the floor is no advantage."""
    rewards = jnp.full((3, 7), reward, jnp.float32)
    assert not np.asarray(group_advantages(rewards, jnp.asarray(counted), normalize)).any()


@given(GROUPS, COUNTED, st.floats(0.125, 8, width=32))
def test_advantages_without_normalization_scale_with_the_rewards(rewards, counted, factor):
    once = np.asarray(group_advantages(rewards, jnp.asarray(counted), "none"))
    np.testing.assert_allclose(
        group_advantages(rewards * factor, jnp.asarray(counted), "none"), factor * once, rtol=1e-4, atol=1e-5
    )


# ---------------------------------------------------------------------------------------------------------- reductions

VALUES, RAGGED = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[YES, YES], [YES, NO]])


@pytest.mark.parametrize(
    ("reduction", "counted", "total", "weight"),
    [
        ("sequence", [YES, YES], 1.5 + 3, 2),  # mean of (1, 2), then 3 alone; two traces
        ("token", [YES, YES], 1 + 2 + 3, 3),
        ("constant", [YES, YES], (1 + 2 + 3) / 2, 2),  # a trace has room for 2 tokens
        ("sequence", [YES, NO], 1.5, 1),
        ("token", [YES, NO], 3, 2),
        ("constant", [YES, NO], 1.5, 1),
        ("sequence", [NO, NO], 0, 0),
        ("token", [NO, NO], 0, 0),
        ("constant", [NO, NO], 0, 0),
    ],
)
def test_reductions_by_hand(reduction, counted, total, weight):
    close(reduce_tokens(VALUES, RAGGED, jnp.array(counted), reduction), (total, weight))


@given(
    arrays(np.float32, (4, 3), elements=st.floats(-2, 2, width=32)),
    arrays(bool, (4, 3)),
    arrays(bool, 4),
    st.sampled_from(["sequence", "token", "constant"]),
)
def test_parts_of_a_batch_add_up(values, mask, counted, reduction):
    def reduce(rows):
        return np.array(reduce_tokens(jnp.asarray(values[rows]), mask[rows], jnp.asarray(counted[rows]), reduction))

    np.testing.assert_allclose(reduce(slice(0, 1)) + reduce(slice(1, 4)), reduce(slice(0, 4)), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- GRPO

# The sampler gave every token 1/2. Ratios: 1.5 and 0.5 in each trace; the first trace is good, the second bad.
SAMPLER = jnp.log(jnp.full((2, 2), 0.5))
POLICY = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
GAIN = jnp.array([1.0, -1.0])
ALL = jnp.ones((2, 2), bool)
BOTH = jnp.ones(2, bool)


@pytest.mark.parametrize(
    ("config", "total"),
    [
        # A = +1: -min(1.5, 1.2) = -1.2 and -min(0.5, 0.8) = -0.5
        # A = -1: -min(-1.5, -1.2) = 1.5 and -min(-0.5, -0.8) = 0.8
        (GrpoConfig(), (-1.2 - 0.5) / 2 + (1.5 + 0.8) / 2),
        # the upper clip at 1.3, the lower at 0.9
        (GrpoConfig(clip_low=0.1, clip_high=0.3), (-1.3 - 0.5) / 2 + (1.5 + 0.9) / 2),
        (GrpoConfig(clip_low=0.6, clip_high=0.6), (-1.5 - 0.5) / 2 + (1.5 + 0.5) / 2),  # nothing is clipped
    ],
)
def test_clipping_by_hand(config, total):
    loss, metrics = grpo_loss(POLICY, SAMPLER, GAIN, ALL, BOTH, config)
    close(loss, (total, 2))
    close(metrics["policy/ratio"], (4, 4))
    close(metrics["policy/entropy"], (-2 * math.log(0.75) - 2 * math.log(0.25), 4))
    # mean of q - 1 - log q over q = 1.5, 0.5, 1.5, 0.5
    close(metrics["policy/kl_sampler"], (-2 * math.log(1.5) - 2 * math.log(0.5), 4))
    close(metrics["sampler/gap"], (2 * math.log(1.5) + 2 * math.log(2), 4))
    close(metrics["sampler/gap_tail"], (4, 4))
    close(metrics["sampler/gap_max"], (2 * math.log(2), 2))


def test_the_gap_of_what_does_not_count_is_not_seen():
    near = jnp.where(jnp.array([[True, False], [False, True]]), SAMPLER + 0.05, SAMPLER + 9)
    counted = jnp.array([[True, False], [False, False]])
    _, metrics = grpo_loss(near, SAMPLER, GAIN, counted, BOTH, GrpoConfig())
    close(metrics["sampler/gap"], (0.05, 1))
    close(metrics["sampler/gap_tail"], (0, 1))
    close(metrics["sampler/gap_max"], (0.05, 1))


def test_tokens_clipped_by_hand():
    _, metrics = grpo_loss(POLICY, SAMPLER, GAIN, ALL, BOTH, GrpoConfig())
    close(metrics["policy/clipped"], (2, 4))  # 1.5 of the good trace and 0.5 of the bad one


def test_clipped_tokens_have_no_gradient():
    slope = jax.grad(lambda logprobs: grpo_loss(logprobs, SAMPLER, GAIN, ALL, BOTH, GrpoConfig())[0][0])(POLICY)
    # d ratio / d logprob = ratio; each token is half of its trace's mean
    close(slope, [[0, -0.5 / 2], [1.5 / 2, 0]])


def test_kl_by_hand():
    base = jnp.log(jnp.array([[0.75, 0.5], [0.75, 0.25]]))
    # k3 = q - log q - 1 with q = base / policy: 2 - log 2 - 1 at q = 2, and 0 at q = 1
    k3 = 2 - math.log(2) - 1
    plain, _ = grpo_loss(POLICY, SAMPLER, GAIN, ALL, BOTH, GrpoConfig())
    loss, metrics = grpo_loss(POLICY, SAMPLER, GAIN, ALL, BOTH, GrpoConfig(kl=0.1), base)
    close(loss, (float(plain[0]) + 0.1 * k3 / 2, 2))
    close(metrics["policy/kl_base"], (k3, 4))
    with pytest.raises(ValueError, match="base_logprobs"):
        grpo_loss(POLICY, SAMPLER, GAIN, ALL, BOTH, GrpoConfig(kl=0.1))


@pytest.mark.parametrize("reduction", ["sequence", "token", "constant"])
def test_masked_tokens_and_left_out_traces_count_for_nothing(reduction):
    config = GrpoConfig(kl=0.1, reduction=reduction)
    base = POLICY - 0.3
    counted = jnp.array([YES, NO])

    def loss(logprobs, rubbish):
        mask = RAGGED[::-1]  # of the first trace, the first token only
        sampler = jnp.where(mask & counted[:, None], SAMPLER, rubbish)
        (total, weight), metrics = grpo_loss(logprobs, sampler, GAIN, mask, counted, config, base)
        return total, (total, weight, metrics)

    slope, here = jax.grad(loss, has_aux=True)(POLICY, -1.0)
    _, there = jax.grad(loss, has_aux=True)(POLICY.at[0, 1].set(-9.0).at[1].set(-2.0), 3.0)
    jax.tree.map(np.testing.assert_array_equal, here, there)
    assert np.asarray(slope).astype(bool).tolist() == [[True, False], [False, False]]  # of the first token, by the KL


def test_a_masked_nan_does_not_spread():
    mask = jnp.array([[YES, NO], [YES, YES]])
    slope = jax.grad(
        lambda x: grpo_loss(x, SAMPLER, GAIN, mask, BOTH, GrpoConfig(kl=0.1), jnp.full((2, 2), -1.0))[0][0]
    )(POLICY.at[0, 1].set(jnp.nan))
    assert np.isfinite(slope).all()
    assert slope[0, 1] == 0


# -------------------------------------------------------------------------------------------------------- reward model

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)


def softplus(x):
    return math.log1p(math.exp(x))


def graded():
    """A positive and two negatives; labels are uniform, but for the positive's first dimension: 1/8 four times, 1/2."""
    logits = jnp.zeros((1, 3, 5, 5)).at[0, 0, 0, 4].set(math.log(4))
    return Grade(logits, jnp.array([[LN3, 0.0, -LN3]]))


LABELS = jnp.full((1, 3, 5), 2).at[0, 0].set(4)
TOTALS = jnp.array([[1.0, 0.5, 0.2]])
# totals predicted: 3/4, 1/2, 1/4. Expected labels are 2, but (0 + 1 + 2 + 3) / 8 + 4 / 2 = 2.75 once.
SCORE = [0.5 * (2.75 + 4 * 2) / 5 / 4 + 0.375, 0.25 + 0.25, 0.25 + 0.125]
DIMENSIONS = (LN2 + 4 * LN5 + 5 * LN5 + 5 * LN5) / 3
HUBER = (0.25**2 / 2 + 0 + 0.05**2 / 2) / 3
RANK = (softplus(SCORE[1] - SCORE[0]) + softplus(SCORE[2] - SCORE[0])) / 2
AMONG = softplus(SCORE[2] - SCORE[1])  # 0.5 and 0.2 are 0.3 apart; the other order is not


def test_reward_model_loss_by_hand():
    config = RewardModelLossConfig(dimensions=1.0, total=0.5, rank=0.7, rank_negatives=0.3)
    (total, groups), metrics = reward_model_loss(graded(), LABELS, TOTALS, config)
    close(graded().score, [SCORE])
    parts = {"dimensions": DIMENSIONS, "total": HUBER, "rank": RANK, "rank_negatives": AMONG}
    for name, value in parts.items():
        close(metrics[f"loss/{name}"], (value, 1))
    close((total, groups), (DIMENSIONS + 0.5 * HUBER + 0.7 * RANK + 0.3 * AMONG, 1))
    gaps = [SCORE[0] - 1, SCORE[1] - 0.5, SCORE[2] - 0.2]
    close(metrics["score/mae"], (sum(map(abs, gaps)) / 3, 1))
    close(metrics["score/squared_error"], (sum(g * g for g in gaps) / 3, 1))
    close(metrics["score/pair_accuracy"], (1, 1))
    close(metrics["score/group_accuracy"], (1, 1))
    close(metrics["score/dimension_accuracy"], (1 / 15, 1))  # the positive's first; argmax of equals is label 0


def test_squared_errors_of_the_labels_by_hand():
    config = RewardModelLossConfig(dimension_loss="squared_error", total=0.0, rank=0.0)
    (total, groups), metrics = reward_model_loss(graded(), LABELS, TOTALS, config)
    # Of the positive, 2.75 once and 2 four times where the label is 4; of the negatives, 2 where it is 2.
    by_hand = (1.25**2 + 4 * 2**2) / 3
    close(metrics["loss/dimensions"], (by_hand, 1))
    close((total, groups), (by_hand, 1))


def test_a_near_miss_costs_less_with_squared_errors_alone():
    """Nearly all on label 3, or nearly all on label 0, where 4 is right: cross entropy cannot tell them apart."""
    near, far = (Grade(jnp.zeros((5, 5)).at[:, label].set(20.0), jnp.float32(0)) for label in (3, 0))
    labels = jnp.full(5, 4)
    close(dimension_loss(near, labels, "squared_error"), 5 * 1, 1e-4)
    close(dimension_loss(far, labels, "squared_error"), 5 * 16, 1e-4)
    close(dimension_loss(near, labels), dimension_loss(far, labels))


def test_huber_is_linear_beyond_delta():
    _, metrics = reward_model_loss(graded(), LABELS, TOTALS, RewardModelLossConfig(huber_delta=0.1))
    close(metrics["loss/total"], ((0.1 * (0.25 - 0.05) + 0 + 0.05**2 / 2) / 3, 1))


@pytest.mark.parametrize(("margin", "among"), [(0.3 - 1e-5, AMONG), (0.3 + 1e-5, 0)])
def test_negatives_are_ranked_from_the_margin_on(margin, among):
    _, metrics = reward_model_loss(graded(), LABELS, TOTALS, RewardModelLossConfig(margin=margin))
    close(metrics["loss/rank_negatives"], (among, 1))


def test_a_negative_above_the_positive_fails_its_pair_and_its_group():
    grade = Grade(jnp.zeros((1, 3, 5, 5)), jnp.array([[0.0, 1.0, -1.0]]))
    _, metrics = reward_model_loss(grade, LABELS, TOTALS, RewardModelLossConfig())
    close(metrics["score/pair_accuracy"], (0.5, 1))
    close(metrics["score/group_accuracy"], (0, 1))


def test_groups_add_up_and_filling_groups_count_for_nothing():
    rng = np.random.default_rng(0)
    grade = Grade(jnp.asarray(rng.normal(size=(3, 3, 5, 5))), jnp.asarray(rng.normal(size=(3, 3))))
    labels, totals = jnp.asarray(rng.integers(0, 5, (3, 3, 5))), jnp.asarray(rng.random((3, 3)))
    config = RewardModelLossConfig(rank_negatives=0.3)

    def loss(rows, counted=None):
        part = jax.tree.map(lambda x: x[rows], (grade, labels, totals))
        return reward_model_loss(*part, config, counted)

    first, rest, whole = loss(slice(0, 1)), loss(slice(1, 3)), loss(slice(0, 3))
    jax.tree.map(lambda a, b, c: close(a + b, c, 1e-5), first, rest, whole)
    jax.tree.map(close, loss(slice(0, 3), jnp.array([YES, NO, NO])), first)
