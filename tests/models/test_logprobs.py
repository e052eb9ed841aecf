"""Log-probabilities in chunks against log_softmax of all logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models import logprobs
from tracelift_jax.models.logprobs import shift, token_logprobs

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("length", [1, 64, 65, 128, 130])
def test_chunks_are_the_whole(tiny_of, length, tied):
    """Values, and gradients by hidden states and by the output projection."""
    tiny = tiny_of(tie_embeddings=tied)
    rng = np.random.default_rng(length)
    hidden = rng.standard_normal((2, length, tiny.config.width)).astype(np.float32)
    targets = rng.integers(0, tiny.config.vocab_size, (2, length))
    weights = rng.standard_normal((2, length)).astype(np.float32)
    table = tiny.params["embedding"].T if tied else tiny.params["head"]

    def direct(table, hidden):
        logp = jax.nn.log_softmax(hidden @ table / 0.7)
        return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]

    def chunked(table, hidden):
        name = {"embedding": table.T} if tied else {"head": table}
        return token_logprobs(tiny.model, {"params": tiny.params | name}, hidden, targets, 0.7)

    def value_and_gradient(f):
        def loss(table, hidden):
            value = f(table, hidden)
            return (value * weights).sum(), value

        return jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(table, hidden)

    (by_table, by_hidden), value = value_and_gradient(chunked)
    (expected_by_table, expected_by_hidden), expected = value_and_gradient(direct)
    assert value.shape == (2, length) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, atol=1e-5)
    np.testing.assert_allclose(by_hidden, expected_by_hidden, atol=1e-5)
    np.testing.assert_allclose(by_table, expected_by_table, atol=1e-5 * np.abs(expected_by_table).max())


def test_by_hand(tiny):
    """A state that gives logits 0 everywhere makes each token 1 / V likely, at any temperature."""
    hidden, targets = np.zeros((3, 8), np.float32), np.array([0, 5, 36])
    value = token_logprobs(tiny.model, tiny.variables, hidden, targets, 0.3)
    np.testing.assert_allclose(value, -np.log(37), rtol=1e-6)


def test_long_lengths_never_hold_all_logits(tiny):
    """The largest array of the program stays a chunk's."""
    assert logprobs.CHUNK == 64
    shapes = []

    def note(jaxpr):
        for equation in jaxpr.eqns:
            shapes.extend(v.aval.shape for v in equation.outvars)
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    note(value.jaxpr)
                elif hasattr(value, "eqns"):
                    note(value)

    hidden, targets = jnp.zeros((2, 512, 8)), jnp.zeros((2, 512), jnp.int32)
    grad = jax.grad(lambda h: token_logprobs(tiny.model, tiny.variables, h, targets).sum())
    note(jax.make_jaxpr(grad)(hidden).jaxpr)
    with_vocabulary = [s for s in shapes if s and s[-1] == 37]
    assert (2, 64, 37) in with_vocabulary
    assert max(int(np.prod(s)) for s in with_vocabulary) == 2 * 64 * 37


def test_shift():
    before, hidden = jnp.array([[1.0], [2.0]]), jnp.array([[[3.0], [4.0], [5.0]], [[6.0], [7.0], [8.0]]])
    np.testing.assert_array_equal(shift(before, hidden)[..., 0], [[1, 3, 4], [2, 6, 7]])
