"""PEFT directories that are refused: adapters that compute something else, and damaged files; each by one line."""

import dataclasses

import numpy as np
import pytest
from adapter_files import SEVEN, assert_bitwise, configure, drop, name, refused, store, stored

from tracelift_jax.models import peft
from tracelift_jax.models.einsum import Lora


@pytest.fixture
def saved(tmp_path, tiny_lora):
    """A directory with the adapter of `tiny_lora`: two layers, rank 2, alpha 3."""
    peft.save_adapter(tmp_path, tiny_lora.lora, tiny_lora.config)
    return tmp_path


def test_a_configuration_without_an_adapter(saved, tiny, tiny_lora):
    with pytest.raises(ValueError, match="no adapter to save"):
        peft.save_adapter(saved, tiny_lora.lora, tiny.config)
    with pytest.raises(ValueError, match="no adapter to load"):
        peft.load_adapter(saved, tiny.config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"bias": None}, "bias None"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"monteclora_config": {"num_samples": 8}}, "monteclora_config"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights 'pissa_niter_16'"),
        ({"init_lora_weights": "PiSSA"}, "init_lora_weights 'PiSSA'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"init_lora_weights": "corda"}, "init_lora_weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names 'lm_head'"),
        ({"modules_to_save": ["total_head", "score"]}, "modules_to_save names 'score'"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules names 'embed_tokens'"),
        ({"target_modules": ["lm_head"]}, "target_modules names 'lm_head'"),
        ({"target_modules": ["mlp"]}, "target_modules names 'mlp'"),
        ({"target_modules": ["xq_proj"]}, "target_modules names 'xq_proj'"),
        ({"target_modules": [1]}, "target_modules names 1"),
        ({"target_modules": {"q_proj": 1}}, "target_modules must be a list of names or a string"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be"),
        ({"layers_to_transform": True}, "layers_to_transform must be"),
        ({"r": 0}, "r must be a whole number above 0, got 0"),
        ({"r": -1}, "r must be a whole number above 0, got -1"),
        ({"r": 2.0}, "r must be a whole number above 0, got 2.0"),
        ({"r": "2"}, "r must be a whole number above 0, got '2'"),
        ({"r": True}, "r must be a whole number above 0, got True"),
        ({"r": None}, "r must be a whole number above 0, got None"),
        ({"lora_alpha": None}, "lora_alpha must be a number, got None"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number, got '16'"),
        ({"lora_alpha": True}, "lora_alpha must be a number, got True"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number, got nan"),
        ({"lora_dropout": 1.0}, "lora_dropout must lie in [0, 1), got 1.0"),
        ({"lora_dropout": -0.1}, "lora_dropout must lie in [0, 1), got -0.1"),
        ({"lora_dropout": "0.1"}, "lora_dropout must lie in [0, 1), got '0.1'"),
    ],
    ids=str,
)
def test_other_adapters_are_refused(saved, tiny_lora, changes, message):
    configure(saved, **changes)
    for load in (lambda: peft.read_adapter_config(saved), lambda: peft.load_adapter(saved, tiny_lora.config)):
        refused(load, saved / "adapter_config.json", message)


def test_broken_configs_are_refused(saved):
    file = saved / "adapter_config.json"
    for text, message in [('{"r": ', "not JSON"), ("[1]", "not a JSON object"), ("\xff", "not JSON")]:
        file.write_text(text, encoding="latin-1")
        refused(lambda: peft.read_adapter_config(saved), file, message)
    file.unlink()
    refused(lambda: peft.read_adapter_config(saved), file, "no such file")


@pytest.mark.parametrize("lora", [Lora(3, 3.0), Lora(2, 4.0)], ids=["rank", "alpha"])
def test_another_rank_or_alpha_in_the_run(saved, tiny_lora, lora):
    config = dataclasses.replace(tiny_lora.config, lora=lora)
    refused(
        lambda: peft.load_adapter(saved, config),
        saved / "adapter_config.json",
        f"rank 2 and alpha 3.0, the run's configuration {lora.rank} and {lora.alpha}",
    )


def test_another_dropout_in_the_run(saved, tiny_lora):
    config = dataclasses.replace(tiny_lora.config, lora=Lora(2, 3.0, dropout=0.5))
    assert_bitwise(peft.load_adapter(saved, config), tiny_lora.lora)


@pytest.mark.parametrize("targets", [SEVEN, "all-linear"], ids=["list", "string"])
@pytest.mark.parametrize("half", "AB")
def test_a_half_without_its_partner_is_named(saved, tiny_lora, half, targets):
    configure(saved, target_modules=targets)
    gone = name(1, "mlp.gate_proj", half)
    drop(saved, gone)
    refused(
        lambda: peft.load_adapter(saved, tiny_lora.config), saved / "adapter_model.safetensors", repr(gone), "missing"
    )


def test_a_module_that_is_listed_must_be_there(saved, tiny_lora, tiny_of):
    """Otherwise an adapter of fewer layers would load onto a deeper base."""
    deeper = tiny_of(layers=3, lora=tiny_lora.config.lora)
    refused(lambda: peft.load_adapter(saved, deeper.config), repr(name(2, "self_attn.q_proj", "A")), "missing")
    drop(saved, "1.self_attn.v_proj")
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), repr(name(1, "self_attn.v_proj", "A")), "missing")


@pytest.mark.parametrize(
    "extra",
    [
        "base_model.model.model.layers.2.mlp.up_proj.lora_A.weight",  # a deeper model's
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.bias",
        "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.other.weight",
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.total_head.modules_to_save.weight",
        "model.layers.0.mlp.up_proj.lora_A.weight",
    ],
)
def test_an_unexpected_tensor_is_named(saved, tiny_lora, extra):
    store(saved, stored(saved) | {extra: np.zeros((2, 8), np.float32)})
    refused(
        lambda: peft.load_adapter(saved, tiny_lora.config),
        saved / "adapter_model.safetensors",
        repr(extra),
        "not expected",
    )


def test_a_tensor_of_a_module_that_is_not_listed(saved, tiny_lora):
    """peft would ignore it; the adapter would then compute something else there than here."""
    configure(saved, target_modules=[m for m in SEVEN if m != "up_proj"])
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), repr(name(0, "mlp.up_proj", "A")), "not expected")


def test_the_same_tensor_twice(saved, tiny_lora):
    tensors, twice = stored(saved), name(0, "mlp.up_proj", "A")
    other = twice.replace(".weight", ".default.weight")
    store(saved, tensors | {other: tensors[twice]})
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), repr(twice), repr(other), "the same one")


@pytest.mark.parametrize(
    ("module", "half", "shape"),
    [
        ("mlp.gate_proj", "A", (8, 2)),  # transposed: as many numbers, in another order
        ("mlp.gate_proj", "B", (2, 12)),
        ("self_attn.q_proj", "A", (3, 8)),  # another rank
        ("self_attn.q_proj", "B", (12, 2)),  # another base
        ("self_attn.o_proj", "A", (2, 4, 6)),
        ("self_attn.k_proj", "B", (24,)),
    ],
    ids=str,
)
def test_a_misshapen_tensor_is_named(saved, tiny_lora, module, half, shape):
    tensors, wrong = stored(saved), name(1, module, half)
    store(saved, tensors | {wrong: np.zeros(shape, np.float32)})
    refused(
        lambda: peft.load_adapter(saved, tiny_lora.config),
        saved / "adapter_model.safetensors",
        repr(wrong),
        list(shape),
        list(tensors[wrong].shape),
    )


def test_a_tensor_of_whole_numbers_is_named(saved, tiny_lora):
    wrong = name(1, "mlp.up_proj", "A")
    store(saved, stored(saved) | {wrong: np.zeros((2, 8), np.int8)})
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), repr(wrong), "I8")


def test_an_adapter_of_nothing(saved, tiny_lora):
    configure(saved, target_modules="all-linear")
    store(saved, {})
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), saved / "adapter_model.safetensors", "adapts nothing")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
@pytest.mark.parametrize("load", [peft.load_adapter, peft.load_heads])
def test_a_truncated_file_is_named(saved, tiny_lora, keep, load):
    file = saved / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(lambda: load(saved, tiny_lora.config), file, "not a readable safetensors file")


@pytest.mark.parametrize("load", [peft.load_adapter, peft.load_heads])
def test_a_missing_file_is_named(saved, tiny_lora, load):
    (saved / "adapter_model.safetensors").unlink()
    refused(lambda: load(saved, tiny_lora.config), saved / "adapter_model.safetensors", "no such file")
