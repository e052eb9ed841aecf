"""An executor that follows its reasoning to the letter, so that what an evaluation finds is known in advance."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import make_train

from tracelift_jax.checked import to_jsonable
from tracelift_jax.config import Benchmark, DialTask, Evaluate, RewardConfig, Train
from tracelift_jax.evals.evaluate import RECORDS, TRACES, begin, evaluate, read_benchmarks
from tracelift_jax.evals.executors import Asked, Candidate, Said
from tracelift_jax.evals.journal import Header
from tracelift_jax.evals.progress import Timing
from tracelift_jax.evals.results import Records, make_results, read_records
from tracelift_jax.evals.work import Work
from tracelift_jax.rollout.judging import Judge, judge_answers

TASK = DialTask(min_ops=2, max_ops=5, max_distractors=0, test_size=11)
AUDITS = ("shuffled", "truncated", "other", "answer_only")


class Scripted:
    """Answers with what the last step comes to; without reasoning it does not know."""

    fingerprint = "scripted"

    def __init__(self, fails: frozenset[str] = frozenset()):
        """`fails`: ids of problems at which it breaks down."""
        self.fails = fails
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> list[list[Said]]:
        self.asked.append(asked)
        out = []
        for b, problem in enumerate(asked.problems):
            texts = [""] if asked.reasoning is None else [one.text for one in asked.reasoning[b]]
            answer = [None if problem.problem_id in self.fails else _follow(text) for text in texts]
            out.append([Said((said,) * asked.samples) for said in answer])
        return out


def _follow(text: str) -> str:
    result = re.search(r"= (\d+)\D*$", text)
    return f" {result[1]}" if result else " I do not know."


def config(folder: Path, **changes: Any) -> Evaluate:
    """Reference reasoning and all audits of it, before the tiny models of `folder` that nobody asks."""
    roles: dict[str, Any] = {
        "reward_model": None,
        "task": TASK,
        "prompt_tokens": 60,
        "reward": RewardConfig(kind="exec_only"),
    }
    plain: dict[str, Any] = {
        "train": make_train(folder, roles=roles),
        "benchmarks": (Benchmark("dial", TASK),),
        "sources": ("none", "reference"),
        "answer_only": "= {answer}",
        "samples": 2,
        "answers": 2,
        "batch_size": 4,
    }
    return Evaluate(**plain | changes)


def with_executors(work: Work, **executors: Any) -> Work:
    """The same work before other executors."""
    candidates = {name: Candidate(name, lambda problem: True, lambda e=e: e) for name, e in executors.items()}
    plan = dataclasses.replace(work.plan, executors=tuple(candidates))
    return dataclasses.replace(work, candidates=candidates, plan=plan)


def run(work: Work, path: Path) -> Records:
    """Does, or goes on with, the work; returns its records."""
    path.mkdir(exist_ok=True)
    header = Header(path / "evaluation.json")
    header.check("config", to_jsonable(work.config))
    evaluate(work, header, path, Timing(path / "timing.json"))
    return read_records(path / RECORDS)


def results(work: Work, path: Path) -> dict[tuple[str, str, str, str], Any]:
    """Its results by benchmark, source, executor and mode."""
    found = make_results(run(work, path), work.described())
    return {(g["benchmark"], g["source"], g["executor"], g["mode"]): g for g in found["groups"]}


FILES = (TRACES, RECORDS)


def start(experiment: Evaluate, load_run: Callable[[str], Train], judge: Judge = judge_answers) -> Work:
    """All that is read before the first unit; without `judge` no benchmark asks for programs."""
    return begin(experiment, read_benchmarks(experiment), judge, load_run)
