"""Weights laid out for rollouts: the same values, moved once, and only what has to.

`python tests/rollout/test_decoding.py FOLDER` looks on eight devices.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import assert_same, make_roles, run_on_eight, say, write_models

from tracelift_jax.config import LoraConfig, MeshConfig, Model, Rules
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.decoding import Decoding
from tracelift_jax.train.roles import Loaded, load_roles

SPLIT = MeshConfig(data=2, fsdp=2, tensor=2, rules=Rules(vocab="", kv_heads=""))


def weights_of(loaded: Loaded) -> Weights:
    """As they lie between steps."""
    trainable, frozen = loaded.trainable(0)
    return Weights({**frozen["planner"], **trainable}, frozen["executor"], loaded.reward_model)


def spec(x: Any) -> list[str | None]:
    return [*x.sharding.spec]


def on_eight(folder: Path) -> dict[str, Any]:
    """What becomes of weights split over D."""
    loaded = load_roles(make_roles(folder, lora=LoraConfig(rank=2), mesh=SPLIT))
    before = weights_of(loaded)
    after = loaded.decoding(before)
    assert after.reward_model is not None and before.reward_model is not None
    kernels = [w.planner["params"]["blocks"]["mlp"]["down"]["kernel"] for w in (before, after)]
    return {
        "same": jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), jax.device_get(before), after)),
        "kernel": [spec(x) for x in kernels],
        "shards": [list(x.addressable_shards[0].data.shape) for x in kernels],
        "adapter": [spec(w.planner["lora"]["blocks"]["mlp"]["gate"]["a"]) for w in (before, after)],
        "heads": spec(after.reward_model[1]["dimensions"]),
        "gathered": sorted({str(axis) for x in jax.tree.leaves(after) for axis in spec(x)}),
        # One copy for planner and executor, as before.
        "shared": [
            all(a is b for a, b in zip(*map(jax.tree.leaves, (w.planner["params"], w.executor["params"])), strict=True))
            for w in (before, after)
        ],
        "again": loaded.decoding(after) is after,
        "lowered": lowered(loaded, before, after),
    }


def lowered(loaded: Loaded, before: Weights, after: Weights) -> dict[str, Any]:
    """The same of shapes alone."""

    def likeness(tree: Weights) -> Weights:
        seen: dict[int, Any] = {}
        return jax.tree.map(
            lambda x: seen.setdefault(id(x), jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)), tree
        )

    program, result = loaded.decoding.lower(likeness(before))
    pairs = list(zip(jax.tree.leaves(result), jax.tree.leaves(after), strict=True))
    return {
        "same": all(a.dtype == b.dtype and a.sharding.is_equivalent_to(b.sharding, b.ndim) for a, b in pairs),
        "gathers": "all-gather" in program.compile().as_text(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def eight(folder) -> dict[str, Any]:
    return run_on_eight(__file__, folder)


def test_what_is_split_over_the_width_is_gathered_and_nothing_else(eight):
    assert eight["same"]
    # [L, F, D]: F = 24 over tensor, D = 16 over fsdp until it is decoded with.
    assert eight["kernel"] == [[None, "tensor", "fsdp"], [None, "tensor", None]]
    assert eight["shards"] == [[2, 12, 8], [2, 12, 16]]
    assert eight["adapter"] == [[None, "fsdp", None], [None, None, None]]
    assert eight["heads"] == []
    assert eight["gathered"] == ["None", "tensor"]


def test_roles_go_on_sharing_and_nothing_moves_twice(eight):
    assert eight["shared"] == [True, True]
    assert eight["again"]


def test_shapes_alone_tell_the_same(eight):
    assert eight["lowered"] == {"same": True, "gathers": True}


def test_on_one_device_weights_stay_the_same_arrays(folder):
    loaded = load_roles(make_roles(folder))
    before = weights_of(loaded)
    assert loaded.decoding(before) is before
    assert loaded.decoding.lower(before) == (None, before)


def test_master_weights_are_decoded_with_in_the_compute_dtype(folder):
    """Trained in float32, computed in bfloat16: cast once, the norms' scales aside, which are used in float32."""
    half = Model(path=str(folder / "base"), dtype="bfloat16", param_dtype="bfloat16", remat="none")
    loaded = load_roles(make_roles(folder, base=half))
    before = weights_of(loaded)
    after = loaded.decoding(before)
    dtypes = {
        jax.tree_util.keystr(path[-1:], simple=True): leaf.dtype.name
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.planner)
    }
    assert dtypes == {
        "kernel": "bfloat16",
        "bias": "bfloat16",
        "embedding": "bfloat16",
        "head": "bfloat16",
        "scale": "float32",
    }
    assert_same(
        jax.device_get(after.planner["params"]["embedding"]),
        jax.device_get(before.planner["params"]["embedding"]).astype("bfloat16"),
    )
    assert after.executor is before.executor or jax.tree.all(
        jax.tree.map(lambda a, b: a is b, after.executor, before.executor)
    )
    assert after.reward_model is not None and before.reward_model is not None
    assert {x.dtype.name for x in jax.tree.leaves(after.reward_model)} == {"float32"}


def test_other_rules_lay_out_otherwise(folder):
    loaded = load_roles(make_roles(folder))
    decoding = Decoding(loaded.setup, loaded.mesh, Rules(embed="", mlp=""))
    wanted = decoding._wanted(weights_of(loaded))
    assert {str(axis) for each in wanted for axis in each.sharding.spec} == {"None", "tensor"}
    assert PartitionSpec(None, None, None) in {each.sharding.spec for each in wanted}


if __name__ == "__main__":
    say(on_eight(Path(sys.argv[1])))
