"""The same run in one process, in one with eight devices, and in several processes: the same batches, tokens, metrics.

Sums over the batch are taken in another order on other devices, so numbers agree to a few units in the last place of
float32 and not bit for bit; what is drawn is the same to the token, as long as no two candidates are that close.
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from several import ends, start_all
from tiny import metrics, run, write_gin, write_models

TINY = """
config.Train.batch_size = 8
config.Evaluation.problems = 5
config.Evaluation.batch_size = 8
config.RewardConfig.baseline_samples = 2
"""
"""Behind the gin of the tiny models."""
MESH = """
FSDP = 1
TENSOR = 1
config.Roles.mesh = @config.MeshConfig()
config.MeshConfig.fsdp = %FSDP
config.MeshConfig.tensor = %TENSOR
config.MeshConfig.rules = @config.Rules()
config.Rules.vocab = ''
config.Rules.kv_heads = ''
"""
"""Neither V = 337 nor N = 1 splits over two devices."""
SHAPES = {"8x1x1": (), "2x2x2": ("--gin.FSDP=2", "--gin.TENSOR=2"), "1x4x2": ("--gin.FSDP=4", "--gin.TENSOR=2")}
RTOL, ATOL = 2e-4, 3e-6


def train(processes: int, devices: int, gin: Path, run_dir: Path, *more: str) -> list[int]:
    """Exit codes of `tracelift train`."""
    arguments = ["-m", "tracelift_jax", "train", f"--gin_file={gin}", f"--run_dir={run_dir}", *more]
    told = ends(start_all(processes, devices, arguments))
    codes = [code for code, _, _ in told]
    assert all(code == codes[0] for code in codes) and codes[0] in (0, 75), told
    # The compiler's word for a layout it can only get to by making everything whole everywhere.
    assert not any("full rematerialization" in errors for _, _, errors in told), told
    return codes


def traces(run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """The records of each step in the order of the batch, wherever they were written."""
    found: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(run_dir.glob("traces/step_*.jsonl")):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            found.setdefault(record["step"], []).append(record)
    return found


def compare(run_dir: Path, reference: Path) -> None:
    """Metrics close, tokens and verdicts the same."""
    here, there = metrics(run_dir), metrics(reference)
    assert [row.keys() for row in here] == [row.keys() for row in there]
    for a, b in zip(here, there, strict=True):
        for name in b:
            np.testing.assert_allclose(
                np.array(a[name], float), np.array(b[name], float), rtol=RTOL, atol=ATOL, err_msg=f"{b['step']} {name}"
            )
    exact = ("problem_id", "trace", "trace_tokens", "answers", "verdicts", "with_counts", "without_counts", "weights")
    ours, theirs = traces(run_dir), traces(reference)
    assert ours.keys() == theirs.keys()
    for step in theirs:
        assert [[row[name] for name in exact] for row in ours[step]] == [
            [row[name] for name in exact] for row in theirs[step]
        ]


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    return write_gin(write_models(tmp_path_factory.mktemp("models")), TINY + MESH)


@pytest.fixture(scope="module")
def reference(gin) -> Path:
    """Four steps on one device."""
    run_dir = gin.parent / "reference"
    run("train", f"--gin_file={gin}", f"--run_dir={run_dir}", "--gin.STEPS=4")
    return run_dir


def test_two_processes_of_four_devices_and_then_one_of_one(gin, reference, tmp_path):
    """The first half on data = fsdp = tensor = 2 over two processes, the second half on one device."""
    two = train(2, 4, gin, tmp_path / "run", "--gin.STEPS=4", "--stop_after=2", *SHAPES["2x2x2"])
    assert two == [0, 0]
    assert sorted(file.name for file in (tmp_path / "run" / "traces").iterdir()) == [
        f"step_00000{step}-0000{process}-of-00002.jsonl" for step in (1, 2) for process in (0, 1)
    ]
    run("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", "--gin.STEPS=4")
    compare(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_eight_devices(gin, reference, tmp_path, shape):
    train(1, 8, gin, tmp_path / "run", "--gin.STEPS=4", *SHAPES[shape])
    compare(tmp_path / "run", reference)


@pytest.mark.slow
def test_four_processes_of_two_devices_after_one_of_eight(gin, reference, tmp_path):
    """Each row of the batch lies on devices of two processes, where tensor = 4 spans them."""
    train(1, 8, gin, tmp_path / "run", "--gin.STEPS=4", "--stop_after=2", *SHAPES["1x4x2"])
    across = ("--gin.FSDP=2", "--gin.TENSOR=4", "--gin.Rules.heads=''")
    train(4, 2, gin, tmp_path / "run", "--gin.STEPS=4", *across)
    compare(tmp_path / "run", reference)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes(gin, reference, tmp_path):
    """Both leave after the same step with 75; started again they end as the undisturbed run."""
    run_dir = tmp_path / "run"
    arguments = ["-m", "tracelift_jax", "train", f"--gin_file={gin}", f"--run_dir={run_dir}", "--gin.STEPS=4"]
    started = start_all(2, 4, [*arguments, *SHAPES["8x1x1"]])
    while not (run_dir / "metrics.jsonl").exists():
        assert all(process.poll() is None for process in started)
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    told = ends(started)
    assert [code for code, _, _ in told] == [75, 75], told
    done = {int(file.name) for file in (run_dir / "checkpoints").iterdir() if file.name.isdigit()}
    stopped = f"tracelift: stopped after step {max(done)} of 4, which has a checkpoint; start it again\n"
    assert all(errors.endswith(stopped) for _, _, errors in told)
    assert train(2, 4, gin, run_dir, "--gin.STEPS=4", *SHAPES["8x1x1"]) == [0, 0]
    compare(run_dir, reference)
