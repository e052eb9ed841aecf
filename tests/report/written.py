"""Run directories written by hand, of any size, as training writes them."""

import json
import random
from pathlib import Path
from typing import Any

from tracelift_jax.checked import to_jsonable
from tracelift_jax.config import DialTask, RewardConfig
from tracelift_jax.tasks.dial import true_steps, write_trace

TASK = DialTask()
VERDICTS = ("ok", "wrong")


def config(reward: RewardConfig | None = None, **changes: Any) -> dict[str, Any]:
    """A `config.json` with what a report asks of one."""
    reward = RewardConfig() if reward is None else reward
    roles = {"__class__": "Roles", "task": to_jsonable(TASK), "reward_model": {"__class__": "Model", "path": "grader"}}
    schedule = {"__class__": "Schedule", "steps": 4}
    whole = {"__class__": "Train", "roles": roles | {"reward": to_jsonable(reward)}, "schedule": schedule, "seed": 0}
    return json.loads(json.dumps(whole | changes))


def float32(value: float) -> float:
    """The nearest number that float32 has, as records have them."""
    import numpy as np

    return float(np.float32(value))


def record(**changes: Any) -> dict[str, Any]:
    """A right, faithful, well-rewarded trace of the problem "7 up 5, doubled", where `changes` say nothing else."""
    return {
        "step": 1,
        "weights": {"executor": "e" * 16, "reward_model": "f" * 16},
        "problem_id": "dial/1",
        "trace": 0,
        "problem": "The dial shows 7. Ann turns it up 5. Cal doubles it. What does it show now?",
        "reference": "4",
        "trace_tokens": [1, 2, 3],
        "reasoning": " 7 + 5 = 2 ; 2 * 2 = 4 ",
        "sampler_logprobs": [-0.1, -0.2, -0.3],
        "well_formed": True,
        "answer_tokens": [[5]],
        "answers": [" 4"],
        "verdicts": ["ok"],
        "uplift": 0.5,
        "with_counts": [0, 0],
        "without_counts": [0, 0],
        "without_answers": [],
        "likelihood": 0.75,
        "baseline_likelihood": 0.25,
        "rubric": [4.0, 3.5, 3.0, 2.5, 2.0],
        "total": 0.75,
        "score": 0.75,
        "reward": 0.6875,
        "advantage": 1.5,
        "counted": True,
        "faithful": True,
    } | changes


def drawn(rng: random.Random, step: int, problem: int, trace: int, words: int = 0) -> dict[str, Any]:
    """A record of a dial problem with made-up numbers; `words` make its reasoning as long as real models'."""
    asked = TASK.problem("train", problem)
    steps = list(map(str, true_steps(asked.start, asked.ops)))
    faithful = rng.random() < 0.6
    if not faithful:
        steps[rng.randrange(len(steps))] = "1 + 1 = 3"
    text = " ; ".join(steps)
    faithful = text == write_trace(true_steps(asked.start, asked.ops))
    padding = "".join(f" {rng.randrange(10_000)}" for _ in range(words))
    right = rng.random() < (0.95 if faithful else 0.2)
    uplift, score = float32(rng.uniform(-0.3, 1)), float32(rng.random())
    return record(
        step=step,
        problem_id=asked.problem_id,
        problem=asked.text,
        reference=asked.answer,
        trace=trace,
        reasoning=f" {text}{padding} ",
        answers=[f" {asked.answer if right else rng.randrange(10)}"],
        verdicts=["ok" if right else "wrong"],
        uplift=uplift,
        likelihood=float32(rng.random()),
        baseline_likelihood=float32(rng.random()),
        rubric=[float32(4 * rng.random()) for _ in range(5)],
        total=float32(rng.random()),
        score=score,
        reward=float32(0.5 * right + 0.5 * (score * uplift if uplift >= 0 else (1 - score) * uplift)),
        advantage=float32(rng.gauss(0, 1)),
        faithful=faithful,
    )


def metrics(steps: int, rng: random.Random) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`: an evaluation before and one behind as many steps."""

    def evaluation(step: int, value: float) -> dict[str, Any]:
        name = "eval/sampled/accuracy"
        return {"step": step, name: value, f"{name}_low": value - 0.04, f"{name}_high": value + 0.03}

    def row(step: int) -> dict[str, Any]:
        names = ("reward/mean", "reward/accuracy", "reward/uplift", "policy/entropy", "loss/total", "time/step_seconds")
        return {"step": step} | {name: rng.random() for name in names}

    return [evaluation(0, 0.5), *map(row, range(1, steps + 1)), evaluation(steps, 0.9)]


def write_run(
    path: Path,
    records: list[dict[str, Any]],
    rows: list[dict[str, Any]] | None = None,
    described: dict[str, Any] | None = None,
) -> Path:
    """Writes a run directory; the records go to the files of their steps."""
    (path / "traces").mkdir(parents=True)
    rows = metrics(4, random.Random(0)) if rows is None else rows
    (path / "config.json").write_text(json.dumps(config() if described is None else described))
    (path / "config.gin").write_text("config.Train.seed = 0\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps: dict[int, list[str]] = {}
    for one in records:
        steps.setdefault(one["step"], []).append(json.dumps(one) + "\n")
    for step, lines in steps.items():
        (path / "traces" / f"step_{step:06d}.jsonl").write_text("".join(lines))
    return path


def large_run(path: Path, steps: int, problems: int, traces: int, words: int = 0) -> Path:
    """A run of so many steps, problems a step and traces a problem."""
    rng = random.Random(1)
    records = [
        drawn(rng, step, 1000 * step + problem, trace, words)
        for step in range(1, steps + 1)
        for problem in range(problems)
        for trace in range(traces)
    ]
    return write_run(path, records, metrics(steps, rng), config(schedule={"__class__": "Schedule", "steps": steps}))
