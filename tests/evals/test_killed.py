"""`tracelift eval` as a real process, killed with SIGKILL at whatever it does: the same bytes in the end."""

import random
import signal
import time
from pathlib import Path

import pytest
from gin_evals import write_evals
from tiny import start

COMPARED = ("traces.jsonl", "records.jsonl", "results.json", "report.md", "report.png", "evaluation.json", "config.gin")


@pytest.fixture(scope="module")
def gin(folder) -> Path:
    return write_evals(folder)


def begin(gin: Path, out: Path):
    return start("eval", f"--gin_file={gin}", f"--out={out}")


def written(out: Path) -> int:
    """Bytes in both files."""
    files = [out / name for name in ("traces.jsonl", "records.jsonl")]
    return sum(file.stat().st_size for file in files if file.exists())


def finish(gin: Path, out: Path) -> None:
    process = begin(gin, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole(gin, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(gin, out)
    return out


def kill_and_continue(gin: Path, whole: Path, out: Path, kills: int) -> None:
    """Kills the evaluation `kills` times, each time in another part of the work; then lets it end."""
    rng = random.Random(kills)
    size, done = written(whole), []
    for number in range(kills):
        process = begin(gin, out)
        target = size * (number + rng.random()) / kills
        while process.poll() is None and written(out) < target:
            time.sleep(0.001)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        done.append(written(out))
        records = (out / "records.jsonl").read_bytes() if (out / "records.jsonl").exists() else b""
        assert (whole / "records.jsonl").read_bytes().startswith(records)
    assert min(done) < size and max(done) > size / 2
    finish(gin, out)
    for name in COMPARED:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_killed_twice(gin, whole, tmp_path):
    kill_and_continue(gin, whole, tmp_path / "out", 2)


@pytest.mark.slow
def test_killed_ten_times(gin, whole, tmp_path):
    kill_and_continue(gin, whole, tmp_path / "out", 10)


def test_a_finished_evaluation_only_tells_its_results_again(gin, whole):
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    process = begin(gin, whole)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "dial, executor resident" in out and "report.md" in out
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
