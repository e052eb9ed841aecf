"""Finding the first wrong step with a reward model, as ProcessBench asks (arXiv 2412.06559).

A file has one solution a line: {"id", "problem", "steps": [...], "label": index of the first wrong step, -1: all are
right}. The reward model grades the solution up to each step. The first step behind which the score is below a threshold
is the first wrong one; if there is none, the solution is right. The threshold is chosen on one half of the solutions
and the other half is reported.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.rows import read_numbered
from tracelift_jax.train.trust import rate
from tracelift_jax.train.trust_grade import Asked, Judge, grade_all


@dataclasses.dataclass(frozen=True)
class ProcessBench:
    """First wrong steps in a file of ProcessBench's format.

    Attributes:
        path: the JSONL file, plain or gzip.
        between: what stands between two steps in a reasoning.
        grade_at: "tag" closes the reasoning behind each step and grades it there, where METHOD's reward models are
            trained to grade; "step" grades at the step's last token, for models trained to grade everywhere
            (`RewardModelLossConfig.prefix`).
        task_type: written into the reward model's prompt.
    """

    path: str
    between: str = "\n\n"
    grade_at: Literal["tag", "step"] = "tag"
    task_type: str = "math"

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.path), "ProcessBench.path must not be empty")


@dataclasses.dataclass(frozen=True)
class Solution:
    """One line: `label` is the index of the first wrong one of `steps`, or -1."""

    solution_id: str
    problem: str
    steps: tuple[str, ...]
    label: int


def read_solutions(path: str) -> list[Solution]:
    """The solutions of a file.

    Raises:
        UserError: the file cannot be read, or a field is missing or wrong.
    """
    out = []
    for number, row in read_numbered(path):
        for name, kind in (("id", str), ("problem", str), ("steps", list), ("label", int)):
            if type(row.get(name)) is not kind:
                raise UserError(f'{path}:{number}: "{name}" must be there and be a {kind.__name__}')
        steps, label = row["steps"], row["label"]
        if not steps or not all(isinstance(step, str) for step in steps):
            raise UserError(f'{path}:{number}: "steps" must be one text or more')
        if not -1 <= label < len(steps):
            raise UserError(f'{path}:{number}: "label" must be from -1 to {len(steps) - 1}, got {label}')
        out.append(Solution(row["id"], row["problem"], tuple(steps), label))
    return out


def first_below(scores: np.ndarray, threshold: float) -> np.ndarray:
    """int [n]: the first step of float [n, S] `scores` below `threshold`, or -1; nan is never below."""
    below = scores < threshold
    return np.where(below.any(-1), below.argmax(-1), -1)


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of the accuracy on wrong and on right solutions (arXiv 2412.06559); 0 where one has none."""
    wrong = labels >= 0
    if wrong.all() or not wrong.any():
        return 0.0
    hit = predicted == labels
    on_wrong, on_right = hit[wrong].mean(), hit[~wrong].mean()
    return float(2 * on_wrong * on_right / (on_wrong + on_right)) if on_wrong + on_right else 0.0


def choose_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The score whose `f1` as a threshold is best; the lowest of equals. Above all scores no solution is right."""
    candidates = np.unique(scores[np.isfinite(scores)])
    return float(candidates[int(np.argmax([f1(first_below(scores, t), labels) for t in candidates]))])


def halves(ids: Sequence[str]) -> np.ndarray:
    """bool [n], True for the half on which the threshold is chosen: every other id in the order of their sha256."""
    order = sorted(range(len(ids)), key=lambda row: hashlib.sha256(ids[row].encode()).digest())
    chosen = np.zeros(len(ids), bool)
    chosen[order[::2]] = True
    return chosen


def judge_steps(scores: np.ndarray, labels: np.ndarray, choosing: np.ndarray) -> dict[str, Any]:
    """ProcessBench's numbers on the half that the threshold has not seen.

    Args:
        scores: float [n, S] behind each step, nan where there is none. labels: int [n]. choosing: bool [n] (`halves`).

    Returns:
        `threshold`; `wrong`, `right`: accuracy on solutions with and without a wrong step; their `f1`; `f1_choosing`,
        the same on the half where the threshold was chosen.
    """
    threshold = choose_threshold(scores[choosing], labels[choosing])
    predicted = first_below(scores, threshold)
    hit, rest, wrong = predicted == labels, ~choosing, labels >= 0
    each = np.arange(len(labels))
    return {
        "threshold": threshold,
        "wrong": rate(hit[rest & wrong], each[rest & wrong]),
        "right": rate(hit[rest & ~wrong], each[rest & ~wrong]),
        "f1": f1(predicted[rest], labels[rest]),
        "f1_choosing": f1(predicted[choosing], labels[choosing]),
    }


def run_process_bench(judge: Judge, config: ProcessBench) -> dict[str, Any]:
    """`judge_steps` of a file, with `solutions` counted and how many were `left_out` because they did not fit.

    Raises:
        UserError: the file is wrong, or fewer than two solutions fit.
    """
    solutions = read_solutions(config.path)
    write = judge.trace if config.grade_at == "tag" else judge.pieces.begun
    kept: list[tuple[Solution, Asked]] = []
    for solution in solutions:
        problem = judge.problem(solution.problem, config.task_type)
        ends = range(1, len(solution.steps) + 1)
        traces = [write(config.between.join(solution.steps[:end])) for end in ends]
        if problem is not None and max(map(len, traces)) <= judge.trace_tokens:
            kept.append((solution, Asked(problem, traces)))
    if len(kept) < 2:
        raise UserError(
            f"ProcessBench.path: {len(kept)} of {len(solutions)} solutions of {config.path} fit; raise "
            "TrainRm.prompt_tokens and TrainRm.trace_tokens"
        )
    flat = grade_all(judge, [asked for _, asked in kept]).score
    scores = np.full((len(kept), max(len(solution.steps) for solution, _ in kept)), np.nan)
    scores[np.arange(scores.shape[1]) < np.array([[len(solution.steps)] for solution, _ in kept])] = flat
    labels = np.array([solution.label for solution, _ in kept])
    found = judge_steps(scores, labels, halves([solution.solution_id for solution, _ in kept]))
    return {"path": config.path, "solutions": len(kept), "left_out": len(solutions) - len(kept), **found}
