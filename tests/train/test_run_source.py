"""Runs from shapes alone: the same structure, shapes, dtypes and layouts as with weights, and the same functions."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import first_batch, make_roles, make_train, write_models

from tracelift_jax.config import Adapter, LoraConfig, MeshConfig, Model, RewardConfig, Shape
from tracelift_jax.models import hf, peft
from tracelift_jax.models.transformer import abstract_variables
from tracelift_jax.parallel.memory import device_bytes, same_buffers, shard_bytes
from tracelift_jax.parallel.mesh import make_mesh
from tracelift_jax.rollout.judging import judge_answers
from tracelift_jax.train.planner_loop import begin
from tracelift_jax.train.programs import plan, prompt_batch
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.roles import make_roles as roles_from
from tracelift_jax.train.source import Abstract

LORA = LoraConfig(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny models, and `grader`, an adapter with heads on the base."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    config = dataclasses.replace(hf.read_config(folder / "base"), lora=LORA)
    lora = nn.meta.unbox(abstract_variables(config))["lora"]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), lora)
    heads = {"dimensions": (5, 16, 5), "dimension_bias": (5, 5), "total": (16,), "total_bias": ()}
    peft.save_adapter(
        folder / "grader", zeros, config, "", {name: np.zeros(s, np.float32) for name, s in heads.items()}
    )
    return folder


def described(tree):
    """Path, shape, dtype and layout of every leaf."""
    return [
        (jax.tree_util.keystr(path), x.shape, x.dtype, x.sharding.shard_shape(x.shape), x.sharding.is_fully_replicated)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]


PLAIN = RewardConfig(kind="exec_only")
CASES = {
    "adapter": {"lora": LORA},
    "all weights": {"lora": None},
    "an adapter as reward model": {"lora": LORA, "reward_model": "grader"},
    "no reward model": {"lora": LORA, "reward_model": None, "reward": PLAIN},
    "random weights": {
        "lora": LORA,
        "base": Model(shape=Shape(width=16, ff_width=24, layers=2, heads=2, kv_heads=1, head_width=8)),
        "tokenizer": "assets/dial/tokenizer",
        "reward_model": None,
        "reward": PLAIN,
    },
    "int8": {"lora": LORA, "weights": "int8"},
    "bfloat16": {"lora": None, "param_dtype": "bfloat16"},
}


@pytest.mark.parametrize("case", CASES)
def test_leaf_by_leaf(folder, case):
    changes = dict(CASES[case])
    if changes.get("reward_model"):
        changes["reward_model"] = Adapter(str(folder / "grader"))
    kept = {name: changes.pop(name) for name in ("weights", "param_dtype") if name in changes}
    if kept:
        changes["base"] = Model(path=str(folder / "base"), **kept)
    config = make_train(folder, roles=changes)
    real = load_roles(config.roles)
    shapes = roles_from(config.roles, "std", Abstract(make_mesh(config.roles.mesh), config.roles.mesh), judge_answers)
    with_weights, without = begin(config, real), begin(config, shapes)
    for name in ("state", "frozen", "sampling_key"):
        assert described(getattr(without, name)) == described(getattr(with_weights, name)), name
    assert described(shapes.reward_model) == described(real.reward_model)
    assert described(shapes.text) == described(real.text)
    # The same functions: a step is traced and compiled once for both.
    assert shapes.setup == real.setup and without.train is with_weights.train and without.roll is with_weights.roll
    memory = [
        loaded.memory(begun.state.trainable, begun.state.opt_state, 4)
        for loaded, begun in ((real, with_weights), (shapes, without))
    ]
    assert memory[0] == memory[1]


def test_shared_arrays_are_the_same_objects(folder):
    config = make_train(folder, roles={"lora": LORA, "reward_model": Adapter(str(folder / "grader"))})
    shapes = roles_from(config.roles, "std", Abstract(make_mesh(config.roles.mesh), config.roles.mesh), judge_answers)
    assert same_buffers(shapes.reward_model[0]["params"], shapes.executor.params)
    assert shapes.planner.params is shapes.executor.params
    other = Abstract(make_mesh(config.roles.mesh), config.roles.mesh).base(config.roles.base, shapes.planner.shape)
    assert not same_buffers(other, shapes.executor.params)


def test_a_batch_has_the_shapes_of_a_real_one(folder):
    loaded = load_roles(make_roles(folder))
    real, _ = first_batch(loaded, 4)
    made = prompt_batch(make_train(folder), loaded)
    assert jax.tree.structure(made) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(real), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_bytes_of_abstract_arrays():
    """Of a shard; of one object in two trees, once."""
    mesh = make_mesh(MeshConfig())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8 * mesh.size, 3), np.float32, sharding=split)
    assert shard_bytes(x) == 96
    assert device_bytes({"one": [x, x], "two": {"again": x}, "three": jax.ShapeDtypeStruct((5,), np.int8)}) == {
        "one": 96,
        "two": 0,
        "three": 5,
    }


def test_a_plan_counts_what_is_alive(folder):
    """Weights once, however many roles use them; a rollout's weights lie as they do between steps, on one device."""
    config = make_train(folder, roles={"lora": LORA, "reward_model": Adapter(str(folder / "grader"))})
    planned = plan(config, jax.devices()[:1])
    assert [program.name for program in planned.programs] == ["rollout", "update"]
    assert planned.moved == 0 and len(planned.shapes) == 3
    roll, update = planned.programs
    loaded = load_roles(config.roles)
    begun = begin(config, loaded)
    batch = prompt_batch(config, loaded)
    text = sum(x.nbytes for x in jax.tree.leaves(loaded.text))
    batches = sum(shard_bytes(x) for x in jax.tree.leaves(batch))
    scalars = 4 + begun.state.key.nbytes  # the step and the key of the state
    assert roll.alive == sum(planned.resident.values()) + text + batches + scalars
    assert update.alive > roll.alive
