"""The mesh, and the rules from logical axis names to mesh axes."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import logical_to_mesh_sharding
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which problems are split."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes and the layout of parameters on them.

    Attributes:
        data, fsdp, tensor: axis sizes; one of them may be -1, "what is left of the devices".
        rules: (logical axis name, mesh axis) pairs; names not listed are replicated.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: tuple[tuple[str, str], ...] = (
        ("embed", "fsdp"),
        ("vocab", "tensor"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("kv_heads", "tensor"),
    )

    def __post_init__(self) -> None:
        check_types(self)
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for name, size in sizes.items():
            require(size == -1 or size >= 1, f"MeshConfig.{name} must be -1 or at least 1, got {size}")
        require(list(sizes.values()).count(-1) <= 1, "MeshConfig: only one axis may be -1")
        for name, axis in self.rules:
            require(axis in sizes, f"MeshConfig.rules: {name!r} goes to {axis!r}, which is none of {', '.join(sizes)}")


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices of this run.

    Raises:
        UserError: the axis sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes and devices % known == 0:
        sizes[sizes.index(-1)] = devices // known
    if int(np.prod(sizes)) != devices:
        raise UserError(
            f"MeshConfig: data={config.data} x fsdp={config.fsdp} x tensor={config.tensor} is not {devices} devices"
        )
    return jax.make_mesh(tuple(sizes), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis (problems) split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def check_batch(mesh: Mesh, name: str, size: int) -> None:
    """Refuses a batch that does not split over the mesh."""
    shards = batch_shards(mesh)
    require(size % shards == 0, f"{name} must be a multiple of the {shards} data shards of the mesh, got {size}")


def parameter_shardings(abstract: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """Shardings of a tree of boxed parameters (`jax.eval_shape` of an `init`), by their logical axis names."""
    specs = nn.get_partition_spec(abstract)
    return logical_to_mesh_sharding(specs, mesh, list(config.rules))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts a host batch (numpy, leading axis B) on the mesh."""
    return jax.device_put(batch, split_batch(mesh))
