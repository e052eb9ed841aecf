"""Against what `transformers`, `peft` and torch computed, kept in tests/golden (made by its make.py); no torch here."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from golden import ours

from tracelift_jax.models import hf, peft
from tracelift_jax.models.hf_layout import heads_to_files

each = pytest.mark.parametrize("name", ours.MODELS)


@functools.cache
def loaded(name: str, dtype: str = "float32"):
    return hf.load(ours.HERE / name, dtype=dtype)


def logits(config, variables, said):
    """Of both sequences, one behind the other, and what they should be."""
    got = ours.logits(config, variables, [said["ids.0"], said["ids.1"]])
    return np.concatenate(got), np.concatenate([said["logits.0"], said["logits.1"]])


def assert_same_files(got, golden):
    """Bitwise the same tensors under the same names."""
    got, golden = ours.tensors(got), ours.tensors(golden)
    assert set(got) == set(golden)
    for name, tensor in golden.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert got[name].tobytes() == tensor.tobytes(), name


def assert_bitwise(got, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(ours.bits, got), jax.tree.map(ours.bits, expected))


# ------------------------------------------------------------------------------------------------------------ decoders


@each
def test_logits(name):
    config, params = loaded(name)
    got, expected = logits(config, {"params": params}, ours.expected(name))
    np.testing.assert_allclose(got, expected, atol=ours.FLOAT32, rtol=0)


@each
def test_greedy_tokens(name):
    config, params = loaded(name)
    said = ours.expected(name)
    assert ours.greedy(config, {"params": params}, said["prompt"]).tolist() == said["greedy"].tolist()


@each
def test_bfloat16(name):
    config, params = loaded(name)
    config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    got, expected = logits(config, {"params": jax.tree.map(ours.to_bfloat16, params)}, ours.expected(name))
    largest, typical = ours.BFLOAT16
    assert 0 < np.abs(got - expected).max() < largest * expected.std()
    assert np.sqrt(np.square(got - expected).mean()) < typical * expected.std()


def test_bfloat16_is_asked_for_by_name():
    """`load(dtype=...)` is the configuration of `test_bfloat16` and its parameters."""
    config, params = loaded("qwen2", "bfloat16")
    wide, exact = loaded("qwen2")
    assert config == dataclasses.replace(wide, dtype="bfloat16", param_dtype="bfloat16")
    assert_bitwise(params, jax.tree.map(ours.to_bfloat16, exact))


@each
def test_round_trip_is_bitwise(tmp_path, name):
    """Load, save, load: the same files (whole or sharded) and the same parameters, in the dtype they are stored in."""
    stored = {tensor.dtype.name for tensor in ours.tensors(ours.HERE / name).values()}
    config, params = loaded(name, *stored)
    hf.save(tmp_path, params, config)
    assert_same_files(tmp_path, ours.HERE / name)
    again, reloaded = hf.load(tmp_path, dtype=config.param_dtype)
    assert again == config
    assert_bitwise(reloaded, params)


# -------------------------------------------------------------------------------------------------------- reward model


@functools.cache
def reward_model():
    path = ours.HERE / "reward_model"
    config = dataclasses.replace(hf.read_config(path), tie_embeddings=True)
    return config, *hf.load_reward_model(path, config)


@pytest.fixture(scope="module")
def graded():
    """What the other side said of three groups; and the same here: grades, loss, its parts, the heads' gradients."""
    config, params, heads = reward_model()
    said = ours.expected("reward_model")
    run = ours.jit(jax.value_and_grad(ours.group_loss(config, said), argnums=1, has_aux=True))
    (loss, (grades, metrics)), gradients = jax.device_get(run({"params": params}, heads))
    return said, grades, metrics | {"loss": loss}, gradients


def test_grades(graded):
    said, grades, _, _ = graded
    close = functools.partial(np.testing.assert_allclose, atol=ours.GRADES, rtol=0)
    close(grades.logits, said["label_logits"])
    close(grades.total_logit, said["total_logits"])
    close(grades.expected, said["expected"])
    close(grades.score, said["score"])


@pytest.mark.parametrize("part", ["", "/dimensions", "/total", "/rank", "/rank_negatives"])
def test_reward_model_loss(graded, part):
    """The whole, and each part by itself."""
    said, _, metrics, _ = graded
    np.testing.assert_allclose(metrics[f"loss{part}"], said[f"loss{part}"], atol=ours.GRADES, rtol=0)


def test_gradient_of_the_heads(graded):
    said, _, _, gradients = graded
    expected = {name.removeprefix("gradient."): g for name, g in said.items() if name.startswith("gradient.")}
    gradients = heads_to_files(gradients)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-3  # far above the tolerance
        np.testing.assert_allclose(gradients[name], gradient, atol=ours.GRADES, rtol=0, err_msg=name)


def test_reward_model_round_trip_is_bitwise(tmp_path):
    config, params, heads = reward_model()
    hf.save_reward_model(tmp_path, params, heads, config)
    assert_same_files(tmp_path, ours.HERE / "reward_model")
    again = hf.load_reward_model(tmp_path, config)
    assert_bitwise(again, (params, heads))


# ------------------------------------------------------------------------------------------------------------- adapter


@functools.cache
def adapted():
    config, params = loaded("qwen3")
    config = dataclasses.replace(config, lora=peft.read_adapter_config(ours.HERE / "adapter"))
    return config, params, peft.load_adapter(ours.HERE / "adapter", config)


def test_adapter_logits():
    config, params, lora = adapted()
    got, expected = logits(config, {"params": params, "lora": lora}, ours.expected("adapter"))
    np.testing.assert_allclose(got, expected, atol=ours.FLOAT32, rtol=0)


def test_merged_adapter_is_the_adapter():
    config, params, lora = adapted()
    said = ours.expected("adapter")
    beside, _ = logits(config, {"params": params, "lora": lora}, said)
    merged, _ = logits(*ours.merged(config, params, lora), said)
    np.testing.assert_allclose(merged, beside, atol=ours.MERGED, rtol=0)


def test_adapter_round_trip_is_bitwise(tmp_path):
    config, _, lora = adapted()
    peft.save_adapter(tmp_path, lora, config, base="qwen3")
    assert_same_files(tmp_path, ours.HERE / "adapter")
    assert peft.read_adapter_config(tmp_path) == config.lora
    assert_bitwise(peft.load_adapter(tmp_path, config), lora)
