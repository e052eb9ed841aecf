"""The second half of an evaluation: every executor answers, alone and behind every reasoning."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from tracelift_jax.evals.executors import Asked, Executor, Reasoning, Said
from tracelift_jax.evals.experiment import NONE, RESIDENT
from tracelift_jax.evals.journal import Header, Row
from tracelift_jax.evals.plan import AnswerUnit, stable_hash
from tracelift_jax.evals.traces import Traces
from tracelift_jax.evals.work import Work
from tracelift_jax.rollout.judging import Finding, outcome_fields
from tracelift_jax.rollout.records import VERDICTS
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG
from tracelift_jax.train.baseline_file import Baseline

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

    What a baseline file tells of an executor alone is not asked again; what is measured here is added where it may be.
    """

    def __init__(self, work: Work, header: Header, traces: Traces):
        self._work, self._header, self._traces = work, header, traces
        self.alone: dict[Key, Alone] = {}
        self._executor: tuple[str, Executor] | None = None

    def keep(self, unit: AnswerUnit, rows: Sequence[Row]) -> None:
        """Remembers what a unit tells of the executor alone, and adds it to its baseline file."""
        if unit.source == NONE:
            for row in rows:
                key = (unit.benchmark, unit.executor, unit.mode, row["problem_id"])
                self.alone[key] = Alone(row["accuracy"], row["likelihood"])
            baseline = self._baseline_of(unit)
            if baseline:
                baseline.add([_measured(row) for row in rows])

    def _baseline_of(self, unit: AnswerUnit) -> Baseline | None:
        """The file that tells what a unit asks."""
        asks = unit.source == NONE and unit.executor == RESIDENT and unit.mode == "sampled"
        return self._work.baselines.get(unit.benchmark) if asks else None

    def draw(self, unit: AnswerUnit) -> list[Row]:
        """The lines of a unit."""
        baseline = self._baseline_of(unit)
        if baseline is None:
            return self._ask(unit)
        ids = self._work.ids(unit.benchmark)
        # One of 0 trials could not be judged on the device; here the host judges.
        unknown = tuple(row for row in unit.rows if not baseline.rows.get(ids[row], {"trials": 0})["trials"])
        drawn = self._ask(dataclasses.replace(unit, rows=unknown)) if unknown else []
        asked = {row["problem_id"]: row for row in drawn}
        problems = self._work.batch(unit.benchmark, unit.rows)
        return [
            asked.get(problem.problem_id) or line | _known(problem, baseline.rows[problem.problem_id])
            for line, problem in zip(unit.lines(ids), problems, strict=True)
        ]

    def _ask(self, unit: AnswerUnit) -> list[Row]:
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
        told = [
            (problem, text)
            for problem, rows in zip(problems, said, strict=True)
            for one in rows
            for text in one.answers
        ]
        findings = iter(work.judge(told)[0])
        out = []
        lines = iter(unit.lines(work.ids(unit.benchmark)))
        for b, problem in enumerate(problems):
            alone = self.alone.get((unit.benchmark, unit.executor, unit.mode, problem.problem_id))
            for m, one in enumerate(said[b]):
                trace = traces[b][m] if shown is not None else {}
                beside = {name: trace[name] for name in FROM_TRACE if name in trace}
                found = [next(findings) for _ in one.answers]
                counts = counted(one, problem, found, trace.get("well_formed", True), config.malformed)
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


def _known(problem: Problem, measured: Row) -> Row:
    """The line of a problem that a baseline file knows: its counts, without the answers behind them."""
    right, judged = measured["ok"], measured["trials"]
    return {
        "reference": problem.answer,
        "answers": None,
        "answer_tokens": None,
        "verdicts": [VERDICTS[OK]] * right + [VERDICTS[WRONG]] * (judged - right),
        **({"outcomes": None, "tests": None} if problem.answer_kind == "program" else {}),
        "device_verdicts": None,
        "likelihood": measured["likelihood"],
        "cut": False,
        "right": right,
        "judged": judged,
        "accuracy": right / judged if judged else None,
        "counted_likelihood": measured["likelihood"],
    }


def _measured(row: Row) -> Row:
    """The line of a problem as a baseline file has it."""
    told = {"ok": row["right"], "trials": row["judged"], "likelihood": row["likelihood"]}
    return {"problem_id": row["problem_id"], **told}


def counted(
    said: Said,
    problem: Problem,
    findings: Sequence[Finding],
    well_formed: bool,
    malformed: Literal["fail", "execute"],
) -> dict[str, Any]:
    """Answers with their verdicts, and what counts of them.

    `verdicts` and `likelihood` are as they were. `right` of `judged` answers count, and `counted_likelihood`: none,
    and 0, behind a malformed trace that fails.

    Args:
        findings: of each answer.
    """
    verdicts = [finding.verdict for finding in findings]
    fails = malformed == "fail" and not well_formed
    judged = sum(verdict != FAILED for verdict in verdicts)
    right = 0 if fails else sum(verdict == OK for verdict in verdicts)
    return {
        "answers": list(said.answers),
        "answer_tokens": None if said.tokens is None else list(said.tokens),
        "verdicts": [VERDICTS[verdict] for verdict in verdicts],
        **(outcome_fields(findings) if problem.answer_kind == "program" else {}),
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
