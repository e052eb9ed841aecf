"""Decoding: a pure while loop over a frozen state, writing into its own segment below shared ancestors."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.checked import check_types, require
from tracelift_jax.models.segment import Context, Segment, expand
from tracelift_jax.models.transformer import Transformer, empty_segment, forward, logits_of
from tracelift_jax.text.spans import Automaton, Tokens


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_tokens: most tokens of one sample, an end token included.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: draws from the smallest set of tokens that holds this much probability (arXiv 1904.09751); 1: from all.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.max_tokens >= 1, f"Sampling.max_tokens must be at least 1, got {self.max_tokens}")
        require(self.temperature >= 0, f"Sampling.temperature must not be negative, got {self.temperature}")
        require(0 < self.top_p <= 1, f"Sampling.top_p must lie in (0, 1], got {self.top_p}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """What was drawn below each node.

    Attributes:
        tokens: [*lead, T]; the stop string's last token and the end token drawn are among them.
        logprobs: float32 [*lead, T] under softmax(logits / temperature), before top-p; 0 where invalid.
        state: int32 [*lead], the stop automaton's state at the end.
        stopped: bool [*lead], a stop string was completed. ended: bool [*lead], an end token was drawn.
    """

    tokens: Tokens
    logprobs: Array
    state: Array
    stopped: Array
    ended: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Loop:
    slot: Array
    samples: Samples
    own: Segment


def _nucleus(logits: Array, top_p: float) -> Array:
    """`logits` [..., V] with everything outside the smallest set of probability `top_p` at minus infinity."""
    descending = jnp.sort(logits, axis=-1)[..., ::-1]
    before = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1) - jax.nn.softmax(descending, axis=-1)
    least = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def draw(logits: Array, key: Array, sampling: Sampling) -> tuple[Array, Array]:
    """One token per row of float32 `logits` [*lead, V]: int32 [*lead] and its float32 log-probability."""
    if sampling.temperature == 0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        logits = logits / sampling.temperature
        kept = logits if sampling.top_p == 1 else _nucleus(logits, sampling.top_p)
        token = jax.random.categorical(key, kept).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def sample(
    model: Transformer,
    variables,
    before: Array,
    context: Context,
    lead: tuple[int, ...],
    key: Array,
    stop: Automaton,
    ends: tuple[int, ...],
    sampling: Sampling,
) -> Samples:
    """Draws one continuation for every node of `lead` below `context`.

    Args:
        model, variables: who writes.
        before: [*prefix, D], the hidden state of the last token shown, `prefix` a prefix of `lead`.
        context: all that was shown, outermost segment first.
        key: typed PRNG key; token t is drawn with `fold_in(key, t)`.
        stop: accepts when a stop string is complete. ends: the end tokens.

    Returns:
        Samples with T = `sampling.max_tokens`; a row stops at its stop string or an end token, the loop when all have.
    """
    size = sampling.max_tokens

    def put(samples: Samples, logits: Array, slot: Array) -> Samples:
        """Draws and records the token of one slot."""
        open_rows = ~(samples.stopped | samples.ended)
        token, logprob = draw(logits, jax.random.fold_in(key, slot), sampling)
        state = jnp.where(open_rows, stop.step(samples.state, token), samples.state)

        def at(x: Array, value: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(x, value, slot, x.ndim - 1)

        return Samples(
            tokens=Tokens(at(samples.tokens.ids, token), at(samples.tokens.valid, open_rows)),
            logprobs=at(samples.logprobs, jnp.where(open_rows, logprob, 0.0)),
            state=state,
            stopped=jnp.asarray(stop.accepting)[state],
            ended=samples.ended | (open_rows & (token[..., None] == jnp.array(ends, jnp.int32)).any(-1)),
        )

    def body(loop: _Loop) -> _Loop:
        last, slot = loop.slot - 1, loop.slot
        token = jax.lax.dynamic_slice_in_dim(loop.samples.tokens.ids, last, 1, len(lead))
        valid = jax.lax.dynamic_slice_in_dim(loop.samples.tokens.valid, last, 1, len(lead))
        hidden, new = forward(model, variables, token, valid, (*context, loop.own))
        logits = logits_of(model, variables, hidden[..., 0, :])
        return _Loop(slot + 1, put(loop.samples, logits, slot), loop.own.write(new, last))

    def unfinished(loop: _Loop) -> Array:
        return (loop.slot < size) & ~(loop.samples.stopped | loop.samples.ended).all()

    nothing = Samples(
        Tokens(jnp.zeros((*lead, size), jnp.int32), jnp.zeros((*lead, size), bool)),
        jnp.zeros((*lead, size), jnp.float32),
        jnp.zeros(lead, jnp.int32),
        jnp.zeros(lead, bool),
        jnp.zeros(lead, bool),
    )
    logits = logits_of(model, variables, before)  # once per prefix, however many nodes share it
    logits = jnp.broadcast_to(expand(logits, lead, trailing=1), (*lead, logits.shape[-1]))
    first = put(nothing, logits, jnp.int32(0))
    if size == 1:
        return first
    loop = _Loop(jnp.int32(1), first, empty_segment(model, lead, size - 1))
    return jax.lax.while_loop(unfinished, body, loop).samples
