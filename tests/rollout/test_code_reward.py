"""The reward of code against METHOD's equations, by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.rollout.code_reward import (
    CodeRewardConfig,
    clip_reward,
    code_reward,
    count_coefficient,
    exec_reward,
    tie_coefficient,
)
from tracelift_jax.tasks.outcome import Outcome

REFERENCE = CodeRewardConfig(shaping="product", clip_reward=True)
STYLES = ("binary", "pass_rate", "coderl", "hybrid")

# What became of 4 tests, and what it is worth: binary, pass rate, CodeRL's scale, hybrid.
WORTH = [
    (Outcome.PASSED, 4, (1, 1, 1, 1)),
    (Outcome.FAILED_TEST, 3, (0, 0.75, -0.3, 0.8)),  # 0.8 * 0.75 + 0.2
    (Outcome.WRONG_OUTPUT, 0, (0, 0, -0.3, 0.2)),
    (Outcome.RUNTIME_ERROR, 2, (0, 0.5, -0.6, 0.45)),  # 0.8 * 0.5 + 0.05
    (Outcome.TIMEOUT, 1, (0, 0.25, -0.6, 0.25)),
    (Outcome.MEMORY, 0, (0, 0, -0.6, 0.05)),
    (Outcome.OUTPUT_LIMIT, 0, (0, 0, -0.6, 0.05)),
    (Outcome.DOES_NOT_COMPILE, 0, (0, 0, -1, 0)),
    (Outcome.NO_PROGRAM, 0, (0, 0, -1, 0)),
]


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("style", STYLES)
def test_test_results_by_hand(style):
    passed = jnp.array([count for _, count, _ in WORTH])
    codes = jnp.array([outcome.code for outcome, _, _ in WORTH])
    found = exec_reward(passed, jnp.full(len(WORTH), 4), codes, style)
    close(found, [values[STYLES.index(style)] for _, _, values in WORTH])
    assert found.dtype == jnp.float32


def test_every_outcome_but_an_outage_has_been_looked_at():
    assert {outcome for outcome, _, _ in WORTH} == set(Outcome) - {Outcome.INFRASTRUCTURE}


def test_without_tests_nothing_passes():
    assert exec_reward(jnp.array(0), jnp.array(0), jnp.array(Outcome.NO_PROGRAM.code), "pass_rate") == 0


@pytest.mark.parametrize(
    ("count", "repeats", "table", "coefficient"),
    [
        (0, 3, None, 0),
        (1, 3, None, 0.5),
        (2, 3, None, 2 / 3),
        (3, 3, None, 1),
        (1, 4, None, 0.25),
        (1, 2, None, 0.5),
        (1, 1, None, 1),
        (0, 0, None, 0),
        (0, 3, {1: 0.25, 2: 0.5, 3: 0.7}, 0),
        (1, 3, {1: 0.25, 2: 0.5, 3: 0.7}, 0.25),
        (2, 3, {1: 0.25, 2: 0.5, 3: 0.7}, 0.5),
        (3, 3, {1: 0.25, 2: 0.5, 3: 0.7}, 0.7),
        (0, 3, {0: -0.1}, -0.1),
        (0, 0, {0: -0.1}, 0),
    ],
)
def test_ties_by_hand(count, repeats, table, coefficient):
    found = tie_coefficient(jnp.array(count), repeats, table)
    close(found, coefficient)
    assert found.dtype == jnp.float32
    close(tie_coefficient(jnp.array([count]), jnp.array([repeats]), table), [coefficient])


@pytest.mark.parametrize(
    ("right", "judged", "right_without", "judged_without", "coefficient"),
    [
        (2, 3, 1, 3, 1),
        (1, 3, 2, 3, -1),
        (1, 3, 1, 3, 0.5),
        (3, 3, 3, 3, 1),
        (0, 3, 0, 3, 0),
        (2, 3, 5, 8, 1),  # 2/3 > 5/8
        (1, 3, 3, 8, -1),  # 1/3 < 3/8
        (1, 2, 4, 8, 0.5),
        (0, 3, 0, 8, 0),
        (1, 2, 1, 3, 1),  # one answer behind the trace failed
        (0, 0, 1, 3, 0),
        (3, 3, 0, 0, 0),
    ],
)
def test_coefficients_by_hand(right, judged, right_without, judged_without, coefficient):
    found = count_coefficient(jnp.array(right), jnp.array(judged), jnp.array(right_without), jnp.array(judged_without))
    close(found, coefficient)
    assert found.dtype == jnp.float32


def test_a_problems_baseline_is_broadcast_and_the_table_used():
    found = count_coefficient(jnp.array([[3, 1], [2, 0]]), 3, jnp.array([[1], [2]]), 3, {1: 0.25, 2: 0.75})
    close(found, [[1, 0.25], [0.75, -1]])


@pytest.mark.parametrize(
    ("config", "rewards"),
    [
        # (exec, s, coeff) = (1, 0.9, 1), (0.2, 0.9, -1), (1, 0.5, -1), (0.05, 0.3, 2/3), (0, 1, -1)
        (REFERENCE, (1, 0.02, 0.9, 0.09, 0)),  # 1.18 -> 1; 0.2 - 0.18; 1 - 0.1; 0.05 + 0.04; -0.2 -> 0
        (CodeRewardConfig(shaping="product"), (1.18, 0.02, 0.9, 0.09, -0.2)),
        (CodeRewardConfig(), (1.18, 0.18, 0.9, 0.09, 0)),  # 0.2 - 0.2 * 0.1; 1 - 0.2 * 0.5; 0 - 0.2 * 0
        (CodeRewardConfig("exec_only", clip_reward=True), (1, 0.2, 1, 0.05, 0)),
        (CodeRewardConfig("rm_only"), (1.18, 0.38, 1.1, 0.11, 0.2)),
        (CodeRewardConfig("rm_only", clip_reward=True), (1, 0.38, 1, 0.11, 0.2)),
        (CodeRewardConfig("uplift_only"), (1.2, 0, 0.8, 0.05 + 0.4 / 3, -0.2)),
        (CodeRewardConfig(weight=0.5, shaping="product"), (1.45, -0.25, 0.75, 0.15, -0.5)),
    ],
)
def test_rewards_by_hand(config, rewards):
    executed, score = jnp.array([1, 0.2, 1, 0.05, 0]), jnp.array([0.9, 0.9, 0.5, 0.3, 1])
    close(code_reward(executed, score, jnp.array([1, -1, -1, 2 / 3, -1]), config), rewards)


def test_exec_only_keeps_negative_results_and_the_clipped_form_does_not():
    executed, score, coefficient = jnp.array([-1.0, -0.6, -0.3]), jnp.ones(3), jnp.ones(3)
    close(code_reward(executed, score, coefficient, CodeRewardConfig("exec_only", clip_reward=True)), executed)
    close(code_reward(executed, score, coefficient, REFERENCE), [0, 0, 0])
    close(code_reward(executed, score, coefficient, CodeRewardConfig(shaping="product")), [-0.8, -0.4, -0.1])


def by_the_book(outcomes, with_k, without_k, score):
    """METHOD's code reward in plain Python: hybrid, product, clipped."""
    rate = outcomes.count("passed") / len(outcomes)
    bad = [outcome for outcome in outcomes if outcome != "passed"]
    stopped = bool(bad) and bad[0] in ("runtime_error", "timeout")
    executed = 0.8 * rate + (0.05 if stopped else 0.2)
    more, less = sum(with_k), sum(without_k)
    tie = {0: 0.0, 1: 0.5, 2: 2 / 3, 3: 1.0}[more]
    coefficient = 1.0 if more > less else -1.0 if more < less else tie
    return min(max(executed + 0.2 * score * coefficient, 0.0), 1.0)


def test_the_papers_settings_give_the_papers_reward():
    kinds = ("passed", "wrong_output", "runtime_error", "timeout")
    ends = list(itertools.product(kinds, repeat=2))
    counts = list(itertools.product(range(4), repeat=2))
    scores = (0.0, 0.35, 1.0)
    cases = list(itertools.product(ends, counts, scores))
    expected = [by_the_book(list(e), [1] * a + [0] * (3 - a), [1] * b + [0] * (3 - b), s) for e, (a, b), s in cases]

    def whole(outcomes):
        return next((Outcome(one).code for one in outcomes if one != "passed"), Outcome.PASSED.code)

    executed = exec_reward(
        jnp.array([e.count("passed") for e, _, _ in cases]),
        jnp.array(2),
        jnp.array([whole(e) for e, _, _ in cases]),
        "hybrid",
    )
    coefficient = count_coefficient(
        jnp.array([a for _, (a, _), _ in cases]), 3, jnp.array([b for _, (_, b), _ in cases]), 3
    )
    found = code_reward(executed, jnp.array([s for _, _, s in cases], jnp.float32), coefficient, REFERENCE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


UNIT, COEFFICIENT = st.floats(0, 1, width=32), st.sampled_from([-1.0, 0.0, 0.5, 2 / 3, 1.0])
reward_of = {
    config: jax.jit(functools.partial(code_reward, config=config)) for config in (REFERENCE, CodeRewardConfig())
}


@given(UNIT, UNIT, COEFFICIENT, st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]))
def test_ours_never_falls_with_the_grade(a, b, coefficient, executed):
    low, high = sorted((a, b))
    reward = reward_of[CodeRewardConfig()]
    assert reward(executed, low, coefficient) <= reward(executed, high, coefficient)


@given(UNIT, COEFFICIENT, COEFFICIENT, st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]))
def test_ours_never_falls_with_the_coefficient(score, a, b, executed):
    low, high = sorted((a, b))
    reward = reward_of[CodeRewardConfig()]
    assert reward(executed, score, low) <= reward(executed, score, high)


@given(UNIT, UNIT, st.sampled_from([0.0, 0.5, 2 / 3, 1.0]))
def test_the_clipped_form_cannot_rank_passing_traces(a, b, coefficient):
    clipped = reward_of[REFERENCE]
    assert clipped(1.0, a, coefficient) == clipped(1.0, b, coefficient) == 1.0


def test_ours_ranks_passing_traces():
    reward = code_reward(jnp.ones(2), jnp.array([0.9, 0.3]), jnp.ones(2))
    close(reward, [1.18, 1.06])


def test_the_clipped_product_prefers_the_worse_looking_of_two_passing_traces_that_hurt():
    close(code_reward(jnp.ones(2), jnp.array([0.9, 0.3]), -jnp.ones(2), REFERENCE), [0.82, 0.94])
    close(code_reward(jnp.ones(2), jnp.array([0.9, 0.3]), -jnp.ones(2)), [0.98, 0.86])


@given(UNIT, UNIT, COEFFICIENT)
def test_clipping_clips(executed, score, coefficient):
    free = code_reward(
        jnp.float32(executed), jnp.float32(score), jnp.float32(coefficient), CodeRewardConfig(shaping="product")
    )
    clipped = code_reward(jnp.float32(executed), jnp.float32(score), jnp.float32(coefficient), REFERENCE)
    assert clipped == clip_reward(free) == min(max(free, 0), 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -0.1}, "CodeRewardConfig.weight must not be negative, got -0.1"),
        ({"exec_style": "coderel"}, "CodeRewardConfig.exec_style: expected one of"),
        ({"kind": "exec"}, "CodeRewardConfig.kind: expected one of"),
        ({"tie_table": ((1, 0.5), (1, 0.6))}, "CodeRewardConfig.tie_table has a count twice"),
        ({"tie_table": ((-1, 0.5),)}, "CodeRewardConfig.tie_table: a count must not be negative, got -1"),
        ({"tie_table": ((1, 1.5),)}, r"CodeRewardConfig.tie_table: a coefficient lies in \[-1, 1\], got 1.5"),
        ({"clip_reward": 1}, "CodeRewardConfig.clip_reward: expected bool"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}") as refusal:
        CodeRewardConfig(**values)
    assert "\n" not in str(refusal.value)


def test_kinds_that_read_grade_and_coefficient():
    read = {kind: CodeRewardConfig(kind) for kind in ("tracelift", "rm_only", "uplift_only", "exec_only")}
    assert [config.needs_grade for config in read.values()] == [True, True, False, False]
    assert [config.needs_uplift for config in read.values()] == [True, False, True, False]
