"""What is kept of a study: of each run and regime one small JSON file, from which the tables are made.

Run directories and evaluations are large and stay where they were made; these files, the weights of the executors that
the study trains and its settings are all that another machine needs to make the tables again or to go on.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import study_measures as measures
from study_plan import Job, Study
from study_signal import Traces, read_traces

DIGITS = 4
TRACES = 128
"""A step's: 16 problems, 8 traces each (../planner.gin)."""
READ = {
    "alone": lambda rows, executor: measures.alone(rows, "none", executor),
    "true reasoning": lambda rows, executor: measures.alone(rows, "reference", executor),
    "another problem's": lambda rows, executor: measures.alone(rows, "reference/other", executor),
    "the bare answer": lambda rows, executor: measures.alone(rows, "reference/answer_only", executor),
    "faithful traces": lambda rows, executor: measures.behind(rows, executor, True),
    "unfaithful traces": lambda rows, executor: measures.behind(rows, executor, False),
}
"""What an executor is given before any training, and how its share of right answers is found."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A planner, trained and measured.

    Attributes:
        measured: float [P] by measure, the mean over a problem's traces. learnt: when it had.
        done: on which machine and when.
    """

    measured: dict[str, np.ndarray]
    learnt: measures.Learning
    done: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Before:
    """A regime before any training.

    Attributes:
        executors: shares of right answers, by executor ("resident", "unseen") and what it reads (READ).
        solved: bool [P], the problems that the executor of training gets right alone at least half of the time.
        untrained: float [P] by measure, of the planner that all start from. traces: its traces.
        done: on which machine and when.
    """

    executors: dict[str, dict[str, float]]
    solved: np.ndarray
    untrained: dict[str, np.ndarray]
    traces: Traces
    done: dict[str, Any]


def _done(job: Job) -> dict[str, Any]:
    told = json.loads(job.stamp.read_text())
    return {"machine": told["machine"], "date": told["date"]}


def _lists(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers to DIGITS, whole ones without a point, for files that are short and the same every time."""

    def short(x: Any) -> Any:
        if isinstance(x, list):
            return [short(one) for one in x]
        return int(x) if x == int(x) else round(x, DIGITS)

    return {name: short(np.asarray(values, float).tolist()) for name, values in arrays.items()}


def _write(file: Path, told: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, separators=(",", ":")) + "\n")


def collect(study: Study, regimes: Sequence[str], arms: Sequence[str], seeds: int) -> None:
    """Writes the files of what is done and has none yet."""
    for regime in regimes:
        job, file = study.baseline(regime), study.before_result(regime)
        if job.stamp.exists() and not file.exists():
            rows = measures.read_rows(job.path / "records.jsonl")
            shares = {
                name: {what: round(share(rows, name), DIGITS) for what, share in READ.items()}
                for name in ("resident", "unseen")
            }
            told = {
                "executors": shares,
                **_lists({"solved": measures.alone_by_problem(rows, "resident") >= 0.5}),
                "untrained": _lists(measures.by_problem(rows, "untrained")),
                "traces": _lists(vars(read_traces(rows))),
                "done": _done(job),
            }
            _write(file, told)
        for arm in arms:
            for seed in range(seeds):
                job, file = study.measurement(regime, arm, seed), study.result(regime, arm, seed)
                if job.stamp.exists() and not file.exists():
                    rows = measures.read_rows(job.path / "records.jsonl")
                    told = {
                        "measured": _lists(measures.by_problem(rows, f"seed{seed}")),
                        "learnt": vars(measures.learning(study.run(regime, arm, seed), TRACES)),
                        "done": _done(job),
                    }
                    _write(file, told)


def read_run(file: Path) -> Run:
    """What `collect` wrote of a run."""
    told = json.loads(file.read_text())
    measured = {name: np.array(values, float) for name, values in told["measured"].items()}
    return Run(measured, measures.Learning(**told["learnt"]), told["done"])


def read_before(file: Path) -> Before:
    """What `collect` wrote of a regime."""
    told = json.loads(file.read_text())
    traces = {name: np.array(values, float) for name, values in told["traces"].items()}
    traces["faithful"] = traces["faithful"].astype(bool)
    untrained = {name: np.array(values, float) for name, values in told["untrained"].items()}
    return Before(told["executors"], np.array(told["solved"], bool), untrained, Traces(**traces), told["done"])


def keep(study: Study, to: Path) -> None:
    """Copies what `collect` wrote, the trained models and the settings to a folder, which is a study of its own."""
    files = [study.out / "settings.json", *study.out.glob("*/before.json"), *study.out.glob("*/*/seed*.json")]
    for job in (study.unseen(), study.strong(), study.rough(), *study.strong().after):
        if job.stamp.exists():
            files.append(job.stamp)
    for job in (study.unseen(), study.strong(), study.rough()):  # the one before the strong one is not asked any more
        if job.stamp.exists():
            files += [file for file in sorted((job.path / "model").rglob("*")) if file.is_file()]
    for file in files:
        copy = to / file.relative_to(study.out)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
