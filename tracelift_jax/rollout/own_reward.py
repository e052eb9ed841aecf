"""A reward of your own: what it may look at, and what it must be. `docs/extending.md` has one to copy."""

import dataclasses
from typing import Protocol

import jax
from jax import Array

from tracelift_jax.text.spans import Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Facts:
    """All that a reward may depend on, B problems with G traces each; `RewardConfig.malformed` has been applied.

    Attributes:
        traces: [B, G, R], the planner's tokens, closing tag included; look at valid ones alone.
        well_formed: bool [B, G].
        right: float32 [B, G], 1 where the primary answer is right, else 0; of programs `exec_reward`.
        verdicts: int8 [B, G, 1 + K], OK, WRONG or FAILED, the primary one first.
        uplift: float32 [B, G] in [-1, 1]; of programs `count_coefficient`.
        rubric: float32 [B, G, 5], expected labels 0..4. total, score: float32 [B, G] in [0, 1]. All are 0 without a
            reward model.
    """

    traces: Tokens
    well_formed: Array
    right: Array
    verdicts: Array
    uplift: Array
    rubric: Array
    total: Array
    score: Array


class OwnReward(Protocol):
    """A frozen dataclass, because it is part of what a function is compiled for; its fields can be bound in gin."""

    def reward(self, facts: Facts) -> Array:
        """float32 [B, G], from `facts` alone, in JAX: no reading, no randomness, no Python on values."""
        ...
