"""One step with an executor on a server: `rollout.py`'s functions, and between them the host.

    written   = write(planner | problem)                         device
    grades    = grade(reward model | problem, reason)            device, while the server answers
    answers   = ask(server | text of problem, reason, ask)       host, as text
    verdicts  = verify(answers, reference)                       host, exactly
    reward    = judge(...)                                       device

A verdict of an answer that did not come is FAILED: such a trace is in no reward, and where all of its samples or all of
the baseline's failed, neither is its uplift.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.remote.client import Traffic
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.rollout.rollout import Rollout, grade_traces, judge, no_uplift, sampled_uplift, write
from tracelift_jax.rollout.served import Question, Served, Texts, draw_seed, question
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verify import verify
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens


@dataclasses.dataclass(frozen=True)
class Heard:
    """What an executor elsewhere said in one rollout.

    Attributes:
        answers: [B][G] of 1 + K texts each. alone: [B][G] of the texts asked for without reasoning; with a cached
            baseline those of a problem are the same for all its traces, and none where its counts were known.
        asked: how many answers were asked for. failed: how many of them did not come.
        traffic: what it took. seconds: from the first request to the last answer.
    """

    answers: Sequence[Sequence[Texts]]
    alone: Sequence[Sequence[Texts]]
    asked: int
    failed: int
    traffic: Traffic
    seconds: float

    def metrics(self) -> dict[str, float]:
        """`executor/<name>`: answers asked for, their failed share, requests, retries, tokens and seconds."""
        return {
            "executor/answers": float(self.asked),
            "executor/failed": self.failed / max(self.asked, 1),
            "executor/requests": float(self.traffic.requests),
            "executor/retries": float(self.traffic.retries),
            "executor/prompt_tokens": float(self.traffic.prompt_tokens),
            "executor/completion_tokens": float(self.traffic.completion_tokens),
            "executor/seconds": self.seconds,
        }


class Elsewhere:
    """Rollouts of one setup with an executor on a server."""

    def __init__(self, setup: Setup, pieces: Pieces, served: Served, out_shardings: Any = None):
        """`out_shardings`: of what has a batch axis, where there are several devices."""
        self._setup, self._pieces, self._served = setup, pieces, served
        where = {} if out_shardings is None else {"out_shardings": out_shardings}
        self._write = jax.jit(partial(write, setup), **where)
        self._grade = jax.jit(partial(grade_traces, setup), **where)
        self._judge = jax.jit(partial(self._judged, setup), **where)

    @staticmethod
    def _judged(setup, batch, written, grades, verdicts, ok, trials, base_ok, base_trials) -> Rollout:
        shape = verdicts.shape[:2]
        nothing = no_uplift(shape, _no_tokens((*shape, 0)))
        gained = nothing
        if setup.reward.uplift == "sampled":
            gained = sampled_uplift(nothing, ok, trials, base_ok, base_trials, nothing.baseline_answers)
        return judge(setup, batch, written, grades, _no_tokens(verdicts.shape), verdicts, gained)

    def __call__(
        self, text: Text, weights: Weights, batch: PromptBatch, problems: Sequence[Problem], key: Array
    ) -> tuple[Rollout, Heard]:
        """As `rollout.rollout`, but for the tokens of answers, of which there are none.

        Args:
            problems: those of the batch, in order; a row that only fills repeats one.

        Raises:
            UserError: the server refuses what it is asked, or too many answers did not come.
        """
        planner_key, executor_key = jax.random.split(key)
        written = self._write(text, weights, batch, planner_key)
        grades = self._grade(weights, batch, written.reason)
        known = jax.device_get((batch.real, batch.baseline_ok, batch.baseline_trials))
        bits = int(jax.random.bits(executor_key, dtype=jnp.uint32)) >> 1
        heard = self._ask(jax.device_get(written.reason), problems, known[0], known[2], bits)
        return self._judge(batch, written, grades, *self._counted(heard, problems, known[1], known[2])), heard

    def _ask(
        self, reason: Tokens, problems: Sequence[Problem], real: np.ndarray, known: np.ndarray, seed: int
    ) -> Heard:
        """Asks behind every trace, and without reasoning what is not known; nothing about rows that only fill."""
        config, decode = self._setup.reward, self._pieces.tokenizer.decode
        sampled, traces = config.uplift == "sampled", reason.ids.shape[1]
        numbers = itertools.count()
        asked: list[Question] = []

        def ask(problem: Problem, reasoning: str | None, samples: int) -> int:
            asked.append(
                question(self._served.server, self._pieces, problem, reasoning, samples, draw_seed(seed, next(numbers)))
            )
            return len(asked) - 1

        behind: list[list[int]] = []
        alone: list[list[int]] = []
        for b, problem in enumerate(problems):
            written = [decode(reason.ids[b, g][reason.valid[b, g]]) for g in range(traces)] if real[b] else []
            behind.append([ask(problem, words, 1 + config.repeats * sampled) for words in written])
            if not sampled or not real[b]:
                alone.append([])
            elif config.baseline == "resample":
                alone.append([ask(problem, None, config.repeats) for _ in written])
            else:
                alone.append([] if known[b] else [ask(problem, None, config.baseline_samples)] * traces)
        before, began = dataclasses.replace(self._served.traffic), time.perf_counter()
        told = self._served.ask(asked, self._setup.executor_sampling)
        seconds = time.perf_counter() - began
        spent = {
            field.name: getattr(self._served.traffic, field.name) - getattr(before, field.name)
            for field in dataclasses.fields(Traffic)
        }
        nothing: Texts = (None,) * (1 + config.repeats * sampled)
        return Heard(
            [[told[place] for place in places] or [nothing] * traces for places in behind],
            [[told[place] for place in places] or [()] * traces for places in alone],
            asked=sum(map(len, told)),
            failed=sum(text is None for texts in told for text in texts),
            traffic=Traffic(**spent),
            seconds=seconds,
        )

    def _counted(
        self, heard: Heard, problems: Sequence[Problem], known_ok: np.ndarray, known: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Verdicts int8 [B, G, 1 + K]; right and judged answers int32 [B, G] with the reasoning, and without."""
        verdicts = np.array(
            [
                [[_verdict(text, problem) for text in texts] for texts in behind]
                for behind, problem in zip(heard.answers, problems, strict=True)
            ],
            np.int8,
        )
        shape = verdicts.shape[:2]
        base_ok = np.broadcast_to(known_ok[:, None], shape).astype(np.int32)
        base_trials = np.broadcast_to(known[:, None], shape).astype(np.int32)
        for b, problem in enumerate(problems):
            for g, texts in enumerate(heard.alone[b]):
                if texts:
                    judged = [_verdict(text, problem) for text in texts]
                    base_ok[b, g] = judged.count(OK)
                    base_trials[b, g] = len(judged) - judged.count(FAILED)
        repeats = verdicts[..., 1:]
        ok, trials = (repeats == OK).sum(-1, dtype=np.int32), (repeats != FAILED).sum(-1, dtype=np.int32)
        return verdicts, ok, trials, base_ok, base_trials


def _verdict(text: str | None, problem: Problem) -> int:
    return FAILED if text is None else verify(text, problem.answer, problem.answer_kind)


def _no_tokens(shape: tuple[int, ...]) -> Tokens:
    return Tokens(jnp.zeros((*shape, 0), jnp.int32), jnp.zeros((*shape, 0), bool))
