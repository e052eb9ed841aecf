"""`tracelift baseline`: the executor without reasoning on every problem of a split, by samples and by likelihood."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.evals.executors import Asked, Said, resident_executor
from tracelift_jax.evals.metrics import Value, mean, rate
from tracelift_jax.evals.plan import stable_hash
from tracelift_jax.evals.progress import Progress
from tracelift_jax.evals.served import resident_server
from tracelift_jax.parallel.mesh import check_batch
from tracelift_jax.rollout.batch import why_unjudged
from tracelift_jax.rollout.judging import Judge, open_judge
from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.rollout.reward_config import RewardConfig
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train.baseline_file import Baseline, Row, baseline_key
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.run import console


def run_baseline(config: Train, out: str, split: str, samples: int, batch_size: int) -> None:
    """Measures what `out` lacks, a batch at a time, and says how the executor fares.

    Args:
        config: the experiment whose executor is measured. split: of its task. samples: of each problem.
        batch_size: problems at a time, over all devices.

    Raises:
        UserError: the file holds another baseline, something cannot be read, or programs cannot be run here.
    """
    require(samples >= 1, f"--samples must be at least 1, got {samples}")
    require(batch_size >= 1, f"--batch_size must be at least 1, got {batch_size}")
    problems = list(config.roles.task.problems(split))
    with open_judge(config.roles.sandbox, problems) as judge:  # before any weights
        reward = RewardConfig(kind="exec_only", uplift="none")
        loaded = load_roles(dataclasses.replace(config.roles, reward=reward, reward_model=None))
        check_batch(loaded.mesh, "--batch_size", batch_size)
        baseline = Baseline(out, baseline_key(loaded, problems))
        executor = (resident_server if loaded.served else resident_executor)(loaded, longest=1)
        # Whole batches at fixed places, so that a problem's samples do not depend on where a build was interrupted.
        batches = [problems[start : start + batch_size] for start in range(0, len(problems), batch_size)]
        todo = [(number, batch) for number, batch in enumerate(batches) if baseline.missing(batch)]
        with Progress(len(batches), len(batches) - len(todo)) as progress:
            answering = executor.open()
            for number, batch in todo:
                progress.working_on(f"{samples} answers each to problems {number * batch_size} and on")
                fit = [problem for problem in batch if executor.fits(problem)]
                seed = stable_hash(config.seed, "baseline", split, number)
                said = answering.answer(Asked(fit, batch_size, None, samples, False, seed)) if fit else []
                verdicts = _verdicts(judge, fit, [one for (one,) in said], loaded.served is not None)
                baseline.add(_rows(batch, verdicts, {p.problem_id: one for p, (one,) in zip(fit, said, strict=True)}))
                progress.done()
    _tell(Path(out), [baseline.rows[problem.problem_id] for problem in problems if problem.problem_id in baseline.rows])
    if failed := len(baseline.missing(problems)):
        raise UserError(f"{out}: {failed} problems are not measured, for no answers came; the same command goes on")


def _verdicts(
    judge: Judge, problems: Sequence[Problem], said: Sequence[Said], served: bool
) -> dict[str, tuple[int, ...]]:
    """Of the answers to each problem that can be judged: the device's, or the host's of programs and of a server."""
    found = {p.problem_id: one.read for p, one in zip(problems, said, strict=True) if one.read is not None}
    told = [
        (problem, text)
        for problem, one in zip(problems, said, strict=True)
        for programs in [problem.answer_kind == "program"]
        if (programs or served) and not why_unjudged(problem, programs)
        for text in one.answers
    ]
    by_host: dict[str, list[int]] = {problem.problem_id: [] for problem, _ in told}
    for (problem, _), finding in zip(told, judge(told)[0], strict=True):
        by_host[problem.problem_id].append(finding.verdict)
    return found | {name: tuple(verdicts) for name, verdicts in by_host.items()}


def _rows(batch: Sequence[Problem], verdicts: Mapping[str, tuple[int, ...]], said: Mapping[str, Said]) -> list[Row]:
    """What a baseline file is told of a batch: nothing of a problem to which no answer came."""
    rows = []
    for problem in batch:
        name = problem.problem_id
        if name not in verdicts:
            rows.append(_unmeasured(problem))
        elif judged := len(verdicts[name]) - verdicts[name].count(FAILED):
            counts = {"ok": verdicts[name].count(OK), "trials": judged}
            rows.append({"problem_id": name, **counts, "likelihood": said[name].likelihood})
    return rows


def _unmeasured(problem: Problem) -> Row:
    return {"problem_id": problem.problem_id, "ok": 0, "trials": 0, "likelihood": None}


def _tell(path: Path, rows: list[Row]) -> None:
    measured = [row for row in rows if row["trials"]]
    trials = np.array([row["trials"] for row in measured])
    accuracy = rate(np.array([row["ok"] for row in measured]) / trials, int(trials.sum()))
    likelihood = mean(np.array([row["likelihood"] for row in measured if row["likelihood"] is not None]), 0.0)
    left_out = f"; {len(rows) - len(measured)} left out" if len(measured) < len(rows) else ""
    console.print(f"{path}: {len(measured)} problems, {int(trials.sum())} answers{left_out}")
    console.print(f"accuracy without reasoning {_shown(accuracy)}; likelihood of the answer {_shown(likelihood)}")


def _shown(value: Value) -> str:
    interval = "" if value["low"] is None else f" (95 % interval {value['low']:.4f} to {value['high']:.4f})"
    return "not measured" if value["value"] is None else f"{value['value']:.4f}{interval}"
