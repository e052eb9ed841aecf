"""Fused attention against `attend`, outputs and gradients; the TPU's kernel is played step by step on the CPU.

`python tests/models/test_kernels.py` compares on eight virtual devices and prints what came of it.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models import kernels
from tracelift_jax.models.attention import attend
from tracelift_jax.models.segment import expand

B, G, K, H, N, Q = 2, 2, 2, 4, 2, 64

TREES = {
    "a problem alone": [((B,), 128)],
    "traces of a problem": [((B,), 96), ((B, G), 130)],  # neither a multiple of 128
    "samples of traces": [((B,), 128), ((B, G), 40), ((B, G, K), 128)],
    "two segments of a problem": [((B,), 128), ((B,), 16), ((B, G), 256)],
    "one for all": [((), 24), ((B,), 128)],
    "no leading axes": [((), 8), ((), 129)],
}


def make_tree(levels, dtype=jnp.float32, seed=0):
    """Queries, (k, v) pairs and validity of a tree; holes anywhere, tokens that see nothing among them."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    kv = [(draw(*prefix, slots, N, Q), draw(*prefix, slots, N, Q)) for prefix, slots in levels]
    valid = [rng.random((*prefix, slots)) < 0.7 for prefix, slots in levels]
    for above in valid[:-1]:
        if above.ndim > 1:
            above[-1] = False  # the last problem has nothing above its nodes,
    valid[-1][..., :3] = False  # whose first tokens so see nothing at all,
    if valid[-1].ndim > 2:
        valid[-1][:, 0] = False  # and a node of each holds no token
    return draw(*levels[-1][0], levels[-1][1], H, Q), kv, [jnp.asarray(x) for x in valid]


def seen_keys(valid):
    """`attend`'s masks, and which tokens see anything."""
    lead, length = valid[-1].shape[:-1], valid[-1].shape[-1]
    masks = [expand(x, lead, trailing=1)[..., None, :] for x in valid[:-1]]
    masks.append(jnp.tril(jnp.ones((length, length), bool)) & valid[-1][..., None, :])
    sees = [jnp.broadcast_to(mask.any(-1), (*lead, length)) for mask in masks]
    return masks, jnp.any(jnp.stack(sees), axis=0)


def reference(q, kv, valid):
    masks, sees = seen_keys(valid)
    out = attend(q, [(*pair, mask) for pair, mask in zip(kv, masks, strict=True)])
    return jnp.where(sees[..., None, None], out, 0)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, q, kv, valid, toward):
    """The output and, for a cotangent `toward` that differs everywhere, the gradients by q and every k and v."""
    out, pull = jax.vjp(lambda q, kv: function(q, kv, valid), q, kv)
    return out, *pull(toward)


def compare(function, tree, atol):
    q, kv, valid = tree
    toward = jnp.asarray(np.random.default_rng(9).standard_normal(q.shape), q.dtype)
    got = value_and_gradients(function, q, kv, valid, toward)
    wanted = value_and_gradients(reference, q, kv, valid, toward)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert mine.dtype == theirs.dtype
        mine, theirs = np.asarray(mine, np.float32), np.asarray(theirs, np.float32)
        print(np.abs(mine - theirs).max(), np.abs(theirs).max())
        assert np.abs(theirs).max() > 0.5
        np.testing.assert_allclose(mine, theirs, atol=atol * np.abs(theirs).max(), rtol=0)
    return got


def play(q, kv, valid):
    return kernels.tree_attention(q, kv, valid, "splash_interpreted")


@pytest.mark.parametrize("levels", TREES.values(), ids=TREES)
def test_splash_is_attend(levels):
    compare(play, make_tree(levels), 1e-5)
