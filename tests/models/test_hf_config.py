"""config.json: families as released and as transformers 5 writes them, and what is refused by name."""

import json

import numpy as np
import pytest
from test_hf import refused

from tracelift_jax.models import hf
from tracelift_jax.models.hf_layout import slots
from tracelift_jax.models.transformer import Llama3Rope

QWEN = {  # Qwen2.5-7B as released
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


LLAMA_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA = {  # Llama-3.1-8B as released
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": LLAMA_ROPE,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN3 = {  # Qwen3-8B as released
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def write_config(path, data):
    (path / "config.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_config_of_a_released_model(tmp_path):
    config = hf.read_config(write_config(tmp_path, QWEN))
    assert (config.vocab_size, config.width, config.ff_width, config.layers) == (152064, 3584, 18944, 28)
    assert (config.heads, config.kv_heads, config.head_width) == (28, 4, 128)
    assert (config.rope_theta, config.norm_eps, config.tie_embeddings, config.qkv_bias) == (1e6, 1e-6, False, True)
    assert sum(np.prod(slot.shape) for slot in slots(config)) == 7_615_616_512  # as its model card counts


@pytest.mark.parametrize(
    ("released", "count"), [(LLAMA, 8_030_261_248), (QWEN3, 8_190_735_360)], ids=["llama", "qwen3"]
)
def test_other_families_as_released(tmp_path, released, count):
    """Sizes by hand; the count is the one their model cards round."""
    config = hf.read_config(write_config(tmp_path, released))
    assert config.family == released["model_type"] and config.head_width == 128
    assert sum(np.prod(slot.shape) for slot in slots(config)) == count
    assert (config.qkv_bias, config.out_bias, config.qk_norm) == (False, False, released is QWEN3)
    assert config.rope_scaling == (Llama3Rope(8.0, 1.0, 4.0, 8192) if released is LLAMA else None)
    biased = hf.read_config(write_config(tmp_path, released | {"attention_bias": True}))
    assert (biased.qkv_bias, biased.out_bias) == (True, True)


def test_a_sliding_window_that_no_layer_uses_is_no_obstacle(tmp_path):
    """Qwen's first `max_window_layers` layers, here all of them, attend to everything."""
    data = QWEN | {"use_sliding_window": True, "max_window_layers": 28}
    assert hf.read_config(write_config(tmp_path, data)) == hf.read_config(write_config(tmp_path, QWEN))


def test_what_we_do_not_know_is_kept_from_the_original(tmp_path, tiny_of):
    """Context length and token ids survive a load and save; shapes and dtype are the saved model's."""
    (tmp_path / "a").mkdir()
    write_config(tmp_path / "a", QWEN | {"layer_types": ["full_attention"] * 28, "dtype": "bfloat16"})
    tiny = tiny_of(scan_unroll=1, remat="full")
    hf.save(tmp_path / "b", tiny.params, tiny.config, like=tmp_path / "a")
    data = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (data["max_position_embeddings"], data["eos_token_id"]) == (131072, 151643)
    assert (data["hidden_size"], data["torch_dtype"], data["layer_types"]) == (8, "float32", ["full_attention"] * 2)
    assert "dtype" not in data and hf.read_config(tmp_path / "b") == tiny.config


FAMILIES = {
    "qwen3": {"family": "qwen3", "qkv_bias": False, "qk_norm": True},
    "llama": {"family": "llama", "qkv_bias": False, "rope_scaling": Llama3Rope(4.0, 1.0, 2.5, 64)},
    "llama, biased": {"family": "llama", "qkv_bias": True, "out_bias": True},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_round_trip(tmp_path, tiny_of, family):
    config = tiny_of(scan_unroll=1, remat="full", **FAMILIES[family]).config
    hf.save(tmp_path, tiny_of(scan_unroll=1, remat="full", **FAMILIES[family]).params, config)
    assert hf.read_config(tmp_path) == config
    from transformers import AutoConfig

    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == config.family and theirs.architectures[0].lower().startswith(config.family)
    assert theirs.attention_bias == config.out_bias
    if config.rope_scaling:
        assert theirs.rope_parameters["original_max_position_embeddings"] == 64


def test_config_as_transformers_5_writes_it(tmp_path):
    data = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    data |= {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "layer_types": ["full_attention"] * 28}
    assert hf.read_config(write_config(tmp_path, data)) == hf.read_config(write_config(tmp_path, QWEN))


def test_absent_and_null_fields_mean_their_defaults(tmp_path):
    data = QWEN | {"num_key_value_heads": None, "head_dim": None, "rope_scaling": None}
    config = hf.read_config(write_config(tmp_path, data))
    assert (config.kv_heads, config.head_width) == (28, 128)
    data = {k: v for k, v in QWEN.items() if k not in ("num_key_value_heads", "rope_theta", "tie_word_embeddings")}
    config = hf.read_config(write_config(tmp_path, data))
    assert (config.kv_heads, config.rope_theta, config.tie_embeddings) == (28, 10_000.0, False)


def test_config_round_trip_and_transformers_reads_ours(tmp_path, tiny_of):
    tiny = tiny_of(tie_embeddings=False, rope_theta=5e5, norm_eps=1e-5, scan_unroll=1, remat="full")
    hf.save(tmp_path, tiny.params, tiny.config)
    assert hf.read_config(tmp_path) == tiny.config
    from transformers import AutoConfig

    theirs = AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Qwen2Config" and theirs.architectures == ["Qwen2ForCausalLM"]
    assert (theirs.vocab_size, theirs.hidden_size, theirs.intermediate_size) == (37, 8, 12)
    assert (theirs.num_hidden_layers, theirs.num_attention_heads, theirs.num_key_value_heads) == (2, 4, 2)
    assert theirs.head_dim == 6 and theirs.rms_norm_eps == 1e-5 and not theirs.tie_word_embeddings
    assert theirs.rope_parameters["rope_theta"] == 5e5 and not theirs.use_sliding_window


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "'gemma3'"),
        ({"model_type": "qwen3_moe"}, "mixture of experts (qwen3_moe)"),
        ({"model_type": "llama", "num_local_experts": 8}, "mixture of experts (num_local_experts)"),
        ({"model_type": None}, "model_type"),
        ({"use_sliding_window": True, "max_window_layers": 20}, "sliding window attention"),
        ({"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope type 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, "no 'high_freq_factor'"),
        ({"rope_scaling": LLAMA_ROPE | {"high_freq_factor": 1.0}}, "high_freq_factor must be above"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"head_dim": 127}, "head_dim must be even"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"vocab_size": None}, "no 'vocab_size'"),
        ({"num_hidden_layers": "28"}, "num_hidden_layers must be a whole number above 0, got '28'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0, got 0"),
        ({"num_key_value_heads": 5}, "num_key_value_heads = 5 does not divide num_attention_heads = 28"),
    ],
    ids=str,
)
def test_unsupported_configs_are_refused(tmp_path, change, message):
    refused(lambda: hf.read_config(write_config(tmp_path, QWEN | change)), str(tmp_path / "config.json"), message)


def test_broken_configs_are_refused(tmp_path):
    refused(lambda: hf.read_config(tmp_path), str(tmp_path / "config.json"), "no such file")
    refused(lambda: hf.read_config(write_config(tmp_path, '{"a": ')), str(tmp_path / "config.json"), "not JSON")
    refused(lambda: hf.read_config(write_config(tmp_path, "[1]")), str(tmp_path / "config.json"), "not a JSON object")
