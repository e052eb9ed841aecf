"""What the files of a study say: evaluations and training curves into arrays."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study_stats import reached

Row = Mapping[str, Any]
MEASURES = ("accuracy", "faithful", "wrong_reason", "uplift", "unseen")
WINDOW, LEVEL = 5, 0.9
"""Learning is told by the mean of so many steps, and done at this."""


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON objects."""
    with open(file) as lines:
        return [json.loads(line) for line in lines]


def grouped(rows: Sequence[Row], source: str, executor: str) -> list[list[Row]]:
    """The records of a source before an executor, traces by problem, both in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["source"] == source and row["executor"] == executor:
            groups.setdefault(row["problem_id"], []).append(row)
    return list(groups.values())


def by_problem(rows: Sequence[Row], source: str) -> dict[str, np.ndarray]:
    """What is measured of a planner: float [P] each, the mean over the traces of each problem.

    `accuracy` before the executor of training and `unseen` before the other one; `uplift` in likelihood; `faithful` and
    `wrong_reason` (right, by unfaithful reasoning) by the oracle.
    """

    def mean(executor: str, value) -> np.ndarray:
        return np.array([np.mean([value(row) for row in group]) for group in grouped(rows, source, executor)])

    return {
        "accuracy": mean("resident", lambda row: row["accuracy"]),
        "faithful": mean("resident", lambda row: row["faithful"]),
        "wrong_reason": mean("resident", lambda row: row["accuracy"] * (not row["faithful"])),
        "uplift": mean("resident", lambda row: row["uplift_likelihood"]),
        "unseen": mean("unseen", lambda row: row["accuracy"]),
    }


def alone(rows: Sequence[Row], source: str, executor: str) -> float:
    """The share of right answers of an executor behind what no planner wrote, or behind nothing ("none")."""
    return float(np.mean([row["accuracy"] for group in grouped(rows, source, executor) for row in group]))


def alone_by_problem(rows: Sequence[Row], executor: str) -> np.ndarray:
    """float [P], the share of an executor's right answers without reasoning."""
    return np.array([np.mean([row["accuracy"] for row in group]) for group in grouped(rows, "none", executor)])


def behind(rows: Sequence[Row], executor: str, faithful: bool) -> float:
    """The share of right answers of an executor behind the untrained planner's faithful traces, or unfaithful ones."""
    found = [row for group in grouped(rows, "untrained", executor) for row in group if row["faithful"] == faithful]
    return float(np.mean([row["accuracy"] for row in found]))


@dataclasses.dataclass(frozen=True)
class Learning:
    """When a planner had learnt, in sampled traces; None where its run ended before.

    Attributes:
        accuracy, faithful: until the mean of the last WINDOW steps was at least LEVEL, on the problems trained on.
    """

    accuracy: int | None
    faithful: int | None


def learning(run_dir: Path, traces: int) -> Learning:
    """Of a run, `traces` a step; its curves are those of `metrics.jsonl`."""
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if "reward/accuracy" in row]

    def when(name: str) -> int | None:
        step = reached([row[f"reward/{name}"] for row in rows], LEVEL, WINDOW)
        return None if step is None else step * traces

    return Learning(when("accuracy"), when("faithful"))
