"""The second half of an evaluation: every executor answers, alone and behind every reasoning."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from tracelift_jax.evals.executors import Asked, Executor, Reasoning, Said
from tracelift_jax.evals.experiment import NONE
from tracelift_jax.evals.journal import Header, Row
from tracelift_jax.evals.plan import AnswerUnit, stable_hash
from tracelift_jax.evals.traces import Traces
from tracelift_jax.evals.work import Work
from tracelift_jax.rollout.records import VERDICTS
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verdict import FAILED, OK
from tracelift_jax.tasks.verify import verify

FROM_TRACE = ("reasoning", "well_formed", "leak", "faithful", "trace_tokens", "rubric", "total", "score")
"""What a record repeats of its trace."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """How an executor fares on a problem without reasoning: the share of right answers, and the likelihood.

    None stands for what is not known.
    """

    accuracy: float | None
    likelihood: float | None


Key = tuple[str, str, str, str]
"""Benchmark, executor, mode, problem id."""


class Answers:
    """Draws units of answers, and knows how each executor fares alone.

    `alone` may know it from elsewhere; what is measured here comes on top.
    """

    def __init__(self, work: Work, header: Header, traces: Traces):
        self._work, self._header, self._traces = work, header, traces
        self.alone: dict[Key, Alone] = {}
        self._executor: tuple[str, Executor] | None = None

    def keep(self, unit: AnswerUnit, rows: Sequence[Row]) -> None:
        """Remembers what a unit tells of the executor alone."""
        if unit.source == NONE:
            for row in rows:
                key = (unit.benchmark, unit.executor, unit.mode, row["problem_id"])
                self.alone[key] = Alone(row["accuracy"], row["likelihood"])

    def draw(self, unit: AnswerUnit) -> list[Row]:
        """The lines of a unit."""
        work, config = self._work, self._work.config
        problems = work.batch(unit.benchmark, unit.rows)
        traces: list[list[Row]] = [[] for _ in problems]
        shown = None
        if unit.source != NONE:
            traces = [
                self._traces.of(unit.benchmark, unit.source, unit.drawn, problem.problem_id) for problem in problems
            ]
            shown = [[_reasoning(row) for row in rows] for rows in traces]
        # The same draws meet all sources, so that what differs between them is not the draw.
        seed = stable_hash(config.seed, "answers", unit.benchmark, unit.mode, unit.number)
        asked = Asked(problems, config.batch_size, shown, unit.samples, unit.mode == "greedy", seed)
        said = self._executor_of(unit.executor).answer(asked)
        out = []
        lines = iter(unit.lines(work.ids(unit.benchmark)))
        for b, problem in enumerate(problems):
            alone = self.alone.get((unit.benchmark, unit.executor, unit.mode, problem.problem_id))
            for m, one in enumerate(said[b]):
                trace = traces[b][m] if shown is not None else {}
                beside = {name: trace[name] for name in FROM_TRACE if name in trace}
                counts = counted(one, problem, trace.get("well_formed", True), config.malformed)
                gained = {} if unit.source == NONE or alone is None else uplifts(counts, alone)
                out.append(next(lines) | {"reference": problem.answer} | beside | counts | gained)
        return out

    def _executor_of(self, name: str) -> Executor:
        """The executor called `name`, in the place of the one before."""
        if self._executor is None or self._executor[0] != name:
            self._executor = None
            executor = self._work.candidates[name].open()
            self._header.check(f"executor {name}", executor.fingerprint)
            self._executor = name, executor
        return self._executor[1]


def _reasoning(row: Row) -> Reasoning:
    return Reasoning(row["reasoning"], tuple(row["tokens"]) if row["tokens"] else None)


def counted(said: Said, problem: Problem, well_formed: bool, malformed: Literal["fail", "execute"]) -> dict[str, Any]:
    """Answers with their verdicts, and what counts of them.

    `verdicts` and `likelihood` are as they were. `right` of `judged` answers count, and `counted_likelihood`: none,
    and 0, behind a malformed trace that fails.
    """
    verdicts = [
        FAILED if answer is None else verify(answer, problem.answer, problem.answer_kind) for answer in said.answers
    ]
    fails = malformed == "fail" and not well_formed
    judged = sum(verdict != FAILED for verdict in verdicts)
    right = 0 if fails else sum(verdict == OK for verdict in verdicts)
    return {
        "answers": list(said.answers),
        "answer_tokens": None if said.tokens is None else list(said.tokens),
        "verdicts": [VERDICTS[verdict] for verdict in verdicts],
        "device_verdicts": None if said.read is None else [VERDICTS[verdict] for verdict in said.read],
        "likelihood": said.likelihood,
        "cut": said.cut,
        "right": right,
        "judged": judged,
        "accuracy": right / judged if judged else None,
        "counted_likelihood": 0.0 if fails and said.likelihood is not None else said.likelihood,
    }


def uplifts(counts: dict[str, Any], alone: Alone) -> dict[str, float | None]:
    """What the reasoning gave an executor, by its answers and by its likelihood; None where a side is not known."""

    def less(here: float | None, there: float | None) -> float | None:
        return None if here is None or there is None else here - there

    return {
        "uplift": less(counts["accuracy"], alone.accuracy),
        "uplift_likelihood": less(counts["counted_likelihood"], alone.likelihood),
    }
