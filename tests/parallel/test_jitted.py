"""Functions that take each array once."""

import jax
import jax.numpy as jnp
import numpy as np

from tracelift_jax.parallel.jitted import Jitted, jitted


def combine(weights, batch, scale):
    return {"value": weights["one"] @ batch["x"] + weights["two"] @ batch["x"] * scale, "rest": weights["other"]}


def arrays(*, shared):
    base = jnp.arange(6.0).reshape(2, 3)
    weights = {"one": base, "two": base if shared else base + 0, "other": (jnp.ones(4), None)}
    return weights, {"x": jnp.array([1.0, 2.0, 3.0])}, 10.0


def test_an_array_in_two_places_is_one_parameter():
    once, each = (Jitted(combine).lower(*arrays(shared=shared)) for shared in (True, False))
    texts = [lowered.compile().as_text() for lowered in (once, each)]
    assert [text.count("f32[2,3]{1,0} parameter(") for text in texts] == [1, 2]
    for lowered, places in ((once, 1), (each, 2)):
        # One matrix, the vector x, four ones and the scale.
        assert lowered.compile().memory_analysis().argument_size_in_bytes == 4 * (6 * places + 3 + 4 + 1)


def test_values_and_structure_are_the_functions_own():
    wanted = combine(*arrays(shared=True))
    np.testing.assert_array_equal(wanted["value"], [88.0, 286.0])  # [8, 26] and ten times that
    for shared in (True, False):
        got = Jitted(combine)(*arrays(shared=shared))
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        np.testing.assert_array_equal(got["value"], wanted["value"])


def test_sharing_is_part_of_what_is_compiled():
    """Arrays that were one and are now two must not be taken for one."""
    add = Jitted(combine)
    weights, batch, scale = arrays(shared=True)
    add(weights, batch, scale)
    apart = weights | {"two": jnp.zeros((2, 3))}
    np.testing.assert_array_equal(add(apart, batch, scale)["value"], [8.0, 26.0])
    np.testing.assert_array_equal(add(weights, batch, scale)["value"], [88.0, 286.0])


def test_parameters_are_named_by_their_first_place():
    text = Jitted(combine).lower(*arrays(shared=True)).compile().as_text()
    names = [f"shared.{name}" for name in ("weights['one']", "batch['x']", "scale")]
    escaped = [name.replace("'", "\\'") for name in names]
    assert all(name in text for name in escaped)
    assert "two" not in text


def test_the_donated_argument_is_gone_and_the_others_are_not():
    step = Jitted(lambda state, weights: state + weights["a"] + weights["b"], donate=True)
    state, shared = jnp.zeros(3), jnp.ones(3)
    after = step(state, {"a": shared, "b": shared})
    np.testing.assert_array_equal(after, [2.0, 2.0, 2.0])
    assert state.is_deleted() and not shared.is_deleted()
    assert "donated" in step.lower(after, {"a": shared, "b": shared}).compile().as_text()


def test_shapes_without_arrays():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    x = {"x": jax.ShapeDtypeStruct((3,), jnp.float32)}
    weights = {"one": shape, "two": shape, "other": ()}
    made = Jitted(combine).eval_shape(weights, x, 1.0)
    assert made["value"].shape == (2,)
    assert Jitted(combine).lower(weights, x, 1.0).compile().as_text().count("f32[2,3]{1,0} parameter(") == 1


def test_the_same_function_is_the_same_program():
    assert jitted(combine) is jitted(combine)
    assert jitted(combine) is not jitted(arrays)
