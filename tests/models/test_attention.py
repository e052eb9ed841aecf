"""Attention to pieces against one dense softmax over all keys, in float64 numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models import attention

QUICK = {"xla_backend_optimization_level": 0}  # compile time is all that counts here
attend = jax.jit(attention.attend, compiler_options=QUICK)
B, G, K, T, H, N, Q = 2, 3, 2, 3, 4, 2, 4


def pieces(rng, *, integers: bool = False, masked: tuple[int, ...] = ()):
    """Queries [B, G, K, T, H, Q] and pieces at every prefix of [B, G, K]; `masked` pieces hide all their keys."""

    def draw(*shape):
        return (rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)).astype(np.float32)

    prefixes, keys = [(), (B,), (B, G), (B, G), (B, G, K)], [2, 5, 1, 4, T]
    out = []
    for number, (prefix, size) in enumerate(zip(prefixes, keys, strict=True)):
        rows = T if prefix == (B, G, K) else 1
        mask = rng.random((*prefix, *(1,) * (3 - len(prefix)), rows, size)) < 0.6
        if number == 4:
            mask = mask | np.eye(T, dtype=bool)
        out.append((draw(*prefix, size, N, Q), draw(*prefix, size, N, Q), mask & (number not in masked)))
    return draw(B, G, K, T, H, Q), out


def dense(q, parts):
    """One query and head at a time, over the concatenation of what it may see."""
    out = np.zeros(q.shape)
    for b, g, k, t, h in np.ndindex(q.shape[:-1]):
        keys, values = [], []
        for key, value, mask in parts:
            at = (b, g, k)[: key.ndim - 3]
            sees = np.broadcast_to(mask, (B, G, K, T, mask.shape[-1]))[b, g, k, t]
            keys.append(key[at][sees][:, h // (H // N)])
            values.append(value[at][sees][:, h // (H // N)])
        keys, values = np.concatenate(keys).astype(np.float64), np.concatenate(values).astype(np.float64)
        score = keys @ q[b, g, k, t, h].astype(np.float64) / np.sqrt(Q)
        weight = np.exp(score - score.max())
        out[b, g, k, t, h] = weight @ values / weight.sum()
    return out


@pytest.mark.parametrize("masked", [(), (0,), (1, 3), (0, 1, 2, 3)], ids=str)
def test_pieces_are_one_softmax(masked):
    q, parts = pieces(np.random.default_rng(1), masked=masked)
    np.testing.assert_allclose(attend(q, parts), dense(q, parts), atol=1e-6, rtol=1e-5)


def test_one_piece_is_a_plain_softmax():
    q, parts = pieces(np.random.default_rng(2))
    np.testing.assert_allclose(attend(q, parts[-1:]), dense(q, parts[-1:]), atol=1e-6, rtol=1e-5)


def test_by_hand():
    """Scores log 1, log 2, log 5 split over two pieces: (1 * 8 + 2 * 16 + 5 * 24) / 8 = 20."""
    q = jnp.ones((1, 1, 1))  # [T, H, Q], width 1: no scaling
    key = jnp.log(jnp.array([1.0, 2.0, 5.0]))[:, None, None]
    value = jnp.array([8.0, 16.0, 24.0])[:, None, None]
    seen = jnp.ones((1, 1), bool)
    parts = [(key[:1], value[:1], seen), (key[1:], value[1:], jnp.ones((1, 2), bool))]
    np.testing.assert_allclose(attend(q, parts), [[[20.0]]], rtol=1e-6)


def test_large_scores():
    """Scores of some 1e4: integers, which float32 holds exactly; only the pieces' log-sum-exp is rounded."""
    q, parts = pieces(np.random.default_rng(3), integers=True)
    q = q * 1024
    top = np.abs(np.einsum("bgkthq,bgksnq->bgkths", q, parts[-1][0]) / 2).max()
    assert top > 1e4
    rounding = 3 * np.spacing(np.float32(top))  # of values up to 3, where scores tie across pieces
    np.testing.assert_allclose(attend(q, parts), dense(q, parts), atol=rounding, rtol=0)
    for part in parts:  # within a piece nothing is rounded
        if part[2].any(-1).all():
            np.testing.assert_allclose(attend(q, [part]), dense(q, [part]), atol=1e-6, rtol=1e-6)


@partial(jax.jit, compiler_options=QUICK)
def gradient(q, kv, masks):
    def loss(q, kv):
        return jnp.sin(attention.attend(q, [(*p, m) for p, m in zip(kv, masks, strict=True)])).sum()

    return jax.grad(loss, argnums=(0, 1))(q, kv)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("masked", [(), (0, 1, 2, 3), (0, 1, 2, 3, 4)], ids=str)
def test_gradients_are_finite(masked, scale):
    """Also where a query sees nothing at all; and hidden keys and values get exactly none."""
    q, parts = pieces(np.random.default_rng(4), masked=masked)
    kv, masks = [(k, v) for k, v, _ in parts], [m for _, _, m in parts]

    grad_q, grad_kv = gradient(q * scale, kv, masks)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grad_q, grad_kv)))
    for number in masked if len(masked) < 5 else ():
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grad_kv[number]))
    if not masked and scale == 1:
        assert all((leaf != 0).any() for leaf in jax.tree.leaves((grad_q, grad_kv)))
