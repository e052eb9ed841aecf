"""Side by side with `transformers`, `peft` and torch, on models of other shapes and seeds than the golden files'.

Needs the extra `parity`; without torch all of it is skipped.
"""

import dataclasses
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden import ours
from safetensors.numpy import load_file

import tracelift_jax
from tracelift_jax.models import hf, peft
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.tasks.dial import DialTask, true_steps, write_trace
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.losses import RewardModelLossConfig

torch = pytest.importorskip("torch")
theirs = importlib.import_module("golden.theirs")  # torch's side; cannot be imported without it

WIDER = {"vocab_size": 61, "hidden_size": 36, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 6}
FAMILIES = {
    # name: (family, changes to its tiny shapes, seed, dtype)
    "qwen2": ("qwen2", WIDER, 40, torch.float16),
    "qwen2_tied": ("qwen2", WIDER | {"tie_word_embeddings": True}, 41, torch.float32),
    "qwen3_tied": ("qwen3", WIDER | {"tie_word_embeddings": True, "head_dim": 10}, 42, torch.float32),
    "qwen3_bias": ("qwen3", WIDER | {"attention_bias": True, "num_key_value_heads": 1}, 43, torch.bfloat16),
    "llama3_all_heads": ("llama3", WIDER | {"num_key_value_heads": 6, "head_dim": 14}, 44, torch.bfloat16),
    "llama3.1": ("llama3.1", WIDER | {"tie_word_embeddings": False}, 45, torch.float32),
    "llama_bias_tied": ("llama_bias", WIDER | {"tie_word_embeddings": True}, 46, torch.float32),
}
SEQUENCES = (90, 33, 1)
SMALL = 20_000


@dataclasses.dataclass(frozen=True)
class Side:
    """One model on both sides."""

    path: Path
    torch: Any
    config: ModelConfig
    params: Any
    seed: int

    def ids(self, n: int, length: int) -> Any:
        return theirs.random_ids(1000 * self.seed + n, length, vocab=self.config.vocab_size)

    @functools.cached_property
    def sequences(self) -> list:
        return [self.ids(n, length) for n, length in enumerate(SEQUENCES)]


@pytest.fixture(scope="module", params=FAMILIES)
def side(request, tmp_path_factory) -> Side:
    family, changes, seed, dtype = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    theirs.make_checkpoint(path, theirs.family_config(family, **changes), seed, dtype)
    return Side(path, theirs.load(path), *hf.load(path), seed)


def their_logits(model, sequences) -> np.ndarray:
    return np.concatenate([theirs.logits(model, ids).numpy() for ids in sequences])


def our_logits(config, variables, sequences) -> np.ndarray:
    return np.concatenate(ours.logits(config, variables, [ids.numpy() for ids in sequences]))


def state(model) -> dict[str, np.ndarray]:
    """All parameters by name."""
    return {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


def assert_close(got, expected, tolerance, **names):
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0, **names)


def test_golden_files_are_what_their_script_makes(tmp_path):
    """Weights to the last bit; what torch computed from them as closely as another machine computes it."""
    subprocess.run([sys.executable, ours.HERE / "make.py", tmp_path], check=True)
    made, kept = ({file.relative_to(where) for file in where.rglob("*.safetensors")} for where in (tmp_path, ours.HERE))
    assert made == kept
    for name in kept:
        got, expected = load_file(tmp_path / name), load_file(ours.HERE / name)
        if name.name == "expected.safetensors":
            jax.tree.map(functools.partial(assert_close, tolerance=ours.FLOAT32), got, expected)
        else:
            jax.tree.map(np.testing.assert_array_equal, got, expected)


# ------------------------------------------------------------------------------------------------------------ decoders


def test_logits(side):
    got = our_logits(side.config, {"params": side.params}, side.sequences)
    assert_close(got, their_logits(side.torch, side.sequences), ours.FLOAT32)


def test_greedy_tokens(side):
    prompt = side.ids(9, 20)
    tokens, gap = theirs.greedy(side.torch, prompt)
    assert gap > 10 * ours.FLOAT32  # or float32 noise could choose; take another seed
    assert ours.greedy(side.config, {"params": side.params}, prompt.numpy()).tolist() == tokens.tolist()


def test_bfloat16(side):
    """Within the bound of the golden files, and no further from float32 than `transformers` is in bfloat16."""
    expected = their_logits(side.torch, side.sequences)
    config = dataclasses.replace(side.config, dtype="bfloat16", param_dtype="bfloat16")
    got = our_logits(config, {"params": jax.tree.map(ours.to_bfloat16, side.params)}, side.sequences)
    rough = their_logits(theirs.load(side.path, torch.bfloat16), side.sequences)

    def error(logits) -> tuple[float, float]:
        away = np.abs(logits - expected) / expected.std()
        return float(away.max()), float(np.sqrt(np.square(away).mean()))

    largest, typical = error(got)
    assert 0 < largest < ours.BFLOAT16[0] and typical < ours.BFLOAT16[1]
    assert typical < error(rough)[1]


@pytest.mark.parametrize("shard_bytes", [hf.SHARD_BYTES, SMALL], ids=["whole", "sharded"])
def test_what_we_save_is_the_same_model_there(side, tmp_path, shard_bytes):
    """The class, every parameter to the last bit, and so the logits."""
    hf.save(tmp_path, side.params, side.config, shard_bytes=shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_bytes == SMALL)
    saved = theirs.load(tmp_path)
    assert type(saved) is type(side.torch)
    jax.tree.map(np.testing.assert_array_equal, state(saved), state(side.torch))
    # Not to the last bit: how torch multiplies depends on where in memory a file put the weights.
    assert_close(their_logits(saved, side.sequences), their_logits(side.torch, side.sequences), 1e-5)


def test_config_as_transformers_4_wrote_it(side, tmp_path):
    """What hub directories hold: rotary positions at the top level; both sides read it as the same model."""
    file = side.path / "config.json"
    data = json.loads(file.read_text())
    rope = data.pop("rope_parameters")
    data["rope_theta"] = rope.pop("rope_theta", 10_000.0)
    data["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    data["torch_dtype"] = data.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(data))
    (tmp_path / "model.safetensors").symlink_to(side.path / "model.safetensors")
    assert hf.read_config(tmp_path) == hf.read_config(side.path)
    assert_close(their_logits(theirs.load(tmp_path), side.sequences), their_logits(side.torch, side.sequences), 1e-5)


# ------------------------------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def adapted(side, tmp_path_factory):
    """The directory of an adapter that `peft` saved, and the model with it on both sides."""
    path = tmp_path_factory.mktemp("adapter")
    model = theirs.add_adapter(theirs.load(side.path), side.seed + 50, r=5, lora_alpha=4)
    model.save_pretrained(path, save_embedding_layers=False)
    config = dataclasses.replace(side.config, lora=peft.read_adapter_config(path))
    return path, model, config, {"params": side.params, "lora": peft.load_adapter(path, config)}


def test_adapter_logits(side, adapted):
    _, model, config, variables = adapted
    expected = their_logits(model, side.sequences)
    assert np.abs(expected - their_logits(side.torch, side.sequences)).max() > 1
    assert_close(our_logits(config, variables, side.sequences), expected, ours.FLOAT32)


def test_merged_adapter(side, adapted, tmp_path):
    """Beside the base or merged into it; and merged, it is what `peft` merges, weight by weight."""
    _, _, config, variables = adapted
    merged_config, merged = ours.merged(config, **variables)
    beside = our_logits(config, variables, side.sequences)
    assert_close(our_logits(merged_config, merged, side.sequences), beside, ours.FLOAT32)
    hf.save(tmp_path, merged["params"], merged_config)
    saved = theirs.load(tmp_path)
    expected = theirs.load_adapter(theirs.load(side.path), adapted[0]).merge_and_unload()
    assert type(saved) is type(expected)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-6), state(saved), state(expected))


def test_adapter_we_save_is_the_same_there(side, adapted, tmp_path):
    path, model, config, variables = adapted
    peft.save_adapter(tmp_path, variables["lora"], config, base=str(side.path))
    loaded = theirs.load_adapter(theirs.load(side.path), tmp_path)
    assert len(state(loaded)) > len(state(side.torch))
    jax.tree.map(np.testing.assert_array_equal, state(loaded), state(theirs.load_adapter(theirs.load(side.path), path)))
    assert_close(their_logits(loaded, side.sequences), their_logits(model, side.sequences), 1e-5)


# -------------------------------------------------------------------------------------------------------- reward model

WEIGHTS = {
    "reference": {
        "dimensions": 1.0,
        "total": 0.5,
        "rank": 0.7,
        "rank_negatives": 0.0,
        "huber_delta": 1.0,
        "margin": 0.15,
    },
    "all_terms": {
        "dimensions": 0.3,
        "total": 2.0,
        "rank": 1.7,
        "rank_negatives": 0.9,
        "huber_delta": 0.1,
        "margin": 0.35,
    },
}


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """Torch's model, the same one here, and groups of traces."""
    path = tmp_path_factory.mktemp("reward_model")
    model = theirs.ReasonRewardModel(theirs.family_config("qwen2", **WIDER))
    theirs.fill(model.named_parameters(), 60)
    model.save_pretrained(path)
    config = dataclasses.replace(hf.read_config(path), tie_embeddings=True)
    batch = theirs.random_groups(61, groups=4, members=4, problem=17, trace=13)
    return path, model, config, *hf.load_reward_model(path, config), batch


def their_loss(model, batch, weights):
    labels, totals = model(theirs.rows_of(batch))
    of_parts = {name: value for name, value in weights.items() if name not in ("huber_delta", "margin")}
    parts = theirs.loss_parts(
        labels, totals, batch["labels"], batch["totals"], weights["huber_delta"], weights["margin"]
    )
    return labels, totals, parts, theirs.loss(parts, of_parts)


def our_loss(config, batch, weights, variables, heads):
    """(loss, (grades, parts)), gradients of variables and of heads."""
    said = {name: tensor.numpy() for name, tensor in batch.items()}
    loss = ours.group_loss(config, said, RewardModelLossConfig(**weights))
    return jax.device_get(ours.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, heads))


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_reward_model_loss_and_gradients(reward_model, tmp_path, weights):
    """Grades, parts and loss; gradients of every parameter, by the names that files give them."""
    _, model, config, params, heads, batch = reward_model
    (loss, (grades, parts)), (of_params, of_heads) = our_loss(config, batch, weights, {"params": params}, heads)
    labels, totals, their_parts, expected = their_loss(model, batch, weights)
    model.zero_grad()
    expected.backward()
    assert_close(grades.logits, labels.detach(), ours.GRADES)
    assert_close(grades.total_logit, totals.detach(), ours.GRADES)
    assert_close(grades.score, theirs.rubric(labels, totals)[1].detach(), ours.GRADES)
    for part, value in their_parts.items():
        assert_close(parts[f"loss/{part}"], value.detach(), ours.GRADES, err_msg=part)
    assert_close(loss, expected.detach(), ours.GRADES)
    hf.save_reward_model(tmp_path, of_params["params"], of_heads, config)
    assert_same_gradients(ours.tensors(tmp_path), {name: p.grad for name, p in model.named_parameters()})


def assert_same_gradients(got, expected):
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3, name  # far above the tolerance
        assert_close(got[name], gradient, ours.GRADES, err_msg=name)


def test_reward_model_adapter_gradients(reward_model, tmp_path):
    """What training the reward model by LoRA moves."""
    path, _, config, params, heads, batch = reward_model
    model = theirs.add_adapter(theirs.ReasonRewardModel.from_pretrained(path), 62, r=4, lora_alpha=6, task_type=None)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    config = dataclasses.replace(config, lora=peft.read_adapter_config(tmp_path / "adapter"))
    variables = {"params": params, "lora": peft.load_adapter(tmp_path / "adapter", config)}
    (loss, _), (gradients, _) = our_loss(config, batch, WEIGHTS["reference"], variables, heads)
    *_, expected = their_loss(model, batch, WEIGHTS["reference"])
    expected.backward()
    assert_close(loss, expected.detach(), ours.GRADES)
    peft.save_adapter(tmp_path, gradients["lora"], config)
    grads = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if "lora_" in name}
    assert_same_gradients(ours.tensors(tmp_path), grads)


def test_reward_model_we_save_loads_there(reward_model, tmp_path):
    _, model, config, params, heads, _ = reward_model
    hf.save_reward_model(tmp_path, params, heads, config)
    saved, notes = theirs.ReasonRewardModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values()), notes
    jax.tree.map(np.testing.assert_array_equal, state(saved), state(model))


# --------------------------------------------------------------------------------------------------- the shipped base

DIAL = Path(tracelift_jax.__file__).parent / "assets" / "dial" / "base"


@pytest.fixture(scope="module")
def lessons() -> list[tuple[str, str]]:
    """The problem as the base reads it, and the faithful reasoning."""
    problems = [DialTask().problem("test", index) for index in range(300)]
    return [(f"{p.text}\n<reasoning>", f" {write_trace(true_steps(p.start, p.ops))} </reasoning>") for p in problems]


def test_dial_tokens(lessons):
    """Of whole lessons, `AutoTokenizer` beside the model's config.json."""
    mine, other = Tokenizer.load(DIAL), theirs.load_tokenizer(DIAL)
    assert (len(mine), mine.eos_id, mine.pad_id) == (len(other), other.eos_token_id, other.pad_token_id)
    for prompt, reasoning in lessons:
        text = f"{prompt}{reasoning}\nAnswer: 7"
        assert other(text)["input_ids"] == mine.encode(text)
        assert other.decode(mine.encode(text)) == text


def test_dial_base_writes_the_same(lessons):
    """Four prompts of one length: `generate` and our sampler continue alike, and it is the faithful reasoning."""
    model, tokenizer = theirs.load(DIAL), theirs.load_tokenizer(DIAL)
    config, params = hf.load(DIAL)
    encoded = [(tokenizer(prompt, return_tensors="pt")["input_ids"][0], true) for prompt, true in lessons]
    chosen = [(ids, true) for ids, true in encoded if len(ids) == len(encoded[0][0])][:4]
    assert len(chosen) == 4
    for ids, true in chosen:
        expected, _ = theirs.greedy(model, ids)
        written = ours.greedy(config, {"params": params}, ids.numpy()).tolist()
        assert written == expected.tolist()
        assert tokenizer.decode(written).startswith(true)
