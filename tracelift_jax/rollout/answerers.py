"""Executors whose answers the host reads: on a server, or on the device."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.parallel.hosts import take_rows
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.remote.client import Traffic
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.judging import Tallies, count, share
from tracelift_jax.rollout.rollout import Written, execute
from tracelift_jax.rollout.served import Question, Served, Texts, draw_seed, question
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens


@dataclasses.dataclass(frozen=True)
class Known:
    """What the host knows of its rows of a batch, b of B: all, or with several processes those that this one owns.

    Attributes:
        rows: which they are. real: bool [b].
        ok, trials: the baseline's counts int32 [b], 0 trials where there are none.
    """

    rows: tuple[int, ...]
    real: np.ndarray
    ok: np.ndarray
    trials: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answers:
    """What an executor said in one rollout.

    Attributes:
        behind: [b][G] of 1 + K texts each, b rows of the batch; None where none came, and of rows that only fill.
        alone: [b][G] of the texts asked for without reasoning; with a cached baseline those of a problem are the same
            for all its traces, and none where its counts were known.
        tokens: [B, G, 1 + K, A] behind `behind`. alone_tokens: [B, n, A] or [B, G, K, A] behind `alone`. A is 0 in both
            where a server answered.
        asked: how many answers were asked for. failed: how many of them did not come.
        traffic: what it took, where a server answered. seconds: from the first request to the last answer.
    """

    behind: Sequence[Sequence[Texts]]
    alone: Sequence[Sequence[Texts]]
    tokens: Tokens
    alone_tokens: Tokens
    asked: int
    failed: int
    traffic: Traffic | None
    seconds: float

    def tallies(self) -> Tallies:
        """`executor/<name>`: seconds; of a server also answers, their failed share, requests, retries and tokens."""
        seconds = {"executor/seconds": (self.seconds, 1.0)}
        if self.traffic is None:
            return seconds
        return seconds | {
            "executor/answers": count(self.asked),
            "executor/failed": share(self.failed, self.asked),
            "executor/requests": count(self.traffic.requests),
            "executor/retries": count(self.traffic.retries),
            "executor/prompt_tokens": count(self.traffic.prompt_tokens),
            "executor/completion_tokens": count(self.traffic.completion_tokens),
        }


class Answerer(Protocol):
    """An executor that is asked behind every trace of a batch, and without reasoning what is not known."""

    def ask(
        self,
        text: Text,
        weights: Weights,
        batch: PromptBatch,
        written: Written,
        problems: Sequence[Problem],
        known: Known,
        key: Array,
    ) -> Callable[[], Answers]:
        """Begins to ask where that can be done without waiting; what is returned waits for the answers.

        Args:
            problems: those of the rows in `known`; a row that only fills repeats one.

        Raises:
            UserError: by what is returned: a server refuses what it is asked, or too many answers did not come.
        """
        ...

    def lower(
        self, text: Text, weights: Weights, batch: PromptBatch, written: Written, key: Array
    ) -> tuple[dict[str, Any], tuple[Tokens, Tokens]]:
        """Of abstract arrays: the lowered functions by name, and the shapes of `tokens` and `alone_tokens`."""
        ...


class OnServer:
    """Asks a server; nothing about rows that only fill."""

    def __init__(self, setup: Setup, pieces: Pieces, served: Served):
        """Sends nothing yet."""
        self._setup, self._pieces, self._served = setup, pieces, served

    def ask(
        self,
        text: Text,
        weights: Weights,
        batch: PromptBatch,
        written: Written,
        problems: Sequence[Problem],
        known: Known,
        key: Array,
    ) -> Callable[[], Answers]:
        """See `Answerer`."""
        del text, weights, batch
        seed = int(jax.random.bits(key, dtype=jnp.uint32)) >> 1
        return lambda: self._ask(written.reason, problems, known, seed)

    def lower(
        self, text: Text, weights: Weights, batch: PromptBatch, written: Written, key: Array
    ) -> tuple[dict[str, Any], tuple[Tokens, Tokens]]:
        """See `Answerer`; nothing of it is on the devices."""
        del text, weights, batch, key
        rows = written.reason.ids.shape[:2]
        config = self._setup.reward
        return {}, (_no_tokens(*rows, 1 + config.repeats * (config.uplift == "sampled")), _no_tokens(*rows, 0))

    def _ask(self, written: Tokens, problems: Sequence[Problem], known: Known, seed: int) -> Answers:
        config, decode = self._setup.reward, self._pieces.tokenizer.decode
        size, traces = written.ids.shape[:2]
        reason, sampled = take_rows(written, known.rows), config.uplift == "sampled"
        asked: list[Question] = []

        def ask(problem: Problem, reasoning: str | None, samples: int) -> int:
            drawn = draw_seed(seed, next(numbers))
            asked.append(question(self._served.server, self._pieces, problem, reasoning, samples, drawn))
            return len(asked) - 1

        behind: list[list[int]] = []
        alone: list[list[int]] = []
        for b, problem in enumerate(problems):
            real = known.real[b]
            # By the row of the batch, so that a question's seed does not depend on how many processes share it.
            numbers = itertools.count(2 * traces * known.rows[b])
            thoughts = [decode(reason.ids[b, g][reason.valid[b, g]]) for g in range(traces)] if real else []
            behind.append([ask(problem, words, 1 + config.repeats * sampled) for words in thoughts])
            if not sampled or not real:
                alone.append([])
            elif config.baseline == "resample":
                alone.append([ask(problem, None, config.repeats) for _ in thoughts])
            else:
                alone.append([] if known.trials[b] else [ask(problem, None, config.baseline_samples)] * traces)
        before, began = dataclasses.replace(self._served.traffic), time.perf_counter()
        told = self._served.ask(asked, self._setup.executor_sampling)
        seconds = time.perf_counter() - began
        spent = {
            field.name: getattr(self._served.traffic, field.name) - getattr(before, field.name)
            for field in dataclasses.fields(Traffic)
        }
        nothing: Texts = (None,) * (1 + config.repeats * sampled)
        return Answers(
            [[told[place] for place in places] or [nothing] * traces for places in behind],
            [[told[place] for place in places] or [()] * traces for places in alone],
            tokens=_no_tokens(size, traces, len(nothing)),
            alone_tokens=_no_tokens(size, traces, 0),
            asked=sum(map(len, told)),
            failed=sum(text is None for texts in told for text in texts),
            traffic=Traffic(**spent),
            seconds=seconds,
        )


class OnDevice:
    """Asks the executor on the mesh, as `rollout.rollout` does."""

    def __init__(self, setup: Setup, pieces: Pieces, out_shardings: Any = None):
        """`out_shardings`: of what has a batch axis, where there are several devices."""
        self._setup, self._pieces, self._out_shardings = setup, pieces, out_shardings
        self._execute = jitted(self._executed, setup, out_shardings=out_shardings)

    @staticmethod
    def _executed(setup, text, weights, batch, written, keys) -> tuple[Tokens, Tokens]:
        said, _, gained, _ = execute(setup, text, weights, batch, written, keys)
        return said, gained.baseline_answers

    def ask(
        self,
        text: Text,
        weights: Weights,
        batch: PromptBatch,
        written: Written,
        problems: Sequence[Problem],
        known: Known,
        key: Array,
    ) -> Callable[[], Answers]:
        """See `Answerer`."""
        del problems
        began = time.perf_counter()
        keys = jax.random.split(key)
        doing = self._execute(text, weights, batch, written, (keys[0], keys[1]))
        return lambda: self._read(doing, known, began)

    def lower(
        self, text: Text, weights: Weights, batch: PromptBatch, written: Written, key: Array
    ) -> tuple[dict[str, Any], tuple[Tokens, Tokens]]:
        """See `Answerer`."""
        arguments = (text, weights, batch, written, (key, key))
        said = jax.eval_shape(self._execute, *arguments)
        laid_out = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._out_shardings), said)
        return {"execute": self._execute.lower(*arguments)}, laid_out

    def _read(self, done: tuple[Tokens, Tokens], known: Known, began: float) -> Answers:
        said, alone = take_rows(done, known.rows)
        sampled, traces = self._setup.reward.uplift == "sampled", said.ids.shape[1]

        def texts(tokens: Tokens, *place: int) -> Texts:
            ids, valid = tokens.ids[place], tokens.valid[place]
            return tuple(self._pieces.tokenizer.decode(one[kept]) for one, kept in zip(ids, valid, strict=True))

        def without(b: int) -> list[Texts]:
            if not sampled or not known.real[b]:
                return [()] * traces
            if alone.ids.ndim == 4:
                return [texts(alone, b, g) for g in range(traces)]
            return [() if known.trials[b] else texts(alone, b)] * traces

        nothing: Texts = (None,) * said.ids.shape[2]
        behind = [[texts(said, b, g) if real else nothing for g in range(traces)] for b, real in enumerate(known.real)]
        seconds = time.perf_counter() - began
        asked = sum(len(each) for row in behind for each in row)
        return Answers(behind, [without(b) for b in range(len(behind))], *done, asked, 0, None, seconds)


def _no_tokens(*shape: int) -> Tokens:
    return Tokens(cast(Any, np.zeros((*shape, 0), np.int32)), cast(Any, np.zeros((*shape, 0), bool)))
