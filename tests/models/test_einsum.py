"""The projection: by hand, with its adapter, and merged."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models.einsum import Einsum, Lora
from tracelift_jax.models.hf import merge_lora

jit = lambda f: jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})  # noqa: E731
X = jnp.array([1.0, 2.0])
KERNEL = jnp.array([[1.0, 2.0], [3.0, 4.0]])


def test_base_by_hand():
    """(1, 2) [[1, 2], [3, 4]] + (0.5, -1) = (7.5, 9)."""
    bias = jnp.array([0.5, -1.0])
    y = Einsum("...D,DF->...F", (2, 2), use_bias=True).apply({"params": {"kernel": KERNEL, "bias": bias}}, X)
    np.testing.assert_array_equal(y, [7.5, 9.0])


def test_axes_of_heads_by_hand():
    """D = 2, H = 1, Q = 2 in; H and Q contracted out: the letters say which."""
    into = Einsum("...D,DHQ->...HQ", (2, 1, 2)).apply({"params": {"kernel": KERNEL[:, None]}}, X)
    np.testing.assert_array_equal(into, [[7.0, 10.0]])
    out = Einsum("...HQ,HQD->...D", (1, 2, 2)).apply({"params": {"kernel": KERNEL[None]}}, X[None])
    np.testing.assert_array_equal(out, [7.0, 10.0])


@pytest.mark.parametrize(
    ("rank", "alpha", "a", "b", "expected"),
    [
        # x A = 1 + 2 = 3; 3 (10, 20) = (30, 60); alpha / rank = 3: (7 + 90, 10 + 180)
        (1, 3.0, [[1.0], [1.0]], [[10.0, 20.0]], [97.0, 190.0]),
        # x A = (1, 2); (1, 2) B = (1 + 4, 1 + 6) = (5, 7); alpha / rank = 1.5: (7 + 7.5, 10 + 10.5)
        (2, 3.0, [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [2.0, 3.0]], [14.5, 20.5]),
    ],
)
def test_adapter_by_hand(rank, alpha, a, b, expected):
    variables = {"params": {"kernel": KERNEL}, "lora": {"a": jnp.array(a), "b": jnp.array(b)}}
    y = Einsum("...D,DF->...F", (2, 2), lora=Lora(rank, alpha)).apply(variables, X)
    np.testing.assert_array_equal(y, expected)


def test_a_fresh_adapter_changes_nothing():
    """B = 0; A is uniform within 1 / sqrt(fan_in), the fan-in of a heads-in projection being H * Q."""
    projection = Einsum("...HQ,HQD->...D", (3, 12, 5), lora=Lora(rank=64, alpha=100.0))
    x = jax.random.normal(jax.random.key(1), (4, 3, 12))
    variables = nn.meta.unbox(projection.init(jax.random.key(0), x))
    a, b = variables["lora"]["a"], variables["lora"]["b"]
    assert a.shape == (3, 12, 64) and b.shape == (64, 5)
    assert (b == 0).all()
    assert 0.9 / 6 < jnp.abs(a).max() <= 1 / 6
    base = Einsum("...HQ,HQD->...D", (3, 12, 5)).apply({"params": variables["params"]}, x)
    np.testing.assert_array_equal(projection.apply(variables, x), base)


def test_dropout_only_in_training_and_only_of_the_adapters_input():
    """A = B = I, alpha = rank: the update is x, each entry dropped or doubled at rate 1/2; the base never is."""
    projection = Einsum("...D,DF->...F", (2, 2), lora=Lora(rank=2, alpha=2.0, dropout=0.5))
    variables = {"params": {"kernel": KERNEL}, "lora": {"a": jnp.eye(2), "b": jnp.eye(2)}}
    x = jnp.broadcast_to(X, (400, 2))
    np.testing.assert_array_equal(projection.apply(variables, x), np.broadcast_to([8.0, 12.0], (400, 2)))
    y = projection.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    seen, counts = np.unique(np.asarray(y) - [7.0, 10.0], axis=0, return_counts=True)
    np.testing.assert_array_equal(seen, [[0, 0], [0, 4], [2, 0], [2, 4]])
    assert counts.min() > 60  # of 100 expected
    again = projection.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, again)


def test_model_dropout_only_when_not_deterministic(tiny_lora, tiny_of):
    """Every layer of the scan draws its own mask."""
    tiny = tiny_of(lora=dataclasses.replace(tiny_lora.config.lora, dropout=0.5), scan_unroll=1)
    tokens, valid = np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((3, 4), bool)

    @jit
    def both(variables, key):
        still, _ = tiny.model.apply(variables, tokens, valid)
        moved, _ = tiny.model.apply(variables, tokens, valid, deterministic=False, rngs={"dropout": key})
        return still, moved

    still, one = both(tiny.variables, jax.random.key(0))
    _, two = both(tiny.variables, jax.random.key(1))
    undropped, _ = jit(tiny_lora.model.apply)(tiny_lora.variables, tokens, valid)
    np.testing.assert_allclose(still, undropped, atol=1e-6)
    assert np.abs(one - still).max() > 0.01 and np.abs(one - two).max() > 0.01


def test_adapter_is_the_merged_weights(tiny_lora):
    merged = merge_lora(tiny_lora.params, tiny_lora.lora, tiny_lora.config)
    base = type(tiny_lora.model)(dataclasses.replace(tiny_lora.config, lora=None))
    tokens, valid = np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((3, 4), bool)
    adapted, _ = jit(tiny_lora.model.apply)(tiny_lora.variables, tokens, valid)
    plain, _ = jit(base.apply)({"params": merged}, tokens, valid)
    np.testing.assert_allclose(adapted, plain, atol=2e-6)
    assert jax.tree.structure(merged) == jax.tree.structure(tiny_lora.params)
    # One entry by hand: layer 1, "down" [F, D]: W + (3 / 2) A B.
    a, b = tiny_lora.lora["blocks"]["mlp"]["down"]["a"][1], tiny_lora.lora["blocks"]["mlp"]["down"]["b"][1]
    expected = tiny_lora.params["blocks"]["mlp"]["down"]["kernel"][1, 5, 3] + 1.5 * float(a[5] @ b[:, 3])
    np.testing.assert_allclose(merged["blocks"]["mlp"]["down"]["kernel"][1, 5, 3], expected, rtol=1e-6)


def test_merging_without_an_adapter_is_refused(tiny):
    with pytest.raises(ValueError, match="no adapter"):
        merge_lora(tiny.params, {}, tiny.config)


def test_initial_deviation_is_scale_over_root_fan_in():
    x = jnp.zeros((1, 4, 25))
    kernel = nn.meta.unbox(Einsum("...HQ,HQD->...D", (4, 25, 200), scale=0.5).init(jax.random.key(0), x))
    np.testing.assert_allclose(kernel["params"]["kernel"].std(), 0.5 / 10, rtol=0.02)
