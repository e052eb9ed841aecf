"""A run that was interrupted is, bit for bit, the run that was not; and a steady run compiles nothing."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import pytest
from tiny import assert_same, command, metrics, run, start, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.planner_loop import PlannerTraining
from tracelift_jax.train.roles import load_roles

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    return write_gin(write_models(tmp_path_factory.mktemp("models")))


def train(gin: Path, run_dir: Path, *more: str) -> None:
    run("train", f"--gin_file={gin}", f"--run_dir={run_dir}", *more)


def steps_done(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=-1)


@pytest.fixture(scope="module")
def straight(gin, tmp_path_factory) -> tuple[Path, list[int]]:
    """Six steps without a break, and the step that was done last at each compilation."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    compiled: list[int] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == COMPILED:
            compiled.append(steps_done(run_dir))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train(gin, run_dir)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return run_dir, compiled


def restored(gin: Path, run_dir: Path, *bindings: str):
    """The newest checkpoint of a run: (step, state, host)."""
    experiment = gin_config.load(config.Train, [str(gin)], bindings).value
    training = PlannerTraining(experiment, load_roles(experiment.roles, experiment.loss.normalize))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    found = checkpoints.restore(training.state)
    checkpoints.close()
    return found


def assert_same_run(gin: Path, here: Path, there: Path, *bindings: str) -> None:
    (step, state, host), (other_step, other_state, other_host) = (restored(gin, d, *bindings) for d in (here, there))
    assert (step, host) == (other_step, other_host)
    assert_same(state, other_state)
    assert metrics(here) == metrics(there)
    records = sorted(file.name for file in (here / "traces").iterdir())
    assert records == sorted(file.name for file in (there / "traces").iterdir())
    assert len(records) == step
    for name in records:
        assert (here / "traces" / name).read_bytes() == (there / "traces" / name).read_bytes(), name
    assert (here / "config.gin").read_text() == (there / "config.gin").read_text()


def test_the_run_is_worth_comparing(straight):
    rows = {row["step"]: row for row in metrics(straight[0]) if "reward/mean" in row}
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    # Cached counts are used from the third step on, and new problems keep coming.
    records = [json.loads(line) for file in sorted((straight[0] / "traces").iterdir()) for line in file.open()]
    cached = {r["step"] for r in records if r["without_counts"][1] and not r["without_answers"]}
    assert cached >= {4, 5, 6}
    assert {r["verdicts"][0] for r in records} == {"ok", "wrong"}
    assert len({r["advantage"] for r in records}) > 6
    assert len({len(r["problem"]) for r in records}) > 3


def test_a_steady_run_compiles_nothing(straight):
    _, compiled = straight
    assert min(compiled) == -1  # the listener hears
    assert [step for step in compiled if step >= 2] == []


@pytest.mark.slow
def test_stopped_and_continued_is_the_same(gin, straight, tmp_path):
    run_dir = tmp_path / "run"
    train(gin, run_dir, "--stop_after=3")
    assert steps_done(run_dir) == 3
    train(gin, run_dir)
    assert_same_run(gin, run_dir, straight[0])


@pytest.mark.slow
def test_what_was_done_behind_the_last_checkpoint_is_done_again(gin, straight, tmp_path):
    # As a crash after step 5, whose last checkpoint was of step 4: half a line, a record too many.
    run_dir = Path(shutil.copytree(straight[0], tmp_path / "run"))
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "traces" / "step_000006.jsonl").unlink()
    with open(run_dir / "metrics.jsonl", "r+") as file:
        whole = file.read()
        file.truncate(whole.index('{"step": 6') + 20)
    train(gin, run_dir)
    assert_same_run(gin, run_dir, straight[0])


@pytest.mark.slow
def test_killed_and_continued_is_the_same(gin, tmp_path):
    """SIGTERM in the middle of a run of a real process, which leaves a checkpoint and exits with 75."""
    steps, more = 24, ("--gin.STEPS=24", "--gin.Schedule.checkpoint_every=24")
    train(gin, tmp_path / "straight", *more)
    run_dir = tmp_path / "killed"
    process = start("train", f"--gin_file={gin}", f"--run_dir={run_dir}", *more)
    try:
        deadline = time.monotonic() + 120
        while steps_done(run_dir) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, errors
    assert "stopping after this step" in out
    stopped = f"tracelift: stopped after step {steps_done(run_dir)} of {steps}, which has a checkpoint; start it again"
    assert errors.splitlines()[-1] == stopped
    assert 2 <= steps_done(run_dir) < steps
    train(gin, run_dir, *more)
    assert_same_run(gin, run_dir, tmp_path / "straight", *[m.removeprefix("--gin.") for m in more])


@pytest.mark.parametrize("signals", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_stopped_by_signals_at_random_moments(gin, tmp_path, signals):
    """Real signals to this process, at moments drawn by chance, between steps and in the middle of them."""
    steps, rng = 2 * signals + 4, random.Random(signals)
    more = (f"--gin.STEPS={steps}", "--gin.Schedule.checkpoint_every=5")
    train(gin, tmp_path / "straight", *more)
    run_dir, stops, codes = tmp_path / "run", [], []
    spare = signal.signal(signal.SIGTERM, lambda *_: None)  # for one that comes when the run has just ended
    try:
        while not codes or codes[-1] != 0:
            finished = threading.Event()

            def ask(begun: int = steps_done(run_dir), finished: threading.Event = finished) -> None:
                while steps_done(run_dir) <= begun and not finished.wait(0.002):
                    pass
                if not finished.wait(0.05 * rng.random()):
                    os.kill(os.getpid(), signal.SIGTERM)

            asking = threading.Thread(target=ask)
            if len(stops) < signals:
                asking.start()
            codes.append(command("train", f"--gin_file={gin}", f"--run_dir={run_dir}", *more).code)
            finished.set()
            if asking.ident is not None:
                asking.join()
            stops += [steps_done(run_dir)] if codes[-1] == 75 else []
            assert codes[-1] in (0, 75) and len(codes) < 3 * signals
    finally:
        signal.signal(signal.SIGTERM, spare)
    assert len(stops) >= min(signals, steps // 3) and len(set(stops)) == len(stops)
    assert_same_run(gin, run_dir, tmp_path / "straight", *[m.removeprefix("--gin.") for m in more])


def spoil(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7] + b"rubbish")


def test_a_damaged_newest_checkpoint_costs_its_steps_only(gin, straight, tmp_path, capsys):
    run_dir = Path(shutil.copytree(straight[0], tmp_path / "run"))
    spoil(run_dir / "checkpoints" / "6")
    capsys.readouterr()
    train(gin, run_dir)
    said = capsys.readouterr().out.splitlines()
    assert sum("is damaged" in line for line in said) == 1
    assert f"{run_dir}: continuing after step 4" in said
    assert_same_run(gin, run_dir, straight[0])


def test_no_good_checkpoint_is_one_line(gin, straight, tmp_path):
    run_dir = Path(shutil.copytree(straight[0], tmp_path / "run"))
    for checkpoint in (run_dir / "checkpoints").iterdir():
        spoil(checkpoint)
    outcome = command("train", f"--gin_file={gin}", f"--run_dir={run_dir}")
    [line] = outcome.errors.splitlines()
    assert outcome.code == 2
    assert line == f"tracelift: {run_dir}/checkpoints: none of the checkpoints can be read; use another --run_dir"
