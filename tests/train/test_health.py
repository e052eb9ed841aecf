"""Training health: every number worked out by hand on one small rollout."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.rollout.reward import FAILED, OK, WRONG
from tracelift_jax.rollout.rollout import Rollout, Uplift
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.health import mixed, rollout_metrics
from tracelift_jax.train.update import means

# Three groups of two traces with at most four tokens: one mixed, one all right, one whose verdict failed once.
VERDICTS = np.array([[OK, WRONG], [OK, OK], [WRONG, FAILED]], np.int8)
COUNTED = VERDICTS != FAILED
LENGTHS = np.array([[1, 2], [3, 4], [4, 4]])


def make(**changes) -> Rollout:
    zeros, counts = jnp.zeros((3, 2)), jnp.zeros((3, 2), jnp.int32)
    none = Tokens(jnp.zeros((3, 1, 1), jnp.int32), jnp.zeros((3, 1, 1), bool))
    gained = jnp.array([[0.5, -0.5], [0.25, 0.75], [-1.0, 9.0]])
    done = Rollout(
        traces=Tokens(jnp.zeros((3, 2, 4), jnp.int32), jnp.arange(4) < LENGTHS[..., None]),
        logprobs=jnp.zeros((3, 2, 4)),
        well_formed=jnp.array([[True, True], [True, False], [False, True]]),
        answers=Tokens(jnp.zeros((3, 2, 2, 1), jnp.int32), jnp.zeros((3, 2, 2, 1), bool)),
        verdicts=jnp.stack([VERDICTS, jnp.zeros((3, 2), jnp.int8)], -1),
        uplift=Uplift(gained, counts, counts, counts, counts, none, zeros, zeros),
        rubric=jnp.zeros((3, 2, 5)),
        total=zeros,
        score=jnp.array([[0.9, 0.3], [0.8, 0.4], [0.1, 9.0]]),
        reward=jnp.array([[1.0, 0.0], [1.0, 1.0], [0.5, 9.0]]),
        advantage=jnp.array([[1.0, -2.0], [0.0, 0.0], [0.0, 9.0]]),
        counted=jnp.asarray(COUNTED),
    )
    return dataclasses.replace(done, **changes)


@pytest.fixture(scope="module")
def metrics():
    return {name: float(value) for name, value in means(jax.jit(rollout_metrics)(make())).items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward/mean", (1 + 0 + 1 + 1 + 0.5) / 5),
        ("reward/accuracy", 3 / 5),
        ("reward/uplift", (0.5 - 0.5 + 0.25 + 0.75 - 1) / 5),
        ("reward/grade", (0.9 + 0.3 + 0.8 + 0.4 + 0.1) / 5),
        ("reward/groups_with_signal", 1 / 3),
        ("reward/groups_mixed", 1 / 3),
        ("reward/uplift_if_right", (0.5 + 0.25 + 0.75) / 3),
        ("reward/uplift_if_wrong", (-0.5 - 1) / 2),
        ("reward/grade_if_right", (0.9 + 0.8 + 0.4) / 3),
        ("reward/grade_if_wrong", (0.3 + 0.1) / 2),
        ("advantage/abs", 3 / 5),
        ("advantage/positive", 1 / 5),
        ("advantage/max", 1),
        ("advantage/min", -2),
        ("rollout/well_formed", 3 / 5),
        ("rollout/cut_off", 2 / 5),
        ("rollout/trace_tokens", (1 + 2 + 3 + 4 + 4) / 5),
        ("rollout/trace_tokens_p50", 3),
        ("rollout/trace_tokens_p95", 4),
        ("rollout/trace_tokens_p100", 4),
        ("rollout/failed_verdicts", 1 / 12),
        ("rollout/left_out", 1 / 6),
    ],
)
def test_by_hand(metrics, name, value):
    assert metrics[name] == pytest.approx(value, abs=1e-6)


def test_every_metric_is_worked_out_above(metrics):
    assert set(metrics) == {mark[0] for mark in test_by_hand.pytestmark[0].args[1]}


def test_what_was_not_there_is_not_a_number():
    """No trace was right; and a rollout of which nothing counts."""
    wrong = means(rollout_metrics(make(verdicts=jnp.zeros((3, 2, 2), jnp.int8), counted=jnp.ones((3, 2), bool))))
    assert math.isnan(wrong["reward/grade_if_right"]) and wrong["reward/accuracy"] == 0
    nothing = means(rollout_metrics(make(counted=jnp.zeros((3, 2), bool))))
    assert all(math.isnan(value) for value in nothing.values())


def test_mixed_groups_by_hand():
    verdicts = jnp.array([[OK, WRONG], [OK, OK], [WRONG, WRONG], [OK, WRONG], [OK, FAILED]], jnp.int8)
    counted = jnp.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 0]], bool)
    assert mixed(verdicts, counted).tolist() == [True, False, False, False, False]
