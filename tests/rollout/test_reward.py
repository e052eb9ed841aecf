"""Rewards against METHOD's equations, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.rollout.reward import FAILED, OK, WRONG, RewardConfig, math_reward, shaped, success_rate, uplift


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("with_it", "without", "gain"), [(1, 0, 1), (0, 1, -1), (2 / 3, 1 / 3, 1 / 3), (0.25, 0.5, -0.25), (2, 0, 1)]
)
def test_uplift_by_hand(with_it, without, gain):
    close(uplift(jnp.float32(with_it), jnp.float32(without)), gain)


def test_uplift_broadcasts_a_problems_baseline_over_its_traces():
    close(uplift(jnp.array([[1.0, 0.5], [0.0, 0.5]]), jnp.array([[0.5], [0.5]])), [[0.5, 0], [-0.5, 0]])


@pytest.mark.parametrize(
    ("score", "u", "product", "sign_aware"),
    [
        (0.8, 0.5, 0.4, 0.4),
        (0.8, -0.5, -0.4, -0.1),  # (1 - 0.8) * -0.5: the better-looking trace is punished less
        (0.2, -0.5, -0.1, -0.4),
        (0.8, 0.0, 0.0, 0.0),
        (1.0, -1.0, -1.0, 0.0),
        (0.0, 1.0, 0.0, 0.0),
    ],
)
def test_shaping_by_hand(score, u, product, sign_aware):
    close(shaped(jnp.float32(score), jnp.float32(u), "product"), product)
    close(shaped(jnp.float32(score), jnp.float32(u), "sign_aware"), sign_aware)


UNIT, GAIN = st.floats(0, 1, width=32), st.floats(-1, 1, width=32)


@given(UNIT, UNIT, GAIN)
def test_sign_aware_shaping_rises_with_the_grade(a, b, u):
    low, high = sorted((a, b))
    assert shaped(jnp.float32(low), jnp.float32(u), "sign_aware") <= shaped(
        jnp.float32(high), jnp.float32(u), "sign_aware"
    )


@given(UNIT, GAIN, GAIN)
def test_sign_aware_shaping_rises_with_the_uplift(score, a, b):
    low, high = sorted((a, b))
    assert shaped(jnp.float32(score), jnp.float32(low), "sign_aware") <= shaped(
        jnp.float32(score), jnp.float32(high), "sign_aware"
    )


def test_the_product_is_not_monotone_in_the_grade():
    assert shaped(jnp.float32(0.9), jnp.float32(-0.5), "product") < shaped(
        jnp.float32(0.1), jnp.float32(-0.5), "product"
    )


@pytest.mark.parametrize(
    ("config", "rewards"),
    [
        # (e2e, s, u) = (1, 0.8, 0.5), (0, 0.8, -0.5), (1, 0.2, -0.5)
        (RewardConfig("tracelift"), (0.5 + 0.2, -0.05, 0.5 - 0.2)),
        (RewardConfig("tracelift", shaping="product"), (0.5 + 0.2, -0.2, 0.5 - 0.05)),
        (RewardConfig("exec_only"), (1, 0, 1)),
        (RewardConfig("rm_only"), (0.9, 0.4, 0.6)),
        (RewardConfig("uplift_only"), (0.75, -0.25, 0.25)),
    ],
)
def test_rewards_by_hand(config, rewards):
    e2e, score, u = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.8, 0.8, 0.2]), jnp.array([0.5, -0.5, -0.5])
    close(math_reward(e2e, score, u, config), rewards)


def test_failed_samples_are_neither_right_nor_judged():
    verdicts = jnp.array([[OK, WRONG, FAILED], [OK, OK, OK], [FAILED, FAILED, FAILED]], jnp.int8)
    right, judged = success_rate(verdicts)
    assert right.tolist() == [1, 3, 0]
    assert judged.tolist() == [2, 3, 0]
    assert right.dtype == judged.dtype == jnp.int32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repeats": 0}, "RewardConfig.repeats must be at least 1, got 0"),
        ({"baseline_samples": 0}, "RewardConfig.baseline_samples must be at least 1, got 0"),
        ({"kind": "tracelift", "uplift": "none"}, 'RewardConfig.uplift must not be "none" for kind "tracelift"'),
        ({"kind": "uplift_only", "uplift": "none"}, 'RewardConfig.uplift must not be "none" for kind "uplift_only"'),
        ({"kind": "exec"}, "RewardConfig.kind: expected one of"),
        ({"malformed": True}, "RewardConfig.malformed: expected one of"),
        ({"repeats": 2.5}, "RewardConfig.repeats: expected int"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}") as refusal:
        RewardConfig(**values)
    assert "\n" not in str(refusal.value)


def test_kinds_that_read_the_grade():
    kinds = {kind: RewardConfig(kind).needs_grade for kind in ("tracelift", "rm_only", "exec_only", "uplift_only")}
    assert kinds == {"tracelift": True, "rm_only": True, "exec_only": False, "uplift_only": False}
