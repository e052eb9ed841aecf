"""Adaptive repeats: which groups are undecided, by hand and by exact posteriors; what they get, from the records."""

import dataclasses
import re
from fractions import Fraction
from functools import cache, partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import first_batch, make_roles, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.config import RewardConfig
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.adaptive import chosen_groups, rates_that_matter, undecided
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.caches import cache_bytes
from tracelift_jax.rollout.records import records
from tracelift_jax.rollout.reward import FAILED
from tracelift_jax.rollout.rollout import rollout
from tracelift_jax.rollout.served import ExecutorServer
from tracelift_jax.train.health import rollout_metrics
from tracelift_jax.train.roles import load_roles

K, E = 2, 5
"""Repeats, and further ones for half of four groups."""


# ------------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("batch", "share", "count"), [(16, 0.25, 4), (10, 0.25, 3), (10, 0.7, 7), (3, 1.0, 3), (8, 0.01, 1)]
)
def test_how_many_groups_are_chosen(batch, share, count):
    assert chosen_groups(batch, share) == count


def falls(ok, trials, more):
    """The expected fall of a Beta posterior's variance, by summing over what `more` samples may say."""
    a, b = ok + 0.5, trials - ok + 0.5
    before = stats.beta(a, b).var()
    right = np.arange(more + 1)
    after = np.array([stats.beta(a + r, b + more - r).var() for r in right])
    return before - np.sum(stats.betabinom(more, a, b).pmf(right) * after)


def test_undecided_is_the_expected_fall_of_the_variance():
    counts = [(0, 3), (1, 3), (2, 3), (3, 3), (0, 0), (1, 1), (4, 8)]
    ok, trials = jnp.array(counts).T
    for more in (1, 5):
        found = undecided(ok[:, None], trials[:, None], jnp.ones((len(counts), 1), bool), more) / 2**20
        np.testing.assert_allclose(found, [falls(*count, more) for count in counts], atol=1e-6)
    # Of 3 samples 1 right: 1.5 * 2.5 / (16 * 5), of which 5 more leave 4 / 9; of 0: 0.5 * 3.5 / (16 * 5).
    found = undecided(jnp.array([[1, 0]]), jnp.array([[3, 3]]), jnp.array([[True, True]]), 5) / 2**20
    np.testing.assert_allclose(found, [(3.75 + 1.75) / 80 * 5 / 9], atol=2e-6)


def test_only_what_matters_is_added_up():
    ok, trials = jnp.array([[1, 1], [1, 0], [0, 0]]), jnp.full((3, 2), 3)
    found = undecided(ok, trials, jnp.array([[True, False], [True, True], [False, False]]), 4)
    one, three = (undecided(jnp.array([[n]]), jnp.array([[3]]), jnp.array([[True]]), 4)[0] for n in (1, 0))
    assert found.tolist() == [one, one + three, 0]
    # In whatever order: equal counts tie exactly.
    assert undecided(jnp.array([[3, 1, 0]]), jnp.full((1, 3), 3), jnp.ones((1, 3), bool), 4) == undecided(
        jnp.array([[1, 0, 3]]), jnp.full((1, 3), 3), jnp.ones((1, 3), bool), 4
    )


def test_rates_that_matter_by_hand():
    formed = jnp.array([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
    real = jnp.array([True, True, True, False])
    nothing = [False, False, False]
    for rule, expected in {
        # A malformed trace is 0 whatever the executor makes of it, but others are compared with it.
        "fail": [[True, True, False], [True, False, False], nothing, nothing],
        # Masked, it leaves one trace alone in the second group, whose advantage is 0 whatever its rate.
        "mask": [[True, True, False], nothing, nothing, nothing],
        "execute": [[True] * 3, [True] * 3, [True] * 3, nothing],
    }.items():
        assert rates_that_matter(RewardConfig(malformed=rule), formed, real).tolist() == expected, rule
    for rule in ("fail", "mask", "execute"):
        alone = rates_that_matter(RewardConfig(malformed=rule), jnp.array([[True]]), jnp.array([True]))
        assert not alone.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adaptive": -1}, "RewardConfig.adaptive must not be negative, got -1"),
        ({"adaptive_share": 0.0}, r"RewardConfig.adaptive_share must lie in \(0, 1\], got 0.0"),
        ({"adaptive_share": 1.5}, r"RewardConfig.adaptive_share must lie in \(0, 1\], got 1.5"),
        ({"adaptive": 4, "uplift": "likelihood"}, 'RewardConfig.adaptive needs uplift = "sampled"'),
        ({"adaptive": 4, "kind": "exec_only", "uplift": "none"}, 'RewardConfig.adaptive needs uplift = "sampled"'),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        RewardConfig(**{"uplift": "sampled"} | values)


# ------------------------------------------------------------------------------------------------------------ rollouts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def play(folder):
    """`play(rule, adaptive, **batch changes)`: the rollout of four groups of four on the host, and its records."""

    @cache
    def make(rule, adaptive):
        reward = RewardConfig(
            "uplift_only",
            uplift="sampled",
            repeats=K,
            baseline_samples=3,
            adaptive=adaptive,
            adaptive_share=0.5,
            malformed=rule,
        )
        loaded = load_roles(make_roles(folder, reward=reward, traces=4, reward_model=None))
        trainable, frozen = loaded.trainable(0)
        weights = Weights({**frozen["planner"], **trainable}, frozen["executor"], None)
        return loaded, weights, jax.jit(partial(rollout, loaded.setup))

    def played(rule, adaptive=E, **changes):
        loaded, weights, roll = make(rule, adaptive)
        batch, problems = first_batch(loaded, 4)
        batch = dataclasses.replace(batch, **changes)
        done = jax.device_get(roll(loaded.text, weights, batch, jax.random.key(3)))
        rows = records(done, problems, loaded.roles.task, loaded.tokenizer, loaded.roles.prompts, {})
        return done, [rows[4 * b : 4 * b + 4] for b in range(4)]

    return played


RULES = [pytest.param(rule, marks=pytest.mark.slow) for rule in ("execute", "fail", "mask")]


def right(answer: str, reference: str) -> bool:
    found = re.findall(r"(?<![\w.)\]}])-\d+|\d+", answer)
    return bool(found) and Fraction(found[-1]) == Fraction(reference)


def expected_choice(groups, rule, real) -> list[int]:
    """The most undecided half of the groups, the first ones where they tie, from what was said before any more was."""
    totals = []
    for b, group in enumerate(groups):
        learnt_from = [real[b] and (row["well_formed"] or rule != "mask") for row in group]
        total = 0.0
        for row, learnt in zip(group, learnt_from, strict=True):
            if learnt and sum(learnt_from) >= 2 and (row["well_formed"] or rule == "execute"):
                total += falls(sum(right(a, row["reference"]) for a in row["answers"][1 : 1 + K]), K, E)
        totals.append(round(total, 5))
    best = sorted(range(len(groups)), key=lambda b: (-totals[b], b))[:2]
    return sorted(b for b in best if totals[b] > 0)


@pytest.mark.parametrize("rule", RULES)
def test_the_undecided_groups_get_more_and_the_others_nothing_new(play, rule):
    (_, before), (done, after) = play(rule, 0), play(rule)
    chosen = expected_choice(before, rule, [True] * 4)
    assert np.flatnonzero(done.asked[:, 0, -1]).tolist() == chosen
    assert len(chosen) == (1 if rule == "mask" else 2)  # masked, only one group has two traces that can be compared
    for b in range(4):
        assert done.asked[b].sum() == 4 * (1 + K + E * (b in chosen))
        for old, new in zip(before[b], after[b], strict=True):
            if b not in chosen:
                assert new == old
                continue
            assert len(new["answers"]) == len(new["answer_tokens"]) == len(new["verdicts"]) == 1 + K + E
            assert new["answers"][: 1 + K] == old["answers"]
            kept = ("trace_tokens", "reasoning", "without_counts", "without_answers", "well_formed", "counted")
            assert {name: new[name] for name in kept} == {name: old[name] for name in kept}


@pytest.mark.parametrize("rule", RULES)
def test_counts_follow_from_what_is_recorded(play, rule):
    _, groups = play(rule)
    for row in chain(*groups):
        executed = row["well_formed"] or rule != "fail"
        verdicts = ["ok" if executed and right(a, row["reference"]) else "wrong" for a in row["answers"]]
        assert row["verdicts"] == verdicts
        ok, trials = verdicts[1:].count("ok"), len(verdicts) - 1
        assert row["with_counts"] == [ok, trials]
        base_ok, base_trials = row["without_counts"]
        np.testing.assert_allclose(row["uplift"], ok / trials - base_ok / base_trials, atol=1e-6)
        np.testing.assert_allclose(row["reward"], 0.5 * (verdicts[0] == "ok") + 0.5 * row["uplift"], atol=1e-6)


def test_the_tiny_roles_show_every_case(play):
    done, groups = play("execute")
    rows = list(chain(*groups))
    more = [answer for row in rows for answer in row["answers"][1 + K :]]
    assert len(set(more)) > 5
    assert {right(a, row["reference"]) for row in rows for a in row["answers"][1 + K :]} == {True, False}
    malformed = [len(row["answers"]) for row in rows if not row["well_formed"]]
    assert {1 + K, 1 + K + E} == set(malformed)
    assert done.verdicts.shape == done.asked.shape == (4, 4, 1 + K + E)
    assert play("execute", 0)[0].asked is None


def test_rows_that_only_fill_a_batch_get_nothing(play):
    _, before = play("execute", 0)
    first = expected_choice(before, "execute", [True] * 4)[0]
    real = [b != first for b in range(4)]
    done, groups = play("execute", real=np.array(real))
    chosen = expected_choice(before, "execute", real)
    assert np.flatnonzero(done.asked[:, 0, -1]).tolist() == chosen
    assert first not in chosen
    assert all(len(row["verdicts"]) == 1 + K for row in groups[first])
    done, _ = play("execute", real=np.zeros(4, bool))
    assert not done.asked[..., 1 + K :].any()


def test_what_was_not_asked_is_no_failure(play):
    done, _ = play("execute")
    assert (done.verdicts == FAILED).sum() == (~done.asked).sum() == 2 * 4 * E
    total, weight = rollout_metrics(done)["rollout/failed_verdicts"]
    assert (total, weight) == (0, 2 * 4 * (1 + K) + 2 * 4 * (1 + K + E))
    verdicts = done.verdicts.copy()
    verdicts[0, 0, 1] = FAILED
    broken = rollout_metrics(dataclasses.replace(done, verdicts=verdicts))["rollout/failed_verdicts"]
    assert broken == (1, weight)


def test_further_answers_are_to_their_own_problem_and_trace():
    """Greedy answers of the shipped dial base depend on both; further ones are the same as the first."""
    experiment = gin_config.load(config.Train, ["experiments/dial/tracelift.gin"]).value
    roles = dataclasses.replace(
        experiment.roles,
        traces=4,
        executor=dataclasses.replace(experiment.roles.executor, temperature=0.0),
        reward_model=None,
        reward=RewardConfig(
            "uplift_only", uplift="sampled", repeats=1, adaptive=2, adaptive_share=0.3, malformed="execute"
        ),
    )
    loaded = load_roles(roles)
    trainable, frozen = loaded.trainable(0)
    weights = Weights({**frozen["planner"], **trainable}, frozen["executor"], None)
    batch, _ = first_batch(loaded, 6)
    batch = dataclasses.replace(batch, real=np.array([False, True, False, False, True, False]))
    done = jax.device_get(jax.jit(partial(rollout, loaded.setup))(loaded.text, weights, batch, jax.random.key(0)))
    assert np.flatnonzero(done.asked[:, 0, -1]).tolist() == [1, 4]
    ids = np.where(done.answers.valid, done.answers.ids, -1)
    for b in (1, 4):
        np.testing.assert_array_equal(ids[b], np.broadcast_to(ids[b, :, :1], ids[b].shape))
        np.testing.assert_array_equal(done.verdicts[b], np.broadcast_to(done.verdicts[b, :, :1], (4, 4)))
        assert len(np.unique(ids[b, :, 0], axis=0)) > 1
    assert (ids[1, :, 0] != ids[4, :, 0]).any()
    assert {int(v) for v in done.verdicts[[1, 4]].ravel()} == {0, 1}


# -------------------------------------------------------------------------------------------------------- around them


def test_caches_by_hand(folder):
    """128 bytes a token, G = 3, 6 tokens a trace, 3 an answer, of which the last is never read."""
    loaded = load_roles(make_roles(folder, reward_model=None, reward=RewardConfig("uplift_only")))
    fixed = dataclasses.replace(loaded.setup.fixed, open=(1,), close=(2, 2), ask=(3, 3, 3), ask_directly=(4, 4))
    plain = RewardConfig(uplift="sampled", repeats=3, baseline_samples=5)
    setup = dataclasses.replace(loaded.setup, fixed=fixed, reward=plain)
    more = dataclasses.replace(setup, reward=dataclasses.replace(plain, adaptive=7, adaptive_share=0.25))
    # Three of ten groups are copied, 30 of the problem and 3 traces of 12, and each trace gets 7 answers of 2.
    further = 3 * (30 + 3 * 12 + 3 * 7 * 2)
    added = {role: cache_bytes(more, 30, 10)[role] - size for role, size in cache_bytes(setup, 30, 10).items()}
    assert added == {"planner": 0, "executor": 128 * further}


def test_a_server_is_asked_once_a_step(folder):
    reward = RewardConfig("uplift_only", uplift="sampled", adaptive=2)
    with pytest.raises(UserError, match=r"^Roles.executor_server needs RewardConfig.adaptive = 0: "):
        make_roles(folder, reward=reward, executor_server=ExecutorServer("http://localhost:1", "m"))
