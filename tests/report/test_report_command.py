"""`tracelift report` on runs that were made here, and on what is no run."""

import json
import math
import re

import pytest
from test_report_parts import unpack
from tiny import command, run, write_gin, write_models
from written import config, record, write_run


def data_of(page):
    """The header and the columns of floats in a page."""
    [packed] = re.findall(r'<script type="application/octet-stream" id="data">([^<]*)</script>', page.read_text())
    return unpack(packed)


def means(told, run_number=0):
    parts = told["runs"][run_number]["parts"]
    return dict(zip(parts["step"], zip(parts["reward"], parts["outcome"], parts["quality"], strict=True), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps with the sampled uplift."""
    folder = write_models(tmp_path_factory.mktemp("trained"))
    run("train", f"--gin_file={write_gin(folder)}", f"--run_dir={folder / 'run'}")
    return folder / "run"


def test_a_real_run(trained, capsys):
    run("report", trained)
    told, floats = data_of(trained / "report.html")
    assert f"{trained}: 6 steps, 72 traces of 6 steps" in capsys.readouterr().out
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    recorded = {row["step"]: row["reward/mean"] for row in rows if "reward/mean" in row}
    assert len(recorded) == 6
    for step, (reward, outcome, quality) in means(told).items():
        assert reward == pytest.approx(recorded[step], abs=1e-6)
        assert outcome + quality == pytest.approx(reward, abs=1e-6)
    records = [
        json.loads(line)
        for file in sorted((trained / "traces").glob("step_*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    for name in ("reward", "advantage", "uplift", "score", "total"):
        assert floats[name] == [one[name] for one in records]
    assert [told["strings"][place] for place in told["traces"]["reasoning"]] == [one["reasoning"] for one in records]
    assert told["runs"][0]["notes"] == [] and told["runs"][0]["oracle"] is True


def test_runs_side_by_side_without_traces(trained, tmp_path):
    sft = write_run(
        tmp_path / "sft", [], [{"step": 0, "held_out/mae": 0.5}], {"__class__": "Sft", "schedule": {"steps": 0}}
    )
    out = tmp_path / "new" / "both.html"
    run("report", sft, trained, f"--out={out}", "--most_traces=24")
    told, floats = data_of(out)
    assert [one["command"] for one in told["runs"]] == ["sft", "train"]
    assert [one["traces_shown"] for one in told["runs"]] == [0, 24] and len(floats["reward"]) == 24
    assert told["groups"]["run"] == [1] * 8 and sorted(set(told["groups"]["step"])) == [1, 6]
    assert told["differences"][0] == {"path": "experiment", "values": ['"Sft"', '"Train"']}


def test_a_reward_of_other_settings_is_not_taken_apart(tmp_path):
    told = config()
    told["roles"]["reward"] = {"__class__": "OwnReward"}
    path = write_run(tmp_path / "own", [record()], described=told)
    run("report", path)
    header, floats = data_of(path / "report.html")
    assert header["runs"][0]["reward"] is None and header["runs"][0]["parts"] is None
    assert math.isnan(floats["outcome_part"][0]) and math.isnan(floats["quality_part"][0])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "nowhere: no such directory"),
        (["--most_traces=0"], "--most_traces must be at least 1, got 0"),
        (["--gin.STEPS=3"], "takes no --gin_file and no --gin.NAME"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, said):
    outcome = command("report", tmp_path / "nowhere", *flags)
    assert outcome.code == 2 and said in outcome.errors and outcome.errors.count("\n") == 1


def test_where_nothing_can_be_written(tmp_path):
    path = write_run(tmp_path / "run", [record()])
    (tmp_path / "file").write_text("")
    for out, said in ((tmp_path, "is a directory"), (tmp_path / "file" / "x.html", "cannot be written")):
        outcome = command("report", path, f"--out={out}")
        assert outcome.code == 2 and said in outcome.errors and outcome.errors.count("\n") == 1
