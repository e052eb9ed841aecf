"""The examples and the page on extending: short, true, and run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, command, metrics, run, subprocess_environment

from tracelift_jax import gin_config
from tracelift_jax.config import Train
from tracelift_jax.tasks.problem import Oracle

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "extending.md"
SMALL = (
    "--gin.STEPS=2",
    "--gin.Train.batch_size=4",
    "--gin.Roles.traces=4",
    "--gin.Evaluation.problems=4",
    "--gin.Evaluation.batch_size=4",
    "--gin.base/Model.scan_unroll=1",  # compiles quicker
    "--gin.grader/Model.scan_unroll=1",
)


@pytest.fixture(autouse=True)
def _here(monkeypatch) -> None:
    """Where the commands are given, and PYTHONPATH=examples."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def commands(text: str, program: str = "tracelift") -> list[list[str]]:
    """The commands in a header or a block, without what is set before them."""
    lines = re.sub(r" \\\n *#?", " ", text).splitlines()
    found = [re.fullmatch(rf"[# ]*(?:PYTHONPATH=examples )?({program} .*)", line) for line in lines]
    return [shlex.split(match[1], comments=True)[1:] for match in found if match]


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted((run_dir / "traces").iterdir()) for line in file.open()]


def small(arguments: list[str], run_dir: Path) -> list[str]:
    return [*(one for one in arguments if not one.startswith("--run_dir=")), f"--run_dir={run_dir}", *SMALL]


def test_examples_are_short_and_begin_with_their_command():
    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".gin", ".py"))
    assert [file.name for file in files] == ["own_executor.py", "own_problems.gin", "own_reward.gin", "own_reward.py"]
    for file in files:
        lines = file.read_text().splitlines()
        assert len(lines) < 60 and re.search(rf"(tracelift|python) .*{file.stem}", "\n".join(lines[:8])), file


TEXTS = {file.name: file.read_text() for file in (*EXAMPLES.glob("own_*"), PAGE)}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, text in TEXTS.items() for arguments in commands(text) if arguments[0] == "train"],
)
def test_every_command_loads(name, arguments):
    files, bindings, rest = gin_config.parse_flags(arguments[1:])
    assert gin_config.load(Train, files, bindings).value.batch_size >= 1
    assert [flag.partition("=")[0] for flag in rest] == ["--run_dir"], name


@pytest.mark.slow
def test_own_problems(tmp_path, capsys):
    train, solve, *_ = commands(TEXTS["own_problems.gin"])
    run(*small(train, tmp_path / "run"))
    there = {json.loads(line)["problem"] for line in (EXAMPLES / "problems.jsonl").read_text().splitlines()}
    assert len(there) == 10
    assert {row["problem"] for row in records(tmp_path / "run")} <= there
    assert metrics(tmp_path / "run")[-1]["eval/greedy/problems"] == 4
    capsys.readouterr()
    run("solve", f"--run_dir={tmp_path / 'run'}", solve[-1])
    assert "reasoning" in capsys.readouterr().out


def test_the_problems_of_the_example_are_right(dial_tokenizer):
    """Worked out from their words."""
    for line in (EXAMPLES / "problems.jsonl").read_text().splitlines():
        problem = json.loads(line)
        first, *sentences = problem["problem"].split(". ")
        value = int(first[-1])
        for sentence in sentences:
            numbers = [int(n) for n in re.findall(r"\d", sentence)]
            if re.search("turns it up|raises it|adds|forward", sentence):
                value += numbers[0]
            elif re.search("turns it down|takes away|moves it back", sentence):
                value -= numbers[0]
            elif re.search("doubles|by 2", sentence):
                value *= 2
            elif "triples" in sentence:
                value *= 3
        assert problem["answer"] == value % 10, problem
        assert len(dial_tokenizer.encode(problem["problem"])) < 60


@pytest.mark.slow
def test_own_reward(tmp_path):
    train, replay = commands(TEXTS["own_reward.gin"])
    run(*small(train, tmp_path / "run"))
    for row in records(tmp_path / "run"):
        wanted = (row["verdicts"][0] == "ok") + row["score"] * max(row["uplift"], 0.0)
        assert row["reward"] == pytest.approx(wanted - 0.002 * len(row["trace_tokens"]), abs=1e-6)
    assert replay[0] == "replay"
    outcome = command("replay", tmp_path / "run")
    assert outcome.code == 0, outcome
    assert command("replay", tmp_path / "run", "--gin.Brief.price=0.001").code == 1


@pytest.mark.slow
def test_own_executor(tmp_path):
    """The script itself, in a process of its own, asks its server over HTTP."""
    [arguments] = commands(TEXTS["own_executor.py"], "python")
    given = [one for one in arguments[1:] if one.startswith("--") and not one.startswith("--run_dir")]
    done = subprocess.run(
        [sys.executable, arguments[0], *given, f"--run_dir={tmp_path / 'run'}", *SMALL],
        cwd=ROOT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = records(tmp_path / "run")
    assert all(re.fullmatch(r" \d+", text) for row in rows for text in row["answers"])
    assert {verdict for row in rows for verdict in row["verdicts"]} == {"ok", "wrong"}
    assert metrics(tmp_path / "run")[-2]["executor/failed"] == 0


def test_the_pages_own_task(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    [python], [gin] = blocks("python"), blocks("gin")
    (tmp_path / "sums.py").write_text(python)
    (tmp_path / "sums.gin").write_text(gin)
    task = gin_config.load(Train, [str(tmp_path / "sums.gin")]).value.roles.task
    assert isinstance(task, Oracle)
    train, test = (task.problems(split) for split in ("train", "test"))
    ids = [problem.problem_id for problem in (*train, *test)]
    assert len(set(ids)) == len(ids) == 90 and len(test) == 30
    problem = next(problem for problem in train if problem.problem_id == "sums/7+9")
    assert task.faithful(problem, " 7 + 9 = 6 ") and not task.faithful(problem, "7 + 9 = 16")


def test_the_page_points_at_what_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert os.path.exists(PAGE.parent / target), target
