"""What a run leaves behind: the trained weights as a whole model, or as an adapter, in directories that others load."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from tracelift_jax.models import hf, peft
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.hosts import first
from tracelift_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Trained:
    """Weights after training.

    Attributes:
        shape: of the model, with its adapter.
        base: parameters before training, or under the adapter; of weights trained whole only their dtypes matter.
        trainable: `params` or `lora`, and `heads` of a reward model.
        origin: the directory the base came from, or None for a random one.
    """

    shape: ModelConfig
    base: Any
    trainable: Any
    origin: Path | None
    tokenizer: Tokenizer


def write_model(path: Path, trained: Trained) -> str:
    """Writes the whole model, an adapter merged in; returns its fingerprint."""
    if "lora" in trained.trainable:
        params = hf.merge_lora(trained.base, trained.trainable["lora"], trained.shape)
    else:
        # In the base's precision, which the model computes with in any case.
        params = jax.tree.map(lambda x, base: x.astype(base.dtype), trained.trainable["params"], trained.base)
    if "heads" in trained.trainable:
        hf.save_reward_model(path, params, trained.trainable["heads"], trained.shape, trained.origin)
    else:
        hf.save(path, params, trained.shape, trained.origin)
    if first():
        trained.tokenizer.save(path)
    return fingerprint(params, *([trained.trainable["heads"]] if "heads" in trained.trainable else []))


def write_adapter(path: Path, trained: Trained) -> str:
    """Writes the adapter alone, with a reward model's heads; returns the fingerprint of what was trained."""
    heads = trained.trainable.get("heads")
    origin = str(trained.origin.resolve()) if trained.origin else ""
    peft.save_adapter(path, trained.trainable["lora"], trained.shape, origin, heads)
    if first():
        trained.tokenizer.save(path)
    return fingerprint(*trained.trainable.values())
