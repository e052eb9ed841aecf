"""The executor: answers with and without reasoning, and the probability it gives to the reference answer."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.logprobs import shift, token_logprobs
from tracelift_jax.models.segment import Context, expand, last_valid
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text
from tracelift_jax.rollout.reward import OK, WRONG
from tracelift_jax.rollout.sample import sample
from tracelift_jax.text.numbers import Number, equal, read_number
from tracelift_jax.text.spans import Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shown:
    """Something an executor has read and now answers.

    Attributes:
        context: its segments, outermost first.
        end: [*lead, D], hidden state of the last token.
    """

    context: tuple
    end: Array


def read(model: Transformer, variables, tokens: Tokens, context: Context = ()) -> Shown:
    """Reads tokens [*lead, T] below `context`."""
    hidden, segment = forward(model, variables, tokens.ids, tokens.valid, context)
    return Shown((*context, segment), last_valid(hidden, jnp.asarray(tokens.valid)))


def answers(
    setup: Setup, text: Text, variables, shown: Shown, samples: int, batch: PromptBatch, key: Array
) -> tuple[Tokens, Array]:
    """Draws `samples` answers behind each node shown and judges them.

    Args:
        shown: a node of leading axes `lead`, the first of which is B.

    Returns:
        Answers [*lead, samples, A] and verdicts int8 [*lead, samples].
    """
    lead = (*shown.end.shape[:-1], samples)
    ends, sampling = setup.fixed.ends, setup.executor_sampling
    drawn = sample(setup.executor, variables, shown.end, shown.context, lead, key, text.stop, ends, sampling)
    said = read_number(drawn.tokens.ids, drawn.tokens.valid, text.table)
    spread: Number = jax.tree.map(lambda x: expand(jnp.asarray(x), lead, trailing=jnp.ndim(x) - 1), batch.reference)
    verdicts = jnp.where(equal(said, spread), OK, WRONG).astype(jnp.int8)
    return drawn.tokens, verdicts


def answer_probability(setup: Setup, variables, shown: Shown, batch: PromptBatch) -> Array:
    """The executor's probability of the canonical answer and the end token, by teacher forcing.

    At the executor's own sampling temperature, so that it estimates what sampling would find, without its noise.

    Returns:
        float32 [*lead] in [0, 1].
    """
    lead = shown.end.shape[:-1]

    def spread(x: Array) -> Array:
        x = jnp.asarray(x)
        return jnp.broadcast_to(expand(x, lead, trailing=1), (*lead, x.shape[-1]))

    ids, valid = spread(batch.answer.ids), spread(batch.answer.valid)
    hidden, _ = forward(setup.executor, variables, ids, valid, shown.context)
    temperature = setup.executor_sampling.temperature or 1.0
    logprobs = token_logprobs(setup.executor, variables, shift(shown.end, hidden), ids, temperature)
    return jnp.exp(jnp.where(valid, logprobs, 0.0).sum(-1))
