"""The study's command: it goes on where it stopped, passes signals on, checks its flags, and makes its tables."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import run as command
import study_jobs
from study_jobs import STOPPED, Taken, do
from study_plan import HERE, ROOT, Job, Settings, Study
from tiny import subprocess_environment


@dataclasses.dataclass(frozen=True)
class Script(Job):
    """A job that runs Python instead of a tracelift command."""

    def argv(self) -> list[str]:
        return [sys.executable, "-c", *self.command]


def adds(folder: Path, name: str) -> Script:
    return Script(folder / name, (f"open({str(folder / 'order')!r}, 'a').write('{name} ')",))


STOPS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open(sys.argv[1], 'w').close()
time.sleep(30)
"""


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    jobs = [adds(tmp_path, "a"), adds(tmp_path, "b")]
    assert do(jobs[:1], "a box") == 0
    assert do(jobs, "a box") == 0
    assert (tmp_path / "order").read_text() == "a b "
    assert capsys.readouterr().out.splitlines()[1].startswith("1 of 1: ")
    about = json.loads(jobs[1].stamp.read_text())
    assert about["machine"] == "a box" and about["seconds"] < 10 and len(about["date"]) == 10
    jobs[0].stamp.unlink()
    assert do(jobs, "a box") == 0
    assert (tmp_path / "order").read_text() == "a b a "


def test_a_failure_ends_it_and_is_told(tmp_path, capsys):
    broken = Script(tmp_path / "broken", ("raise SystemExit('no such thing')",))
    assert do([broken, adds(tmp_path, "b")], "") == 1
    assert not broken.stamp.exists() and not (tmp_path / "order").exists()
    assert "no such thing" in capsys.readouterr().err
    assert do([adds(tmp_path, "b")], "") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command_that_runs_and_ends_the_study(tmp_path, number):
    begun = tmp_path / "begun"
    stops = Script(tmp_path / "stops", (STOPS, str(begun)))
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def ask() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    start = time.monotonic()
    assert do([stops, adds(tmp_path, "b")], "") == STOPPED
    asking.join()
    assert time.monotonic() - start < 20 and not stops.stamp.exists() and not (tmp_path / "order").exists()
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def waits(folder: Path, name: str, other: str, after: tuple[Job, ...] = ()) -> Script:
    """Ends once `other` has begun too, and fails if it does not within ten seconds; writes its cores down."""
    code = f"""
import os, pathlib, sys, time
folder = pathlib.Path({str(folder)!r})
(folder / ("{name} begun")).write_text(str(sorted(os.sched_getaffinity(0))))
for _ in range(1000):
    if (folder / ("{other} begun")).exists():
        break
    time.sleep(0.01)
else:
    sys.exit("alone")
"""
    return Script(folder / name, (code,), after)


def test_two_at_once_share_the_cores_and_keep_the_order(tmp_path, monkeypatch):
    """c comes after b, so d begins before it; each of two has half of the cores."""
    monkeypatch.setattr(study_jobs, "LOOK_EVERY", 0.01)
    a, b = waits(tmp_path, "a", "b"), waits(tmp_path, "b", "a")
    c = dataclasses.replace(adds(tmp_path, "c"), after=(b,))
    assert do([a, b, c, adds(tmp_path, "d")], "", at_once=2) == 0
    assert sorted((tmp_path / "order").read_text().split()) == ["c", "d"]
    mine = sorted(os.sched_getaffinity(0))
    assert (tmp_path / "a begun").read_text() == str(mine[::2] or mine)
    assert (tmp_path / "b begun").read_text() == str(mine[1::2] or mine)


def test_what_comes_after_waits_for_it(tmp_path):
    first = adds(tmp_path, "first")
    second = dataclasses.replace(adds(tmp_path, "second"), after=(first,))
    assert do([second, first], "", at_once=2) == 0
    assert (tmp_path / "order").read_text() == "first second "


def test_after_a_failure_the_others_end_and_none_begins(tmp_path):
    broken = Script(tmp_path / "broken", ("raise SystemExit(3)",))
    slow = Script(tmp_path / "slow", (f"import time; time.sleep(1); open({str(tmp_path / 'ended')!r}, 'w')",))
    assert do([slow, broken, adds(tmp_path, "b")], "", at_once=2) == 1
    assert slow.stamp.exists() and (tmp_path / "ended").exists()
    assert not broken.stamp.exists() and not (tmp_path / "order").exists()


def test_a_study_is_worked_on_by_one_command(tmp_path):
    with study_jobs.alone(tmp_path / "study"):
        with pytest.raises(Taken, match="another command works on it"), study_jobs.alone(tmp_path / "study"):
            pass
        done = study(f"--out={tmp_path / 'study'}", "--regimes=weak")
        assert done.returncode == 2 and "another command works on it" in done.stderr
    with study_jobs.alone(tmp_path / "study"):
        pass


def test_a_study_keeps_its_settings(tmp_path, capsys):
    command.check_settings(Study(tmp_path / "study", Settings(steps=3)))
    command.check_settings(Study(tmp_path / "study", Settings(steps=3)))
    with pytest.raises(SystemExit) as left:
        command.check_settings(Study(tmp_path / "study", Settings(steps=4)))
    assert left.value.code == 2
    assert "holds a study with {'steps': 3," in capsys.readouterr().err


def study(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "run.py"), *map(str, flags)],
        cwd=ROOT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
    )


def test_flags_are_checked(tmp_path):
    for flag, why in (
        ("--arms=exec_only,none", "no 'none'; there are exec_only, tracelift_paper"),
        ("--seeds=0", "'0' is no whole number from 1 on"),
        ("--seeds=17", "--seeds=17: at most 16"),
    ):
        done = study(f"--out={tmp_path / 'study'}", flag)
        assert done.returncode == 2 and why in done.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_small_study_from_nothing_to_tables(tmp_path):
    """A few steps and problems; the second time there is nothing to do."""
    out = tmp_path / "study"
    sizes = ("--steps=6", "--problems=8", "--executor_steps=2", "--seeds=1")
    small = (f"--out={out}", "--regimes=strong", "--arms=exec_only,tracelift_paper", *sizes)
    done = study(*small)
    assert done.returncode == 0, done.stderr
    tables = (out / "tables.md").read_text()
    assert tables.count("\n\n2 runs.\n\n") == 1 and "TraceLift, the paper's" in tables
    again = study(*small)
    assert again.returncode == 0 and again.stdout.splitlines() == [str(out / "tables.md")]
    assert (out / "tables.md").read_text() == tables
