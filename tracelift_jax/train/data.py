"""Batches of problems: an endless shuffled stream that can be resumed exactly, and batches in order for evaluation.

A problem is whatever `encode` takes: a `Problem`, or a group of the reward model's. Text stays out of the arrays.
`encode` gets each problem with its row and can put the row among the arrays: whoever needs a batch's text looks it up
as `problems[row]`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import grain
import jax
import numpy as np

from tracelift_jax.errors import UserError

Arrays = Any
"""A pytree of numpy arrays."""

T = TypeVar("T")

Encode = Callable[[int, T], Arrays | None]
"""(row, problem) -> arrays whose structure and shapes are the same for all problems, or None: it does not fit.

Must depend on its arguments alone, and is called from a thread of its own.
"""

DrawingEncode = Callable[[int, T, np.random.Generator], Arrays | None]
"""`Encode` with random draws: the generator differs each time a problem comes up.

Whether a problem fits must not depend on the draws. The generator must not be kept: it is used again.
"""


class ProblemStream(grain.DatasetIterator):
    """The iterator `problem_stream` returns: batches, and `get_state()`/`set_state()` with a small JSON-able state.

    The state is a position in the stream. It says nothing about the problems, seed or `encode`, which have to be the
    same for a resumed stream to go on as the first would have.
    """

    def __init__(self, batches: grain.DatasetIterator, batch_size: int):
        super().__init__(batches)
        self._batches = batches
        self._batch_size = batch_size
        self._drawn = 0

    def __next__(self) -> Arrays:
        places, batch = next(self._batches)
        self._drawn = int(places[-1]) + 1
        return batch

    def left_out(self, batches: int) -> tuple[int, int]:
        """How many problems were left out on the way to the last batch taken, and how many were drawn in all.

        A problem counts each time it comes up; what was only read ahead does not count.

        Args:
            batches: how many there were from the beginning of the stream to the last one taken, that one included.
        """
        return self._drawn - batches * self._batch_size, self._drawn

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch taken; what was read ahead does not count."""
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave."""
        self._batches.set_state(state)


def problem_stream(
    problems: Sequence[T],
    *,
    batch_size: int,
    seed: int,
    encode: Encode[T],
    shuffle: bool = True,
    num_epochs: int | None = None,
) -> ProblemStream:
    """Batches for training, `encode`'s arrays stacked to `[B, ...]`.

    Every epoch holds each problem once, in an order of its own that depends on `seed` alone. Batches run across the
    ends of epochs, so all have `batch_size` problems; what is left over after the last epoch is not used.

    Args:
        problems: random access, not empty.
        batch_size: B.
        seed: 0 to 2**32 - 1.
        encode: see `Encode`; problems that do not fit are left out, and `ProblemStream.left_out` tells how many.
        shuffle: False keeps the order of `problems`.
        num_epochs: None never ends.

    Raises:
        UserError: there are no problems; or, from `next`, not one of them fits.
    """
    encoder = _Encoder(encode, len(problems))
    return _batched(_ordered(problems, seed, shuffle, num_epochs).map(encoder), batch_size)


def drawing_stream(problems: Sequence[T], *, batch_size: int, seed: int, encode: DrawingEncode[T]) -> ProblemStream:
    """`problem_stream`, endless and shuffled, for an `encode` that draws.

    The problems come in the order of `problem_stream`. What is drawn depends on `seed` and the position in the stream
    alone, so a resumed stream draws what the first would have.
    """
    encoder = _Encoder(encode, len(problems))
    return _batched(_ordered(problems, seed).random_map(encoder), batch_size)


def _ordered(
    problems: Sequence[T], seed: int, shuffle: bool = True, num_epochs: int | None = None
) -> grain.MapDataset[tuple[int, T]]:
    """(row, problem) pairs in the order of the stream."""
    if not len(problems):
        raise UserError("the training data has no problems")
    rows = grain.MapDataset.source(_Numbered(problems)).seed(seed)
    return (rows.shuffle() if shuffle else rows).repeat(num_epochs)


def _batched(encoded: grain.MapDataset, batch_size: int) -> ProblemStream:
    # Each with its place in the stream, which tells what was left out before it, also of a stream that was resumed.
    placed = encoded.map_with_index(lambda place, arrays: None if arrays is None else (np.int64(place), arrays))
    # One thread: encoding is far faster than a step, and tokenizers need not be safe to call from several.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * batch_size)
    # Batching comes after `to_iter_dataset`, which is where grain discards the elements that are None.
    return ProblemStream(iter(placed.to_iter_dataset(ahead).batch(batch_size, drop_remainder=True)), batch_size)


def eval_batches(
    problems: Sequence[T], encode: Encode[T], batch_size: int, limit: int | None = None
) -> Iterator[tuple[Arrays, np.ndarray, np.ndarray]]:
    """The first `limit` problems (None: all) in order, each once.

    A problem that does not fit is in no batch. Whoever reports a rate should count it as failed: there are
    `min(limit, len(problems))` problems less the sum of `real`.

    Yields:
        (arrays [B, ...], rows int64 [B], real bool [B]). The last batch repeats its last problem up to
        `batch_size`, with `real` False there.
    """
    count = len(problems) if limit is None else min(limit, len(problems))
    pending: list[tuple[int, Arrays]] = []
    for row in range(count):
        arrays = encode(row, problems[row])
        if arrays is not None:
            pending.append((row, arrays))
        if len(pending) == batch_size:
            yield _stack(pending, batch_size)
            pending = []
    if pending:
        yield _stack(pending, batch_size)


def _stack(pending: list[tuple[int, Arrays]], batch_size: int) -> tuple[Arrays, np.ndarray, np.ndarray]:
    padded = pending + [pending[-1]] * (batch_size - len(pending))
    rows = np.array([row for row, _ in padded], np.int64)
    arrays = jax.tree.map(lambda *leaves: np.stack(leaves), *(arrays for _, arrays in padded))
    return arrays, rows, np.arange(batch_size) < len(pending)


class _Numbered(Generic[T]):
    """Problems with their row, as a source for grain."""

    def __init__(self, problems: Sequence[T]):
        self._problems = problems

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, index: int) -> tuple[int, T]:
        return int(index), self._problems[index]


class _Encoder(Generic[T]):
    """`encode` that remembers the rows it dropped, and fails where a stream would search for ever."""

    def __init__(self, encode: Callable[..., Arrays | None], count: int):
        self._encode = encode
        self._count = count
        self._dropped: set[int] = set()

    def __call__(self, numbered: tuple[int, T], *rng: np.random.Generator) -> Arrays | None:
        row, problem = numbered
        arrays = self._encode(row, problem, *rng)
        if arrays is None:
            self._dropped.add(row)
            if len(self._dropped) == self._count:
                raise UserError(f"not one of the {self._count} training problems fits; raise the token limits")
        return arrays
