"""Stop strings and tags as automata over tokens, and splicing of token spans.

A tag such as `</reasoning>` may be tokenized in many ways, and its first or last bytes may share a token with
other text. So a pattern is compiled to an automaton over *bytes*, lifted to tokens by running every token's bytes from
every state: one table look-up a token then finds the tag however it is spelt, on device.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.text.tokenizer import TokenBytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over tokens. It starts in state 0.

    Attributes:
        next: int32 [states, V], the state after each token.
        accepting: bool [states].
    """

    next: Array | np.ndarray
    accepting: Array | np.ndarray

    def step(self, state: Array, token: Array) -> Array:
        """The state after `token`; both int32 [*lead]."""
        return jnp.asarray(self.next)[state, token]

    def run(self, tokens: Array, valid: Array) -> Array:
        """int32 [*lead, T], the state after each token of `tokens` [*lead, T]; invalid slots change nothing."""

        def body(state, slot):
            token, real = slot
            state = jnp.where(real, self.step(state, token), state)
            return state, state

        start = jnp.zeros(tokens.shape[:-1], jnp.int32)
        _, states = jax.lax.scan(body, start, (jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(valid, -1, 0)))
        return jnp.moveaxis(states, 0, -1)


def lift(table: TokenBytes, byte_next: np.ndarray, accepting: np.ndarray) -> Automaton:
    """The token automaton of a byte automaton.

    Args:
        table: bytes of each token.
        byte_next: int [states, 256]. accepting: bool [states]; accepting states must absorb.
    """
    data, length = np.asarray(table.data), np.asarray(table.length)
    states = np.repeat(np.arange(len(byte_next), dtype=np.int32)[:, None], len(length), axis=1)
    for position in range(data.shape[1]):
        longer = np.nonzero(length > position)[0]
        states[:, longer] = byte_next[states[:, longer], data[longer, position]]
    return Automaton(states, accepting)


def search_bytes(patterns: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Byte automaton that accepts, for good, once any of `patterns` has been read (Aho and Corasick, 1975).

    Returns:
        int32 [states, 256] transitions and bool [states] accepting states.

    Raises:
        ValueError: a pattern is empty.
    """
    if any(not pattern for pattern in patterns):
        raise ValueError("a stop string must not be empty")
    prefixes = sorted({p[:i] for p in patterns for i in range(len(p) + 1)}, key=lambda s: (len(s), s))
    number = {prefix: index for index, prefix in enumerate(prefixes)}
    accepting = np.array([any(prefix.endswith(p) for p in patterns) for prefix in prefixes], bool)
    step = np.zeros((len(prefixes), 256), np.int32)
    for prefix, index in number.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            longest = next(text[i:] for i in range(len(text) + 1) if text[i:] in number)
            step[index, byte] = index if accepting[index] else number[longest]
    return step, accepting


def search(table: TokenBytes, patterns: Sequence[str]) -> Automaton:
    """Token automaton that accepts, for good, once any of `patterns` (UTF-8) has been read."""
    if not patterns:
        return Automaton(np.zeros((1, len(np.asarray(table.length))), np.int32), np.zeros(1, bool))
    return lift(table, *search_bytes([p.encode() for p in patterns]))


EMPTY, GOOD = 1, 2
"""What `body` says of a closed trace: nothing but white space before the tag, or something."""


def body_bytes(close: bytes, forbidden: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Byte automaton that reads a reasoning body up to `close` and judges it.

    The state pairs progress in `close` with progress in `forbidden` (a second opening tag, which makes the body
    malformed) and with whether anything but white space was seen. The judgement of a state: 0 while open, or for good
    once closed EMPTY (white space only, or `forbidden` inside) or GOOD.

    Returns:
        int32 [states, 256] transitions, bool [states] accepting (closed), int32 [states] judgements.
    """
    close_next, _ = search_bytes([close])
    bad_next, bad_done = search_bytes([forbidden])
    # Depth in the pattern equals the state's number: a single pattern's prefixes are sorted by length.
    states: dict[tuple[int, int, bool], int] = {(0, 0, False): 0}
    queue, rows = [(0, 0, False)], []
    for near, bad, seen in queue:
        row = np.zeros(256, np.int32)
        for byte in range(256):
            if near == len(close):
                target = (near, bad, seen)
            else:
                after = int(close_next[near, byte])
                pending = close[:near] + bytes([byte])
                dropped = pending[: len(pending) - after]
                target = (after, int(bad_next[bad, byte]), seen or bool(dropped.strip()))
            if target not in states:
                states[target] = len(states)
                queue.append(target)
            row[byte] = states[target]
        rows.append(row)
    closed = np.array([near == len(close) for near, _, _ in states], bool)
    good = np.array([seen and not bad_done[bad] for _, bad, seen in states], bool)
    return np.stack(rows), closed, np.where(closed, np.where(good, GOOD, EMPTY), 0).astype(np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BodyAutomaton:
    """Finds the end of a reasoning body and judges it (`body_bytes`).

    Attributes:
        automaton: accepts once the closing tag is complete.
        judgement: int32 [states]: 0 open, EMPTY or GOOD.
    """

    automaton: Automaton
    judgement: Array | np.ndarray


def body(table: TokenBytes, close: str, forbidden: str) -> BodyAutomaton:
    """Token automaton of `body_bytes`."""
    step, closed, judgement = body_bytes(close.encode(), forbidden.encode())
    return BodyAutomaton(lift(table, step, closed), judgement)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token ids with holes.

    Attributes:
        ids: int32 [*lead, T]. valid: bool [*lead, T], which slots count. (On the host these are numpy arrays.)
    """

    ids: Array
    valid: Array


def splice(head: Sequence[int], middle: Tokens, tail: Sequence[int], tail_when: Array | None = None) -> Tokens:
    """`head + middle + tail` without moving a token: holes stay holes, and positions count valid tokens only.

    Args:
        head, tail: fixed pieces of token ids.
        middle: [*lead, T].
        tail_when: bool [*lead]: rows that get the tail; all where None.
    """
    lead = middle.ids.shape[:-1]

    def fixed(piece: Sequence[int]) -> Array:
        return jnp.broadcast_to(jnp.asarray(piece, jnp.int32), (*lead, len(piece)))

    shown = jnp.ones(lead, bool) if tail_when is None else tail_when
    return Tokens(
        jnp.concatenate([fixed(head), jnp.asarray(middle.ids), fixed(tail)], -1),
        jnp.concatenate(
            [
                jnp.ones((*lead, len(head)), bool),
                jnp.asarray(middle.valid),
                jnp.broadcast_to(shown[..., None], (*lead, len(tail))),
            ],
            -1,
        ),
    )


def pad(pieces: Sequence[Sequence[int]], size: int, fill: int) -> Tokens:
    """Ragged token lists as one [len(pieces), size] numpy array, padded on the right.

    Raises:
        ValueError: a list is longer than `size`.
    """
    ids: Any = np.full((len(pieces), size), fill, np.int32)
    valid: Any = np.zeros((len(pieces), size), bool)
    for row, piece in enumerate(pieces):
        if len(piece) > size:
            raise ValueError(f"{len(piece)} tokens do not fit {size} slots")
        ids[row, : len(piece)] = piece
        valid[row, : len(piece)] = True
    return Tokens(ids, valid)
