"""`tracelift eval` and `tracelift baseline` of programs: without a sandbox, with one that goes away, and to the end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_service import Asked, service
from gin_programs import TASK, flags, last_step, write_programs
from run_code import run_code
from tiny import command, run

from tracelift_jax.config import DialCode
from tracelift_jax.tasks.sandbox import remote
from tracelift_jax.tasks.sandbox.box import bubblewrap

FILES = ("traces.jsonl", "records.jsonl", "results.json", "report.md", "evaluation.json")


@pytest.fixture(scope="module")
def gin(folder) -> Path:
    return write_programs(folder)


def refused(*arguments: str) -> str:
    outcome = command(*arguments)
    assert outcome.code == 2, outcome
    [line] = outcome.errors.splitlines()
    return line.removeprefix("tracelift: ")


@pytest.fixture
def no_bubblewrap(tmp_path, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", str(tmp_path))
    bubblewrap.cache_clear()
    yield
    bubblewrap.cache_clear()


def test_without_a_sandbox_programs_are_refused_and_numbers_are_not(gin, tmp_path, no_bubblewrap):
    with service(answer=last_step) as server:
        line = refused("eval", *flags(gin, server.url), f"--out={tmp_path / 'out'}")
        assert line.startswith("no sandbox: ") and "SandboxConfig.backend='remote'" in line
        assert not (tmp_path / "out").exists()
        asked = flags(gin.with_name("programs_train.gin"), server.url)
        assert refused("baseline", *asked, f"--out={tmp_path / 'base.jsonl'}") == line
        assert not server.asked and not (tmp_path / "base.jsonl").exists()
        run("eval", *flags(gin, server.url, "--gin.Evaluate.only=('numbers',)"), f"--out={tmp_path / 'out'}")


def test_a_sandbox_that_goes_away_loses_nothing(gin, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with service(answer=last_step) as server, run_code() as sandbox:
        there = ("--gin.SandboxConfig.backend='remote'", f"--gin.SandboxConfig.url={sandbox.url}")
        fewer = ("--gin.Benchmark.problems=6", "--gin.Evaluate.pass_at=(1, 2)")
        asked = ("eval", *flags(gin, server.url, *there, *fewer))
        run(*asked, f"--out={tmp_path / 'whole'}")
        requests = len(sandbox.asked)
        sandbox.asked.clear()
        sandbox.meets = lambda before, body: (503, "no room") if before >= requests // 2 else None
        line = refused(*asked, f"--out={tmp_path / 'out'}")
        assert line.startswith("sandbox: 503 no room; ") and "SandboxConfig.most_failed is 0.1" in line
        assert line.endswith("the same command goes on once it works")
        whole, half = ((tmp_path / name / "records.jsonl").read_bytes() for name in ("whole", "out"))
        assert whole.startswith(half) and 0 < len(half) < len(whole)
        sandbox.meets = lambda before, body: None
        run(*asked, f"--out={tmp_path / 'out'}")
        for name in FILES:
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        # pass@k is counted from what is there: another k asks nobody anything, and nothing else changes.
        questions, programs = len(server.asked), sandbox.asked.copy()
        run(*asked[:-1], f"--out={tmp_path / 'out'}")
        assert len(server.asked) == questions and len(sandbox.asked) == len(programs) + 1  # whether it is there
    found = [json.loads((tmp_path / name / "results.json").read_text())["groups"] for name in ("whole", "out")]
    assert [set(group["pass_at"]) for group in found[0][:2]] == [{"1"}, {"1", "2"}]
    assert [group | {"pass_at": {}} for group in found[0]] == found[1]
    text = (tmp_path / "whole" / "report.md").read_text()
    assert "| pass@k | pass@1, greedy | pass@1, sampled | pass@2, sampled |" in text
    assert "pass@k" not in (tmp_path / "out" / "report.md").read_text()


def test_the_baseline_of_programs(gin, program_judge, tmp_path):
    """Of three samples as many are right as the problem's place says; an evaluation then asks for none."""
    problems = DialCode(TASK).problems("train")
    out = tmp_path / "base.jsonl"

    def answer(asked: Asked, number: int) -> str:
        [place] = [place for place, problem in enumerate(problems) if problem.text in asked.prompt]
        oracle = problems[place].oracle
        assert oracle is not None
        return f"print({oracle.outputs[0].strip()})" if number < place % 4 else "That is hard."

    with service(answer=answer) as server:
        training = flags(gin.with_name("programs_train.gin"), server.url)
        run("baseline", *training, f"--out={out}", "--samples=3", "--batch_size=4")
        _, *rows = [json.loads(line) for line in out.read_text().splitlines()]
        counts = {row["problem_id"]: (row["ok"], row["trials"], row["likelihood"]) for row in rows}
        assert counts == {problem.problem_id: (place % 4, 3, None) for place, problem in enumerate(problems)}
        questions = len(server.asked)
        alone = ("--gin.Evaluate.sources=('none',)", "--gin.Evaluate.audits=()", "--gin.Evaluate.modes=('sampled',)")
        known = ("--gin.Benchmark.baseline=@config.BaselineFile()", f"--gin.BaselineFile.path={out}")
        more = ("--gin.Benchmark.split=train", "--gin.Evaluate.samples=3", "--gin.Evaluate.pass_at=(2,)")
        run("eval", *flags(gin, server.url), *alone, *known, *more, f"--out={tmp_path / 'out'}")
        assert len(server.asked) == questions
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [(row["right"], row["judged"]) for row in records] == [(place % 4, 3) for place in range(6)]
    assert all(row["outcomes"] is row["tests"] is row["answers"] is None for row in records)
    [group] = json.loads((tmp_path / "out" / "results.json").read_text())["groups"]
    # Of 3 answers 0, 1, 2, 3, 0 and 1 are right: 0, 2/3, 1, 1, 0, 2/3 of the pairs hold a right one.
    assert group["pass_at"]["2"]["value"] == pytest.approx((2 / 3 + 1 + 1 + 2 / 3) / 6)
