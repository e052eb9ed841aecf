"""The mesh, and the rules from logical axis names to mesh axes."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which problems are split."""


AXES = ("data", "fsdp", "tensor")
"""The mesh's axes, outermost first: `tensor`, which talks most, lies on neighbouring devices."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """A layout of parameters: the mesh axis over which each logical axis is split, "" for none.

    All other axes (layers, a head's width, an adapter's rank) are whole everywhere.

    Attributes:
        embed: D. vocab: V. mlp: F. heads: H. kv_heads: N.
    """

    embed: str = "fsdp"
    vocab: str = "tensor"
    mlp: str = "tensor"
    heads: str = "tensor"
    kv_heads: str = "tensor"

    def __post_init__(self) -> None:
        check_types(self)
        for name, axis in self.pairs:
            require(axis in ("", *AXES), f"Rules.{name} goes to {axis!r}, which is none of {', '.join(AXES)}")
            # Every parameter of two of these axes has D for one of them.
            require(
                name == "embed" or not axis or axis != self.embed,
                f"Rules.{name} and Rules.embed both go to {axis!r}, and parameters have both axes; make one of them ''",
            )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(logical axis, mesh axis) of each."""
        return tuple((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes and the layouts of parameters on them.

    Attributes:
        data, fsdp, tensor: axis sizes; one of them may be -1, "what is left of the devices".
        rules: how parameters, adapters and the optimizer's state lie between steps and in updates.
        rollout: how they lie while a rollout decodes; None: as `rules`, but whole over D, so that no decode step waits
            for weights of other devices. Where the two differ, weights are laid out anew before each rollout, once.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: Rules = Rules()
    rollout: Rules | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in AXES:
            size = getattr(self, name)
            require(size == -1 or size >= 1, f"MeshConfig.{name} must be -1 or at least 1, got {size}")
        require([self.data, self.fsdp, self.tensor].count(-1) <= 1, "MeshConfig: only one axis may be -1")

    @property
    def decoding(self) -> Rules:
        """The rollout's rules."""
        return dataclasses.replace(self.rules, embed="") if self.rollout is None else self.rollout


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices of this run, or over those given.

    Raises:
        UserError: the axis sizes do not multiply to the number of devices, or do not split over nodes or slices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if math.prod(sizes) != count:
        raise UserError(
            f"MeshConfig: data={config.data} x fsdp={config.fsdp} x tensor={config.tensor} is not {count} devices"
        )
    return Mesh(lay_out(sizes, jax.devices() if devices is None else devices), AXES, axis_types=(AxisType.Auto,) * 3)


def lay_out(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices as [data, fsdp, tensor], neighbours in the last axes; `jax.make_mesh` knows one slice alone.

    Slices (JAX's word for what a fast network holds together: a TPU slice, a GPU node) differ along the first axis,
    and along the next ones only where it is too short.

    Raises:
        UserError: slices do not divide the axes, or have different sizes.
    """
    counts = Counter(getattr(device, "slice_index", 0) for device in devices)  # not all kinds of devices have one
    if len(counts) == 1:
        # An axis may take a part of a torus's side, as 4 chips of v6e's 8 x 8.
        return create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    inner, outer, left = list(sizes), [1, 1, 1], len(counts)
    for axis, size in enumerate(sizes):
        outer[axis] = math.gcd(size, left)
        inner[axis] //= outer[axis]
        left //= outer[axis]
    if left > 1 or len(set(counts.values())) > 1:
        shape = " x ".join(map(str, sizes))
        raise UserError(
            f"MeshConfig: {shape} does not split over {len(counts)} nodes or slices of {sorted(set(counts.values()))}"
            " devices; make data a multiple of their number"
        )
    return create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis (problems) split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def split_rows(x: Array, mesh: Mesh | None, axis: int = 0) -> Array:
    """`x` with its axis B split like the batch, and the compiler's choice for all others; in a jitted function.

    Left to itself, the compiler may gather a batch where it meets parameters that are split.
    """
    if mesh is None or mesh.size == 1:
        return x
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = BATCH_AXES
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def whole_columns(table: Array, mesh: Mesh | None) -> Array:
    """`table` [V, D] whole over D, and the compiler's choice for V; in a jitted function.

    Rows looked up in a table that is split over D would be, too, while the batch they belong to is split over the same
    devices: the compiler then makes all rows whole everywhere to get from one to the other.
    """
    if mesh is None or mesh.size == 1:
        return table
    spec = PartitionSpec(PartitionSpec.UNCONSTRAINED, None)
    return jax.lax.with_sharding_constraint(table, NamedSharding(mesh, spec))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, name: str, size: int) -> None:
    """Refuses a batch that does not split over the mesh."""
    shards = batch_shards(mesh)
    require(size % shards == 0, f"{name} must be a multiple of the {shards} data shards of the mesh, got {size}")


def parameter_shardings(abstract: Any, mesh: Mesh, rules: Rules) -> Any:
    """Shardings of a tree of boxed parameters (`jax.eval_shape` of an `init`), by their logical axis names.

    Raises:
        UserError: an axis does not split evenly over its devices.
    """
    to_mesh = dict(rules.pairs)

    def lay_out(path: Any, leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.meta.AxisMetadata):
            return replicated(mesh)
        named: Any = leaf
        axes = [to_mesh.get(name) or None for name in named.names]
        for name, axis, size in zip(named.names, axes, named.value.shape, strict=True):
            shards = mesh.shape[axis] if axis else 1
            if size % shards:
                raise UserError(
                    f"MeshConfig.{axis} = {shards} does not divide the {size} of axis {name!r} "
                    f"({jax.tree_util.keystr(path, simple=True, separator='/')}); take a divisor, or Rules.{name} = ''"
                )
        return NamedSharding(mesh, PartitionSpec(*axes))

    boxed = jax.tree_util.tree_leaves_with_path(abstract, is_leaf=_is_boxed)
    return jax.tree.unflatten(jax.tree.structure(abstract, is_leaf=_is_boxed), [lay_out(*item) for item in boxed])


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)
