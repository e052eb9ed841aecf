"""How far estimates of uplift are from the truth, which is what many draws of the executor say.

    truth = right answers with the trace / draws - right answers without it / draws      [B, temperatures, G]

The draws of the truth and those of an estimator are apart, so what the truth's own sampling error adds to a squared
error is its variance, which is estimated without bias and taken out.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.rollout.batch import PromptBatch, Setup, Text
from tracelift_jax.rollout.execute import answers, read
from tracelift_jax.rollout.reward import OK
from tracelift_jax.text.spans import Tokens, splice

APART = 0.1
"""Pairs of one group whose true uplifts differ by less are not asked for their order."""
CHUNK = 64
"""Draws at a time, behind each trace."""


def is_canonical(said: Tokens, answer: Tokens) -> Array:
    """bool [B, ...]: whether answers [B, ..., A] are, token by token, the canonical ones [B, A of another size]."""
    size = max(said.ids.shape[-1], answer.ids.shape[-1])

    def padded(tokens: Tokens) -> Array:
        ids = jnp.where(jnp.asarray(tokens.valid), jnp.asarray(tokens.ids), -1)
        return jnp.pad(ids, [(0, 0)] * (ids.ndim - 1) + [(0, size - ids.shape[-1])], constant_values=-1)

    ids = padded(said)
    return (ids == jnp.expand_dims(padded(answer), tuple(range(1, ids.ndim - 1)))).all(-1)


def count_right(
    setup: Setup, draws: int, text: Text, executor: Any, batch: PromptBatch, reason: Tokens | None, key: Array
) -> tuple[Array, Array]:
    """Of `draws` answers behind each trace, or G times as many without any: right ones, and right canonical ones.

    Args:
        setup, draws: static. reason: [B, G, T], or None.

    Returns:
        int32 [B, G] with reasoning, [B] without.
    """
    problem = read(setup.executor, executor, batch.executor)
    size = min(draws, CHUNK)
    if reason is None:
        ask = jnp.broadcast_to(jnp.asarray(setup.fixed.ask_directly), (len(problem.end), len(setup.fixed.ask_directly)))
        asked, each = Tokens(ask, jnp.ones(ask.shape, bool)), size * setup.traces
    else:
        asked, each = splice((), reason, setup.fixed.ask), size
    shown = read(setup.executor, executor, asked, problem.context)

    def chunk(key: Array) -> tuple[Array, Array]:
        said, verdicts = answers(setup, text, executor, shown, each, batch, key)
        right = verdicts == OK
        return right.sum(-1), (right & is_canonical(said, batch.answer)).sum(-1)

    counts = jax.lax.map(chunk, jax.random.split(key, draws // size))
    return counts[0].sum(0), counts[1].sum(0)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What many draws say of the traces.

    Attributes:
        value: float [B, temperatures, G], success rate with the trace less that without.
        noise: float [B, temperatures, G], unbiased sampling variance of the rate with the trace.
        base_noise: float [B], the same of the rate without.
        canonical: bool [B, temperatures, G], whether no right answer, with the trace or without, was written otherwise.
        without: float [B], the success rate without.
    """

    value: np.ndarray
    noise: np.ndarray
    base_noise: np.ndarray
    canonical: np.ndarray
    without: np.ndarray


def make_truth(counts: np.ndarray, draws: int, alone: np.ndarray, base_draws: int) -> Truth:
    """The truth from right and right canonical answers: int [2, B, temperatures, G] with, [2, B] without."""
    rate, base = counts[0] / draws, alone[0] / base_draws
    return Truth(
        value=rate - base[:, None, None],
        noise=rate * (1 - rate) / (draws - 1),
        base_noise=base * (1 - base) / (base_draws - 1),
        canonical=(counts[0] == counts[1]) & (alone[0] == alone[1])[:, None, None],
        without=base,
    )


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far an estimator is from the truth, averaged within each problem; float [B], nan where there is nothing.

    Attributes:
        value: the estimate itself. bias: estimate less truth.
        canonical_bias: the same, of the traces that `Truth.canonical` says alone.
        variance: over repetitions, of each trace by itself; 0 without repetitions.
        square: squared error, less what the truth's own sampling error adds to it.
        group_square: the same of estimate and truth less their means over the group.
        order: the share of pairs of a group that are ordered as in truth; equal estimates count half.
    """

    value: np.ndarray
    bias: np.ndarray
    canonical_bias: np.ndarray
    variance: np.ndarray
    square: np.ndarray
    group_square: np.ndarray
    order: np.ndarray


def _mean_of(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """float [B]: the mean of x [B, ...] where `among` [B, ...] holds; nan where it nowhere does."""
    axes = tuple(range(1, x.ndim))
    count = among.sum(axes)
    return np.divide(np.where(among, x, 0).sum(axes), count, out=np.full(len(x), np.nan), where=count > 0)


def errors(values: np.ndarray, truth: Truth) -> Errors:
    """The errors of estimates float [B, temperatures, G, repetitions]."""
    error = values - truth.value[..., None]
    traces, repetitions = values.shape[2:]
    centred = error - error.mean(2, keepdims=True)
    # Centring leaves 1 - 1/G of independent noise, and nothing of what the whole group shares.
    group_noise = truth.noise.mean((1, 2)) * (1 - 1 / traces)
    i, j = np.triu_indices(traces, 1)
    apart = truth.value[:, :, i] - truth.value[:, :, j]
    agree = 0.5 + 0.5 * np.sign(values[:, :, i] - values[:, :, j]) * np.sign(apart)[..., None]
    return Errors(
        value=values.mean((1, 2, 3)),
        bias=error.mean((1, 2, 3)),
        canonical_bias=_mean_of(error.mean(3), truth.canonical),
        variance=values.var(3, ddof=1).mean((1, 2)) if repetitions > 1 else np.zeros(len(values)),
        square=(error**2).mean((1, 2, 3)) - truth.noise.mean((1, 2)) - truth.base_noise,
        group_square=(centred**2).mean((1, 2, 3)) - group_noise,
        order=_mean_of(agree.mean(3), np.abs(apart) >= APART),
    )
