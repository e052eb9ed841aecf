"""Tiny random models as `transformers`, `peft` and plain torch compute them; needs the extra `parity`.

Nothing here imports the package: this is the other side of every comparison.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
    Qwen3Config,
)
from transformers.utils import logging

logging.disable_progress_bar()

SHAPES = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,  # so large that it shows
    "bos_token_id": None,
    "eos_token_id": None,  # greedy decoding goes on to its length
}
"""Grouped-query attention; no two sizes that meet in a matrix are equal once the head width is given as 8."""

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def family_config(family: str, **changes) -> PreTrainedConfig:
    """The configuration of a tiny model: `SHAPES`, what makes the family, and `changes`."""
    plain = {"rope_type": "default"}
    # Wave lengths 6, 20, 63, 199, ... at 8 frequencies: the first is kept (below 64 / 3.6), the next two are blended,
    # the others (above 64 / 0.8) are stretched 6 times; without stretching they would turn well within 80 tokens.
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 6.0,
        "low_freq_factor": 0.8,
        "high_freq_factor": 3.6,
        "original_max_position_embeddings": 64,
    }
    match family:
        case "qwen2":  # its head width is always hidden_size / num_attention_heads
            return Qwen2Config(**SHAPES | {"rope_parameters": plain | {"rope_theta": 1e6}} | changes)
        case "qwen3":
            return Qwen3Config(**SHAPES | {"head_dim": 8, "rope_parameters": plain | {"rope_theta": 1e6}} | changes)
        case "llama3":
            rope = {"head_dim": 8, "rope_parameters": plain | {"rope_theta": 5e5}}
            return LlamaConfig(**SHAPES | rope | changes)
        case "llama3.1":
            rope = {"head_dim": 16, "rope_parameters": scaled, "tie_word_embeddings": True}
            return LlamaConfig(**SHAPES | rope | changes)
        case "llama_bias":
            return LlamaConfig(**SHAPES | {"head_dim": 8, "attention_bias": True} | changes)
        case _:
            raise ValueError(f"no family {family!r}")


@torch.no_grad()
def fill(parameters: Iterable[tuple[str, nn.Parameter]], seed: int, gain: float = 1.5) -> None:
    """Draws named parameters, none at a special value; logits come out with a standard deviation between 1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            noise = 0.3 * noise
        elif name.endswith(("norm.weight", "layernorm.weight")):
            noise = 1 + 0.2 * noise
        elif "embed_tokens" in name:
            noise = 0.5 * noise  # also the head of a tied model
        else:
            noise = gain / math.sqrt(parameter.shape[-1]) * noise
        parameter.copy_(noise)


def make_checkpoint(path: Path, config: PreTrainedConfig, seed: int, dtype: torch.dtype, **saving) -> None:
    """Writes a random causal LM as `transformers` writes it."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model.named_parameters(), seed)
    model.to(dtype).save_pretrained(path, **saving)


def load(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal LM of a directory, attention spelt out."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory."""
    return AutoTokenizer.from_pretrained(path)


def random_ids(seed: int, *shape: int, vocab: int = SHAPES["vocab_size"]) -> Tensor:
    """int64 token ids."""
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """float32 [T, V] of one sequence [T], alone and without padding."""
    return model(input_ids=ids[None]).logits[0].float()


def greedy(model: PreTrainedModel, prompt: Tensor, count: int = 64) -> tuple[Tensor, float]:
    """`count` tokens that `generate` puts behind `prompt`, and the least gap between the two best logits on the way."""
    out = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        max_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(out.logits).float().topk(2).values[:, 0]
    return out.sequences[0, len(prompt) :], float((best[:, 0] - best[:, 1]).min())


def add_adapter(model: PreTrainedModel, seed: int, **settings) -> PeftModel:
    """`model` with a LoRA, by default on all seven projections, neither half of which is zero."""
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM"} | settings)
    adapted = get_peft_model(model, config)
    fill([(name, p) for name, p in adapted.named_parameters() if "lora_" in name], seed, gain=0.5)
    return adapted.eval()


def load_adapter(model: PreTrainedModel, path: Path) -> PeftModel:
    """`model` with the adapter of a directory."""
    return PeftModel.from_pretrained(model, path).eval()


# -------------------------------------------------------------------------------------------------- the reward model


class ReasonRewardModel(Qwen2PreTrainedModel):
    """A backbone without its head, five linear heads of five labels and one of width 1 at the last token."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.dimension_heads = nn.ModuleList(nn.Linear(config.hidden_size, 5) for _ in range(5))
        self.total_head = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, rows: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Label logits [B, M, 5, 5] and total logits [B, M] of B groups of M sequences, each read alone."""
        states = [torch.stack([self.model(ids[None]).last_hidden_state[0, -1] for ids in group]) for group in rows]
        hidden = torch.stack(states)
        return torch.stack([head(hidden) for head in self.dimension_heads], dim=-2), self.total_head(hidden)[..., 0]


def rubric(label_logits: Tensor, total_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Expected labels [..., 5] and score [...], as METHOD writes them."""
    expected = sum(label * label_logits.softmax(-1)[..., label] for label in range(5))
    derived = sum(0.2 * expected[..., d] / 4 for d in range(5))
    return expected, 0.5 * derived + 0.5 * total_logits.sigmoid()


def loss_parts(
    label_logits: Tensor, total_logits: Tensor, labels: Tensor, totals: Tensor, delta: float = 1.0, margin: float = 0.15
) -> dict[str, Tensor]:
    """The four parts of the reward model's loss, means over groups; the first trace of a group is its positive."""
    _, score = rubric(label_logits, total_logits)
    groups, members = totals.shape
    rank, among = [], []
    for b in range(groups):
        rank.append(torch.stack([-functional.logsigmoid(score[b, 0] - score[b, m]) for m in range(1, members)]).mean())
        pairs = [
            -functional.logsigmoid(score[b, better] - score[b, worse])
            for better in range(1, members)
            for worse in range(1, members)
            if totals[b, better] - totals[b, worse] >= margin
        ]
        among.append(torch.stack(pairs).mean() if pairs else torch.zeros(()))
    return {
        "dimensions": sum(
            functional.cross_entropy(label_logits[..., d, :].flatten(0, 1), labels[..., d].flatten()) for d in range(5)
        ),
        "total": functional.huber_loss(total_logits.sigmoid(), totals, delta=delta),
        "rank": torch.stack(rank).mean(),
        "rank_negatives": torch.stack(among).mean(),
    }


REFERENCE_WEIGHTS = {"dimensions": 1.0, "total": 0.5, "rank": 0.7, "rank_negatives": 0.0}


def loss(parts: dict[str, Tensor], weights: dict[str, float] = REFERENCE_WEIGHTS) -> Tensor:
    """The weighted sum of the parts."""
    return sum(weights[name] * part for name, part in parts.items())


def random_groups(seed: int, groups: int = 3, members: int = 5, problem: int = 12, trace: int = 9):
    """Groups of traces: padded ids and lengths of problems [B] and traces [B, M], labels [B, M, 5], totals [B, M]."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    return {
        "problem": integers(0, SHAPES["vocab_size"], groups, problem),
        "problem_length": integers(problem // 2, problem + 1, groups),
        "trace": integers(0, SHAPES["vocab_size"], groups, members, trace),
        "trace_length": integers(1, trace + 1, groups, members),
        "labels": integers(0, 5, groups, members, 5),
        "totals": integers(0, 11, groups, members) / 10,
    }


def rows_of(batch: dict[str, Tensor]) -> list[list[Tensor]]:
    """Each problem and trace of `random_groups` as one sequence without padding."""
    problems = [ids[:n] for ids, n in zip(batch["problem"], batch["problem_length"], strict=True)]
    return [
        [torch.cat([problem, ids[:n]]) for ids, n in zip(traces, lengths, strict=True)]
        for problem, traces, lengths in zip(problems, batch["trace"], batch["trace_length"], strict=True)
    ]
