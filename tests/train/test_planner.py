"""Planner updates: the trainer agrees with the sampler, and only what is trained moves."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_same, first_batch, make_roles, write_models

from tracelift_jax.config import GrpoConfig, LoraConfig, OptimizerConfig, RewardConfig, Sampling
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.train.losses import group_advantages
from tracelift_jax.train.planner import make_steps
from tracelift_jax.train.planner_loop import planner_weights
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.update import init_state, make_optimizer, place_state

TEMPERATURE = 0.8
OPTIMIZER = OptimizerConfig(learning_rate=2e-2)
# No reward model, and a reward that differs within almost every group.
REWARD = RewardConfig(kind="uplift_only", uplift="likelihood", malformed="execute")


class Run:
    """One rollout of a fresh planner, and the functions of a step."""

    def __init__(self, folder, lora: LoraConfig | None, kl: float):
        sampling = Sampling(max_tokens=6, temperature=TEMPERATURE, top_p=0.9)
        roles = make_roles(folder, lora=lora, reward=REWARD, planner=sampling, reward_model=None, traces=4)
        self.loaded = load_roles(roles)
        self.batch, _ = first_batch(self.loaded, 4)
        self.config = GrpoConfig(kl=kl, reduction="token")
        self.make = partial(make_steps, self.loaded.setup, self.config, OPTIMIZER)
        self.trainable, self.frozen = self.loaded.trainable(0)
        self.optimizer = make_optimizer(OPTIMIZER, 9)
        _, self.layouts = place_state(self.fresh_state(), self.loaded.mesh)
        _, self.roll, self.once = self.make(passes=1, steps=9, layouts=self.layouts)
        self.batch = place_batch(self.batch, self.loaded.mesh)
        self.key = jax.device_put(jax.random.key(5), self.layouts.same)
        self.done = self.sample(self.trainable, 0)

    def sample(self, trainable, step):
        weights = planner_weights(self.loaded, self.frozen, trainable)
        return self.roll(weights, self.loaded.text, self.batch, self.key, jnp.int32(step))

    def place(self, x):
        """An array as a rollout's are placed, so that nothing is compiled again."""
        return jax.device_put(x, self.layouts.batch)

    def fresh_state(self):
        state = init_state(jax.tree.map(jnp.copy, self.trainable), self.optimizer, 0)
        return place_state(state, self.loaded.mesh)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def full(folder) -> Run:
    return Run(folder, lora=None, kl=0.0)


@pytest.fixture(scope="module")
def lora(folder) -> Run:
    return Run(folder, lora=LoraConfig(rank=2, alpha=4.0), kl=0.1)


def flat_logprobs(run: Run, trainable) -> np.ndarray:
    """[B, G, R] log-probabilities of the traces, each read alone from its first token: no tree, no cache, no chunks."""
    planner = run.loaded.setup.planner
    variables = {**run.frozen["planner"], **trainable}
    problem, traces = jax.device_get((run.batch.planner, run.done.traces))
    heads = [[*problem.ids[b][problem.valid[b]], *run.loaded.setup.fixed.open] for b in range(len(problem.ids))]
    size = max(map(len, heads)) + traces.ids.shape[-1]

    @jax.jit
    def logits(ids):
        hidden, _ = planner.apply(variables, ids, ids >= 0)
        return planner.apply(variables, hidden, method="logits")

    out = np.zeros(traces.ids.shape)
    for b, g in np.ndindex(traces.ids.shape[:2]):
        row = [*heads[b], *traces.ids[b, g][traces.valid[b, g]]]
        padded = np.array([[*row, *[0] * (size - len(row))]])
        table = np.asarray(logits(padded)[0], np.float64) / TEMPERATURE
        table -= np.log(np.exp(table).sum(-1, keepdims=True))
        for place in range(len(heads[b]), len(row)):
            out[b, g, place - len(heads[b])] = table[place - 1, row[place]]
    return out


def test_stored_logprobs_are_those_of_a_flat_pass(full):
    # Before top-p, at the sampling temperature.
    np.testing.assert_allclose(full.done.logprobs, flat_logprobs(full, full.trainable), atol=2e-5)
    assert (np.asarray(full.done.logprobs)[~np.asarray(full.done.traces.valid)] == 0).all()


@pytest.mark.parametrize("which", ["full", "lora"])
def test_the_trainer_agrees_with_the_sampler(which, request):
    run = request.getfixturevalue(which)
    _, metrics = run.once(run.fresh_state(), run.frozen, run.batch, run.done)
    assert metrics["sampler/gap_max"] < 1e-5 and metrics["sampler/gap_tail"] == 0
    np.testing.assert_allclose(metrics["policy/ratio"], 1, atol=1e-5)
    assert metrics["policy/clipped"] == 0


def test_the_second_pass_sees_the_ratio_of_the_first_update(full):
    after, _ = full.once(full.fresh_state(), full.frozen, full.batch, full.done)
    tokens = np.asarray(full.done.traces.valid & full.done.counted[..., None])
    ratio = np.exp(flat_logprobs(full, after.trainable) - np.asarray(full.done.logprobs))[tokens]
    assert np.abs(ratio - 1).max() > 0.05  # the update did something
    _, _, twice = full.make(passes=2, steps=9, layouts=full.layouts)
    state, metrics = twice(full.fresh_state(), full.frozen, full.batch, full.done)
    np.testing.assert_allclose(metrics["policy/ratio"], ratio.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/kl_sampler"], (ratio - 1 - np.log(ratio)).mean(), rtol=1e-3)
    assert metrics["sampler/gap_max"] < 1e-5  # of the first pass
    assert int(state.step) == 1  # one rollout, however many passes


@pytest.mark.parametrize("which", ["full", "lora"])
def test_training_moves_the_planner_and_nothing_else(which, request):
    run = request.getfixturevalue(which)
    before = fingerprint(run.frozen["executor"]["params"])
    assert before == run.loaded.fingerprints["executor"] == fingerprint(run.loaded.executor.params)
    # As a run begins: what the roles give out is donated at once.
    begun = init_state(run.loaded.trainable(0)[0], run.optimizer, 0)
    first = state = place_state(begun, run.loaded.mesh)[0]
    start = jax.device_get(run.trainable)
    for _ in range(2):
        state, metrics = run.once(state, run.frozen, run.batch, run.done)
        assert metrics["optimizer/gradient_norm"] > 1e-3
    assert fingerprint(run.frozen["executor"]["params"]) == before
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (start, state.trainable)), strict=True)]
    assert all(moved)
    # The old state was donated; the base, which starts as the same values, was not.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.trainable))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((run.frozen, run.trainable)))
    assert_same(jax.device_get(run.trainable), start)


def test_what_is_trained_is_the_adapter_or_all_weights(full, lora):
    assert set(full.trainable) == {"params"}
    assert full.frozen["planner"] == {}
    assert set(lora.trainable) == {"lora"}
    assert lora.frozen["planner"]["params"] is lora.frozen["executor"]["params"]


def test_a_fresh_adapter_is_the_base(lora):
    state, metrics = lora.once(lora.fresh_state(), lora.frozen, lora.batch, lora.done)
    np.testing.assert_allclose(metrics["policy/kl_base"], 0, atol=1e-7)
    _, metrics = lora.once(state, lora.frozen, lora.batch, lora.done)
    assert metrics["policy/kl_base"] > 1e-5


def test_rollout_metrics_are_means_over_counted_traces(full):
    done = jax.device_get(full.done)
    counted = np.ones((4, 4), bool)
    counted[0, 0] = counted[2] = False
    state = full.fresh_state()
    _, metrics = full.once(state, full.frozen, full.batch, dataclasses.replace(full.done, counted=full.place(counted)))
    np.testing.assert_allclose(metrics["reward/mean"], done.reward[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward/accuracy"], (done.verdicts[..., 0] == 1)[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["rollout/trace_tokens"], done.traces.valid.sum(-1)[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["rollout/well_formed"], done.well_formed[counted].mean(), rtol=1e-5)
    # Group 2 has no counted trace at all, so it is not a group that is there; of the others one trace is left out.
    np.testing.assert_allclose(metrics["rollout/left_out"], 1 / 12, rtol=1e-5)


def test_a_planner_learns_what_it_is_rewarded_for(full):
    wanted = full.loaded.tokenizer.encode(" 7")[0]
    state, share = full.fresh_state(), []
    for step in range(12):
        done = full.sample(state.trainable, step)
        valid = done.traces.valid
        reward = ((done.traces.ids == wanted) & valid).sum(-1) / valid.sum(-1)
        share.append(float(reward.mean()))
        advantage = full.place(group_advantages(reward, done.counted))
        done = dataclasses.replace(done, reward=full.place(reward), advantage=advantage)
        state, _ = full.once(state, full.frozen, full.batch, done)
    assert np.mean(share[:3]) < 0.2
    assert np.mean(share[-3:]) > 0.5


def test_only_mixed_groups_are_learnt_from_where_asked(full):
    """Two groups are mixed. Leaving the others out is leaving their traces out; with no mixed group nothing moves."""
    primary = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]], np.int8)
    verdicts = np.broadcast_to(primary[..., None], full.done.verdicts.shape)
    done = dataclasses.replace(full.done, verdicts=full.place(verdicts))
    by_hand = dataclasses.replace(
        done, counted=full.place(np.array([[True] * 4, [False] * 4, [False] * 4, [True] * 4]))
    )
    setup, layouts = full.loaded.setup, full.layouts
    _, _, only = make_steps(setup, dataclasses.replace(full.config, groups="mixed"), OPTIMIZER, 1, 9, layouts)
    state, metrics = only(full.fresh_state(), full.frozen, full.batch, done)
    expected, _ = full.once(full.fresh_state(), full.frozen, full.batch, by_hand)
    assert_same(jax.device_get(state.trainable), jax.device_get(expected.trainable))
    assert metrics["reward/groups_mixed"] == 0.5
    np.testing.assert_allclose(metrics["reward/mean"], np.asarray(full.done.reward).mean(), rtol=1e-5)  # of all groups
    none = dataclasses.replace(done, verdicts=full.place(np.ones_like(verdicts)))
    state, metrics = only(full.fresh_state(), full.frozen, full.batch, none)
    assert_same(jax.device_get(state.trainable), jax.device_get(full.trainable))
    assert metrics["optimizer/gradient_norm"] == 0
