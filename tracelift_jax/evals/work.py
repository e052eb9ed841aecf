"""What all parts of an evaluation share: the experiment, its problems, the resident roles, and the plan."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tracelift_jax.checked import require
from tracelift_jax.evals.executors import Candidate, encode_asked, sizes_of
from tracelift_jax.evals.experiment import Benchmark, Evaluate
from tracelift_jax.evals.plan import Plan
from tracelift_jax.rollout.judging import Judge
from tracelift_jax.tasks.problem import Oracle, Problem, Task
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.train.baseline_file import Baseline, open_baseline
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.roles import Loaded, Roles


@dataclasses.dataclass(frozen=True)
class Work:
    """An evaluation before its first unit.

    Attributes:
        config: the experiment. runs: those of the trained planners, by name.
        loaded: the resident roles. candidates: the executors, by name.
        tasks: by benchmark. problems: those asked for, by benchmark and row. plan: all units.
        baselines: what was measured before of the resident executor alone, by benchmark.
        judge: of all answers.
    """

    config: Evaluate
    runs: Mapping[str, tuple[str, Train]]
    loaded: Loaded
    candidates: Mapping[str, Candidate]
    tasks: Mapping[str, Task]
    problems: Mapping[str, Sequence[Problem]]
    plan: Plan
    baselines: Mapping[str, Baseline]
    judge: Judge

    def ids(self, benchmark: str) -> list[str]:
        """Of its problems, by row."""
        return [problem.problem_id for problem in self.problems[benchmark]]

    def batch(self, benchmark: str, rows: Sequence[int]) -> list[Problem]:
        """The problems of some rows."""
        return [self.problems[benchmark][row] for row in rows]

    def faithful(self, benchmark: str, problem: Problem, reasoning: str) -> bool | None:
        """What the task's oracle says of a reasoning; None where it has none."""
        task = self.tasks[benchmark]
        return task.faithful(problem, reasoning) if isinstance(task, Oracle) else None

    def described(self) -> dict[str, Any]:
        """The problems of each benchmark: how many, how many do not fit, and a digest of their texts and tests."""
        out = {}
        for name, problems in self.problems.items():
            digest = hashlib.sha256()
            for problem in problems:
                tests = "" if problem.oracle is None else json.dumps(problem.oracle.to_json())
                texts = [problem.problem_id, problem.text, problem.answer, problem.reasoning]
                for text in [*texts, tests] if tests else texts:
                    digest.update(text.encode("utf-8", "backslashreplace") + b"\0")
            out[name] = {
                "problems": len(problems),
                "left_out": len(problems) - len(self.plan.rows[name]),
                "without_reference": len(self.plan.rows[name]) - len(self.plan.reasoned[name]),
                "baseline": str(self.baselines[name].path) if name in self.baselines else "",
                "sha256": digest.hexdigest(),
            }
        return out


def read_problems(benchmark: Benchmark) -> list[Problem]:
    """The problems that a benchmark asks for.

    Raises:
        UserError: there are none, or two have the same id.
    """
    found = benchmark.task.problems(benchmark.split)
    problems = [found[row] for row in range(min(benchmark.problems or len(found), len(found)))]
    ids = {problem.problem_id for problem in problems}
    require(bool(problems), f"Benchmark {benchmark.name!r}: there are no problems")
    require(len(ids) == len(problems), f"Benchmark {benchmark.name!r}: two problems have the same problem_id")
    return problems


def read_baselines(config: Evaluate, loaded: Loaded, problems: Mapping[str, Sequence[Problem]]) -> dict[str, Baseline]:
    """The baseline files of those benchmarks that have one.

    Raises:
        UserError: one was measured with something else, or lacks problems that must not be missing.
    """
    return {
        benchmark.name: open_baseline(
            benchmark.baseline,
            loaded,
            benchmark.task.problems(benchmark.split),
            problems[benchmark.name],
            benchmark.split,
        )
        for benchmark in config.chosen
        if benchmark.baseline
    }


def _can_be_judged(problem: Problem) -> bool:
    return problem.answer_kind != "program" or problem.oracle is not None


def _fits(pieces: Pieces, roles: Roles, problem: Problem) -> bool:
    return encode_asked(pieces, sizes_of(roles), problem) is not None


def make_plan(
    config: Evaluate,
    problems: Mapping[str, Sequence[Problem]],
    readers: Sequence[tuple[Pieces, Roles]],
    candidates: Sequence[Candidate],
) -> Plan:
    """Plans the work on all problems that fit everybody and can be judged: so every comparison is of the same ones.

    Args:
        readers: planners and the reward model, by their words and their room.

    Raises:
        UserError: no problem of a benchmark fits, or none can be judged.
    """
    fits: list[Callable[[Problem], bool]] = [candidate.fits for candidate in candidates]
    fits += [partial(_fits, pieces, roles) for pieces, roles in readers]
    rows, reasoned = {}, {}
    for name, found in problems.items():
        judged = [(row, problem) for row, problem in enumerate(found) if _can_be_judged(problem)]
        require(bool(judged), f"Benchmark {name!r}: asks for programs, and no problem has tests to judge them by")
        rows[name] = tuple(row for row, problem in judged if all(fit(problem) for fit in fits))
        require(bool(rows[name]), f"Benchmark {name!r}: no problem fits Roles.prompt_tokens; raise it")
        reasoned[name] = tuple(row for row in rows[name] if found[row].reasoning.strip())
    return Plan(config, rows, reasoned, tuple(candidate.name for candidate in candidates))
