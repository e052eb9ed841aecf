"""Training on programs that really run: every reward worked out again, a sandbox that fails, and none at all."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_code import RunCode, printed, run_code, run_of_the_dial
from tiny import ROOT, Outcome, command, metrics

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import Bubblewrap, box, remote

FILE = ROOT / "experiments" / "dial_code" / "tracelift.gin"
SMALL = (
    "STEPS=4",
    "Train.batch_size=4",
    "Roles.traces=4",
    "CodeRewardConfig.baseline_samples=4",
    "Evaluation.problems=8",
    "Evaluation.batch_size=8",
    "Evaluation.modes=('sampled',)",
    "Schedule.checkpoint_every=10",
    "Schedule.evaluate_every=10",
    "base/Model.scan_unroll=1",  # compiles quicker
    "grader/Model.scan_unroll=1",
)
BUSY = (503, "no worker")


def train(run_dir: Path, *bindings: str) -> Outcome:
    given = (f"--gin.{binding}" for binding in (*SMALL, *bindings))
    return command("train", f"--gin_file={FILE}", *given, f"--run_dir={run_dir}")


def traces(run_dir: Path) -> list[dict[str, Any]]:
    files = sorted((run_dir / "traces").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@contextmanager
def serving() -> Iterator[RunCode]:
    with run_code() as service:
        service.runs = run_of_the_dial
        yield service


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)


def elsewhere(url: str) -> list[str]:
    return ["SandboxConfig.backend=remote", f"SandboxConfig.url={url}"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """Four steps, their programs run by a server."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    with serving() as service:
        outcome = train(run_dir, *elsewhere(service.url))
    assert outcome.code == 0, outcome.errors
    return run_dir


# ----------------------------------------------------------------------------------------------------- what it is worth


def test_programs_are_judged_by_what_they_print(straight):
    """Against the dial itself: the reference's program prints where it ends."""
    seen = set()
    for row in traces(straight):
        wanted = printed(row["reference"])
        for answer, outcome, tests, verdict in zip(
            row["answers"], row["outcomes"], row["tests"], row["verdicts"], strict=True
        ):
            value = printed(answer)
            right = value == wanted and value is not None
            assert (outcome == "passed") == right, (answer, outcome)
            assert tests == [int(right), 1]
            if row["well_formed"]:
                assert verdict == ("ok" if right else "wrong")
            if value is not None:
                assert outcome in ("passed", "wrong_output")
            seen.add(outcome)
    assert {"passed", "wrong_output"} <= seen


def test_every_reward_and_advantage_by_hand(straight):
    """METHOD's equations, once more and in plain Python: hybrid exec, the coefficient by counts, shaping by sign."""
    rows = traces(straight)
    signs = set()
    for row in rows:
        passed, formed = row["outcomes"][0] == "passed", row["well_formed"]
        ran = row["outcomes"][0] == "wrong_output"
        executed = (1.0 if passed else 0.2 if ran else 0.0) if formed else 0.0
        right = sum(outcome == "passed" for outcome in row["outcomes"][1:]) if formed else 0
        assert row["with_counts"] == [right, 3]
        if row["without_answers"]:
            wanted = printed(row["reference"])
            without = sum(printed(answer) == wanted for answer in row["without_answers"])
            assert row["without_counts"] == [without, 4]
        base, of = row["without_counts"]
        gap = right / 3 - base / of
        coefficient = math.copysign(1, gap) if gap else (0.5 if right == 1 else right / 3)
        score = row["score"] if formed else 0.0
        shaped = score * coefficient if coefficient >= 0 else (1 - score) * coefficient
        assert row["reward"] == pytest.approx(executed + 0.2 * shaped, abs=1e-5)
        signs.add((coefficient > 0) - (coefficient < 0))
    assert {-1, 1} <= signs
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["problem_id"] for row in group}) == 1
        rewards = np.array([row["reward"] for row in group])
        wanted = (rewards - rewards.mean()) / (rewards.std() + 1e-6) if rewards.std() > 1e-6 else 0 * rewards
        np.testing.assert_allclose([row["advantage"] for row in group], wanted, rtol=1e-3, atol=1e-3)


def test_metrics_count_what_was_run(straight):
    """A program that several answers agree on is run once; the outcomes are shares of all answers."""
    steps = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in steps if "judging/programs" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        mine = [one for one in traces(straight) if one["step"] == row["step"]]
        groups = {one["problem_id"]: one["without_answers"] for one in mine}
        answers = [answer for one in mine for answer in one["answers"]] + [a for each in groups.values() for a in each]
        wanted = {one["problem_id"]: printed(one["reference"]) for one in mine}
        assert row["judging/programs"] == len({answer.strip() for answer in answers} - {""})  # "" is none
        right = [printed(answer) == wanted[one["problem_id"]] for one in mine for answer in one["answers"]]
        right += [printed(answer) == wanted[name] for name, each in groups.items() for answer in each]
        assert row["judging/passed"] == pytest.approx(np.mean(right))
        assert row["time/rollout_seconds"] >= row["judging/seconds"] > 0


def test_boxes_here_give_the_same_run(straight, tmp_path):
    try:
        Bubblewrap().close()
    except UserError as error:
        pytest.skip(str(error))
    outcome = train(tmp_path / "run")
    assert outcome.code == 0, outcome.errors
    assert traces(tmp_path / "run") == traces(straight)
    assert learned(tmp_path / "run") == learned(straight)


def learned(run_dir: Path) -> list[dict[str, Any]]:
    """Its metrics but those that measure time."""
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in metrics(run_dir)]


# ------------------------------------------------------------------------------------------------- a sandbox that fails


def test_a_program_that_could_not_be_run_is_masked_and_counted(tmp_path):
    with serving() as service:
        service.meets = lambda before, body: BUSY if before and " * 2" in body["code"] else None
        outcome = train(tmp_path / "run", *elsewhere(service.url), "SandboxConfig.most_failed=0.9")
    assert outcome.code == 0, outcome.errors
    rows = traces(tmp_path / "run")
    masked = [row for row in rows if " * 2" in row["answers"][0]]
    assert masked and len(masked) < len(rows)
    for row in rows:
        unknown = [" * 2" in answer for answer in row["answers"]]
        assert [outcome == "infrastructure" for outcome in row["outcomes"]] == unknown
        if row["well_formed"]:
            assert [verdict == "failed" for verdict in row["verdicts"]] == unknown
            assert row["counted"] == (not unknown[0])
            assert row["with_counts"][1] == 3 - sum(unknown[1:])
        if not row["counted"]:
            assert row["advantage"] == 0
    shares = [row["judging/failed_programs"] for row in metrics(tmp_path / "run") if "judging/programs" in row]
    assert max(shares) > 0


def test_unplugged_in_the_middle_the_run_stops_with_its_state_and_goes_on(straight, tmp_path):
    """The third step's programs meet a server that is gone; afterwards the same command ends as if nothing had been."""
    run_dir = tmp_path / "run"
    with serving() as service:
        # Written while the second step is under way.
        done = run_dir / "traces" / "step_000001.jsonl"
        service.meets = lambda before, body: BUSY if done.exists() else None
        outcome = train(run_dir, *elsewhere(service.url))
        assert outcome.code == 2
        [line] = [line for line in outcome.errors.splitlines() if "sandbox: " in line]
        assert "503" in line and "SandboxConfig.most_failed is 0.1; the same command goes on once it works" in line
        assert "Traceback" not in outcome.errors
        assert sorted(file.name for file in (run_dir / "traces").iterdir()) == [
            "step_000001.jsonl",
            "step_000002.jsonl",
        ]
        assert (run_dir / "checkpoints" / "2").is_dir()
        service.meets = lambda before, body: None
        outcome = train(run_dir, *elsewhere(service.url))
    assert outcome.code == 0, outcome.errors
    assert traces(run_dir) == traces(straight)
    assert learned(run_dir)[-1] == learned(straight)[-1] and len(metrics(straight)) == len(metrics(run_dir))


def test_without_a_sandbox_there_is_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    box.bubblewrap.cache_clear()
    try:
        outcome = train(tmp_path / "run")
    finally:
        box.bubblewrap.cache_clear()
    assert outcome.code == 2
    assert "no sandbox: bubblewrap is missing; install it (apt-get install bubblewrap)" in outcome.errors
    assert len(outcome.errors.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


# --------------------------------------------------------------------------------------------------- asked by a person


def test_solve_runs_the_programs(capsys):
    problem = "The dial shows 7. Ann turns it up 5. Bob has 4 hats. Cal doubles it. What does it show now?"
    with serving() as service:
        given = [f"--gin.{binding}" for binding in (*SMALL[-2:], *elsewhere(service.url))]
        outcome = command("solve", f"--gin_file={FILE}", *given, "--json", "--answer=4", problem)
    assert outcome.code == 0, outcome.errors
    found = json.loads(capsys.readouterr().out)
    [trace] = found["traces"]
    assert trace["reasoning"] == "7 + 5 = 2 ; 2 * 2 = 4" and trace["faithful"] is True
    assert trace["answer"]["text"] == "print((2 * 2) % 10)"
    assert (trace["answer"]["number"], trace["answer"]["ended"], trace["answer"]["right"]) == ("4", "passed", True)
    without = found["without"]
    value = printed(without["text"])
    assert without["number"] == str(value) and without["right"] == (value == 4)
    assert trace["uplift"] == 1.0 - (value == 4)
    assert set(trace["grade"]["rubric"]) >= {"calculation_correctness"}
