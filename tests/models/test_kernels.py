"""Fused attention against `attend`, outputs and gradients; the TPU's kernel is played step by step on the CPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.errors import UserError
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


def make_tree(levels, dtype=jnp.float32, heads=(H, N), width=Q):
    """Queries, (k, v) pairs and validity of a tree; holes anywhere, tokens that see nothing among them."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    kv = [(draw(*prefix, slots, heads[1], width), draw(*prefix, slots, heads[1], width)) for prefix, slots in levels]
    valid = [rng.random((*prefix, slots)) < 0.7 for prefix, slots in levels]
    for above in valid[:-1]:
        if above.ndim > 1:
            above[-1] = False  # the last problem has nothing above its nodes,
    valid[-1][..., :3] = False  # whose first tokens so see nothing at all,
    if valid[-1].ndim > 2:
        valid[-1][:, 0] = False  # and a node of each holds no token
    return draw(*levels[-1][0], levels[-1][1], heads[0], width), kv, [jnp.asarray(x) for x in valid]


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


def compare(function, tree, tolerance):
    """Outputs and all gradients, next to `attend` in float32 on the same values; `tolerance` times the largest."""
    q, kv, valid = tree
    toward = jnp.asarray(np.random.default_rng(9).standard_normal(q.shape), q.dtype)
    got = value_and_gradients(function, q, kv, valid, toward)
    q, kv, toward = jax.tree.map(lambda x: x.astype(jnp.float32), (q, kv, toward))
    wanted = value_and_gradients(reference, q, kv, valid, toward)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert mine.dtype == tree[0].dtype
        largest = np.abs(theirs).max()
        assert largest > 0.5
        np.testing.assert_allclose(np.asarray(mine, np.float32), theirs, atol=tolerance * largest, rtol=0)


def by(kernel):
    def function(q, kv, valid):
        return kernels.tree_attention(q, kv, valid, kernel)

    return function


SPLASH, CUDNN = by("splash_interpreted"), by("cudnn_interpreted")
ROUNDING = 1e-5
"""Sums of some hundred float32 numbers in another order."""


@pytest.mark.parametrize("function", [SPLASH, CUDNN], ids=["splash", "cudnn"])
@pytest.mark.parametrize("levels", TREES.values(), ids=TREES)
def test_kernels_are_attend(levels, function):
    compare(function, make_tree(levels), ROUNDING)


@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (4, 1)], ids=str)
def test_heads_and_key_heads(heads):
    compare(SPLASH, make_tree([((2,), 40), ((2, 2), 128)], heads=heads, width=8), ROUNDING)


def test_splash_in_bfloat16():
    """Inputs are the same; what is rounded on the way (queries, outputs, derivatives of scores) to 8 bits shows."""
    compare(SPLASH, make_tree(TREES["samples of traces"], jnp.bfloat16), 2**-7)


def test_by_hand():
    """Scores log 1, log 2, log 5 over a problem's last token and a node's first two: (1 * 8 + 2 * 16 + 5 * 24) / 8."""
    key = jnp.full((4, 1, 1), 9.0).at[1:, 0, 0].set(jnp.log(jnp.array([1.0, 2.0, 5.0])))
    value = jnp.array([99.0, 8.0, 16.0, 24.0])[:, None, None]
    above, own = (key[:2], value[:2]), (key[2:], value[2:])
    valid = [jnp.array([False, True]), jnp.ones(2, bool)]
    out = jax.jit(SPLASH)(jnp.ones((2, 1, 1)), [above, own], valid)
    np.testing.assert_allclose(out[:, 0, 0], [(1 * 8 + 2 * 16) / 3, 20.0], rtol=1e-6)


def test_masks_are_the_tree():
    """Two traces of three tokens, two samples each, below a problem of two: every pair from the definition."""
    mask = kernels.TreeMask(nodes=4, length=3, levels=((1, 2), (2, 5), (4, 3)))
    assert mask.shape == (12, 2 + 2 * 5 + 4 * 3)
    wanted = np.zeros(mask.shape, bool)
    for trace, sample, token in np.ndindex(2, 2, 3):
        node = 2 * trace + sample
        row = wanted[3 * node + token]
        row[:2] = True
        row[2 + 5 * trace : 2 + 5 * (trace + 1)] = True
        row[12 + 3 * node : 12 + 3 * node + token + 1] = True
    np.testing.assert_array_equal(mask[:, :], wanted)
    for rows, keys in [(slice(0, 4), slice(0, 8)), (slice(5, 9), slice(1, 17)), (slice(11, 12), slice(12, 24))]:
        np.testing.assert_array_equal(mask[rows, keys], wanted[rows, keys])


def test_other_branches_are_not_visited():
    """Nothing that lies in another trace, not even what is not a number, reaches a trace or its gradients."""
    q, kv, valid = make_tree([((1,), 128), ((1, 3), 256)])
    spoilt = [(k.at[:, 1].set(jnp.nan), v.at[:, 1].set(jnp.nan)) if k.ndim == 5 else (k, v) for k, v in kv]
    toward = jnp.ones_like(q).at[:, 1].set(0)
    clean, got = (value_and_gradients(SPLASH, q, pairs, valid, toward) for pairs in (kv, spoilt))
    (out, by_q, by_kv), (spoilt_out, spoilt_by_q, spoilt_by_kv) = clean, got
    for trace in (0, 2):
        np.testing.assert_array_equal(spoilt_out[:, trace], out[:, trace])
        np.testing.assert_array_equal(spoilt_by_q[:, trace], by_q[:, trace])
        for mine, theirs in zip(spoilt_by_kv[1], by_kv[1], strict=True):
            np.testing.assert_array_equal(mine[:, trace], theirs[:, trace])


@pytest.mark.parametrize("function", [SPLASH, CUDNN], ids=["splash", "cudnn"])
def test_tokens_that_see_nothing(function):
    """Zeros, and no gradient from them, to them or to hidden keys, whatever is asked of them."""
    q, kv, _ = make_tree([((1,), 8), ((1, 2), 128)])
    valid = [jnp.zeros((1, 8), bool), jnp.zeros((1, 2, 128), bool).at[0, 1, 5:].set(True)]
    out, by_q, by_kv = value_and_gradients(function, q, kv, valid, jnp.ones_like(q))
    sees = np.asarray(valid[1])
    assert (np.asarray(out)[~sees] == 0).all() and (np.asarray(out)[sees] != 0).all()
    assert (np.asarray(by_q)[~sees] == 0).all()
    for pair, seen in zip(by_kv, valid, strict=True):
        assert all((np.asarray(leaf)[~np.asarray(seen)] == 0).all() for leaf in pair)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by_q, by_kv)))


@pytest.mark.parametrize(
    ("kernel", "width", "dtype", "platform", "message"),
    [
        ("splash", 128, "bfloat16", "cpu", 'runs on TPU, and this is cpu; take "xla"'),
        ("splash", 128, "bfloat16", "gpu", 'runs on TPU, and this is gpu; take "xla"'),
        ("splash", 128, "float16", "tpu", "computes in float32 or bfloat16: set Model.dtype"),
        ("splash", 36, "bfloat16", "tpu", "takes head widths that 8 divides, up to 256, not 36"),
        ("splash", 264, "bfloat16", "tpu", "takes head widths that 8 divides, up to 256, not 264"),
        ("cudnn", 128, "bfloat16", "cpu", 'runs on NVIDIA GPUs, and this is cpu; take "xla"'),
        ("cudnn", 128, "bfloat16", "tpu", 'runs on NVIDIA GPUs, and this is tpu; take "xla"'),
        ("cudnn", 128, "float32", "gpu", "computes in bfloat16 or float16: set Model.dtype"),
        ("cudnn", 136, "bfloat16", "gpu", "takes head widths that 8 divides, up to 128, not 136"),
    ],
)
def test_kernels_that_cannot_run_are_one_line(kernel, width, dtype, platform, message):
    with pytest.raises(UserError) as refusal:
        kernels.check_kernel(kernel, width, dtype, platform)
    assert str(refusal.value).startswith(f'Model.attention = "{kernel}" {message}')
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kernel", "width", "dtype", "platform"),
    [
        ("xla", 6, "float32", "cpu"),
        ("splash", 64, "float32", "tpu"),
        ("splash", 256, "bfloat16", "tpu"),
        ("cudnn", 128, "float16", "gpu"),
    ],
)
def test_kernels_that_can_run(kernel, width, dtype, platform):
    kernels.check_kernel(kernel, width, dtype, platform)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU and JAX_PLATFORMS=cuda")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("levels", TREES.values(), ids=TREES)
def test_cudnn_on_a_gpu(levels, dtype):
    compare(by("cudnn"), make_tree(levels, dtype), 2**-6)
