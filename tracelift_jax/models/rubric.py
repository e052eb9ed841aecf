"""The reward model's heads: five rubric labels and a total, read off the last token's hidden state."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

DIMENSIONS = 5
"""Rubric dimensions of a trace."""
LABELS = 5
"""C: labels 0..4 of each dimension."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grade:
    """What the reward model says of a trace.

    Attributes:
        logits: float32 [*lead, 5, C] of the five dimensions.
        total_logit: float32 [*lead] of the total.
    """

    logits: Array
    total_logit: Array

    @property
    def expected(self) -> Array:
        """float32 [*lead, 5], the expected label of each dimension, in [0, 4]."""
        return jax.nn.softmax(self.logits) @ jnp.arange(LABELS, dtype=jnp.float32)

    @property
    def total(self) -> Array:
        """float32 [*lead] in [0, 1], the directly predicted total."""
        return jax.nn.sigmoid(self.total_logit)

    @property
    def score(self) -> Array:
        """float32 [*lead] in [0, 1], see `score_of`."""
        return score_of(self.expected, self.total)


def score_of(expected: Array, total: Array) -> Array:
    """float32 [*lead] in [0, 1]: half the mean expected label [*lead, 5] over 4, half the total [*lead] (METHOD)."""
    return 0.5 * (expected.mean(-1) / (LABELS - 1)) + 0.5 * total


class RubricHeads(nn.Module):
    """Five linear heads of C labels and one of width 1, biases included, computed in float32."""

    width: int

    @nn.compact
    def __call__(self, hidden: Array) -> Grade:
        """Grades traces from the final hidden state [*lead, D] of their last token."""
        hidden = hidden.astype(jnp.float32)
        normal, zeros = nn.initializers.normal(self.width**-0.5), nn.initializers.zeros
        axes = ("rubric", "embed", "labels")
        kernel: Any = self.param(
            "dimensions", nn.with_logical_partitioning(normal, axes), (DIMENSIONS, self.width, LABELS)
        )
        bias: Any = self.param(
            "dimension_bias", nn.with_logical_partitioning(zeros, ("rubric", "labels")), (DIMENSIONS, LABELS)
        )
        total: Any = self.param("total", nn.with_logical_partitioning(normal, ("embed",)), (self.width,))
        total_bias: Any = self.param("total_bias", zeros, ())
        return Grade(jnp.einsum("...d,rdc->...rc", hidden, kernel) + bias, hidden @ total + total_bias)
