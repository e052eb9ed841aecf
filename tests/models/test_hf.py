"""Hugging Face directories: names and orientation written out by hand, exact round trips, and what is refused."""

import dataclasses
import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from qwen2_numpy import forward as numpy_forward
from safetensors.numpy import load_file, save_file

from tracelift_jax.errors import UserError
from tracelift_jax.models import hf
from tracelift_jax.models.rubric import RubricHeads

# V = 37, D = 8, F = 12, H = 4, N = 2, Q = 6: what transformers' Qwen2ForCausalLM of one layer calls its state.
ONE_LAYER = {
    "model.embed_tokens.weight": (37, 8),
    "model.layers.0.self_attn.q_proj.weight": (24, 8),
    "model.layers.0.self_attn.q_proj.bias": (24,),
    "model.layers.0.self_attn.k_proj.weight": (12, 8),
    "model.layers.0.self_attn.k_proj.bias": (12,),
    "model.layers.0.self_attn.v_proj.weight": (12, 8),
    "model.layers.0.self_attn.v_proj.bias": (12,),
    "model.layers.0.self_attn.o_proj.weight": (8, 24),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.norm.weight": (8,),
}
HEADS = {f"dimension_heads.{d}.weight": (5, 8) for d in range(5)} | {
    f"dimension_heads.{d}.bias": (5,) for d in range(5)
}
HEADS |= {"total_head.weight": (1, 8), "total_head.bias": (1,)}


def shapes(path) -> dict:
    return {name: tensor.shape for name, tensor in load_file(path / "model.safetensors").items()}


def assert_bitwise(got, expected):
    got, expected = (jax.tree_util.tree_leaves_with_path(tree) for tree in (got, expected))
    assert [path for path, _ in got] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(got, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), path


def refused(call, *message: str):
    """`call()` raises one line that names everything in `message`."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in message), line


def random_heads(seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = {"dimensions": (5, 8, 5), "dimension_bias": (5, 5), "total": (8,), "total_bias": ()}
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


# ------------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_names_and_shapes_are_those_of_qwen2(tmp_path, tiny_of, tied):
    tiny = tiny_of(layers=1, scan_unroll=1, tie_embeddings=tied)
    hf.save(tmp_path, tiny.params, tiny.config)
    assert shapes(tmp_path) == ONE_LAYER | ({} if tied else {"lm_head.weight": (37, 8)})
    with open(tmp_path / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    assert header["__metadata__"] == {"format": "pt"}  # transformers refuses a file without it


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_file_computes_what_the_model_computes(tmp_path, tiny_of, tied):
    """y = x @ W.T + b in numpy, on the file's tensors as they lie, is our forward."""
    tiny = tiny_of(tie_embeddings=tied)
    hf.save(tmp_path, tiny.params, tiny.config)
    tokens = np.arange(9, dtype=np.int32)
    c, weights = tiny.config, load_file(tmp_path / "model.safetensors")
    _, expected = numpy_forward(weights, tokens, c.heads, c.kv_heads, c.rope_theta, c.norm_eps)

    @jax.jit
    def logits(params):
        hidden, _ = tiny.model.apply({"params": params}, tokens, np.ones(9, bool))
        return tiny.model.apply({"params": params}, hidden, method="logits")

    np.testing.assert_allclose(
        logits(hf.load_params(tmp_path, hf.read_config(tmp_path))), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_save_then_load_is_bitwise(tmp_path, tiny_of, dtype, tied):
    """Signed zeros and infinities included; bfloat16 is stored as bfloat16."""
    tiny = tiny_of(param_dtype=dtype, tie_embeddings=tied)
    params = jax.tree.map(np.copy, tiny.params)
    params["embedding"][:3, 0] = [-0.0, np.inf, 1e-40]
    hf.save(tmp_path, params, tiny.config)
    assert {t.dtype.name for t in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert_bitwise(hf.load_params(tmp_path, tiny.config), params)
    assert_bitwise(hf.load_params(tmp_path, dataclasses.replace(hf.read_config(tmp_path), param_dtype=dtype)), params)


def test_device_arrays_are_saved_too(tmp_path, tiny):
    hf.save(tmp_path, jax.device_put(tiny.params), tiny.config)
    assert_bitwise(hf.load_params(tmp_path, tiny.config), tiny.params)


def test_load_converts_to_param_dtype(tmp_path, tiny):
    hf.save(tmp_path, tiny.params, tiny.config)
    loaded = hf.load_params(tmp_path, dataclasses.replace(tiny.config, param_dtype="bfloat16"))
    assert_bitwise(loaded, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), tiny.params))


def test_layers_are_stacked_in_order(tmp_path, tiny_of):
    """Twelve layers: 10 and 11 do not sort behind 1."""
    tiny = tiny_of(layers=12, scan_unroll=1)
    hf.save(tmp_path, tiny.params, tiny.config)
    stored = load_file(tmp_path / "model.safetensors")
    for layer in (1, 2, 10, 11):
        np.testing.assert_array_equal(
            stored[f"model.layers.{layer}.mlp.up_proj.weight"], tiny.params["blocks"]["mlp"]["up"]["kernel"][layer].T
        )
    assert_bitwise(hf.load_params(tmp_path, tiny.config), tiny.params)


def test_a_tied_file_may_repeat_its_head(tmp_path, tiny):
    hf.save(tmp_path, tiny.params, tiny.config)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    assert_bitwise(hf.load_params(tmp_path, tiny.config), tiny.params)


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.fixture
def saved(tmp_path, tiny):
    """A directory, its tensors, and a way to write others in their place."""
    hf.save(tmp_path, tiny.params, tiny.config)
    file = tmp_path / "model.safetensors"
    return (
        tmp_path,
        load_file(file),
        lambda tensors: save_file(tensors, file),
        lambda: hf.load_params(tmp_path, tiny.config),
    )


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.1.self_attn.k_proj.bias", "model.embed_tokens.weight"]
)
def test_a_missing_tensor_is_named(saved, name):
    path, tensors, write, load = saved
    write({k: v for k, v in tensors.items() if k != name})
    refused(load, str(path / "model.safetensors"), name, "missing")


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight", "x"])
def test_an_unexpected_tensor_is_named(saved, name):
    path, tensors, write, load = saved
    write(tensors | {name: np.zeros(3, np.float32)})
    refused(load, str(path / "model.safetensors"), repr(name), "not expected")


def test_an_untied_model_needs_its_head(tmp_path, tiny_of):
    tiny, tied = tiny_of(tie_embeddings=False), tiny_of()
    hf.save(tmp_path, tied.params, tied.config)
    refused(lambda: hf.load_params(tmp_path, tiny.config), "'lm_head.weight'", "missing")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.gate_proj.weight", (8, 12)),  # transposed: as many numbers, in another order
        ("model.layers.1.self_attn.q_proj.weight", (24, 9)),
        ("model.layers.0.self_attn.o_proj.weight", (24, 8)),
        ("model.layers.1.self_attn.q_proj.bias", (4, 6)),
        ("model.layers.0.input_layernorm.weight", (9,)),
        ("model.layers.1.input_layernorm.weight", (1,)),
        ("model.norm.weight", (12,)),
        ("model.embed_tokens.weight", (36, 8)),
        ("model.embed_tokens.weight", (8, 37)),
    ],
    ids=str,
)
def test_a_misshapen_tensor_is_named(saved, name, shape):
    path, tensors, write, load = saved
    write(tensors | {name: np.zeros(shape, np.float32)})
    refused(load, str(path / "model.safetensors"), repr(name), str(list(shape)), str(list(tensors[name].shape)))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(saved, keep):
    path, _, _, load = saved
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(load, str(file), "not a readable safetensors file")


def test_a_missing_file_is_named(saved):
    path, _, _, load = saved
    (path / "model.safetensors").unlink()
    refused(load, str(path / "model.safetensors"), "no such file")


# ------------------------------------------------------------------------------------------------------ reward models


def test_reward_model_round_trip_and_names(tmp_path, tiny_of):
    tiny, heads = tiny_of(layers=1, scan_unroll=1), random_heads()
    hf.save_reward_model(tmp_path, tiny.params, heads, tiny.config)
    assert shapes(tmp_path) == ONE_LAYER | HEADS
    params, loaded = hf.load_reward_model(tmp_path, hf.read_config(tmp_path))
    assert_bitwise(params, tiny.params)
    assert_bitwise(loaded, heads)


def test_reward_model_heads_are_linear_layers(tmp_path, tiny):
    """logits of dimension d = W_d x + b_d, total = w x + b, on the file's tensors."""
    heads = random_heads(1)
    hf.save_reward_model(tmp_path, tiny.params, heads, tiny.config)
    stored = load_file(tmp_path / "model.safetensors")
    x = np.random.default_rng(2).standard_normal(8).astype(np.float32)
    graded = RubricHeads(8).apply({"params": hf.load_reward_model(tmp_path, tiny.config)[1]}, x)
    for d in range(5):
        expected = stored[f"dimension_heads.{d}.weight"] @ x + stored[f"dimension_heads.{d}.bias"]
        np.testing.assert_allclose(graded.logits[d], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        graded.total_logit, (stored["total_head.weight"] @ x + stored["total_head.bias"])[0], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["dimension_heads.4.weight", "dimension_heads.0.bias", "total_head.weight"])
def test_a_missing_or_misshapen_head_is_named(tmp_path, tiny, name):
    hf.save_reward_model(tmp_path, tiny.params, random_heads(), tiny.config)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if k != name}, file)
    refused(lambda: hf.load_reward_model(tmp_path, tiny.config), str(file), repr(name), "missing")
    save_file(tensors | {name: np.zeros((*tensors[name].shape, 2), np.float32)}, file)
    refused(lambda: hf.load_reward_model(tmp_path, tiny.config), str(file), repr(name), str([*tensors[name].shape, 2]))


def test_heads_are_not_expected_in_a_causal_lm(tmp_path, tiny):
    hf.save_reward_model(tmp_path, tiny.params, random_heads(), tiny.config)
    refused(lambda: hf.load_params(tmp_path, tiny.config), "dimension_heads.0.bias", "not expected")
