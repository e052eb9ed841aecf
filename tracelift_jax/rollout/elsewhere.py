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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.errors import UserError
from tracelift_jax.parallel.hosts import agree, at_rows, combine, own_rows, place_batch, take_rows
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.rollout.answerers import Answerer, Answers, Known
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.code_reward import exec_reward
from tracelift_jax.rollout.judging import Finding, Judge, Tallies
from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.rollout.reward_config import CodeRewardConfig
from tracelift_jax.rollout.rollout import Rollout, grade_traces, judge, no_uplift, sampled_uplift, write
from tracelift_jax.tasks.outcome import Outcome
from tracelift_jax.tasks.problem import Problem


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was said in one rollout, as text, and what was made of it.

    Attributes:
        answers: the executor's. findings: [b][G] of one for each answer behind a trace, of this process's rows.
        metrics: `executor/<name>` and `judging/<name>`, of all processes.
    """

    answers: Answers
    findings: Sequence[Sequence[Sequence[Finding]]]
    metrics: dict[str, float]


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
            UserError: the server refuses what it is asked, or too many answers did not come or could not be judged;
                with several processes, in any of them.
        """
        planner_key, executor_key = jax.random.split(key)
        written = self._write(text, weights, batch, planner_key)
        size, mesh = len(problems), self._setup.mesh
        rows = own_rows(mesh, size) if mesh is not None else tuple(range(size))
        mine = [problems[row] for row in rows]
        known = Known(rows, *take_rows((batch.real, batch.baseline_ok, batch.baseline_trials), rows))
        waiting = self._answerer.ask(text, weights, batch, written, mine, known, executor_key)
        grades = self._grade(weights, batch, written.reason)
        found, why_not = None, ""
        try:
            answers = waiting()
            found = (answers, *self._found(answers, mine))
        except UserError as error:
            why_not = str(error)
        agree(why_not)
        assert found is not None
        answers, findings, alone, judging = found
        heard = Heard(answers, findings, _values(combine(_as_arrays({**answers.tallies(), **judging}))))
        shape = (len(rows), self._setup.traces, answers.tokens.ids.shape[2])
        verdicts = [one.verdict for row in findings for each in row for one in each]
        judged = (np.array(verdicts, np.int8).reshape(shape), _counts(findings, alone, known, shape[:2]))
        # Every process hears what the others found.
        verdicts, counts = combine(at_rows(judged, rows, size))
        executed = None
        if isinstance(self._setup.reward, CodeRewardConfig):
            executed = executed_of(combine(at_rows(_tested(findings, shape[:2]), rows, size)), self._setup.reward)
        given = (answers.tokens, answers.alone_tokens, verdicts, counts, executed)
        if mesh is not None:
            given = place_batch(given, mesh)
        return self._judge(batch, written, grades, *given), heard

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
        executed = np.zeros(rows, np.float32) if isinstance(self._setup.reward, CodeRewardConfig) else None
        given = (said, alone, np.zeros((*rows, answers), np.int8), counts, executed)
        judged = (batch, written, grades, *jax.tree.map(self._like, given))
        lowered["judge"] = self._judge.lower(*judged)
        return lowered, made(self._judge, *judged)

    def _like(self, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._out_shardings)

    def _found(
        self, answers: Answers, problems: Sequence[Problem]
    ) -> tuple[list[list[Sequence[Finding]]], list[list[Sequence[Finding]]], Tallies]:
        """[b][G] the findings of all answers, and of the ones without reasoning, each judged once; and what it took."""
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
            groups = range(self._setup.traces)
            return [[[findings[i] for i in places[kind, b, g]] for g in groups] for b in range(len(problems))]

        return of(0), of(1), judging


Findings = Sequence[Sequence[Sequence[Finding]]]
"""[b][G] of one for each answer."""


def _counts(
    findings: Findings, alone: Findings, known: Known, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Right and judged answers int32 [b, G] with the reasoning, and without."""

    def count(rows: Findings, first: int) -> tuple[np.ndarray, np.ndarray]:
        verdicts = [[one.verdict for one in each[first:]] for row in rows for each in row]
        ok = [each.count(OK) for each in verdicts]
        judged = [len(each) - each.count(FAILED) for each in verdicts]
        return np.array(ok, np.int32).reshape(shape), np.array(judged, np.int32).reshape(shape)

    base_ok, base_trials = count(alone, 0)
    unasked = np.array([not each for row in alone for each in row], bool).reshape(shape)
    base_ok = np.where(unasked, known.ok[:, None], base_ok).astype(np.int32)
    base_trials = np.where(unasked, known.trials[:, None], base_trials).astype(np.int32)
    return *count(findings, 1), base_ok, base_trials


def _tested(findings: Findings, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32 [b, G] of the primary programs: tests passed, tests, and the outcome's code."""
    first = [each[0].tested for row in findings for each in row]
    numbers = (
        [one.passed if one else 0 for one in first],
        [one.total if one else 0 for one in first],
        [(one.outcome if one else Outcome.INFRASTRUCTURE).code for one in first],
    )
    passed, total, codes = (np.array(column, np.int32).reshape(shape) for column in numbers)
    return passed, total, codes


def executed_of(tested: tuple[np.ndarray, np.ndarray, np.ndarray], config: CodeRewardConfig) -> np.ndarray:
    """float32 [B, G]: what the tests of the primary programs are worth; of one that failed, what nobody looks at."""
    passed, total, codes = map(jnp.asarray, tested)
    return np.asarray(exec_reward(passed, total, codes, config.exec_style))


def _as_arrays(tallies: Tallies) -> dict[str, np.ndarray]:
    return {name: np.array(pair, np.float64) for name, pair in tallies.items()}


def _values(tallies: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(total / weight) if weight else float(total) for name, (total, weight) in tallies.items()}
