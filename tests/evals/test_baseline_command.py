"""The baseline of a split: measured at once or in pieces, refused when it is of something else, used by training."""

import json

import pytest
from tiny import command, metrics, run, write_gin, write_models

SMALL = ("--gin.DialTask.train_size=12", "--samples=5", "--batch_size=4")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def gin(models):
    return write_gin(models)


@pytest.fixture(scope="module")
def measured(gin, tmp_path_factory):
    out = tmp_path_factory.mktemp("baseline") / "train.jsonl"
    run("baseline", f"--gin_file={gin}", f"--out={out}", *SMALL)
    return out


def reading(gin, baseline, folder, more: str = ""):
    """The experiment with a baseline file."""
    file = folder / "reading.gin"
    text = f"config.Train.baseline = @config.BaselineFile()\nconfig.BaselineFile.path = '{baseline}'\n"
    file.write_text(gin.read_text() + text + more)
    return file


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_problem_is_there_once_with_its_counts(measured):
    header, *found = rows(measured)
    assert set(header["baseline"]) == {"executor", "numerics", "tokenizer", "prompt", "room", "sampling", "problems"}
    assert len(found) == 12 == len({row["problem_id"] for row in found})
    assert all(0 <= row["ok"] <= row["trials"] == 5 and 0 < row["likelihood"] < 1 for row in found)
    assert 0 < sum(row["ok"] for row in found) < 60  # the tiny executor is sometimes right


@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_interrupted_anywhere_the_file_comes_out_the_same(gin, measured, tmp_path, share):
    data = measured.read_bytes()
    out = tmp_path / "cut.jsonl"
    out.write_bytes(data[: int(len(data) * share)])
    run("baseline", f"--gin_file={gin}", f"--out={out}", *SMALL)
    assert rows(out) == rows(measured)


@pytest.mark.parametrize(
    ("binding", "part"),
    [
        ("--gin.executor/config.Sampling.temperature=0.7", "sampling.temperature: 0.5 and 0.7"),
        ("--gin.Prompts.ask_directly='Say:'", "prompt.1"),
        ("--gin.DialTask.seed=5", "problems.1"),
        ("--gin.base/config.Model.dtype='bfloat16'", "numerics: 'float32' and 'bfloat16'"),
        ("--gin.Roles.prompt_tokens=99", "room.0"),
    ],
)
def test_another_baseline_is_refused_with_the_part_that_differs(gin, measured, binding, part):
    before = measured.read_bytes()
    outcome = command("baseline", f"--gin_file={gin}", f"--out={measured}", *SMALL, binding)
    assert outcome.code == 2 and f"measured with something else ({part}" in outcome.errors
    assert measured.read_bytes() == before


def test_another_executor_is_refused(measured, tmp_path):
    models = write_models(tmp_path)
    config = json.loads((models / "base" / "config.json").read_text())
    config["rms_norm_eps"] *= 2
    weights = (models / "base" / "model.safetensors").read_bytes()
    (models / "base" / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    outcome = command("baseline", f"--gin_file={write_gin(models)}", f"--out={measured}", *SMALL)
    assert outcome.code == 2 and "something else (executor:" in outcome.errors


@pytest.mark.slow
def test_training_knows_the_counts_from_the_first_step_and_measures_none(gin, measured, tmp_path):
    gin = reading(gin, measured, tmp_path)
    run("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", SMALL[0], "--gin.STEPS=2")
    assert metrics(tmp_path / "run")[1]["baseline/known_problems"] == 12
    known = {row["problem_id"]: [row["ok"], row["trials"]] for row in rows(measured)[1:]}
    traces = [json.loads(line) for line in (tmp_path / "run" / "traces" / "step_000001.jsonl").read_text().splitlines()]
    assert all(trace["without_counts"] == known[trace["problem_id"]] for trace in traces)
    assert all(trace["without_answers"] == [] for trace in traces)


@pytest.mark.slow
def test_what_is_missing_is_refused_or_measured_as_asked(gin, measured, tmp_path):
    part = tmp_path / "part.jsonl"
    part.write_text("".join(line + "\n" for line in measured.read_text().splitlines()[:4]))
    gin = reading(gin, part, tmp_path)
    asked = ("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", SMALL[0], "--gin.STEPS=4")
    outcome = command(*asked)
    assert outcome.code == 2 and "lacks 9 of 12 problems" in outcome.errors
    run(*asked, "--gin.BaselineFile.extend=True")
    _, *found = rows(part)
    assert len(found) == 12  # four steps of four problems see all
    assert {row["trials"] for row in found[3:]} == {4}  # RewardConfig.baseline_samples


def test_a_baseline_that_nobody_would_read_is_refused(gin, measured, tmp_path):
    gin = reading(gin, measured, tmp_path, "config.RewardConfig.baseline = 'resample'\n")
    outcome = command("train", f"--gin_file={gin}", "--run_dir=unused")
    assert outcome.code == 2 and "Train.baseline is for RewardConfig.uplift" in outcome.errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json\n", ":1: not a JSON object"),
        ('{"problem_id": "a"}\n', "no baseline; its first line"),
    ],
)
def test_other_files_are_refused(gin, tmp_path, text, message):
    out = tmp_path / "other.jsonl"
    out.write_text(text)
    outcome = command("baseline", f"--gin_file={gin}", f"--out={out}", *SMALL)
    assert outcome.code == 2 and message in outcome.errors
