"""Training on programs in two processes: each runs the programs of its own rows, and all learn of all."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from run_code import run_code
from several import ends, start_all
from tiny import ROOT, metrics

FILE = ROOT / "experiments" / "dial_code" / "tracelift.gin"
SMALL = (
    "STEPS=2",
    "Train.batch_size=4",
    "Roles.traces=4",
    "CodeRewardConfig.baseline_samples=4",
    "Evaluation.problems=8",
    "Evaluation.batch_size=8",
    "base/Model.scan_unroll=1",
    "grader/Model.scan_unroll=1",
    "SandboxConfig.backend=remote",
)


def train(processes: int, devices: int, run_dir: Path, url: str) -> list[tuple[int, str, str]]:
    given = [f"--gin.{binding}" for binding in (*SMALL, f"SandboxConfig.url={url}")]
    arguments = ["-m", "tracelift_jax", "train", f"--gin_file={FILE}", *given, f"--run_dir={run_dir}"]
    return ends(start_all(processes, devices, arguments))


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(run_dir.glob("traces/*")) for line in file.open()]


@pytest.mark.slow
def test_two_processes_judge_as_one(tmp_path):
    with run_code() as service:
        one = train(1, 1, tmp_path / "one", service.url)
        two = train(2, 2, tmp_path / "two", service.url)
    assert [code for code, _, _ in [*one, *two]] == [0, 0, 0], (one, two)
    alone, together = records(tmp_path / "one"), records(tmp_path / "two")
    for name in ("problem_id", "trace_tokens", "answers", "outcomes", "tests", "with_counts", "without_counts"):
        assert [row[name] for row in together] == [row[name] for row in alone], name
    for a, b in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        kept = {name for name in b if not name.endswith("seconds")}
        assert {name: a[name] for name in kept - {"judging/programs"}} == pytest.approx(
            {name: b[name] for name in kept - {"judging/programs"}}, rel=2e-4, abs=3e-6
        )
        # A program that both processes met is run by both.
        assert "judging/programs" not in b or b["judging/programs"] <= a["judging/programs"]


@pytest.mark.slow
def test_where_one_process_cannot_judge_both_stop(tmp_path):
    """The server refuses from the 40th request on: both leave in one line each and with 2, not one of them waiting."""
    with run_code() as service:
        service.meets = lambda before, body: (400, "no such language") if before >= 40 else None
        began = time.monotonic()
        told = train(2, 2, tmp_path / "run", service.url)
    assert time.monotonic() - began < 300
    assert [code for code, _, _ in told] == [2, 2], told
    for _, _, errors in told:
        assert errors.splitlines()[-1].startswith("tracelift: ")
