"""One step with the host between the executor and the rewards: `rollout.py`'s functions, and between them texts.

    written   = write(planner | problem)                         device
    answers   = ask(executor | problem, reason, ask)             a server, or the device
    grades    = grade(reward model | problem, reason)            device, while the server answers or programs run
    findings  = judge_text(answers, problem)                     host, exactly; programs run in a sandbox
    reward    = judge(...)                                       device

A verdict of an answer that did not come, or could not be judged, is FAILED: such a trace is in no reward, and where all
of its samples or all of the baseline's failed, neither is its uplift.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.rollout.answerers import Answerer, Answers, Known
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.code_reward import exec_reward
from tracelift_jax.rollout.judging import Finding, Judge
from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.rollout.reward_config import CodeRewardConfig
from tracelift_jax.rollout.rollout import Rollout, grade_traces, judge, no_uplift, sampled_uplift, write
from tracelift_jax.tasks.outcome import Outcome
from tracelift_jax.tasks.problem import Problem


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was said in one rollout, as text, and what was made of it.

    Attributes:
        answers: the executor's. findings: [B][G] of one for each answer behind a trace.
        judging: `judging/<name>`, what came of judging them.
    """

    answers: Answers
    findings: Sequence[Sequence[Sequence[Finding]]]
    judging: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """`executor/<name>` and `judging/<name>`."""
        return self.answers.metrics() | self.judging


class Elsewhere:
    """Rollouts of one setup with an executor whose answers the host judges."""

    def __init__(self, setup: Setup, answerer: Answerer, judge_texts: Judge, out_shardings: Any = None):
        """`out_shardings`: of what has a batch axis, where there are several devices."""
        self._setup, self._answerer, self._judge_texts = setup, answerer, judge_texts
        self._out_shardings = out_shardings
        self._write = jitted(write, setup, out_shardings=out_shardings)
        self._grade = jitted(grade_traces, setup, out_shardings=out_shardings)
        self._judge = jitted(self._judged, setup, out_shardings=out_shardings)

    @staticmethod
    def _judged(setup, batch, written, grades, said, alone, verdicts, counts, executed) -> Rollout:
        gained = no_uplift(verdicts.shape[:2], alone)
        if setup.reward.uplift == "sampled":
            ok, trials, base_ok, base_trials = counts
            gained = sampled_uplift(gained, ok, trials, base_ok, base_trials, alone)
        return judge(setup, batch, written, grades, said, verdicts, gained, executed=executed)

    def __call__(
        self, text: Text, weights: Weights, batch: PromptBatch, problems: Sequence[Problem], key: Array
    ) -> tuple[Rollout, Heard]:
        """As `rollout.rollout`; an executor on a server leaves no tokens of its answers.

        Args:
            problems: those of the batch, in order; a row that only fills repeats one.

        Raises:
            UserError: the server refuses what it is asked, or too many answers did not come or could not be judged.
        """
        planner_key, executor_key = jax.random.split(key)
        written = self._write(text, weights, batch, planner_key)
        real, ok, trials = jax.device_get((batch.real, batch.baseline_ok, batch.baseline_trials))
        known = Known(real, ok, trials)
        waiting = self._answerer.ask(text, weights, batch, written, problems, known, executor_key)
        grades = self._grade(weights, batch, written.reason)
        answers = waiting()
        heard, alone = self._found(answers, problems)
        counts = _counts(heard, alone, known)
        verdicts = np.array([[[one.verdict for one in each] for each in row] for row in heard.findings], np.int8)
        executed = None
        if isinstance(self._setup.reward, CodeRewardConfig):
            executed = _executed(heard.findings, self._setup.reward)
        done = self._judge(batch, written, grades, answers.tokens, answers.alone_tokens, verdicts, counts, executed)
        return done, heard

    def lower(self, text: Text, weights: Weights, batch: PromptBatch, key: Array) -> tuple[dict[str, Any], Rollout]:
        """Of abstract arrays: the lowered functions by name, and the shapes of the rollout they make."""

        def made(function: Any, *arguments: Any) -> Any:
            return jax.tree.map(self._like, jax.eval_shape(function, *arguments))

        written = made(self._write, text, weights, batch, key)
        grades = made(self._grade, weights, batch, written.reason)
        lowered = {
            "write": self._write.lower(text, weights, batch, key),
            "grade": self._grade.lower(weights, batch, written.reason),
        }
        asked, (said, alone) = self._answerer.lower(text, weights, batch, written, key)
        lowered |= asked
        rows, answers = said.ids.shape[:2], said.ids.shape[2]
        counts = tuple(np.zeros(rows, np.int32) for _ in range(4))
        executed = jnp.zeros(rows) if isinstance(self._setup.reward, CodeRewardConfig) else None
        verdicts = np.zeros((*rows, answers), np.int8)
        judged = (batch, written, grades, said, alone, verdicts, counts, executed)
        lowered["judge"] = self._judge.lower(*judged)
        return lowered, made(self._judge, *judged)

    def _like(self, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._out_shardings)

    def _found(self, answers: Answers, problems: Sequence[Problem]) -> tuple[Heard, list[list[Sequence[Finding]]]]:
        """The findings of all answers, and [B][G] those of the ones without reasoning, each judged once."""
        said: list[tuple[Problem, str | None]] = []
        places: dict[tuple[int, int, int], range] = {}

        def put(where: tuple[int, int, int], problem: Problem, texts: Sequence[str | None]) -> None:
            places[where] = range(len(said), len(said) + len(texts))
            said.extend((problem, text) for text in texts)

        for b, problem in enumerate(problems):
            for g, texts in enumerate(answers.behind[b]):
                put((0, b, g), problem, texts)
            for g, texts in enumerate(answers.alone[b]):
                # A cached baseline is one object for all traces of a problem.
                if g and texts is answers.alone[b][0]:
                    places[1, b, g] = places[1, b, 0]
                else:
                    put((1, b, g), problem, texts)
        findings, judging = self._judge_texts(said)

        def of(kind: int) -> list[list[Sequence[Finding]]]:
            rows = range(len(problems)), range(len(answers.behind[0]))
            return [[[findings[i] for i in places[kind, b, g]] for g in rows[1]] for b in rows[0]]

        return Heard(answers, of(0), judging), of(1)


def _counts(
    heard: Heard, alone: Sequence[Sequence[Sequence[Finding]]], known: Known
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Right and judged answers int32 [B, G] with the reasoning, and without."""

    def count(rows: Sequence[Sequence[Sequence[Finding]]], first: int) -> tuple[np.ndarray, np.ndarray]:
        verdicts = [[[one.verdict for one in each[first:]] for each in row] for row in rows]
        ok = np.array([[each.count(OK) for each in row] for row in verdicts], np.int32)
        return ok, np.array([[len(each) - each.count(FAILED) for each in row] for row in verdicts], np.int32)

    base_ok, base_trials = count(alone, 0)
    unasked = np.array([[not each for each in row] for row in alone])
    base_ok = np.where(unasked, known.ok[:, None], base_ok).astype(np.int32)
    base_trials = np.where(unasked, known.trials[:, None], base_trials).astype(np.int32)
    return *count(heard.findings, 1), base_ok, base_trials


def _executed(findings: Sequence[Sequence[Sequence[Finding]]], config: CodeRewardConfig) -> Array:
    """float32 [B, G]: what the tests of the primary programs are worth; of one that failed, what nobody looks at."""
    first = [[row[g][0].tested for g in range(len(row))] for row in findings]
    passed = jnp.array([[one.passed if one else 0 for one in row] for row in first], jnp.int32)
    total = jnp.array([[one.total if one else 0 for one in row] for row in first], jnp.int32)
    codes = [[(one.outcome if one else Outcome.INFRASTRUCTURE).code for one in row] for row in first]
    return exec_reward(passed, total, jnp.array(codes, jnp.int32), config.exec_style)
