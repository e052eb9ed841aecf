import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.models.segment import Segment, context_length, expand, last_valid


def segment(valid, layers: int = 2, heads: int = 1, width: int = 2) -> Segment:
    valid = jnp.asarray(valid, bool)
    kv = jnp.arange(layers * valid.size * heads * width, dtype=jnp.float32)
    kv = kv.reshape(layers, *valid.shape, heads, width)
    return Segment(kv, -kv, valid)


def test_expand_puts_unit_axes_behind_the_prefix():
    assert expand(jnp.zeros((2, 5)), (2, 3, 4), trailing=1).shape == (2, 1, 1, 5)
    assert expand(jnp.zeros((2, 3)), (2, 3)).shape == (2, 3)
    assert expand(jnp.zeros(()), (2, 3)).shape == (1, 1)


@pytest.mark.parametrize("prefix", [(3,), (2, 4), (2, 3, 1)], ids=str)
def test_expand_refuses_what_is_no_prefix(prefix):
    with pytest.raises(ValueError, match="cannot be an ancestor") as caught:
        expand(jnp.zeros((*prefix, 7)), (2, 3), trailing=1)
    assert str(prefix) in str(caught.value) and "(2, 3)" in str(caught.value)


def test_context_length_counts_valid_slots_of_all_ancestors():
    problem = segment([[1, 0, 1], [0, 0, 0]])  # 2 and 0 tokens
    trace = segment([[[1, 1], [0, 1]], [[1, 0], [0, 0]]])  # 2, 1 and 1, 0
    np.testing.assert_array_equal(context_length((problem, trace), (2, 2)), [[4, 3], [1, 0]])
    np.testing.assert_array_equal(context_length((), (2,)), [0, 0])


def test_last_valid():
    x = jnp.arange(12.0).reshape(3, 4, 1)
    valid = jnp.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(last_valid(x, valid), [[1.0], [6.0], [11.0]])


def test_write_replaces_slots_and_nothing_else():
    whole, new = segment(np.zeros((2, 4))), segment(np.ones((2, 2)))
    written = whole.write(new, 1)
    np.testing.assert_array_equal(written.valid, [[0, 1, 1, 0]] * 2)
    for old, fresh, got in [(whole.k, new.k, written.k), (whole.v, new.v, written.v)]:
        expected = np.array(old)
        expected[:, :, 1:3] = fresh
        np.testing.assert_array_equal(got, expected)
    assert written.lead == (2,) and written.length.tolist() == [2, 2]
