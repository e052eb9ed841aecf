"""The same questions put to this package; and how close the answers must be."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from tracelift_jax.models import hf
from tracelift_jax.models.transformer import ModelConfig, Transformer, forward, logits_of
from tracelift_jax.rollout.sample import Sampling, sample
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.spans import Automaton, Tokens, pad
from tracelift_jax.train.losses import RewardModelLossConfig, reward_model_loss

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # it compiles; it hardly runs
HERE = Path(__file__).resolve().parent
MODELS = ("qwen2", "qwen2_tied", "qwen3", "llama3", "llama3.1_tied", "llama_bias")

FLOAT32 = 1e-4
"""Largest difference of logits, whose standard deviation is 1.4 to 2.8. Measured: at most 4e-5, about what either side
differs from float64.
"""
GRADES = 1e-5
"""Largest difference of a reward model's grades, loss and gradients. Measured: at most 5e-6."""
MERGED = 1e-5
"""Largest difference of logits between an adapter beside its base and merged into it. Measured: 5e-6."""
BFLOAT16 = 0.35, 0.04
"""Largest and root mean square difference from float32 logits, over their standard deviation, when all is kept and
computed in bfloat16. Measured: 0.09 to 0.26 and 0.014 to 0.028; `transformers` itself: 0.11 to 0.25 and 0.015 to 0.032.
"""


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, in one file or several."""
    return {name: w for file in sorted(path.glob("*model*.safetensors")) for name, w in load_file(file).items()}


def bits(x: Any) -> np.ndarray:
    """The bytes of an array, so that equality is bitwise; its shape and dtype are among them."""
    x = np.asarray(x)
    return np.frombuffer(f"{x.dtype} {x.shape} ".encode() + x.tobytes(), np.uint8)


def to_bfloat16(x: Any) -> np.ndarray:
    """Rounded to the nearest."""
    return np.asarray(x).astype(jnp.bfloat16)


def expected(name: str) -> dict[str, np.ndarray]:
    """What the other side said of a golden directory."""
    return load_file(HERE / name / "expected.safetensors")


@functools.cache
def _logits(config: ModelConfig):
    model = Transformer(config)

    @jit
    def run(variables, ids, valid):
        return logits_of(model, variables, forward(model, variables, ids, valid)[0])

    return run


def logits(config: ModelConfig, variables: Any, sequences: list[np.ndarray]) -> list[np.ndarray]:
    """float32 [T, V] of each sequence, all read in one padded batch."""
    tokens = pad([ids.tolist() for ids in sequences], max(map(len, sequences)), 0)
    out = np.asarray(_logits(config)(variables, tokens.ids, tokens.valid))
    return [row[: len(ids)] for row, ids in zip(out, sequences, strict=True)]


@functools.cache
def _greedy(config: ModelConfig, count: int):
    model, never = Transformer(config), Automaton(np.zeros((1, config.vocab_size), np.int32), np.zeros(1, bool))

    @jit
    def run(variables, prompt):
        hidden, segment = forward(model, variables, prompt, prompt >= 0)
        key, sampling = jax.random.key(0), Sampling(count, temperature=0.0)
        return sample(model, variables, hidden[:, -1], (segment,), (1,), key, never, (-1,), sampling).tokens.ids[0]

    return run


def greedy(config: ModelConfig, variables: Any, prompt: np.ndarray, count: int = 64) -> np.ndarray:
    """The `count` likeliest tokens behind `prompt`, one after another, as `rollout.sample` decodes them."""
    return np.asarray(_greedy(config, count)(variables, prompt[None]))


def merged(config: ModelConfig, params: Any, lora: Any) -> tuple[ModelConfig, Any]:
    """Configuration and variables of the model with its adapter merged in."""
    return dataclasses.replace(config, lora=None), {"params": hf.merge_lora(params, lora, config)}


def batch_of(said: dict[str, np.ndarray]) -> tuple[Tokens, Tokens]:
    """Problems [B] and traces [B, M] with their validity, from padded ids and lengths."""

    def tokens(name: str) -> Tokens:
        ids = said[name]
        return Tokens(ids, np.arange(ids.shape[-1]) < said[f"{name}_length"][..., None])

    return tokens("problem"), tokens("trace")


def group_loss(config: ModelConfig, said: dict[str, np.ndarray], terms: RewardModelLossConfig | None = None):
    """(variables, heads) to the loss of the other side's groups, with their grades and the loss's parts beside it.

    Each problem is encoded once, with its traces below it. Default weights are METHOD's reference.
    """
    problem, trace = batch_of(said)
    labels, totals = said["labels"].astype(np.int32), said["totals"]

    def loss(variables, heads):
        grades = grade(Transformer(config), variables, heads, problem, trace)
        (total, groups), metrics = reward_model_loss(grades, labels, totals, terms or RewardModelLossConfig())
        return total / groups, (grades, {name: value / weight for name, (value, weight) in metrics.items()})

    return loss
