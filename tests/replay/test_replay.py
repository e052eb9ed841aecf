"""Runs replayed: records follow from themselves, bit for bit, and what was tampered with is found, and only it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from chat_service import FINE, Act, service
from run_code import run_code, run_of_the_dial
from served import flags, noisy
from tiny import ROOT, command, run, write_gin, write_models

from tracelift_jax.replay.compare import same
from tracelift_jax.tasks.sandbox import remote

STEPS = 3
QUICK = {
    "cached": ("RewardConfig.adaptive=2",),
    "likelihood": ("RewardConfig.uplift=likelihood", "GrpoConfig.normalize=none", "RewardConfig.shaping=product"),
}
SLOW = {
    "resample": ("RewardConfig.baseline=resample", "RewardConfig.shaping=product", "RewardConfig.malformed=execute"),
    "masked": ("RewardConfig.uplift=likelihood", "RewardConfig.malformed=mask"),
    "rm_only": ("RewardConfig.kind=rm_only", "RewardConfig.uplift=none"),
    "uplift_only": ("RewardConfig.kind=uplift_only", "RewardConfig.repeats=1"),
    "exec_only": ("RewardConfig.kind=exec_only", "RewardConfig.uplift=none", "Roles.reward_model=None"),
}
PROGRAMS = (
    "STEPS=2",
    "Train.batch_size=4",
    "Roles.traces=4",
    "CodeRewardConfig.tie_table=((1, 0.25), (2, 0.7))",
    "Evaluation.problems=8",
    "Evaluation.batch_size=8",
    "Evaluation.modes=('sampled',)",
    "base/Model.scan_unroll=1",
    "grader/Model.scan_unroll=1",
)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    return write_gin(write_models(tmp_path_factory.mktemp("models")))


def train(gin: Path, run_dir: Path, *bindings: str) -> Path:
    run("train", f"--gin_file={gin}", f"--run_dir={run_dir}", f"--gin.STEPS={STEPS}", *(f"--gin.{b}" for b in bindings))
    return run_dir


@pytest.fixture(scope="module")
def runs(gin, tmp_path_factory) -> dict[str, Path]:
    return {name: train(gin, tmp_path_factory.mktemp(name) / "run", *given) for name, given in QUICK.items()}


@pytest.fixture(params=QUICK)
def run_dir(request, runs, tmp_path) -> Path:
    """A copy of one of the runs."""
    return Path(shutil.copytree(runs[request.param], tmp_path / request.param))


@pytest.fixture
def replayed(capsys) -> Callable[..., dict[str, Any]]:
    """What `tracelift replay ... --json` says; its exit code must say the same."""

    def ask(*arguments: str | Path) -> dict[str, Any]:
        capsys.readouterr()
        outcome = command("replay", *arguments, "--json")
        assert outcome.code in (0, 1), outcome.errors
        told = json.loads(capsys.readouterr().out)
        assert outcome.code == (0 if told["agree"] == told["records"] else 1)
        return told

    return ask


def file_of(run_dir: Path, step: int = 2) -> Path:
    return run_dir / "traces" / f"step_{step:06d}.jsonl"


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(path: Path, number: int, field: str, new: Callable[[Any], Any]) -> None:
    rows = read(path)
    rows[number][field] = new(rows[number][field])
    write(path, rows)


def one_up(value: float) -> float:
    """The next float32."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def found(told: dict[str, Any]) -> list[tuple[str, str]]:
    """(line, field) of each difference."""
    return [(re.sub(r".*:", "", one["where"]), one["field"]) for one in told["differences"]]


# ------------------------------------------------------------------------------------------------------------ agreement


def test_the_runs_are_worth_replaying(runs):
    rows = [row for run_dir in runs.values() for step in (1, 2, 3) for row in read(file_of(run_dir, step))]
    assert {row["well_formed"] for row in rows} == {True, False}
    assert {verdict for row in rows for verdict in row["verdicts"]} == {"ok", "wrong"}
    assert len({row["advantage"] for row in rows}) > 10 and len({row["likelihood"] for row in rows}) > 10
    assert {len(row["verdicts"]) for row in read(file_of(runs["cached"]))} == {4, 6}  # some were asked further
    assert any(row["without_counts"][1] and not row["without_answers"] for row in rows)  # of an earlier step


def test_everything_agrees(run_dir, replayed):
    told = replayed(run_dir)
    assert told["records"] == told["agree"] == STEPS * 4 * 3 and told["differences"] == []
    assert told["steps"] == {str(step): {"records": 12, "agree": 12} for step in (1, 2, 3)}
    assert told["believed"] == ["grades and likelihoods (--rescore)"]


def test_the_frozen_weights_agree_too(run_dir, replayed):
    told = replayed(run_dir, "--rescore", "--step=3", "--step=1")
    assert (told["records"], told["agree"], told["believed"]) == (24, 24, [])
    assert {"rubric", "total"} <= set(told["fields"])
    assert ("baseline_likelihood" in told["fields"]) == (run_dir.name == "likelihood")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_reward_is_replayed(name, gin, tmp_path, replayed):
    told = replayed(train(gin, tmp_path / "run", *SLOW[name]), "--rescore")
    assert told["agree"] == told["records"] == STEPS * 12, told["differences"][:3]


def test_an_executor_behind_http(gin, tmp_path, replayed):
    """A quarter of its answers never come."""
    with service(answer=noisy) as server:
        server.behaviour = lambda asked, before: Act(500) if crc32(asked.identity.encode()) % 4 == 0 else FINE
        more = (
            "STEPS=2",
            "ExecutorServer.retries=0",
            "ExecutorServer.most_failed=0.9",
            "ExecutorServer.together=False",
        )
        more = [f"--gin.{one}" for one in more]
        run("train", *flags(gin, server.url, *more), f"--run_dir={tmp_path / 'run'}")
    rows = read(file_of(tmp_path / "run"))
    both = [*read(file_of(tmp_path / "run", 1)), *rows]
    assert {"ok", "wrong", "failed"} == {verdict for row in both for verdict in row["verdicts"]}
    assert {row["counted"] for row in both} == {True, False} and rows[0]["answer_tokens"] is None
    assert replayed(tmp_path / "run", "--rescore")["agree"] == 24
    change(file_of(tmp_path / "run"), 4, "without_counts", lambda counts: [2 * counts[0], 2 * counts[1]])
    assert found(replayed(tmp_path / "run"))[0] == ("5", "without_counts")


@pytest.mark.slow
def test_programs(tmp_path, replayed, monkeypatch):
    """The dial's; they are run by a server, which is asked again by --rerun alone."""
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    run_dir = tmp_path / "run"
    with run_code() as server:
        server.runs = run_of_the_dial
        there = ["SandboxConfig.backend=remote", f"SandboxConfig.url={server.url}"]
        train(ROOT / "experiments" / "dial_code" / "tracelift.gin", run_dir, *there, *PROGRAMS)
        asked = len(server.asked)
        told = replayed(run_dir, "--rescore")
        assert told["agree"] == told["records"] == 32 and told["believed"] == ["outcomes of programs (--rerun)"]
        assert len(server.asked) == asked
        assert replayed(run_dir, "--rerun")["agree"] == 32 and len(server.asked) > asked
        rows = read(file_of(run_dir))
        number = next(n for n, row in enumerate(rows) if row["outcomes"][0] == "passed" and row["well_formed"])
        change(file_of(run_dir), number, "outcomes", lambda told: ["wrong_output", *told[1:]])
        assert (str(number + 1), "verdicts") in found(replayed(run_dir))
        assert (str(number + 1), "outcomes") in found(replayed(run_dir, "--rerun"))


def test_records_of_several_processes(run_dir, replayed):
    rows = read(file_of(run_dir))
    for part in (0, 1):
        write(run_dir / "traces" / f"step_000002-{part:05d}-of-00002.jsonl", rows[6 * part : 6 * part + 6])
    file_of(run_dir).unlink()
    assert replayed(run_dir)["agree"] == 36
    (run_dir / "traces" / "step_000002-00001-of-00002.jsonl").unlink()
    assert command("replay", run_dir).errors.endswith("step 2 has 1 of 2 files; fetch the others\n")


# ------------------------------------------------------------------------------------------------------------ tampering


@pytest.mark.parametrize("field", ["uplift", "score", "reward", "advantage"])
def test_one_unit_in_the_last_place_is_found_and_only_it(run_dir, replayed, field):
    number = next(n for n, row in enumerate(read(file_of(run_dir))) if row["well_formed"])
    change(file_of(run_dir), number, field, one_up)
    told = replayed(run_dir, "--step=2")
    assert found(told) == [(str(number + 1), field)] and told["agree"] == 11
    [difference] = told["differences"]
    assert difference["recorded"] == one_up(difference["recomputed"])
    assert 0 < told["fields"][field]["largest"] < 1e-6


TAMPERED: dict[str, Callable[[Any], Any]] = {
    "reasoning": lambda text: text + " ",
    "well_formed": lambda formed: not formed,
    "answers": lambda answers: [f"{answers[0]}0", *answers[1:]],
    "verdicts": lambda verdicts: ["wrong" if verdicts[0] == "ok" else "ok", *verdicts[1:]],
    "with_counts": lambda counts: [counts[0] + 1, counts[1]],
    "without_counts": lambda counts: [counts[0] + 1, counts[1] + 1],
    "counted": lambda counted: not counted,
}


@pytest.mark.parametrize("field", TAMPERED)
def test_any_other_change_is_found_in_its_record(runs, tmp_path, replayed, field):
    run_dir = Path(shutil.copytree(runs["cached"], tmp_path / "run"))
    change(file_of(run_dir, 1), 7, field, TAMPERED[field])  # the baseline was measured in this step
    assert found(replayed(run_dir, "--step=1")) == [("8", field)]


def test_cached_counts_are_those_that_were_measured(runs, tmp_path, replayed):
    """Twice as many of twice as many: the uplift is the same."""
    run_dir = Path(shutil.copytree(runs["cached"], tmp_path / "run"))
    rows = read(file_of(run_dir, 3))
    number = next(n for n, row in enumerate(rows) if row["without_counts"][1] and not row["without_answers"])
    change(file_of(run_dir, 3), number, "without_counts", lambda counts: [2 * counts[0], 2 * counts[1]])
    assert found(replayed(run_dir)) == [(str(number + 1), "without_counts")]
    assert found(replayed(run_dir, "--step=3")) == []  # nobody has looked where they were measured


@pytest.mark.parametrize("field", ["rubric", "total", "likelihood", "baseline_likelihood"])
def test_the_frozen_weights_find_one_unit_in_the_last_place(runs, tmp_path, replayed, field):
    run_dir = Path(shutil.copytree(runs["likelihood"], tmp_path / "run"))
    number = next(n for n, row in enumerate(read(file_of(run_dir))) if row["well_formed"])
    change(
        file_of(run_dir),
        number,
        field,
        lambda told: [*told[:4], one_up(told[4])] if field == "rubric" else one_up(told),
    )
    told = replayed(run_dir, "--step=2", "--rescore")
    assert (str(number + 1), field) in found(told) and {line for line, _ in found(told)} == {str(number + 1)}


def test_what_follows_from_another_grade_is_told_of_its_record_alone(runs, tmp_path, replayed):
    run_dir = Path(shutil.copytree(runs["likelihood"], tmp_path / "run"))
    number = next(n for n, row in enumerate(read(file_of(run_dir))) if row["well_formed"] and row["uplift"])
    change(file_of(run_dir), number, "rubric", lambda labels: [label / 2 for label in labels])
    assert found(replayed(run_dir)) == [(str(number + 1), "score"), (str(number + 1), "reward")]


def test_a_forged_reward_of_a_whole_group_is_found(runs, tmp_path, replayed):
    """Rewards and advantages that follow from each other, and not from the verdicts."""
    run_dir = Path(shutil.copytree(runs["likelihood"], tmp_path / "run"))
    rows = read(file_of(run_dir))
    for row in rows[3:6]:
        row["reward"], row["advantage"] = 0.25, 0.0
    write(file_of(run_dir), rows)
    assert [line for line, field in found(replayed(run_dir)) if field == "reward"] == ["4", "5", "6"]


def test_equal_means_the_same_bits():
    assert same(float("nan"), float("nan")) and same([1.0, "a"], [1.0, "a"])
    assert not same(0.0, -0.0) and not same(0.1, float(np.float32(0.1))) and not same([1], [1, 2])


# ---------------------------------------------------------------------------------------------------------- the command


def test_what_a_person_sees(run_dir, capsys):
    run("replay", run_dir)
    shown = capsys.readouterr().out
    assert "taken as recorded: grades and likelihoods (--rescore)" in shown
    assert re.search(r"advantage +from the group's rewards +36 +0\b", shown)
    assert shown.endswith("36 of 36 records of 3 steps agree bit for bit\n")
    for number in range(12):
        change(file_of(run_dir), number, "score", lambda score: score + 1)
    assert command("replay", run_dir, "--step=2").code == 1
    shown = capsys.readouterr().out
    assert re.search(r"score +from rubric and total +0 +12 +1\b", shown)
    assert "step_000002.jsonl:1  dial/" in shown and "2 more differ; --json lists all" in shown
    assert shown.endswith("0 of 12 records of 1 step agree bit for bit\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step=4"], "--step=4: no records of that step; there are 1 to 3"),
        (["--rerun"], "--rerun: answers of this run are no programs"),
        (["--gin_file=x.gin"], "tracelift replay: takes no --gin_file; the run directory knows its experiment"),
        (["--gin.Roles.tokenizer=nowhere"], "nowhere: no such tokenizer directory"),
    ],
)
def test_what_cannot_be_asked_for(runs, arguments, message):
    outcome = command("replay", runs["cached"], *arguments)
    assert (outcome.code, outcome.errors) == (2, f"tracelift: {message}\n")


def refused(run_dir: Path, *arguments: str) -> str:
    outcome = command("replay", run_dir, *arguments)
    assert outcome.code == 2
    [line] = outcome.errors.splitlines()
    return line.removeprefix("tracelift: ")


def test_other_weights_are_refused(runs, tmp_path):
    run_dir = Path(shutil.copytree(runs["likelihood"], tmp_path / "run"))
    there = read(file_of(run_dir))[5]["weights"]
    change(file_of(run_dir), 5, "weights", lambda told: told | {"reward_model": "0" * 16})
    assert refused(run_dir, "--rescore") == (
        f"{file_of(run_dir)}:6: --rescore needs the weights of the run: fingerprint of reward_model {'0' * 16}, "
        f"here {there['reward_model']}"
    )
    flag = "--gin.Roles.reward_model=None"
    assert "fingerprint of reward_model" in refused(run_dir, "--rescore", flag, "--gin.RewardConfig.kind=uplift_only")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:-1], "step 2 holds 11 of 12 records"),
        (lambda rows: [*rows[:4], rows[5], rows[4], *rows[6:]], r":5: expected trace 1 of \S+, got trace 2 of \S+;"),
        (lambda rows: [rows[0] | {"step": 9}, *rows[1:]], ":1: a record of step 9 in a file of step 2"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "total"}, *rows[1:]], ":1: total: Field required"),
        (lambda rows: [rows[0] | {"reward": "1"}, *rows[1:]], ":1: reward: Input should be a valid number"),
        (lambda rows: [rows[0] | {"verdicts": ["ok"]}, *rows[1:]], ':1: "answer_tokens" must hold as many as'),
        (lambda rows: [rows[0] | {"trace_tokens": [1] * 7}, *rows[1:]], ":1: trace_tokens: more than Sampling"),
        (lambda rows: [rows[0] | {"answer_tokens": None}, *rows[1:]], ":1: answer_tokens: there are some exactly"),
    ],
)
def test_records_that_are_none(runs, tmp_path, spoil, message):
    run_dir = Path(shutil.copytree(runs["cached"], tmp_path / "run"))
    write(file_of(run_dir), spoil(read(file_of(run_dir))))
    assert re.search(message, refused(run_dir))


def test_a_directory_without_records(runs, tmp_path):
    assert refused(tmp_path).startswith(f"{tmp_path}: holds no run")
    run_dir = Path(shutil.copytree(runs["cached"], tmp_path / "run"))
    shutil.rmtree(run_dir / "traces")
    assert refused(run_dir).startswith(f"{run_dir}: no reward records in traces/")
