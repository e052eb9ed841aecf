"""Where the shipped reward model lies, its grades computed as a rollout does, and the same model set otherwise."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tiny import ROOT

from tracelift_jax.models import hf
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.rollout.score import grade
from tracelift_jax.serve.scorer import Item, LoadedScorer
from tracelift_jax.text.spans import pad
from tracelift_jax.text.tokenizer import Tokenizer

SHIPPED = ROOT / "experiments" / "dial" / "score.gin"
GRADER = ROOT / "tracelift_jax" / "assets" / "dial" / "reward_model"


def copied(scorer: LoadedScorer, **changes: Any) -> LoadedScorer:
    """The same weights and compiled functions with other attributes."""
    copy = LoadedScorer.__new__(LoadedScorer)
    copy.__dict__ |= scorer.__dict__ | changes
    return copy


@dataclasses.dataclass(frozen=True)
class Expected:
    """Grades of items: [M, 5], [M], [M]."""

    rubric: np.ndarray
    total: np.ndarray
    score: np.ndarray


def graded_by_rollout(items: Sequence[Item]) -> Expected:
    """The shipped reward model in the tree of a rollout: a problem and its trace as segments of their own."""
    tokenizer, shape = Tokenizer.load(GRADER), hf.read_config(GRADER)
    params, heads = hf.load_reward_model(GRADER, shape)
    problems = pad([tokenizer.encode(f"{item.problem}\n") for item in items], 220, 0)
    traces = pad([tokenizer.encode(f"<reasoning> {item.reasoning} </reasoning>") for item in items], 160, 0)
    traces = jax.tree.map(lambda x: np.asarray(x)[:, None], traces)
    run: Any = jax.jit(lambda p, t: grade(Transformer(shape), {"params": params}, heads, p, t))
    found = run(problems, traces)
    return Expected(*(np.asarray(x[:, 0]) for x in (found.expected, found.total, found.score)))
