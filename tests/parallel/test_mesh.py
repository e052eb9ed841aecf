"""The mesh's shape, the rules of a layout, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from tracelift_jax.config import MeshConfig, Rules
from tracelift_jax.errors import UserError
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.transformer import ModelConfig, abstract_variables
from tracelift_jax.parallel.mesh import AXES, check_batch, lay_out, make_mesh, parameter_shardings

QWEN3 = ModelConfig(
    40, 16, 24, layers=2, heads=4, kv_heads=2, head_width=6, qk_norm=True, out_bias=True, tie_embeddings=False
)


def mesh_of(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def specs(config: ModelConfig, rules: Rules, mesh=None) -> dict[str, PartitionSpec]:
    """The layout of every parameter by its path."""
    shardings = parameter_shardings(abstract_variables(config), mesh or mesh_of(1, 2, 2), rules)
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec for path, leaf in leaves}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What a mesh reads of a GPU: nodes are JAX's slices."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("sizes", "nodes"),
    [
        # Devices 0 to 3 are one node, 4 to 7 the other: along data, and along fsdp only where there is no data.
        ((2, 2, 2), [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]),
        ((8, 1, 1), [[[0]], [[0]], [[0]], [[0]], [[1]], [[1]], [[1]], [[1]]]),
        ((1, 4, 2), [[[0, 0], [0, 0], [1, 1], [1, 1]]]),
        ((1, 1, 8), [[[0, 0, 0, 0, 1, 1, 1, 1]]]),
    ],
)
def test_nodes_lie_along_the_first_axes(sizes, nodes):
    mesh = lay_out(sizes, [Gpu(i, i // 4) for i in range(8)])
    assert mesh.shape == sizes and sorted(gpu.id for gpu in mesh.flat) == list(range(8))
    assert [[[gpu.slice_index for gpu in row] for row in rows] for rows in mesh] == nodes


def test_more_nodes_than_the_first_axis_has():
    """Four nodes of two: two along data, two along fsdp, and tensor within each."""
    mesh = lay_out((2, 2, 2), [Gpu(i, i // 2) for i in range(8)])
    assert [[[gpu.slice_index for gpu in row] for row in rows] for rows in mesh] == [[[0, 0], [1, 1]], [[2, 2], [3, 3]]]


def test_one_node_is_in_order():
    assert [gpu.id for gpu in lay_out((2, 2, 2), [Gpu(i, 5) for i in range(8)]).flat] == list(range(8))


@pytest.mark.parametrize(
    ("sizes", "nodes", "message"),
    [
        ((5, 1, 1), [0, 0, 0, 1, 1], r"5 x 1 x 1 does not split over 2 nodes or slices of \[2, 3\] devices"),
        ((2, 1, 4), [0, 0, 0, 0, 0, 0, 1, 1], r"2 x 1 x 4 does not split over 2 nodes or slices of \[2, 6\] devices"),
    ],
)
def test_nodes_that_do_not_fit_are_told(sizes, nodes, message):
    with pytest.raises(UserError, match=f"^MeshConfig: {message}; make data a multiple of their number$"):
        lay_out(sizes, [Gpu(i, node) for i, node in enumerate(nodes)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": 0}, "MeshConfig.data must be -1 or at least 1, got 0"),
        ({"fsdp": -2}, "MeshConfig.fsdp must be -1 or at least 1, got -2"),
        ({"fsdp": -1}, "MeshConfig: only one axis may be -1"),
    ],
)
def test_wrong_sizes_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}"):
        MeshConfig(**values)


@pytest.mark.parametrize("sizes", [{"data": 2}, {"tensor": 3}, {"data": 1, "fsdp": 2, "tensor": 2}])
def test_sizes_that_do_not_multiply_are_one_line(sizes):
    with pytest.raises(UserError, match=r"^MeshConfig: data=-?\d x fsdp=\d x tensor=\d is not 1 devices$"):
        make_mesh(MeshConfig(**sizes))


def test_every_batch_splits_over_one_device():
    check_batch(make_mesh(MeshConfig()), "Train.batch_size", 7)


def test_an_unknown_mesh_axis_is_refused():
    with pytest.raises(UserError, match=r"^Rules.mlp goes to 'model', which is none of data, fsdp, tensor$"):
        Rules(mlp="model")


@pytest.mark.parametrize("name", ["vocab", "mlp", "heads", "kv_heads"])
def test_rules_that_collide_are_refused(name):
    message = f"^Rules.{name} and Rules.embed both go to 'fsdp', and parameters have both axes; make one of them ''$"
    with pytest.raises(UserError, match=message):
        Rules(**{name: "fsdp"})


@given(st.builds(Rules, **{name: st.sampled_from(["", "data", "tensor"]) for name in ("vocab", "mlp", "heads")}))
def test_no_parameter_uses_a_mesh_axis_twice(rules):
    """Whatever rules were not refused."""
    config = ModelConfig(40, 16, 24, 2, 4, 2, 6, qk_norm=True, tie_embeddings=False, lora=Lora(4))
    for path, spec in specs(config, rules).items():
        used = [axis for axis in spec if axis]
        assert len(used) == len(set(used)), path


def test_the_layout_of_each_parameter():
    """Written down from the rules: D over fsdp; V, F, H and N over tensor; layers, Q and the rank whole."""
    whole, fsdp, tensor = None, "fsdp", "tensor"
    found = specs(ModelConfig(40, 16, 24, 2, 4, 2, 6, tie_embeddings=False, lora=Lora(4)), Rules())
    expected = {
        "params/embedding": (tensor, fsdp),
        "params/head": (fsdp, tensor),
        "params/final_norm/scale": (fsdp,),
        "params/blocks/attention/query/kernel": (whole, fsdp, tensor, whole),
        "params/blocks/attention/query/bias": (whole, tensor, whole),
        "params/blocks/attention/key/kernel": (whole, fsdp, tensor, whole),
        "params/blocks/attention/out/kernel": (whole, tensor, whole, fsdp),
        "params/blocks/mlp/gate/kernel": (whole, fsdp, tensor),
        "params/blocks/mlp/down/kernel": (whole, tensor, fsdp),
        "params/blocks/mlp_norm/scale": (whole, fsdp),
        "lora/blocks/attention/query/a": (whole, fsdp, whole),
        "lora/blocks/attention/query/b": (whole, whole, tensor, whole),
        "lora/blocks/mlp/down/a": (whole, tensor, whole),
        "lora/blocks/mlp/down/b": (whole, whole, fsdp),
    }
    assert {path: tuple(found[path]) for path in expected} == expected


def test_the_rollouts_layout_is_whole_over_the_model_width():
    assert MeshConfig().decoding == Rules(embed="")
    own = Rules(embed="", vocab="")
    assert MeshConfig(rollout=own).decoding == own
    decoding = specs(QWEN3, MeshConfig().decoding)
    assert not any("fsdp" in spec for spec in decoding.values())
    assert tuple(decoding["params/blocks/mlp/down/kernel"]) == (None, "tensor", None)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        (
            (1, 1, 4),
            {},
            r"MeshConfig.tensor = 4 does not divide the 2 of axis 'kv_heads' \(params/blocks/attention/key/bias\); "
            r"take a divisor, or Rules.kv_heads = ''",
        ),
        ((1, 3, 1), {}, r"MeshConfig.fsdp = 3 does not divide the 16 of axis 'embed' \(params/.*\)"),
        ((1, 1, 2), {"vocab_size": 41}, r"MeshConfig.tensor = 2 does not divide the 41 of axis 'vocab' \(params/"),
    ],
)
def test_axes_that_do_not_split_evenly_are_one_line(sizes, changes, message):
    config = ModelConfig(**{**vars(ModelConfig(40, 16, 24, 2, 4, 2, 6)), **changes})
    with pytest.raises(UserError, match=f"^{message}"):
        specs(config, Rules(), mesh_of(*sizes))


def test_an_axis_made_whole_splits_nowhere():
    found = specs(QWEN3, Rules(kv_heads=""), mesh_of(1, 1, 4))
    assert tuple(found["params/blocks/attention/key/kernel"]) == (None, "fsdp", None, None)
    assert tuple(found["params/blocks/attention/query/kernel"]) == (None, "fsdp", "tensor", None)


def test_an_array_without_names_is_whole():
    tree = {"named": nn.LogicallyPartitioned(jnp.zeros((4, 2)), ("embed", "labels")), "plain": jnp.zeros(3)}
    found = parameter_shardings(jax.eval_shape(lambda: tree), mesh_of(1, 2, 1), Rules())
    assert (tuple(found["named"].spec), tuple(found["plain"].spec)) == (("fsdp", None), ())
