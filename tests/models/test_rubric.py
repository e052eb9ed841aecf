from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tracelift_jax.models.rubric import Grade, RubricHeads
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.spans import Tokens


def test_expected_labels_and_score_by_hand():
    """Label probabilities written out; METHOD: score = 0.5 * (mean expected label / 4) + 0.5 * sigmoid(total)."""
    probabilities = [
        [0.1, 0.2, 0.3, 0.25, 0.15],  # 0.2 + 0.6 + 0.75 + 0.6 = 2.15
        [0.2, 0.2, 0.2, 0.2, 0.2],  # 2
        [0.5, 0.0, 0.0, 0.0, 0.5],  # 2
        [0.0, 0.0, 0.0, 0.0, 1.0],  # 4
        [0.9, 0.1, 0.0, 0.0, 0.0],  # 0.1
    ]
    # A constant added to all logits of a dimension changes nothing.
    logits = np.log(np.maximum(probabilities, 1e-30)) + np.array([[3.0], [-2.0], [0.0], [50.0], [0.5]])
    graded = Grade(jnp.asarray(logits, jnp.float32), jnp.log(jnp.float32(3.0)))  # sigmoid(log 3) = 3/4
    np.testing.assert_allclose(graded.expected, [2.15, 2.0, 2.0, 4.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(graded.total, 0.75, atol=1e-6)
    # mean expected = 10.25 / 5 = 2.05; 0.5 * 2.05 / 4 + 0.5 * 0.75 = 0.25625 + 0.375
    np.testing.assert_allclose(graded.score, 0.63125, atol=1e-6)


def test_score_keeps_leading_axes_and_ends_at_0_and_1():
    low, high = np.full((5, 5), -80.0), np.full((5, 5), -80.0)
    low[:, 0], high[:, 4] = 0.0, 0.0
    graded = Grade(jnp.asarray([[low], [high]], jnp.float32), jnp.asarray([[-80.0], [80.0]]))
    assert graded.score.shape == (2, 1)
    np.testing.assert_allclose(graded.score, [[0.0], [1.0]], atol=1e-6)


def test_heads_by_hand():
    """logits_dc = sum_i x_i kernel[d, i, c] + bias[d, c] with x = (1, 2), also from bfloat16 states."""
    kernel = np.arange(50.0, dtype=np.float32).reshape(5, 2, 5)
    bias = np.array([[0.5 * d + c for c in range(5)] for d in range(5)], np.float32)
    params = {
        "dimensions": kernel,
        "dimension_bias": bias,
        "total": np.array([3.0, -1.0], np.float32),
        "total_bias": np.float32(0.25),
    }
    graded = RubricHeads(2).apply({"params": params}, jnp.array([[1.0, 2.0]], jnp.bfloat16))
    assert graded.logits.dtype == graded.total_logit.dtype == jnp.float32
    np.testing.assert_array_equal(graded.total_logit, [3.0 - 2.0 + 0.25])
    # Dimension 3, label 2: kernel[3, 0, 2] = 32, kernel[3, 1, 2] = 37, bias 1.5 + 2.
    assert graded.logits[0, 3, 2] == 32 + 2 * 37 + 3.5
    expected = np.array([[kernel[d, 0, c] + 2 * kernel[d, 1, c] + bias[d, c] for c in range(5)] for d in range(5)])
    np.testing.assert_array_equal(graded.logits[0], expected)


def test_grading_reads_the_last_valid_token_of_each_trace(tiny_of):
    """Against each problem and trace run flat, without holes."""
    tiny, rng = tiny_of(scan_unroll=1), np.random.default_rng(5)
    heads = {
        "dimensions": rng.standard_normal((5, tiny.config.width, 5)).astype(np.float32),
        "dimension_bias": rng.standard_normal((5, 5)).astype(np.float32),
        "total": rng.standard_normal(tiny.config.width).astype(np.float32),
        "total_bias": np.float32(0.3),
    }
    problem = rng.integers(0, 37, (2, 3)), np.array([[1, 1, 1], [1, 0, 1]], bool)
    trace = (
        rng.integers(0, 37, (2, 2, 4)),
        np.array([[[1, 1, 1, 1], [1, 0, 1, 0]], [[0, 1, 0, 0], [1, 1, 0, 0]]], bool),
    )
    graded = jax.jit(partial(grade, tiny.model))(tiny.variables, heads, Tokens(*problem), Tokens(*trace))
    flat, ends = np.zeros((4, 7), np.int32), []
    for row, (b, m) in enumerate(np.ndindex(2, 2)):
        path = np.concatenate([problem[0][b][problem[1][b]], trace[0][b, m][trace[1][b, m]]])
        flat[row, : len(path)] = path
        ends.append(len(path) - 1)
    hidden, _ = jax.jit(tiny.model.apply)(tiny.variables, flat, np.ones((4, 7), bool))
    alone = RubricHeads(tiny.config.width).apply({"params": heads}, hidden[np.arange(4), ends])
    np.testing.assert_allclose(graded.logits.reshape(4, 5, 5), alone.logits, atol=1e-5)
    np.testing.assert_allclose(graded.score.reshape(4), alone.score, atol=1e-6)
