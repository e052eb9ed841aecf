"""The first half of an evaluation: all reasoning is written, judged as text, and graded."""

import random
from collections.abc import Sequence
from typing import Any

from tracelift_jax.evals.executors import Reasoning
from tracelift_jax.evals.experiment import REFERENCE, UNTRAINED
from tracelift_jax.evals.journal import Header, Row
from tracelift_jax.evals.plan import Drawn, TraceUnit, stable_hash
from tracelift_jax.evals.planners import Planner, Written, grade_reasoning, planner_of_run, untrained_planner
from tracelift_jax.evals.reasoning import derangement, final_value, leaks, shuffled, truncated
from tracelift_jax.evals.work import Work
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verdict import OK
from tracelift_jax.tasks.verify import verify


class Traces:
    """Writes units of traces, and knows all that are written."""

    def __init__(self, work: Work, header: Header):
        self._work, self._header = work, header
        self._known: dict[tuple[str, str, Drawn], dict[str, list[Row]]] = {}
        self._planner: tuple[str, Planner] | None = None
        self._others: dict[str, dict[str, str]] = {}

    def keep(self, unit: TraceUnit, rows: Sequence[Row]) -> None:
        """Remembers the traces of a unit."""
        known = self._known.setdefault((unit.benchmark, unit.source, unit.drawn), {})
        for row in rows:
            known.setdefault(row["problem_id"], []).append(row)

    def of(self, benchmark: str, source: str, drawn: Drawn, problem_id: str) -> list[Row]:
        """The traces of a problem."""
        return self._known[benchmark, source, drawn][problem_id]

    def write(self, unit: TraceUnit) -> list[Row]:
        """The lines of a unit."""
        work = self._work
        problems = work.batch(unit.benchmark, unit.rows)
        written = self._written(unit, problems)
        graded = grade_reasoning(
            work.loaded, problems, work.config.batch_size, [[one.reasoning for one in row] for row in written]
        )
        rows = []
        beginnings = iter(unit.lines(work.ids(unit.benchmark)))
        for b, problem in enumerate(problems):
            for m, one in enumerate(written[b]):
                row = next(beginnings) | self._judged(unit.benchmark, problem, one)
                if graded is not None:
                    grade = graded[b][m]
                    row |= {"rubric": list(grade.rubric), "total": grade.total, "score": grade.score}
                rows.append(row)
        return rows

    def _judged(self, benchmark: str, problem: Problem, one: Written) -> dict[str, Any]:
        text = one.reasoning.text
        return {
            "reasoning": text,
            "tokens": one.reasoning.tokens and list(one.reasoning.tokens),
            "trace_tokens": one.length,
            "well_formed": one.well_formed,
            "leak": leaks(text, problem, lambda answer: verify(answer, problem.answer, problem.answer_kind) == OK),
            "faithful": self._work.faithful(benchmark, problem, text),
        }

    def _written(self, unit: TraceUnit, problems: Sequence[Problem]) -> list[list[Written]]:
        """[B][M] traces of whoever writes."""
        if unit.audit:
            return [self._audited(unit, problem) for problem in problems]
        if unit.source == REFERENCE:
            return [[self._as_text(problem.reasoning)] for problem in problems]
        config = self._work.config
        greedy = unit.drawn == "greedy"
        # All planners draw by the same seeds, so that what differs between them is not the draw.
        seed = stable_hash(config.seed, "traces", unit.benchmark, unit.drawn, unit.number)
        temperature, top_p = (0.0, 1.0) if greedy else (config.temperature, config.top_p)
        return self._planner_of(unit.source).write(problems, config.batch_size, unit.traces, temperature, top_p, seed)

    def _as_text(self, text: str, well_formed: bool = True) -> Written:
        return Written(Reasoning(text), well_formed, len(self._work.loaded.pieces.trace(text)))

    def _planner_of(self, source: str) -> Planner:
        """The planner called `source`, in the place of the one before."""
        if self._planner is None or self._planner[0] != source:
            self._planner = None
            work = self._work
            if source == UNTRAINED:
                planner = untrained_planner(work.config.train, work.loaded)
            else:
                planner = planner_of_run(*work.runs[source], work.loaded)
            self._header.check(f"planner {source}", {"step": planner.step, "weights": planner.fingerprint})
            self._planner = source, planner
        return self._planner[1]

    def release(self) -> None:
        """Lets go of the last planner's weights."""
        self._planner = None

    # --- Audits ---------------------------------------------------------------------------------------------------

    def _audited(self, unit: TraceUnit, problem: Problem) -> list[Written]:
        """The base's traces of a problem, changed; well formed where what they are made from was."""
        giver = problem.problem_id
        if unit.audit == "other":
            giver = self._other(unit)[giver]
        out = []
        for m, row in enumerate(self.of(unit.benchmark, unit.base, unit.drawn, giver)):
            rng = random.Random("\0".join([str(self._work.config.seed), problem.problem_id, str(m)]))
            out.append(self._as_text(self._changed(unit, problem, row["reasoning"], rng), row["well_formed"]))
        return out

    def _changed(self, unit: TraceUnit, problem: Problem, text: str, rng: random.Random) -> str:
        match unit.audit:
            case "shuffled":
                return shuffled(text, rng)
            case "truncated":
                return truncated(text)
            case "answer_only":
                value = problem.answer if unit.base == REFERENCE else final_value(text)
                return self._work.config.answer_only.replace("{answer}", value)
        return text.strip()

    def _other(self, unit: TraceUnit) -> dict[str, str]:
        """For each problem the one whose reasoning it gets."""
        name = f"{unit.benchmark} {unit.source}"
        if name not in self._others:
            rows = self._work.plan.rows_of(unit.benchmark, unit.source)
            ids = [problem.problem_id for problem in self._work.batch(unit.benchmark, rows)]
            other = derangement(ids, self._work.config.seed)
            self._others[name] = {here: ids[there] for here, there in zip(ids, other, strict=True)}
        return self._others[name]
