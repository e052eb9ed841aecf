"""Who uses whose weights: one resident base by default, weights of its own for any role, and what is said of memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_same, first_batch, make_roles, model, write_models

from tracelift_jax.config import Adapter, LoraConfig, Model, RewardConfig
from tracelift_jax.errors import UserError
from tracelift_jax.models import hf, peft
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.parallel.memory import device_bytes, readable, same_buffers
from tracelift_jax.rollout.caches import cache_bytes
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.planner_loop import planner_weights
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.update import OptimizerConfig, init_state, make_optimizer

LORA = LoraConfig(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny models; `other`, a base of other values; `grader`, an adapter with heads on the base, and `merged`."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    config = hf.read_config(folder / "base")
    params = jax.device_get(hf.load_params(folder / "base", config))
    hf.save(folder / "other", jax.tree.map(lambda x: np.float32(0.5) * x, params), config)
    shape = dataclasses.replace(config, lora=LORA)
    rng = np.random.default_rng(3)
    loaded = load_roles(make_roles(folder, lora=LORA, reward_model=None, reward=RewardConfig(kind="exec_only")))
    lora = jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), loaded.trainable(0)[0]["lora"]
    )
    heads = {"dimensions": (5, 16, 5), "dimension_bias": (5, 5), "total": (16,), "total_bias": ()}
    heads = {name: np.asarray(rng.standard_normal(size), np.float32) for name, size in heads.items()}
    peft.save_adapter(folder / "grader", lora, shape, str(folder / "base"), heads)
    bare = dataclasses.replace(shape, tie_embeddings=True)
    without = {name: value for name, value in params.items() if name != "head"}
    hf.save_reward_model(folder / "merged", hf.merge_lora(without, lora, bare), heads, bare)
    return folder


@pytest.fixture(scope="module")
def shared(folder):
    return load_roles(make_roles(folder, lora=LORA, reward_model=Adapter(str(folder / "grader"))))


def test_the_roles_hold_the_same_buffers(shared):
    """Not copies: the executor, the planner's base, the KL reference and the reward model's base are one memory."""
    trainable, frozen = shared.trainable(0)
    weights = planner_weights(shared, frozen, trainable)
    base = shared.executor.params
    holders = (
        weights.executor["params"],
        weights.planner["params"],
        frozen["reference"]["params"],
        weights.reward_model[0]["params"],
    )
    assert all(same_buffers(base, holder) for holder in holders)
    assert not same_buffers(base, jax.tree.map(lambda x: x.copy(), base))
    assert set(weights.planner) == {"params", "lora"}
    assert set(weights.reward_model[0]) == {"params", "lora"}


def test_all_weights_of_a_base_in_half_precision_are_trained_in_float32(folder):
    """An update of a thousandth of a weight, which bfloat16 would round away, stays; the base stays what it is."""
    base = Model(path=str(folder / "base"), param_dtype="bfloat16")
    loaded = load_roles(make_roles(folder, base=base, lora=None, reward_model=None, reward=RewardConfig("exec_only")))
    before = jax.device_get(loaded.executor.params)
    trainable, frozen = loaded.trainable(0)
    leaves = jax.tree.leaves(trainable)
    assert {x.dtype for x in leaves} == {np.dtype("float32")} and frozen["planner"] == {}
    assert {x.dtype for x in jax.tree.leaves(before)} == {np.dtype(jnp.bfloat16)}
    jax.tree.map(lambda x, b: np.testing.assert_array_equal(x, b.astype(np.float32)), trainable["params"], before)
    moved = jax.tree.map(lambda x: x * 1.001, trainable)
    assert all((x != y).any() for x, y in zip(jax.tree.leaves(moved), leaves, strict=True) if np.any(y))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded.executor.params), before)


def test_memory_counts_every_buffer_once(shared):
    """By hand: V = 337, D = 16, F = 24, L = 2, H = 2, N = 1, Q = 8, untied, float32."""
    trainable, _ = shared.trainable(0)
    optimizer = make_optimizer(OptimizerConfig(), 1).init(trainable)
    layer = 2 * (16 * 16) + 2 * (16 * 8) + 16 + 8 + 8 + 3 * (16 * 24) + 2 * 16
    base = 4 * (2 * 337 * 16 + 16 + 2 * layer)
    adapter = 4 * 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))  # rank 2, two layers
    heads = 4 * (5 * 16 * 5 + 5 * 5 + 16 + 1)
    counts = 2 * 4  # AdamW counts its updates, and so does the schedule
    memory = shared.memory(trainable, optimizer, batch_size=4)
    caches = memory.pop("key-value caches, at most")
    assert memory == {
        "base (executor, planner, reward model)": base,
        "adapters and heads": 2 * adapter + heads,
        "optimizer": 2 * adapter + counts,
    }
    assert caches == max(cache_bytes(shared.setup, 30, 4).values())


def test_caches_by_hand(shared):
    """Two layers, one key/value head of width 8, float32: 128 bytes a token."""
    fixed = dataclasses.replace(shared.setup.fixed, open=(1,), close=(2, 2), ask=(3, 3, 3), ask_directly=(4, 4))
    setup = dataclasses.replace(shared.setup, fixed=fixed)  # G = 3, 6 tokens a trace, 3 an answer
    assert setup.reward.uplift == "likelihood"
    tokens = {
        "planner": 30 + 1 + 3 * 5,
        "executor": 30 + 3 * (1 + 6 + 2 + 3) + 2 + 3 * 2,
        "reward_model": 30 + 3 * (1 + 6 + 2),
    }
    assert cache_bytes(setup, 30, 4) == {role: 4 * 128 * n for role, n in tokens.items()}
    sampled = dataclasses.replace(setup, reward=RewardConfig(uplift="sampled", repeats=3, baseline_samples=5))
    executor = 30 + 3 * (1 + 6 + 2 + 3) + 2 + (3 * (1 + 3) + 5) * 2
    assert cache_bytes(sampled, 30, 1)["executor"] == 128 * executor
    again = dataclasses.replace(sampled, reward=dataclasses.replace(sampled.reward, baseline="resample"))
    assert cache_bytes(again, 30, 1)["executor"] == 128 * (executor + (3 * 3 - 5) * 2)


def test_an_adapter_grades_as_the_model_it_was_merged_into(folder, shared):
    own = load_roles(make_roles(folder, lora=LORA, reward_model=model(folder / "merged")))
    assert not same_buffers(own.reward_model[0]["params"], own.executor.params)
    batch, _ = first_batch(shared, 4)
    reasoning = Tokens(np.tile(np.arange(3, 9, dtype=np.int32), (4, 2, 1)), np.ones((4, 2, 6), bool))

    def score(loaded):
        run = jax.jit(lambda v, h: grade(loaded.setup.reward_model, v, h, batch.reward_model, reasoning).score)
        return run(*loaded.reward_model)

    np.testing.assert_allclose(score(shared), score(own), atol=1e-5)
    assert "reward model's weights" in own.memory({}, {}, 4)


@pytest.mark.parametrize("role", ["executor", "planner"])
def test_a_role_may_have_weights_of_its_own(folder, shared, role):
    changes = {f"{role}_model": model(folder / "other")}
    loaded = load_roles(
        make_roles(folder, lora=LORA, reward_model=None, reward=RewardConfig(kind="exec_only"), **changes)
    )
    base, other = fingerprint(shared.executor.params), fingerprint(hf.load(folder / "other")[1])
    mine = other if role == "executor" else base
    assert loaded.fingerprints == {"executor": mine, "planner_base": base if role == "executor" else other}
    trainable, frozen = loaded.trainable(0)
    assert fingerprint(frozen["reference"]["params"]) == loaded.fingerprints["planner_base"]
    assert same_buffers(frozen["reference"], frozen["planner"])
    assert fingerprint(frozen["executor"]["params"]) == mine
    memory = loaded.memory(trainable, {}, 4)
    assert memory["base (executor)"] == memory["planner's base"] > 10_000


def test_a_planner_goes_on_from_an_adapter(folder):
    plain = RewardConfig(kind="exec_only")
    loaded = load_roles(make_roles(folder, lora=Adapter(str(folder / "grader")), reward_model=None, reward=plain))
    assert loaded.planner_shape.lora == peft.read_adapter_config(folder / "grader")
    trainable, _ = loaded.trainable(0)
    assert_same(jax.device_get(trainable["lora"]), peft.load_adapter(folder / "grader", loaded.planner_shape))


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_int8_serves_all_roles_and_cannot_be_trained(folder, kl):
    base = dataclasses.replace(model(folder / "base"), weights="int8")
    roles = make_roles(folder, base=base, lora=LORA, reward_model=Adapter(str(folder / "grader")))
    loaded = load_roles(roles)
    kernel = loaded.executor.params["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.qvalue.dtype == np.int8 and kernel.qvalue.shape == (2, 16, 24)
    assert same_buffers(loaded.executor.params, loaded.reward_model[0]["params"])
    state = init_state(loaded.trainable(0)[0], make_optimizer(OptimizerConfig(), 1), 0)
    assert loaded.memory(state.trainable, state.opt_state, 4)["base (executor, planner, reward model)"] < 50_000
    with pytest.raises(UserError, match=r"^Roles\.lora must be set where Model\.weights = .int8."):
        dataclasses.replace(roles, lora=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner_model": Model(path="a"), "executor_model": Model(path="b")}, "are not needed together"),
        ({"reward_model": None}, "Roles.reward_model must be set"),
    ],
)
def test_roles_that_make_no_sense_are_refused(folder, change, message):
    with pytest.raises(UserError, match=message):
        make_roles(folder, **change)


def test_a_reward_model_without_a_path_grades_nothing(folder):
    with pytest.raises(UserError, match=r"^Roles\.reward_model needs a path: random weights grade nothing"):
        load_roles(make_roles(folder, lora=LORA, reward_model=Model()))


def test_an_adapter_without_heads_grades_nothing(folder, tmp_path):
    shape = dataclasses.replace(hf.read_config(folder / "base"), lora=LORA)
    peft.save_adapter(tmp_path, peft.load_adapter(folder / "grader", shape), shape)
    with pytest.raises(UserError, match=f"^{tmp_path}.*dimension_heads.0"):
        load_roles(make_roles(folder, lora=LORA, reward_model=Adapter(str(tmp_path))))


def test_a_shared_buffer_counts_for_the_first_that_holds_it():
    a, b = jax.device_put(np.zeros(100, np.float32)), jax.device_put(np.zeros(7, np.int8))
    assert device_bytes({"one": [a], "two": {"x": a, "y": b}}) == {"one": 400, "two": 7}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (1_234_567, "1.2 MB"),
        (15e9, "15.0 GB"),
    ],
)
def test_readable(size, text):
    assert readable(int(size)) == text
