"""Fused attention inside the decoder: the same hidden states and gradients as by XLA, and how it is chosen."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tinies import TINY, Tiny, make_tiny

from tracelift_jax.config import Model, Shape
from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.models.kernels import SHORTEST
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh

B, G, P = 2, 2, 20
CONFIG = dataclasses.replace(TINY, scan_unroll=1, vocab_size=41)


def tokens(seed, *shape):
    """Ids and validity; what is valid begins and ends anywhere, and has holes."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < 0.8
    valid[..., :2] = False
    valid[..., 2] = True
    return rng.integers(0, CONFIG.vocab_size, shape).astype(np.int32), valid


def model(tiny: Tiny, **changes) -> Transformer:
    return Transformer(dataclasses.replace(tiny.config, **changes))


def loss(decoder, params, traces):
    """Something of all levels: a problem, its traces, and short samples below these."""
    _, above = forward(decoder, {"params": params}, *tokens(1, B, P))
    hidden, segment = forward(decoder, {"params": params}, *tokens(2, B, G, traces), (above,))
    seen = tokens(2, B, G, traces)[1]
    last, _ = forward(decoder, {"params": params}, *tokens(3, B, G, 3, 4), (above, segment))
    return jnp.where(seen[..., None], jnp.sin(hidden), 0).sum() + jnp.sin(last[..., 2:, :]).sum(), (hidden, last)


@functools.cache
def differentiated(decoder, traces):
    return jax.jit(jax.value_and_grad(functools.partial(loss, decoder, traces=traces), has_aux=True))


@pytest.mark.parametrize(
    ("kernel", "remat"),
    [("splash_interpreted", "none"), ("splash_interpreted", "attention"), ("cudnn_interpreted", "full")],
)
def test_the_decoder_is_the_same(kernel, remat):
    """Hidden states and the gradient of every parameter, where a problem is short and its traces are long."""
    tiny = make_tiny(CONFIG)
    (value, (hidden, last)), gradient = differentiated(model(tiny), SHORTEST)(tiny.params)
    fused = differentiated(model(tiny, attention=kernel, remat=remat), SHORTEST)
    (fused_value, (fused_hidden, fused_last)), fused_gradient = fused(tiny.params)
    np.testing.assert_allclose(fused_value, value, rtol=1e-5)
    seen = tokens(2, B, G, SHORTEST)[1]
    np.testing.assert_allclose(fused_hidden[seen], hidden[seen], atol=2e-5)
    np.testing.assert_allclose(fused_last[..., 2:, :], last[..., 2:, :], atol=2e-5)
    for path, wanted in jax.tree_util.tree_leaves_with_path(gradient):
        got = functools.reduce(lambda tree, key: tree[key.key], path, fused_gradient)
        np.testing.assert_allclose(got, wanted, atol=2e-5 * max(1, np.abs(wanted).max()), err_msg=str(path))


def test_short_nodes_never_see_a_kernel():
    """Bit for bit the same, and no kernel in the program."""
    tiny = make_tiny(CONFIG)
    plain, fused = (model(tiny, attention=kernel) for kernel in ("xla", "splash_interpreted"))
    wanted, got = (differentiated(decoder, SHORTEST - 1)(tiny.params) for decoder in (plain, fused))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert kernel_runs(fused, SHORTEST - 1) == (0, 0)


def kernel_runs(decoder: Transformer, traces: int) -> tuple[int, int]:
    """How many operations of the compiled program belong to splash's forward pass: run first, and run again."""
    tiny = make_tiny(CONFIG)
    text = differentiated(decoder, traces).lower(tiny.params).compile().as_text()
    names = re.findall(r'op_name="([^"]*splash_mha_fwd[^"]*)"', text)
    again = sum("rematted_computation" in name for name in names)
    return len(names) - again, again


@pytest.mark.parametrize(("remat", "again"), [("dots", False), ("attention", False), ("full", True)])
def test_the_kernel_runs_again_only_if_nothing_is_kept(remat, again):
    first, second = kernel_runs(model(make_tiny(CONFIG), attention="splash_interpreted", remat=remat), SHORTEST)
    assert first > 0
    assert (second > 0) == again


def test_models_ask_for_the_kernel():
    shape = Shape(head_width=64)
    assert build.model_config(Model(shape=shape), 10).attention == "xla"
    config = build.model_config(Model(shape=shape, attention="splash", remat="attention"), 10)
    assert (config.attention, config.remat) == ("splash", "attention")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention": "splsh"}, "Model.attention: expected one of 'xla', 'splash', 'cudnn', got 'splsh'"),
        (
            {"attention": "splash_interpreted"},
            "Model.attention: expected one of 'xla', 'splash', 'cudnn', got",
        ),
        ({"remat": "attention"}, 'Model.remat = "attention" needs Model.attention = "splash", got "xla"'),
        ({"remat": "attention", "attention": "cudnn"}, 'Model.remat = "attention" needs Model.attention = "splash", '),
    ],
)
def test_wrong_choices_are_one_line(values, message):
    with pytest.raises(UserError) as refusal:
        Model(**values)
    assert str(refusal.value).startswith(message)


def test_platforms_are_checked_before_weights_are_read(tmp_path):
    mesh, missing = make_mesh(MeshConfig()), Model(path=str(tmp_path / "none"), attention="splash")
    config = dataclasses.replace(CONFIG, attention="splash", head_width=64)
    for load in (build.load_base, build.load_reward_model):
        with pytest.raises(UserError, match=r'^Model.attention = "splash" runs on TPU, and this is cpu; take "xla"$'):
            load(missing, config, mesh, MeshConfig())
