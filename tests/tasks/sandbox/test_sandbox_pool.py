"""Many programs at a time: in their order, none touched by another, and an end that leaves no process."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_left import descendants

from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Pool, Program

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pool(boxes: Bubblewrap) -> Iterator[Pool]:
    with Pool(Bubblewrap(), 2) as pool:
        yield pool


def test_results_are_in_the_order_of_the_programs(pool: Pool) -> None:
    programs = [
        Program(f"import time; time.sleep({0.1 if i == 0 else 0}); print({i})", ("",), (f"assert {i} >= 0",))
        for i in range(12)
    ]
    assert [runs[0].stdout for runs in pool.run(programs, Limits())] == [f"{i}\n" for i in range(12)]


def test_submitting_does_not_wait(pool: Pool) -> None:
    began = time.monotonic()
    futures = pool.submit([Program("import time; time.sleep(0.5)", inputs=("",))] * 2, Limits())
    assert time.monotonic() - began < 0.1
    assert not any(future.done() for future in futures)
    assert [future.result()[0].status for future in futures] == ["ok", "ok"]
    assert time.monotonic() - began < 1.0


def test_good_and_bad_programs_side_by_side(pool: Pool) -> None:
    bad = Program("import os\nos.fork()\nwhile True: os.fork()", inputs=("",))
    good = Program("def f(): return 2\nif __name__ == '__main__': print(input())", ("x",), ("assert f() == 2",))
    runs = pool.run([bad, good] * 3, Limits(seconds=0.5))
    assert [[ran.status for ran in each] for each in runs[1::2]] == [["ok", "ok"]] * 3
    assert {ran.status for each in runs[::2] for ran in each} <= {"timeout", "raised", "memory"}


def test_checks_find_their_box_again_after_its_thread_has_gone(boxes: Bubblewrap) -> None:
    program = Program("def f(): return 2", checks=("assert f() == 2",))
    found: list[str] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(boxes.run(program, Limits())[0].status))
        thread.start()
        thread.join()
    assert found == ["ok"] * 3


def test_closing_ends_what_runs_and_cancels_what_waits(boxes: Bubblewrap) -> None:
    before = descendants(os.getpid())
    pool = Pool(Bubblewrap(), 2)
    futures = pool.submit([Program("import time; time.sleep(60)", inputs=("",))] * 4, Limits(seconds=60.0))
    time.sleep(0.3)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 2
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert [future.result()[0].status for future in futures[:2]] == ["infrastructure"] * 2
    assert descendants(os.getpid()) == before
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit([], Limits())


SCRIPT = """
    import sys, time
    from tracelift_jax.tasks.sandbox import Limits, Program, SandboxConfig, open_pool

    with open_pool(SandboxConfig(workers=2)) as pool:
        fine = Program("def f(): return 2", checks=("assert f() == 2",))
        assert pool.run([fine], Limits(seconds=10.0))[0][0].status == "ok"
        hang = Program("import os, time\\nos.fork()\\nos.fork()\\ntime.sleep(600)", inputs=("",))
        futures = pool.submit([hang] * 5, Limits(seconds=600.0))
        time.sleep(0.5)
        print("running", flush=True)
        futures[0].result()
"""


def until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_a_trainer_that_ends_leaves_no_process(boxes: Bubblewrap, how: str) -> None:
    """Also one that is killed and has no time to do anything about it."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True, process_group=0
    ) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == "running\n"
        left = descendants(trainer.pid)
        assert len(left) >= 2 * 4
        if how == "Ctrl-C":
            os.killpg(trainer.pid, signal.SIGINT)
        else:
            trainer.send_signal({"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}[how])
        trainer.communicate(timeout=10)
    assert trainer.returncode != 0
    assert until(lambda: not any(is_running(pid) for pid in left)), [pid for pid in left if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
