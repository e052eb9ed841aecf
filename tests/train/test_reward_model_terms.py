"""The two terms beyond METHOD's loss, against loops over tokens and against flat sequences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.text.spans import Tokens, pad
from tracelift_jax.train.losses import RewardModelLossConfig
from tracelift_jax.train.reward_model import GroupBatch, group_loss, prefix_labels

PROBLEMS = [[5, 6, 7], [8, 9]]
# One positive and two flawed traces a group; the second flawed one is the positive cut short.
TRACES = [[[1, 2, 3, 4], [1, 2, 9, 4, 4], [1, 2]], [[3, 1, 2], [4, 1, 2], [3, 1, 2, 2]]]
LABELS = np.array([[[4] * 5, [3, 2, 1, 0, 4], [1] * 5], [[4] * 5, [0] * 5, [2] * 5]], np.int32)


@pytest.fixture(scope="module")
def batch() -> GroupBatch:
    traces = [pad(group, 5, 0) for group in TRACES]
    return GroupBatch(
        pad(PROBLEMS, 3, 0),
        Tokens(*(np.stack([getattr(t, name) for t in traces]) for name in ("ids", "valid"))),
        LABELS,
        np.array([[1.0, 0.4, 0.2], [1.0, 0.0, 0.5]], np.float32),
        np.array([True, True]),
    )


@pytest.fixture(scope="module")
def trainable(tiny):
    width = tiny.model.config.width
    heads = RubricHeads(width).init(jax.random.key(1), jnp.zeros((1, width)))["params"]
    return {"params": tiny.params, "heads": nn.meta.unbox(heads)}


def total(tiny, trainable, batch, **terms) -> float:
    config = RewardModelLossConfig(dimensions=0.0, total=0.0, rank=0.0, **terms)
    (loss, groups), _ = group_loss(tiny.model, config, trainable, {}, batch, None)
    assert groups == batch.real.sum()
    return float(loss)


def flat_hidden(tiny, b: int, m: int):
    """Hidden states of the trace's tokens, problem and trace read as one sequence."""
    ids = np.array([PROBLEMS[b] + TRACES[b][m]], np.int32)
    hidden, _ = tiny.model.apply({"params": tiny.params}, ids, np.ones(ids.shape, bool))
    return hidden[0, len(PROBLEMS[b]) :]


def test_labels_change_where_a_trace_first_differs(batch):
    labels = np.asarray(prefix_labels(batch))
    np.testing.assert_array_equal(labels[0, 0], [[4] * 5] * 5)  # the positive differs from itself nowhere
    # 1 2 9 ... against 1 2 3 ...: the third token is the first wrong one, and all behind it is wrong too.
    np.testing.assert_array_equal(labels[0, 1], [[4] * 5, [4] * 5, *[[3, 2, 1, 0, 4]] * 3])
    np.testing.assert_array_equal(labels[1, 1], [[0] * 5] * 5)  # wrong from the first token on
    np.testing.assert_array_equal(labels[1, 2][:4], [[4] * 5, [4] * 5, [4] * 5, [2] * 5])  # one token too many


@pytest.mark.slow
def test_prefix_term_equals_a_loop_over_tokens(tiny, trainable, batch):
    heads, labels, hand = trainable["heads"], np.asarray(prefix_labels(batch)), 0.0
    for b in range(2):
        losses = []
        for m in range(3):
            for t, state in enumerate(flat_hidden(tiny, b, m)):
                logits = np.einsum("d,rdc->rc", state, heads["dimensions"]) + heads["dimension_bias"]
                logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                losses.append(-sum(logs[d, labels[b, m, t, d]] for d in range(5)))
        hand += np.mean(losses)
    np.testing.assert_allclose(total(tiny, trainable, batch, prefix=0.5), 0.5 * hand, rtol=1e-5)


def test_prefix_term_takes_the_labels_loss_that_is_asked_for(tiny, trainable, batch):
    heads, labels, hand = trainable["heads"], np.asarray(prefix_labels(batch)), 0.0
    for b in range(2):
        losses = []
        for m in range(3):
            logits = np.einsum("td,rdc->trc", flat_hidden(tiny, b, m), heads["dimensions"]) + heads["dimension_bias"]
            expected = np.asarray(jax.nn.softmax(logits)) @ np.arange(5.0)
            losses += [*np.square(expected - labels[b, m, : len(expected)]).sum(-1)]
        hand += np.mean(losses)
    terms = {"prefix": 0.5, "dimension_loss": "squared_error"}
    np.testing.assert_allclose(total(tiny, trainable, batch, **terms), 0.5 * hand, rtol=1e-5)


def test_language_term_is_the_positives_cross_entropy(tiny, trainable, batch):
    hand = 0.0
    for b in range(2):
        logits = tiny.model.apply({"params": tiny.params}, flat_hidden(tiny, b, 0)[:-1], method="logits")
        logs = np.asarray(jax.nn.log_softmax(logits))
        hand += -np.mean([logs[t, token] for t, token in enumerate(TRACES[b][0][1:])])
    np.testing.assert_allclose(total(tiny, trainable, batch, language=2.0), 2.0 * hand, rtol=1e-5)


@pytest.mark.slow
def test_groups_that_fill_a_batch_count_in_neither_term(tiny, trainable, batch):
    first = jax.tree.map(lambda x: x[:1], batch)
    half = GroupBatch(batch.problem, batch.traces, batch.labels, batch.totals, np.array([True, False]))
    both = {"prefix": 1.0, "language": 1.0}
    np.testing.assert_allclose(total(tiny, trainable, half, **both), total(tiny, trainable, first, **both), rtol=1e-5)


def test_without_the_terms_it_is_methods_loss(tiny, trainable, batch):
    assert total(tiny, trainable, batch) == 0.0
