"""`tracelift baseline`: the executor without reasoning on every problem of a split, by samples and by likelihood."""

import dataclasses
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
from tracelift_jax.rollout.reward import FAILED, OK
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verify import verify
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
        UserError: the file holds another baseline, or something cannot be read.
    """
    require(samples >= 1, f"--samples must be at least 1, got {samples}")
    require(batch_size >= 1, f"--batch_size must be at least 1, got {batch_size}")
    reward = dataclasses.replace(config.roles.reward, kind="exec_only", uplift="none")
    loaded = load_roles(dataclasses.replace(config.roles, reward=reward, reward_model=None))
    check_batch(loaded.mesh, "--batch_size", batch_size)
    problems = loaded.roles.task.problems(split)
    baseline = Baseline(out, baseline_key(loaded, problems))
    executor = (resident_server if loaded.served else resident_executor)(loaded, longest=1)
    # Whole batches at fixed places, so that a problem's samples do not depend on where a build was interrupted.
    starts = range(0, len(problems), batch_size)
    batches = [[problems[row] for row in range(start, min(start + batch_size, len(problems)))] for start in starts]
    todo = [(number, batch) for number, batch in enumerate(batches) if baseline.missing(batch)]
    with Progress(len(batches), len(batches) - len(todo)) as progress:
        answering = executor.open()
        for number, batch in todo:
            progress.working_on(f"{samples} answers each to problems {number * batch_size} and on")
            fit = [problem for problem in batch if executor.fits(problem)]
            seed = stable_hash(config.seed, "baseline", split, number)
            said = answering.answer(Asked(fit, batch_size, None, samples, False, seed)) if fit else []
            rows = {problem.problem_id: _unmeasured(problem) for problem in batch}
            for problem, (one,) in zip(fit, said, strict=True):
                host = loaded.served and not why_unjudged(problem)
                verdicts = _host_verdicts(problem, one) if host else one.read
                if verdicts is not None and (judged := len(verdicts) - verdicts.count(FAILED)):
                    row = {"ok": verdicts.count(OK), "trials": judged, "likelihood": one.likelihood}
                    rows[problem.problem_id] = {"problem_id": problem.problem_id, **row}
                elif verdicts is not None:
                    del rows[problem.problem_id]  # no answer came, which says nothing of the problem
            baseline.add(list(rows.values()))
            progress.done()
    _tell(Path(out), [baseline.rows[problem.problem_id] for problem in problems if problem.problem_id in baseline.rows])
    if failed := len(baseline.missing(problems)):
        raise UserError(f"{out}: {failed} problems are not measured, for no answers came; the same command goes on")


def _host_verdicts(problem: Problem, said: Said) -> tuple[int, ...]:
    """Of answers that came as text."""
    return tuple(FAILED if text is None else verify(text, problem.answer, problem.answer_kind) for text in said.answers)


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
