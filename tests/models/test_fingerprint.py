"""Fingerprints: every bit, name, shape and dtype counts; order and place do not."""

import re

import jax
import numpy as np
from test_hf import random_heads

from tracelift_jax.models.fingerprint import fingerprint


def test_fingerprint_changes_with_every_element(tiny):
    """Each element of each leaf in turn, by one bit."""
    seen = {fingerprint(tiny.params)}
    leaves, structure = jax.tree.flatten(tiny.params)
    changes = 0
    for number, leaf in enumerate(leaves):
        for at in range(0, leaf.size, 7):
            flat = leaf.copy().ravel()
            flat.view(np.uint32)[at] ^= 1
            changed = [*leaves[:number], flat.reshape(leaf.shape), *leaves[number + 1 :]]
            seen.add(fingerprint(jax.tree.unflatten(structure, changed)))
            changes += 1
    assert changes > 200 and len(seen) == changes + 1
    assert all(re.fullmatch("[0-9a-f]{16}", print_) for print_ in seen)


def test_fingerprint_is_of_names_shapes_and_dtypes_too():
    zeros = np.zeros((2, 3), np.float32)
    trees = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros.view(np.int32)},
        {"a": {"a": zeros}},
        {"a": zeros[:1], "b": zeros[1:]},
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)


def test_fingerprint_does_not_depend_on_order_or_place(tiny):
    def backwards(tree):
        return {k: backwards(tree[k]) for k in reversed(list(tree))} if isinstance(tree, dict) else tree

    expected = fingerprint(tiny.params)
    assert fingerprint(backwards(tiny.params)) == expected
    assert fingerprint(jax.device_put(tiny.params)) == expected
    assert fingerprint(jax.tree.map(np.asfortranarray, tiny.params)) == expected


def test_fingerprint_tells_the_trees_apart(tiny):
    heads = random_heads()
    assert fingerprint(tiny.params, heads) != fingerprint(tiny.params)
    assert fingerprint(tiny.params, heads) != fingerprint(tiny.params, random_heads(1))
