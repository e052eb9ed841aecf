"""Updates: micro-batches change nothing, AdamW is AdamW, and the learning rate follows its schedule."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tinies import TINY, make_tiny

from tracelift_jax.errors import UserError
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.rollout.batch import Fixed, Setup
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.losses import GrpoConfig
from tracelift_jax.train.planner import PolicyBatch, policy_loss
from tracelift_jax.train.update import (
    OptimizerConfig,
    accumulated_gradients,
    init_state,
    learning_rate,
    make_optimizer,
    means,
    require_divisible,
    update,
)


def make_setup(model: Transformer) -> Setup:
    sampling = Sampling(max_tokens=5, temperature=0.7)
    fixed = Fixed(open=(), close=(), ask=(), ask_directly=(), ends=(0,))
    return Setup(model, model, model, None, 2, sampling, sampling, RewardConfig(), "std", fixed)


def ragged_batch(vocab: int) -> PolicyBatch:
    """Four groups of two traces with 1 to 5 tokens; two traces do not count."""
    rng = np.random.default_rng(0)
    problem = Tokens(rng.integers(0, vocab, (4, 3)), np.arange(3) < np.array([3, 1, 2, 3])[:, None])
    lengths = np.array([[5, 1], [2, 2], [1, 4], [3, 5]])
    traces = Tokens(rng.integers(0, vocab, (4, 2, 5)), np.arange(5) < lengths[..., None])
    logprobs = rng.normal(-3, 0.2, (4, 2, 5)).astype(np.float32)
    counted = np.array([[True, True], [True, False], [True, True], [False, True]])
    return PolicyBatch(problem, traces, logprobs, rng.normal(size=(4, 2)).astype(np.float32), counted)


@pytest.mark.parametrize(
    "reduction", ["token", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sequence", "constant"))]
)
def test_micro_batches_change_nothing(reduction):
    tiny = make_tiny(dataclasses.replace(TINY, scan_unroll=1))
    # Nothing is clipped, so every token that counts has a gradient.
    config = GrpoConfig(clip_low=0.9, clip_high=9.0, kl=0.1, reduction=reduction)
    loss = partial(policy_loss, make_setup(tiny.model), config)
    base = jax.tree.map(lambda x: 1.1 * x, tiny.params)
    frozen, batch = {"planner": {}, "reference": {"params": base}}, ragged_batch(tiny.config.vocab_size)
    optimizer = optax.sgd(1.0)  # the parameters after it are those before less the gradient
    state = init_state({"params": jax.tree.map(jnp.asarray, tiny.params)}, optimizer, 0)

    def run(parts):
        @jax.jit
        def once(state, frozen, batch):
            after, sums = update(loss, optimizer, state, frozen, batch, state.key, parts)
            return after.trainable, means(sums)

        return once(state, frozen, batch)

    whole = run(1)
    assert whole[1]["optimizer/gradient_norm"] > 0.1
    for parts in (2, 4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), run(parts), whole)


def test_gradients_are_those_of_the_quotient():
    # sum = a x over the rows, weight = row count w: (2 * 1 + 3 * 4) / (1 + 4) for the slope a, whatever the parts
    def loss(a, frozen, batch, key):
        x, w = batch
        return ((a * x * w).sum(), w.sum()), {}

    batch = (jnp.array([2.0, 3.0]), jnp.array([1.0, 4.0]))
    for parts in (1, 2):
        slope, metrics = accumulated_gradients(loss, jnp.float32(7), None, batch, jax.random.key(0), parts)
        np.testing.assert_allclose(slope, 14 / 5, rtol=1e-6)
        np.testing.assert_allclose(metrics["loss/total"], (7 * 14, 5), rtol=1e-6)


def test_a_batch_that_counts_for_nothing_moves_nothing():
    def loss(a, frozen, batch, key):
        return ((a * batch).sum(), jnp.float32(0)), {}

    slope, metrics = accumulated_gradients(loss, jnp.float32(7), None, jnp.zeros(2), jax.random.key(0), 1)
    assert slope == 0
    assert math.isnan(means(metrics)["loss/total"])


def numpy_adamw(params, gradients, config, decayed):
    """The parameters after each gradient: clip by global norm, AdamW (arXiv 1711.05101), constant learning rate."""
    first = {name: np.zeros_like(p) for name, p in params.items()}
    second = {name: np.zeros_like(p) for name, p in params.items()}
    for t, gradient in enumerate(gradients, start=1):
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
        gradient = {name: g * min(1.0, config.clip_norm / norm) for name, g in gradient.items()}
        for name, g in gradient.items():
            first[name] = config.b1 * first[name] + (1 - config.b1) * g
            second[name] = config.b2 * second[name] + (1 - config.b2) * g**2
            step = first[name] / (1 - config.b1**t) / (np.sqrt(second[name] / (1 - config.b2**t)) + config.epsilon)
            step = step + (config.weight_decay if name in decayed else 0) * params[name]
            params = params | {name: params[name] - config.learning_rate * step}
    return params


def test_adamw_by_hand():
    rng = np.random.default_rng(0)
    # Stacked over layers, a norm's scale and a bias have two axes and more, and still do not decay.
    shapes = {
        "kernel": (2, 3),
        "a": (2, 3, 2),
        "scale": (2, 3),
        "bias": (2, 2, 2),
        "dimension_bias": (5, 5),
        "total": (3,),
    }
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    # Norms of about 6 and 0.06: the first two are clipped, the third is not.
    gradients = [{n: s * rng.normal(size=p.shape) for n, p in params.items()} for s in (1.0, 1.0, 0.01)]
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.3, clip_norm=1.0, b1=0.8, b2=0.95, epsilon=1e-3)
    expected = numpy_adamw(params, gradients, config, decayed=("kernel", "a"))

    def loss(trainable, frozen, batch, key):
        return (sum((trainable[name] * batch[name][0]).sum() for name in trainable), jnp.float32(1)), {}

    optimizer = make_optimizer(config, 3)
    state = init_state(jax.tree.map(jnp.float32, params), optimizer, 0)
    norms = []
    for gradient in gradients:
        batch = jax.tree.map(lambda g: jnp.float32(g)[None], gradient)
        state, metrics = update(loss, optimizer, state, None, batch, state.key, 1)
        norms.append(float(metrics["optimizer/gradient_norm"][0]))
    for name, value in expected.items():
        np.testing.assert_allclose(state.trainable[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    # Reported before clipping.
    np.testing.assert_allclose(norms, [math.sqrt(sum((g**2).sum() for g in x.values())) for x in gradients], rtol=1e-5)
    assert norms[1] > config.clip_norm > norms[2]
    assert int(state.step) == 0  # counting steps is the caller's


def test_no_clipping_where_the_norm_is_0():
    # Without momentum and with a large epsilon, AdamW's first step is lr * g / (|g| + eps): 0.1 * 30 / (30 + 10)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, clip_norm=0, epsilon=10.0), 1)
    state = init_state(jnp.float32(0), optimizer, 0)
    state, _ = update(lambda a, f, b, k: ((30 * a, jnp.float32(1)), {}), optimizer, state, None, None, state.key, 1)
    np.testing.assert_allclose(state.trainable, -0.075, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        # peak 2; 6 updates
        ("constant", 0, {0: 2, 5: 2}),
        ("constant", 4, {0: 0.5, 1: 1, 2: 1.5, 3: 2, 4: 2, 5: 2}),
        ("constant", 1, {0: 2, 1: 2}),
        # from 2 to 0.2 over 4: half-way at 1.1
        ("linear", 2, {0: 1, 1: 2, 2: 2, 3: 1.55, 4: 1.1, 5: 0.65, 6: 0.2}),
        # 0.2 + 1.8 * (1 + cos(pi t / 4)) / 2
        ("cosine", 2, {0: 1, 1: 2, 2: 2, 3: 0.2 + 0.9 * (1 + 0.5**0.5), 4: 1.1, 6: 0.2}),
        ("cosine", 0, {0: 2, 3: 1.1, 6: 0.2}),
    ],
)
def test_schedules_by_hand(schedule, warmup, rates):
    rate = learning_rate(OptimizerConfig(learning_rate=2.0, warmup=warmup, schedule=schedule, final=0.1), 6)
    np.testing.assert_allclose([rate(t) for t in rates], list(rates.values()), rtol=1e-6)


def test_the_optimizer_follows_the_schedule():
    # With epsilon far above the gradient, b1 = 0 and no clipping a step is lr * g / eps.
    config = OptimizerConfig(learning_rate=1.0, warmup=2, schedule="linear", clip_norm=0, b1=0, b2=0, epsilon=1e4)
    optimizer = make_optimizer(config, 4)
    state = init_state(jnp.float32(0), optimizer, 0)
    places = [0.0]
    for _ in range(4):
        state, _ = update(lambda a, f, b, k: ((a, jnp.float32(1)), {}), optimizer, state, None, None, state.key, 1)
        places.append(float(state.trainable))
    np.testing.assert_allclose(np.diff(places) * -1e4, [0.5, 1, 1, 0.5], rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "OptimizerConfig.learning_rate must be above 0"),
        ({"warmup": -1}, "OptimizerConfig.warmup must not be negative"),
        ({"clip_norm": -1.0}, "OptimizerConfig.clip_norm must not be negative"),
        ({"accumulate": 0}, "OptimizerConfig.accumulate must be at least 1"),
        ({"schedule": "cosin"}, "OptimizerConfig.schedule: expected one of .*did you mean 'cosine'"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**values)


def test_a_batch_must_split_into_micro_batches():
    require_divisible("Train.batch_size", 8, OptimizerConfig(accumulate=4))
    with pytest.raises(
        UserError, match=r"Train.batch_size must be a multiple of OptimizerConfig.accumulate = 4, got 6"
    ):
        require_divisible("Train.batch_size", 6, OptimizerConfig(accumulate=4))
