"""Who holds how much memory: bytes of parameter trees on each device, every buffer counted once."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def _buffers(tree: Any):
    """(device, address, bytes) of every buffer on this process's devices; an abstract array is one on any device."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            yield None, id(leaf), shard_bytes(leaf)
            continue
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for shard in (jax.random.key_data(leaf) if is_key else leaf).addressable_shards:
            yield shard.device, shard.data.unsafe_buffer_pointer(), shard.data.nbytes


def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """What an abstract array takes on each device."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def same_buffers(a: Any, b: Any) -> bool:
    """Whether two trees of arrays are the same memory, leaf by leaf."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(list(_buffers(x)) == list(_buffers(y)) for x, y in pairs)


def device_bytes(trees: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each tree on the fullest device; a buffer that several trees hold counts for the first of them."""
    seen, out = set(), {}
    for name, tree in trees.items():
        each: Counter = Counter()
        for device, address, size in _buffers(tree):
            if size and (device, address) not in seen:
                seen.add((device, address))
                each[device] += size
        out[name] = max(each.values(), default=0)
    return out


def readable(size: int) -> str:
    """A number of bytes for people: 1234567 is "1.2 MB"."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.{1 if size < 10 ** (power + 2) else 0}f} {unit}"
    return f"{size} bytes"
