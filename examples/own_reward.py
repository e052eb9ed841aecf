"""A reward of your own: a right answer is worth 1, what good reasoning adds is worth as much, and every token costs.

    PYTHONPATH=examples tracelift train --gin_file=examples/own_reward.gin --run_dir=runs/own_reward

own_reward.gin says how long it takes and what to expect. Fields can be bound in gin like those of any other class.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tracelift_jax.checked import check_types, require
from tracelift_jax.rollout.own_reward import Facts


@dataclasses.dataclass(frozen=True)
class Brief:
    """right + score * uplift where the reasoning helped, less a price for each token of it.

    Attributes:
        price: of one token.
    """

    price: float = 0.002

    def __post_init__(self) -> None:
        check_types(self)
        require(self.price >= 0, f"Brief.price must not be negative, got {self.price}")

    def reward(self, facts: Facts) -> jax.Array:
        """float32 [B, G], of B problems with G traces each; `Facts` lists all that there is to look at."""
        tokens = facts.traces.valid.sum(-1)  # [B, G]
        return facts.right + facts.score * jnp.maximum(facts.uplift, 0.0) - self.price * tokens
