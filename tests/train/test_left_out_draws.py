"""Problems that are too long for a run: it says how many, in its metrics and in words, also when it is continued."""

import json
from pathlib import Path

import pytest
from tiny import GIN_DIAL, command, metrics, run, write_gin, write_models

SHORT = "The dial shows {}. What does it show now?"
LONG = SHORT + " Ann turns it up 5." * 20


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    """Six problems, every second of which is too long."""
    file = write_gin(write_models(tmp_path_factory.mktemp("models")))
    rows = [{"problem": (SHORT, LONG)[i % 2].format(i), "answer": str(i)} for i in range(6)]
    data = file.parent / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"config.JsonlTask.train = '{data}'\nconfig.JsonlTask.test = '{data}'\n"
    file.write_text(file.read_text().replace("@config.DialTask()", "@config.JsonlTask()").replace(GIN_DIAL, task))
    return file


def trained(gin: Path, run_dir: Path, *flags: str) -> list[float]:
    """`data/left_out` of every step."""
    run("train", f"--gin_file={gin}", f"--run_dir={run_dir}", "--gin.STEPS=3", *flags)
    return [row["data/left_out"] for row in metrics(run_dir) if "data/left_out" in row]


@pytest.mark.slow
def test_they_are_counted_as_they_come_up_and_said_at_the_end(gin, tmp_path, capsys):
    shares = trained(gin, tmp_path / "whole")
    said = capsys.readouterr().out.splitlines()
    # Each epoch has three that fit. Four are a batch, so that after the third one four epochs of six are drawn, but for
    # what is left out behind the last.
    left_out = [share * 4 * step / (1 - share) for step, share in enumerate(shares, start=1)]
    assert left_out == pytest.approx([round(count) for count in left_out])
    assert left_out == sorted(left_out) and 3 <= left_out[0] <= 6 and 9 <= left_out[2] <= 12
    drawn = round(left_out[2]) + 12
    [line] = [line for line in said if "were left out" in line]
    assert line == f"{drawn - 12} of {drawn} draws from the training data were left out: they do not fit"
    # Stopped and continued, the counts are the same.
    assert trained(gin, tmp_path / "parts", "--stop_after=1") == shares[:1]
    assert trained(gin, tmp_path / "parts") == shares
    assert line in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_said_where_all_fit(gin, tmp_path, capsys):
    short = tmp_path / "short.jsonl"
    short.write_text("".join((gin.parent / "rows.jsonl").read_text().splitlines(keepends=True)[::2]))
    assert trained(gin, tmp_path / "run", f"--gin.JsonlTask.train={short}") == [0.0, 0.0, 0.0]
    assert "left out" not in capsys.readouterr().out


def test_none_that_fits_is_an_error(gin, tmp_path):
    outcome = command("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", "--gin.Roles.prompt_tokens=4")
    assert outcome.code == 2 and "fits" in outcome.errors
