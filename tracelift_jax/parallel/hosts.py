"""What several processes of one run share: data between their hosts and the mesh, and agreement among them.

Every process runs the same program on the same global arrays (`join.py` brings them together). What the host does with
single problems (running their programs, writing their records) is done by one process each, the one that owns the
problem's row of the batch.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from tracelift_jax.errors import UserError
from tracelift_jax.parallel.mesh import replicated, split_batch


def first() -> bool:
    """Whether this process writes what one process writes for all."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether there is no other process."""
    return jax.process_count() == 1


def barrier(name: str) -> None:
    """Returns when all processes are here."""
    if not alone():
        multihost_utils.sync_global_devices(name)


# --------------------------------------------------------------------------------------------- from hosts to the mesh


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, on the mesh; each process copies only what its devices hold.

    Args:
        shardings: of the leaves, or one of them all.
    """
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    if alone():
        return jax.device_put(tree, shardings)

    def put(x: Any, sharding: Sharding) -> Array:
        if isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        if isinstance(x, Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """A host batch (numpy, leading axis B, the same in every process) on the mesh."""
    return place(batch, split_batch(mesh))


def place_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, the same in every process, whole on every device."""
    return place(tree, replicated(mesh))


# --------------------------------------------------------------------------------------------- from the mesh to hosts


@lru_cache(maxsize=64)
def own_rows(mesh: Mesh, size: int) -> tuple[int, ...]:
    """The rows of a batch of `size` that this process owns: each row belongs to the first process that holds it."""
    owner = np.full(size, jax.process_count())
    for device, (rows,) in split_batch(mesh).devices_indices_map((size,)).items():
        owner[rows] = np.minimum(owner[rows], device.process_index)
    return tuple(np.nonzero(owner == jax.process_index())[0].tolist())


def take_rows(tree: Any, rows: Sequence[int]) -> Any:
    """Rows of batch arrays [B, ...] on the mesh, all held by this process, as numpy [len(rows), ...]."""
    if alone():
        return jax.tree.map(lambda x: x[np.asarray(rows, int)], jax.device_get(tree))

    def take(x: Any) -> np.ndarray:
        if not isinstance(x, Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)[np.asarray(rows, int)]
        held: dict[int, np.ndarray] = {}
        for shard in x.addressable_shards:
            first_row = shard.index[0].start or 0
            data = np.asarray(shard.data)
            if any(size != whole for size, whole in zip(data.shape[1:], x.shape[1:], strict=True)):
                raise ValueError(f"rows of an array that is split over more than its first axis: {x.sharding}")
            held |= {first_row + place: row for place, row in enumerate(data)}
        return np.stack([held[row] for row in rows]) if rows else np.zeros((0, *x.shape[1:]), x.dtype)

    return jax.tree.map(take, tree)


def whole(tree: Any) -> Any:
    """Arrays of the mesh as numpy, in every process; all processes must ask for the same."""
    leaves, structure = jax.tree.flatten(tree)
    spread = [x for x in leaves if isinstance(x, Array) and not (x.is_fully_addressable or x.is_fully_replicated)]
    if spread:
        gathered = iter(_gather(tuple(x.sharding for x in spread))(spread))
        leaves = [
            next(gathered) if isinstance(x, Array) and not (x.is_fully_addressable or x.is_fully_replicated) else x
            for x in leaves
        ]
    return jax.device_get(jax.tree.unflatten(structure, leaves))


@lru_cache(maxsize=64)
def _gather(shardings: tuple[Any, ...]) -> Any:
    return jax.jit(lambda arrays: arrays, out_shardings=[replicated(sharding.mesh) for sharding in shardings])


# ------------------------------------------------------------------------------------------------- from host to host


def combine(tree: Any) -> Any:
    """The sum over all processes of host arrays of the same shapes, such as rows that others leave 0."""
    if alone():
        return tree
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), multihost_utils.process_allgather(tree))


def from_first(value: bool) -> bool:
    """The first process's `value`, in all."""
    return bool(combine(np.array([value and first()], np.int32))[0])


def agree(problem: str) -> None:
    """Goes on in all processes or in none.

    Args:
        problem: what keeps this process from going on; "" for nothing.

    Raises:
        UserError: something keeps this process or another one.
    """
    if combine(np.array([bool(problem)], np.int32))[0]:
        raise UserError(problem or "another process of this run could not go on; what it printed says why")


def at_rows(tree: Any, rows: Sequence[int], size: int) -> Any:
    """Host arrays [len(rows), ...] at their places in zeros [size, ...]."""

    def put(x: np.ndarray) -> np.ndarray:
        whole_batch = np.zeros((size, *x.shape[1:]), x.dtype)
        whole_batch[np.asarray(rows, int)] = x
        return whole_batch

    return jax.tree.map(put, tree)


class Vote:
    """Whether any process wants something, asked every step and known a step later, so that no device waits for it."""

    def __init__(self, mesh: Mesh):
        """Asks nothing yet."""
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        self._size = math.prod(mesh.shape.values())
        self._any = jax.jit(lambda votes: votes.any(), out_shardings=replicated(mesh))

    def ask(self, wanted: bool) -> Array:
        """Dispatches the question; `bool` of what it returns waits for the answer."""
        votes = np.full(self._size, wanted)
        return self._any(jax.make_array_from_callback((self._size,), self._sharding, lambda index: votes[index]))
