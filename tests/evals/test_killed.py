"""`tracelift eval` as a real process, killed with SIGKILL at whatever it does: the same bytes in the end."""

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import gin_programs
import pytest
from chat_service import Asked, service
from gin_evals import write_evals
from gin_programs import last_step, write_programs
from tiny import start

COMPARED = ("traces.jsonl", "records.jsonl", "results.json", "report.md", "report.png", "evaluation.json", "config.gin")


@pytest.fixture(scope="module")
def flags(folder) -> list[str]:
    return [f"--gin_file={write_evals(folder)}"]


def begin(flags: Sequence[str], out: Path):
    return start("eval", *flags, f"--out={out}")


def written(out: Path) -> int:
    """Bytes in both files."""
    files = [out / name for name in ("traces.jsonl", "records.jsonl")]
    return sum(file.stat().st_size for file in files if file.exists())


def finish(flags: Sequence[str], out: Path) -> None:
    process = begin(flags, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(flags, out)
    return out


def kill_and_continue(flags: Sequence[str], whole: Path, out: Path, kills: int) -> None:
    """Kills the evaluation `kills` times, each time in another part of the work; then lets it end."""
    rng = random.Random(kills)
    size, done = written(whole), []
    for number in range(kills):
        process = begin(flags, out)
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
    finish(flags, out)
    for name in COMPARED:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_killed_twice(flags, whole, tmp_path):
    kill_and_continue(flags, whole, tmp_path / "out", 2)


@pytest.mark.slow
def test_killed_ten_times(flags, whole, tmp_path):
    kill_and_continue(flags, whole, tmp_path / "out", 10)


@pytest.mark.slow
def test_killed_while_programs_run(folder, program_judge, tmp_path):
    """Programs in real boxes; every other answer of the executor is one that ends badly."""

    def answer(asked: Asked, number: int) -> str:
        return "import os; os.abort()" if (len(asked.prompt) + number) % 2 else last_step(asked, number)

    with service(answer=answer) as server:
        flags = gin_programs.flags(write_programs(folder), server.url, "--gin.Evaluate.pass_at=(1, 2)")
        finish(flags, tmp_path / "whole")
        kill_and_continue(flags, tmp_path / "whole", tmp_path / "out", 3)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    outcomes = {outcome for row in records for outcome in row["outcomes"]}
    assert outcomes == {"passed", "wrong_output", "runtime_error"}


@pytest.mark.slow
def test_left_by_ctrl_c_nothing_goes_on_running(folder, program_judge, tmp_path):
    """While programs spin that have all the time in the world: it ends soon, and they with it."""
    with service(answer=lambda asked, number: f"x = {number}\nwhile True:\n    pass") as server:
        limits = ("--gin.Limits.seconds=600.0", "--gin.Evaluate.sources=('none',)", "--gin.Evaluate.audits=()")
        process = begin(gin_programs.flags(write_programs(folder), server.url, *limits), tmp_path / "out")
        server.wait_until(lambda: bool(server.answered))
        time.sleep(2)
        inside = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and len(inside) > 2, errors
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == b""
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]


def descendants(process: int) -> list[int]:
    """The processes below one, whichever of its threads began them."""
    below = [
        int(pid) for task in Path(f"/proc/{process}/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    return [*below, *(pid for child in below for pid in descendants(child))]


@pytest.mark.slow
def test_a_finished_evaluation_only_tells_its_results_again(flags, whole):
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    process = begin(flags, whole)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "dial, executor resident" in out and "report.md" in out
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
