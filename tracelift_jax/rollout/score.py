"""The reward model: reads problem and reasoning, grades at the last token."""

from typing import Any, cast

import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.rubric import Grade, RubricHeads
from tracelift_jax.models.segment import last_valid
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.text.spans import Tokens


def read_traces(
    model: Transformer,
    variables: Any,
    problem: Tokens,
    reasoning: Tokens,
    deterministic: bool = True,
    rngs: Any = None,
) -> Array:
    """Hidden states [B, M, T, D] of traces; each problem is encoded once for all of them."""
    _, segment = forward(model, variables, problem.ids, problem.valid, (), deterministic, rngs)
    hidden, _ = forward(model, variables, reasoning.ids, reasoning.valid, (segment,), deterministic, rngs)
    return hidden


def grade_hidden(model: Transformer, heads: Any, hidden: Array) -> Grade:
    """Grade of leading axes [*lead] from hidden states [*lead, D]."""
    return cast(Grade, RubricHeads(model.config.width).apply({"params": heads}, hidden))


def grade(model: Transformer, variables: Any, heads: Any, problem: Tokens, reasoning: Tokens) -> Grade:
    """Grades traces.

    Args:
        model, variables, heads: the reward model.
        problem: [B, P]. reasoning: [B, M, T], tags included; the last valid token is where it is graded.

    Returns:
        Grade of leading axes [B, M].
    """
    hidden = read_traces(model, variables, problem, reasoning)
    return grade_hidden(model, heads, last_valid(hidden, jnp.asarray(reasoning.valid)))
