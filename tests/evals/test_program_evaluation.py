"""Evaluations of programs: real tests in real boxes, of answers whose outcomes are known beforehand."""

import gzip
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_service import Asked as Request
from chat_service import service
from scripted import TASK, Scripted, config, run, start, with_executors
from served import reasoning_in
from tiny import make_train

from tracelift_jax.config import Benchmark, CodeRewardConfig, CodeTask, DialCode, Evaluate, ExecutorServer, HumanEval
from tracelift_jax.evals.executors import Asked, Said
from tracelift_jax.evals.report import markdown
from tracelift_jax.evals.results import make_results
from tracelift_jax.rollout.judging import JudgeByKind
from tracelift_jax.tasks.dial_code import program_for

PROBLEMS = 5
SAMPLES = 4
RIGHT, BODY, BROKEN, RAISES, PROSE, UNFINISHED = "right", "body", "broken", "raises", "prose", "unfinished"
SCRIPT = (
    (RIGHT, RIGHT, BODY, RIGHT),
    (RIGHT, BROKEN, PROSE, BODY),
    (RAISES, UNFINISHED, RIGHT, PROSE),
    (BROKEN, PROSE, RAISES, UNFINISHED),
    (BODY, BODY, BODY, BROKEN),
)
"""What the executor writes, alone: a row for each problem, a place for each sample; the greedy answer is the first."""
PASSES = {RIGHT, BODY}
OUTCOMES = {
    BROKEN: "failed_test",
    RAISES: "runtime_error",
    PROSE: "no_program",
    UNFINISHED: "does_not_compile",
}


def rows_of(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(shared_data / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        return [json.loads(next(lines)) for _ in range(PROBLEMS)]


def written(row: dict[str, Any], kind: str) -> str:
    """An answer of a kind to a problem of HumanEval."""
    prompt, name, body = row["prompt"], row["entry_point"], row["canonical_solution"]
    head = next(line for line in prompt.splitlines() if line.startswith(f"def {name}("))
    match kind:
        case "right":
            return f"Here it is:\n```python\n{prompt}{body}```\nIt passes all tests."
        case "body":  # the statement's beginning goes on
            return body
        case "broken":
            return f"```python\n{head}\n    return None\n```"
        case "raises":
            return f"```python\n{head}\n    raise KeyError('no')\n```"
        case "unfinished":
            return f"```python\n{head}\n    return (\n```"
    return "I would look at every number, and keep what I have seen."


@pytest.fixture(scope="module")
def human_eval(folder, shared_data, program_judge, tmp_path_factory):
    """(work, its directory, its records) of five problems, the executor alone and behind untrained reasoning.

    Behind reasoning it is right, but at the fourth problem.
    """
    rows = rows_of(shared_data)

    def answer(asked: Request, number: int) -> str:
        [place] = [place for place, row in enumerate(rows) if row["prompt"].strip() in asked.prompt]
        alone = reasoning_in(asked.prompt) is None
        return written(rows[place], SCRIPT[place][number] if alone else (BROKEN if place == 3 else RIGHT))

    task = HumanEval(str(shared_data / "humaneval" / "HumanEval.jsonl.gz"))
    with service(answer=answer) as server:
        roles = {
            "reward_model": None,
            "prompt_tokens": 1500,
            "reward": CodeRewardConfig(kind="exec_only"),
            "executor_server": ExecutorServer(server.url, "scripted"),
        }
        experiment = config(
            folder,
            train=make_train(folder, roles=roles),
            benchmarks=(Benchmark("humaneval", task, problems=PROBLEMS),),
            sources=("none", "untrained", "reference"),
            malformed="execute",
            samples=SAMPLES,
            answers=1,
            pass_at=(1, 2, 4),
        )
        path = tmp_path_factory.mktemp("humaneval") / "out"
        work = start(experiment, lambda file: pytest.fail(file), JudgeByKind(program_judge))
        found = run(work, path)
    return work, path, found


def lines(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_every_record_of_human_eval_is_as_written(human_eval):
    _, path, _ = human_eval
    records = lines(path, "records.jsonl")
    # Without reference reasoning nothing is behind that source.
    assert {row["source"] for row in records} == {"none", "untrained"}
    alone = [row for row in records if row["source"] == "none"]
    assert [row["mode"] for row in alone] == ["greedy"] * PROBLEMS + ["sampled"] * PROBLEMS
    for place, row in enumerate(alone):
        script = SCRIPT[place % PROBLEMS][: 1 if row["mode"] == "greedy" else SAMPLES]
        assert row["problem_id"] == f"humaneval/HumanEval/{place % PROBLEMS}"
        assert row["outcomes"] == [OUTCOMES.get(kind, "passed") for kind in script]
        assert row["tests"] == [[int(kind in PASSES), 1] for kind in script]
        assert row["verdicts"] == ["ok" if kind in PASSES else "wrong" for kind in script]
        assert (row["right"], row["judged"]) == (sum(kind in PASSES for kind in script), len(script))
        assert row["likelihood"] is None and row["device_verdicts"] is None and row["reference"] == ""
    behind = [row for row in records if row["source"] == "untrained"]
    assert len(behind) == PROBLEMS * (1 + SAMPLES)
    for row in behind:
        right = row["problem_id"] != "humaneval/HumanEval/3"
        assert (row["right"], row["judged"], row["leak"]) == (int(right), 1, False)
        alone_right = np.mean([kind in PASSES for kind in SCRIPT[int(row["problem_id"][-1])]])
        assert row["mode"] == "greedy" or row["uplift"] == right - alone_right


def expected(right: list[int], k: int) -> float:
    """pass@k by looking at every draw of k from SAMPLES answers."""
    draws = list(combinations(range(SAMPLES), k))
    return float(np.mean([np.mean([any(i < count for i in draw) for draw in draws]) for count in right]))


def test_pass_at_k_of_human_eval_by_every_draw(human_eval):
    work, _, found = human_eval
    results = make_results(found, work.described(), work.config.pass_at)
    groups = {(group["source"], group["mode"]): group for group in results["groups"]}
    right = [sum(kind in PASSES for kind in script) for script in SCRIPT]
    assert right == [4, 2, 1, 0, 3]
    for k in (1, 2, 4):
        told = groups["none", "sampled"]["pass_at"][str(k)]
        assert told["value"] == pytest.approx(expected(right, k)) and told["n"] == PROBLEMS
        assert 0 <= told["low"] < told["value"] < told["high"] <= 1
        # One answer behind each of four traces: they are the samples.
        assert groups["untrained", "sampled"]["pass_at"][str(k)]["value"] == pytest.approx(0.8)
    assert groups["none", "sampled"]["pass_at"]["1"] == groups["none", "sampled"]["accuracy"]
    assert groups["none", "greedy"]["pass_at"] == {"1": groups["none", "greedy"]["accuracy"]}
    assert groups["none", "greedy"]["accuracy"]["value"] == pytest.approx(3 / 5)
    text = markdown(results)
    assert "| pass@k | pass@1, greedy | pass@1, sampled | pass@2, sampled | pass@4, sampled |" in text
    row = next(line for line in text.splitlines() if line.startswith("| none | 0.600") and line.count("|") == 6)
    assert [cell.split()[0] for cell in row.split("|")[2:-1]] == ["0.600", "0.500", "0.667", "0.800"]


class Programs(Scripted):
    """Does the last step of its reasoning, by a program where one is asked for; else it does not know.

    Attributes:
        silent: ids of problems to which no answer comes.
    """

    silent: frozenset[str] = frozenset()

    def answer(self, asked: Asked) -> list[list[Said]]:
        out = super().answer(asked)
        for b, problem in enumerate(asked.problems):
            if problem.answer_kind == "program":
                texts = [""] if asked.reasoning is None else [one.text for one in asked.reasoning[b]]
                answers = [program_for(text) or "I do not know." for text in texts]
                silent = problem.problem_id in self.silent
                out[b] = [Said((None if silent else answer,) * asked.samples) for answer in answers]
        return out


def both(folder: Path, **changes: Any) -> Evaluate:
    """The same problems twice: asked for numbers, and for programs."""
    return config(folder, benchmarks=(Benchmark("numbers", TASK), Benchmark("programs", DialCode(TASK))), **changes)


def test_numbers_and_programs_in_one_evaluation(folder, program_judge, tmp_path):
    """What reasoning comes to is right or wrong for a number and for the program that does its last step."""
    work = start(both(folder), lambda file: pytest.fail(file), JudgeByKind(program_judge))
    run(with_executors(work, scripted=Programs()), tmp_path / "out")
    records = lines(tmp_path / "out", "records.jsonl")
    numbers, programs = ([row for row in records if row["benchmark"] == name] for name in ("numbers", "programs"))
    assert len(numbers) == len(programs) == 6 * 2 * 11
    answers = {row["problem_id"]: row["reference"] for row in numbers}
    seen = set()
    for row in records:
        last = re.search(r"= (\d)$", row.get("reasoning", ""))
        right = last is not None and last[1] == answers[row["problem_id"].removesuffix("/program")]
        assert row["verdicts"] == ["ok" if right else "wrong"] * len(row["answers"])
        assert ("outcomes" in row) == ("tests" in row) == (row["benchmark"] == "programs")
        if "outcomes" in row:
            outcome = "passed" if right else "wrong_output" if last else "no_program"
            assert row["outcomes"] == [outcome] * len(row["answers"])
            assert row["tests"] == [[int(right), 1]] * len(row["answers"])
            seen.add((row["source"], outcome))
        if "leak" in row:  # of programs the audit's reasoning holds the reference's
            assert row["leak"] == (row["source"] == "reference/answer_only")
    assert {source for source, outcome in seen if outcome == "passed"} >= {"reference", "reference/shuffled"}
    assert {outcome for source, outcome in seen if source == "reference/other"} >= {"wrong_output"}
    assert {outcome for source, outcome in seen if source in ("none", "reference/answer_only")} == {"no_program"}


def test_answers_that_did_not_come_are_in_no_rate(folder, program_judge, tmp_path):
    executor = Programs()
    executor.silent = frozenset({DialCode(TASK).problems("test")[2].problem_id})
    work = start(both(folder, pass_at=(2,)), lambda file: pytest.fail(file), JudgeByKind(program_judge))
    found = run(with_executors(work, scripted=executor), tmp_path / "out")
    rows = [row for row in lines(tmp_path / "out", "records.jsonl") if row["problem_id"] in executor.silent]
    assert len(rows) == 6 * 2
    for row in rows:
        size = len(row["answers"])
        assert row["outcomes"] == row["tests"] == [None] * size and row["verdicts"] == ["failed"] * size
        assert row["judged"] == 0 and row["accuracy"] is None
    for group in make_results(found, work.described(), (2,))["groups"]:
        wanted = {"numbers": 11, "programs": 10}[group["benchmark"]]
        assert group["accuracy"]["n"] == wanted
        assert [value["n"] for value in group["pass_at"].values()] == [wanted] * (group["mode"] == "sampled")


def test_problems_without_tests_are_left_out(folder, program_judge, tmp_path):
    path = tmp_path / "code.jsonl"
    tests = {0: [{"input": "", "output": "3"}], 1: [], 2: [{"input": "", "output": "3"}]}
    rows = [{"problem_id": f"{n}", "problem": "Print 3.", "tests": tests[n]} for n in tests]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = config(
        folder, benchmarks=(Benchmark("own", CodeTask(test=str(path))),), sources=("none",), audits=(), audited=()
    )
    work = start(experiment, lambda file: pytest.fail(file), JudgeByKind(program_judge))
    assert work.plan.rows["own"] == (0, 2) and work.described()["own"]["left_out"] == 1
    # Other tests are other problems.
    digest = work.described()["own"]["sha256"]
    path.write_text(path.read_text().replace('"output": "3"', '"output": "4"'))
    other = start(experiment, lambda file: pytest.fail(file), JudgeByKind(program_judge))
    assert other.described()["own"]["sha256"] != digest
