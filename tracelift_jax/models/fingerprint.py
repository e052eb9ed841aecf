"""Fingerprints of parameters: computed where they live, the same on every mesh."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.parallel.hosts import whole


def _digest(x: Array) -> Array:
    """uint32 [2]: two sums, modulo 2**32, of a hash of every element's bits and place.

    Integer sums do not depend on their order: neither on the mesh nor on the compiler.
    """
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    sums = []
    for seed in (0x9E3779B9, 0x85EBCA6B):
        h = bits ^ (place * jnp.uint32(seed) + jnp.uint32(seed >> 7))
        # The finalizer of MurmurHash3: every bit of the input reaches every bit of the output.
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        sums.append((h ^ (h >> 16)).sum(dtype=jnp.uint32))
    return jnp.stack(sums)


@jax.jit
def _digests(leaves: list[Array]) -> Array:
    """uint32 [leaves, 2]; all at once, which compiles faster than each by itself."""
    return jnp.stack([_digest(leaf) for leaf in leaves])


def fingerprint(*trees: Any) -> str:
    """16 hex digits over names, shapes, dtypes and values of all parameters; any changed bit changes them.

    Nothing but two integers a parameter leaves the devices.
    """
    named = []
    for tree in trees:
        leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
        named += sorted(leaves, key=lambda item: item[0])
    sums = whole(_digests([jnp.asarray(leaf) for _, leaf in named]))
    total = hashlib.sha256()
    for (name, leaf), pair in zip(named, sums, strict=True):
        total.update(f"{name} {np.shape(leaf)} {leaf.dtype} {int(pair[0]):08x}{int(pair[1]):08x}\n".encode())
    return total.hexdigest()[:16]
