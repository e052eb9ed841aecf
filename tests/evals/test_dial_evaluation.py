"""The shipped dial models: what is known of them comes out of an evaluation, and its report says so."""

import json
from pathlib import Path

import pytest
from tiny import ROOT, run

pytestmark = pytest.mark.slow  # a whole evaluation of models that answer

PROBLEMS = 48


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dial") / "out"
    files = [f"--gin_file={ROOT / 'experiments' / name}" for name in ("dial/tracelift.gin", "evals/dial.gin")]
    few = [f"--gin.PROBLEMS={PROBLEMS}", f"--gin.Evaluate.batch_size={PROBLEMS}", "--gin.Evaluate.modes=('greedy',)"]
    run("eval", *files, *few, "--gin.Evaluate.sources=('none', 'reference')", f"--out={out}")
    return out


@pytest.fixture(scope="module")
def results(out) -> dict:
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def groups(results) -> dict:
    return {group["source"]: group for group in results["groups"]}


def test_the_executor_needs_the_reasoning_and_reads_it(groups):
    """It was taught on problems of this kind: all right with true reasoning, one in five or so without."""
    assert groups["reference"]["accuracy"]["value"] >= 0.97
    assert groups["reference"]["likelihood"]["value"] > 0.97
    assert groups["none"]["accuracy"]["value"] < 0.4
    assert groups["reference"]["uplift"]["low"] > 0.4


@pytest.mark.parametrize("audit", ["shuffled", "truncated", "other"])
def test_spoilt_reasoning_is_worth_less(results, groups, audit):
    [change] = [change for change in results["differences"] if change["source"] == f"reference/{audit}"]
    assert change["against"] == "reference"
    assert change["accuracy"]["high"] < -0.3
    assert change["likelihood"]["high"] < -0.3
    assert change["score"]["high"] < -0.3  # the reward model sees it too
    group = groups[f"reference/{audit}"]
    assert group["faithful"]["value"] == 0.0
    assert group["wrong_reason"]["value"] == group["accuracy"]["value"]
    # A greedy answer is the likelier one.
    assert abs(group["accuracy"]["value"] - group["likelihood"]["value"]) < 0.1


def test_the_answer_alone_is_copied_and_graded_as_what_it_is(groups):
    group = groups["reference/answer_only"]
    assert group["accuracy"]["value"] >= 0.97
    assert group["leak"]["value"] == 1.0 and groups["reference"]["leak"]["value"] == 0.0
    assert group["score"]["value"] < 0.2 < 0.9 < groups["reference"]["score"]["value"]


def test_readers_agree(groups):
    assert all(group["disagreed"] == 0 and group["compared"] == PROBLEMS for group in groups.values())


def test_the_report_says_so(out):
    report = (out / "report.md").read_text()
    assert f"- dial: only {PROBLEMS} problems; the intervals matter more than the values." in report
    assert "- dial, resident, reference: steps in another order cost right answers (-0." in report
    assert "- dial, resident, reference: half of the steps are worth less than all (-0." in report
    assert "- dial, resident, reference: another problem's reasoning costs right answers (-0." in report
    assert "the executor can do without following it (" in report
    assert "| reference/other less reference |" in report
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
