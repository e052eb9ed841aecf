"""The `peft` package itself on the other side: our adapters on its models, and its adapters on ours."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file

from tracelift_jax.models import hf, peft
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.transformer import ModelConfig, Transformer, abstract_variables, forward, logits_of

torch = pytest.importorskip("torch")
reference = pytest.importorskip("peft")
theirs = pytest.importorskip("golden.theirs")

TOLERANCE = 1e-4
"""Largest difference of float32 logits, whose standard deviation is above 1."""
IDS = np.arange(3, 47) * 7 % 53


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The directory of a tiny random Qwen2 made by `transformers`."""
    path = tmp_path_factory.mktemp("base")
    theirs.make_checkpoint(path, theirs.family_config("qwen2"), 10, torch.float32)
    return path


def random_lora(config: ModelConfig, seed: int = 0):
    """Neither half zero, so large that it changes the logits by as much as they vary."""
    rng = np.random.default_rng(seed)
    declared = nn.meta.unbox(abstract_variables(config)["lora"])
    return jax.tree.map(lambda leaf: 0.4 * rng.standard_normal(leaf.shape).astype(leaf.dtype), declared)


@functools.cache
def compiled(config: ModelConfig):
    model, ids = Transformer(config), IDS.astype(np.int32)

    @jax.jit
    def run(variables):
        hidden = forward(model, variables, ids, ids >= 0)[0]
        return hidden, logits_of(model, variables, hidden)

    return run


def our_logits(config: ModelConfig, variables) -> np.ndarray:
    return np.asarray(compiled(config)(variables)[1])


def their_logits(model) -> np.ndarray:
    return theirs.logits(model, torch.tensor(IDS)).numpy()


def random_adapter(model, seed: int = 4):
    """The adapter of a `PeftModel` drawn anew, modules to save included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_loaded_whole(model, path) -> None:
    """What `peft` holds, by the names that it saves, is what the file holds, bit for bit."""
    held = {name: t.numpy() for name, t in reference.get_peft_model_state_dict(model).items()}
    stored = load_file(path / "adapter_model.safetensors")
    assert held.keys() == stored.keys()
    for name, tensor in stored.items():
        assert held[name].dtype == tensor.dtype and held[name].tobytes() == tensor.tobytes(), name


def test_peft_loads_our_adapter(tmp_path, base):
    config, params = hf.load(base)
    config = dataclasses.replace(config, lora=Lora(5, 8.5, 0.05))
    lora = random_lora(config)
    peft.save_adapter(tmp_path, lora, config, base=str(base))
    model = theirs.PeftModel.from_pretrained(theirs.load(base), tmp_path).eval()
    assert_loaded_whole(model, tmp_path)
    expected = their_logits(model)
    np.testing.assert_allclose(our_logits(config, {"params": params, "lora": lora}), expected, atol=TOLERANCE, rtol=0)
    assert np.abs(expected - their_logits(theirs.load(base))).max() > 1


def test_peft_finds_the_base_by_our_name_for_it(tmp_path, base):
    config = dataclasses.replace(hf.load(base)[0], lora=Lora(2, 4.0))
    peft.save_adapter(tmp_path, random_lora(config), config, base=str(base))
    model = reference.AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    assert model.active_peft_config.task_type == "CAUSAL_LM" and model.active_peft_config.inference_mode
    assert_loaded_whole(model, tmp_path)


@pytest.mark.parametrize(
    "choice",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": r".*\.(0\.self_attn|1\.mlp)\.\w+_proj"},
        {"target_modules": ["o_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["model.layers.1.self_attn.k_proj", "0.mlp.gate_proj"]},
        {"target_modules": ["o_proj", "up_proj"], "exclude_modules": ["model.layers.0.self_attn.o_proj"]},
        {"target_modules": None},
        {"target_modules": ["v_proj"], "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_we_load_pefts_adapter(tmp_path, base, choice):
    settings = reference.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, task_type="CAUSAL_LM", **choice)
    model = random_adapter(reference.get_peft_model(theirs.load(base), settings))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    config, params = hf.load(base)
    config = dataclasses.replace(config, lora=peft.read_adapter_config(tmp_path))
    assert config.lora is not None and (config.lora.rank, config.lora.dropout) == (3, 0.1)
    variables = {"params": params, "lora": peft.load_adapter(tmp_path, config)}
    expected = their_logits(model)
    np.testing.assert_allclose(our_logits(config, variables), expected, atol=TOLERANCE, rtol=0)
    assert np.abs(expected - their_logits(theirs.load(base))).max() > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_we_load_pefts_half_precision(tmp_path, base, dtype):
    settings = reference.LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = random_adapter(reference.get_peft_model(theirs.load(base), settings)).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    config = dataclasses.replace(hf.load(base)[0], lora=peft.read_adapter_config(tmp_path))
    loaded = peft.load_adapter(tmp_path, config)["blocks"]["attention"]["query"]
    for layer in range(config.layers):
        held = model.get_submodule(f"base_model.model.model.layers.{layer}.self_attn.q_proj")
        a, b = (half["default"].weight.detach().float().numpy() for half in (held.lora_A, held.lora_B))
        np.testing.assert_array_equal(loaded["a"][layer], a.T)
        np.testing.assert_array_equal(loaded["b"][layer].reshape(3, -1), b.T)


# ------------------------------------------------------------------------------------------------------ reward models

HEADS = [*(f"dimension_heads.{d}" for d in range(5)), "total_head"]


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    """The directory of a random reward model in the released layout."""
    path = tmp_path_factory.mktemp("grader")
    model = theirs.ReasonRewardModel(theirs.family_config("qwen2"))
    theirs.fill(model.named_parameters(), 1)
    model.save_pretrained(path)
    return path


def load_grader(path):
    """The torch model of that directory."""
    return theirs.ReasonRewardModel.from_pretrained(path, attn_implementation="eager").eval()


def our_config(path, lora: Lora) -> ModelConfig:
    return dataclasses.replace(hf.read_config(path), tie_embeddings=True, lora=lora)  # it has no head of its own


def assert_same_grade(config, params, lora, heads, model) -> None:
    """Label and total logits of one sequence, read alone."""
    hidden, _ = compiled(config)({"params": params, "lora": lora})
    grade = RubricHeads(config.width).apply({"params": heads}, hidden[-1])
    with torch.no_grad():
        labels, total = model([[torch.tensor(IDS)]])
    np.testing.assert_allclose(grade.logits, labels[0, 0].numpy(), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(grade.total_logit, total[0, 0].numpy(), atol=TOLERANCE, rtol=0)


def test_peft_loads_our_reward_models_adapter(tmp_path, grader):
    config = our_config(grader, Lora(3, 6.0))
    params, _ = hf.load_reward_model(grader, config)
    rng, lora = np.random.default_rng(5), random_lora(config, 6)
    shapes = {"dimensions": (5, config.width, 5), "dimension_bias": (5, 5), "total": (config.width,), "total_bias": ()}
    heads = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    peft.save_adapter(tmp_path, lora, config, base=str(grader), heads=heads)
    model = theirs.PeftModel.from_pretrained(load_grader(grader), tmp_path).eval()
    assert_loaded_whole(model, tmp_path)
    assert_same_grade(config, params, lora, heads, model)


def test_we_load_pefts_reward_models_adapter(tmp_path, grader):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = reference.LoraConfig(r=3, lora_alpha=6, target_modules=targets, modules_to_save=HEADS)
    model = random_adapter(reference.get_peft_model(load_grader(grader), settings))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    config = our_config(grader, peft.read_adapter_config(tmp_path))
    params, before = hf.load_reward_model(grader, config)
    heads = peft.load_heads(tmp_path, config)
    assert not np.allclose(heads["dimensions"], before["dimensions"])
    assert_same_grade(config, params, peft.load_adapter(tmp_path, config), heads, model)
