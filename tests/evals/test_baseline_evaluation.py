"""A baseline file in an evaluation: read instead of asked, refused when it is of something else, extended as asked."""

import json

import pytest
from gin_evals import write_evals
from tiny import command, run

pytestmark = pytest.mark.slow  # a whole evaluation of models that answer

FILE = """
config.Benchmark.baseline = @config.BaselineFile()
config.BaselineFile.path = '{path}'
config.Evaluate.audits = ()
config.Evaluate.answers = 2
"""


@pytest.fixture(scope="module")
def gin(folder):
    return write_evals(folder)


@pytest.fixture(scope="module")
def measured(gin, tmp_path_factory):
    """Seven answers to each of the benchmark's eleven problems."""
    out = tmp_path_factory.mktemp("baseline") / "test.jsonl"
    train = f"--gin_file={gin.with_name('tiny_train.gin')}"
    run(
        "baseline",
        train,
        "--gin.DialTask.test_size=11",
        "--split=test",
        "--samples=7",
        "--batch_size=4",
        f"--out={out}",
    )
    return out


def evaluation(gin, folder, baseline, more: str = ""):
    file = folder / "evals.gin"
    file.write_text(gin.read_text() + FILE.format(path=baseline) + more)
    return file


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_executor_alone_is_as_the_file_has_it(gin, measured, tmp_path):
    out = tmp_path / "out"
    run("eval", f"--gin_file={evaluation(gin, tmp_path, measured)}", f"--out={out}")
    known = {row["problem_id"]: row for row in rows(measured)[1:]}
    records = rows(out / "records.jsonl")
    alone = [row for row in records if row["source"] == "none" and row["mode"] == "sampled"]
    assert len(alone) == len(known) == 11
    for row in alone:
        there = known[row["problem_id"]]
        assert (row["right"], row["judged"], row["answers"]) == (there["ok"], 7, None)
        assert row["verdicts"] == ["ok"] * there["ok"] + ["wrong"] * (7 - there["ok"])
        assert row["likelihood"] == there["likelihood"]
    # Greedy answers are not in the file.
    assert all(row["answers"] for row in records if row["source"] == "none" and row["mode"] == "greedy")
    behind = [row for row in records if row["source"] == "reference" and row["mode"] == "sampled"]
    for row in behind:
        assert row["judged"] == 4
        assert row["uplift"] == pytest.approx(row["right"] / 4 - known[row["problem_id"]]["ok"] / 7, abs=1e-12)
    [group] = [
        group
        for group in json.loads((out / "results.json").read_text())["groups"]
        if (group["source"], group["mode"]) == ("none", "sampled")
    ]
    right = sum(row["ok"] for row in known.values())
    assert group["accuracy"]["value"] == pytest.approx(right / 77, abs=1e-12)
    assert group["accuracy"]["low"] < right / 77 < group["accuracy"]["high"]
    assert f"- dial: the executor alone, sampled, is as {measured} has it." in (out / "report.md").read_text()


def test_of_something_else_it_is_refused(gin, measured, tmp_path):
    outcome = command(
        "eval",
        f"--gin_file={evaluation(gin, tmp_path, measured)}",
        "--gin.Prompts.ask_directly='Answer now:'",
        f"--out={tmp_path / 'out'}",
    )
    assert outcome.code == 2
    assert f"{measured}: was measured with something else (prompt" in outcome.errors
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_refused_or_drawn_and_added(gin, measured, tmp_path):
    part = tmp_path / "part.jsonl"
    part.write_text("".join(line + "\n" for line in measured.read_text().splitlines()[:6]))  # five problems
    file = evaluation(gin, tmp_path, part)
    outcome = command("eval", f"--gin_file={file}", f"--out={tmp_path / 'out'}")
    assert outcome.code == 2
    assert f"{part}: lacks 6 of 11 problems, the first " in outcome.errors
    assert "`tracelift baseline --split=test`" in outcome.errors
    run("eval", f"--gin_file={file}", "--gin.BaselineFile.extend=True", f"--out={tmp_path / 'out'}")
    assert rows(part)[:6] == rows(measured)[:6]
    added = rows(part)[6:]
    assert {row["problem_id"] for row in added} == {row["problem_id"] for row in rows(measured)[6:]}
    records = rows(tmp_path / "out" / "records.jsonl")
    alone = {row["problem_id"]: row for row in records if row["source"] == "none" and row["mode"] == "sampled"}
    for row in added:
        drawn = alone[row["problem_id"]]
        assert len(drawn["answers"]) == 4 == row["trials"]
        assert (row["ok"], row["likelihood"]) == (drawn["right"], drawn["likelihood"])


def test_it_needs_the_source_it_tells_of(gin, measured, tmp_path):
    file = evaluation(gin, tmp_path, measured, "config.Evaluate.sources = ('reference',)\n")
    outcome = command("eval", f"--gin_file={file}", f"--out={tmp_path / 'out'}")
    assert outcome.code == 2
    assert "Benchmark.baseline is for the resident executor with the source" in outcome.errors
